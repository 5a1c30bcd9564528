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
class Cell:
    """One share of the labels, over its resamples. `aurocs` (resamples, K): NaN for a class that
    could not be measured.
    """

    percent: float
    images: list[int] = field(default_factory=list)
    aurocs: list[np.ndarray] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    validation: list[dict[float, float]] = field(default_factory=list)
    unconverged: int = 0
    # {class: resamples without a positive or a negative}
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def macro(self) -> np.ndarray:
        """Mean over the classes of each resample in which any was measured."""
        measured = [values[~np.isnan(values)] for values in self.aurocs]
        return np.array([values.mean() for values in measured if len(values)])


@dataclass
class Curve:
    """Of one kind of features: a cell a share, and at 100 % the scores and 95 % intervals (K + 1,),
    the macro mean last.
    """

    cells: list[Cell]
    scores: np.ndarray
    fitted: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure(
    features: np.ndarray, data: ProbeSet, percents: list[float], resamples: int, seed: int
) -> Curve:
    """Fit every share and resample; test labels are looked at after C is chosen. `features` (rows
    of data, D).
    """
    train, valid, test = (data.parts[name] for name in ("train", "valid", "test"))
    features, labels = standardise(features, train), data.labels
    patients = [data.patients[row] for row in train]
    series = [nested_subsets(patients, percents, (seed, number)) for number in range(resamples)]
    cells = [Cell(percent) for percent in percents]
    last: Probe | None = None
    jobs = [
        (place, number)
        for place, percent in enumerate(percents)
        for number in range(1 if percent == 100 else resamples)
    ]
    for place, number in tqdm(jobs, desc="probes", disable=None):
        rows = train[series[number][place]]
        last = fit_probe(features[rows], labels[rows], features[valid], labels[valid])
        cell = cells[place]
        cell.images.append(len(rows))
        if last is None:
            cell.left_out.update(data.classes)
            continue
        cell.aurocs.append(_aurocs(last, features[test], labels[test]))
        cell.strengths.append(last.strength)
        cell.validation.append(last.validation)
        cell.unconverged += last.unconverged
        cell.left_out.update(
            name for name, fitted in zip(data.classes, last.fitted, strict=True) if not fitted
        )
    if last is None or not len(cells[-1].macro):
        raise UserError(
            f"no class of {data.classes} has positives and negatives in all of train ({len(train)}"
            f" images), validation ({len(valid)}) and test ({len(test)}); is there enough data, are"
            " the labels right?"
        )
    scores = last.scores(features[test])
    low, high = _intervals(
        labels[test], scores, last.fitted, [data.patients[row] for row in test], seed
    )
    return Curve(cells, scores, last.fitted, low, high)


def _aurocs(probe: Probe, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,), NaN for a class that was not fitted or that the test set lacks."""
    found = np.full(len(probe.fitted), np.nan)
    found[probe.fitted] = auroc(labels[:, probe.fitted], probe.scores(features)[:, probe.fitted])
    return found


def _intervals(
    labels: np.ndarray, scores: np.ndarray, fitted: np.ndarray, patients: list[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % over test patients, of each class and of their mean (K + 1,); NaN where there is no
    value.
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
