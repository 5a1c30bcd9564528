"""The learning curve of a linear probe: AUROC by share of the labels, with intervals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from ...config import UserError
from ...metrics.auroc import auroc, auroc_of_rows
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.probe import Probe, fit_probe, nested_subsets, standardise
from .data import ProbeSet

DRAWS = 1000


@dataclass
class CurvePoint:
    """One point of the learning curve: a share of the labels, over its resamples.

    `images`: number of training images; `aurocs`: (K,) each, NaN for a class that could not be
    measured; `strengths`: the chosen C; `validation`: {C: macro AUROC}. All have an entry for each
    resample, the last three only for those that could be fitted.
    """

    percent: float
    images: list[int] = field(default_factory=list)
    aurocs: list[np.ndarray] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    validation: list[dict[float, float]] = field(default_factory=list)
    unconverged: int = 0  # number of fits that stopped before they converged
    # {class: number of resamples without a positive or a negative}
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def macro(self) -> np.ndarray:
        """Mean over the measured classes, for each resample that measured any."""
        measured = [values[~np.isnan(values)] for values in self.aurocs]
        return np.array([values.mean() for values in measured if len(values)])


@dataclass
class Curve:
    """The learning curve of one kind of features.

    `points`: one for each share of the labels. The other fields are at 100 % of the labels:
    `scores` (test images, K); `fitted` (K,) bool; `low`, `high` (K + 1,): 95 % intervals of the
    AUROC of each class, the macro mean last.
    """

    points: list[CurvePoint]
    scores: np.ndarray
    fitted: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure(
    features: np.ndarray, data: ProbeSet, percents: list[float], resamples: int, seed: int
) -> Curve:
    """Fit a probe to every share and resample.

    `features` (N, D), a row for each row of `data`. Test labels are used only after C is chosen.
    UserError: no class can be fitted and tested.
    """
    train, valid, test = (data.parts[name] for name in ("train", "valid", "test"))
    features, labels = standardise(features, train), data.labels
    patients = [data.patients[row] for row in train]
    series = [nested_subsets(patients, percents, (seed, number)) for number in range(resamples)]
    points = [CurvePoint(percent) for percent in percents]
    last: Probe | None = None
    jobs = [
        (i, number)
        for i, percent in enumerate(percents)
        for number in range(1 if percent == 100 else resamples)
    ]
    for i, number in tqdm(jobs, desc="probes", disable=None):
        rows = train[series[number][i]]
        last = fit_probe(features[rows], labels[rows], features[valid], labels[valid])
        point = points[i]
        point.images.append(len(rows))
        if last is None:
            point.left_out.update(data.classes)
            continue
        point.aurocs.append(_aurocs(last, features[test], labels[test]))
        point.strengths.append(last.strength)
        point.validation.append(last.validation)
        point.unconverged += last.unconverged
        point.left_out.update(
            name for name, fitted in zip(data.classes, last.fitted, strict=True) if not fitted
        )
    if last is None or not len(points[-1].macro):
        raise UserError(
            f"no class of {data.classes} has positives and negatives in all of train ({len(train)}"
            f" images), validation ({len(valid)}) and test ({len(test)}). Expected at least one"
            " such class: check the labels, or give more data."
        )
    scores = last.scores(features[test])
    low, high = _intervals(
        labels[test], scores, last.fitted, [data.patients[row] for row in test], seed
    )
    return Curve(points, scores, last.fitted, low, high)


def _aurocs(probe: Probe, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC of each class (K,); NaN for a class that was not fitted or that the test set lacks."""
    scores = np.full(len(probe.fitted), np.nan)
    scores[probe.fitted] = auroc(labels[:, probe.fitted], probe.scores(features)[:, probe.fitted])
    return scores


def _intervals(
    labels: np.ndarray, scores: np.ndarray, fitted: np.ndarray, patients: list[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals (low, high) over test patients, each (K + 1,): the classes, then their mean.

    NaN for a class without an AUROC.
    """
    measured = fitted & ~np.isnan(auroc(labels, np.zeros(labels.shape)))
    of_rows = auroc_of_rows(labels[:, measured], scores[:, measured])

    def with_macro(rows: np.ndarray) -> np.ndarray:
        values = of_rows(rows)
        return np.append(
            values, values[~np.isnan(values)].mean() if not np.isnan(values).all() else np.nan
        )

    bounds = np.full((2, len(fitted) + 1), np.nan)
    bounds[:, np.append(measured, True)] = bootstrap_interval(
        with_macro, len(labels), DRAWS, seed, groups=patients
    )
    return bounds[0], bounds[1]
