"""Linear probe: L2 logistic regression on frozen features, one class against the rest.

The regularisation strength C is chosen on validation data only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config import UserError
from .auroc import auroc
from .bootstrap import group_rows

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = tuple(float(value) for value in np.logspace(-6, 2, 17))  # values of C tried, ascending
# the search over C ends after this many falls of the validation AUROC in a row: large C take the
# most time. A flat start does not end it
FALLS = 4
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    `strength`: the chosen C; `weights` (K, D) and `bias` (K,) float64; `fitted` (K,) bool: False
    for a class that was left out, whose scores are NaN; `validation`: {C: macro AUROC} of the
    values tried; `unconverged`: number of fits that lbfgs did not finish.
    """

    strength: float
    weights: np.ndarray
    bias: np.ndarray
    fitted: np.ndarray
    validation: dict[float, float]
    unconverged: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Log-odds (N, K) of standardised `features` (N, D)."""
        return features @ self.weights.T + self.bias


def standardise(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Features (N, D) float64 with mean 0 and standard deviation 1 over the rows `reference`.

    `reference` are the training rows. A constant column becomes 0.
    """
    features = np.asarray(features, dtype=np.float64)
    mean, deviation = features[reference].mean(axis=0), features[reference].std(axis=0)
    constant = deviation <= 1e-12 * np.abs(mean)  # equal values may have a deviation by rounding
    return np.where(constant, 0.0, features - mean) / np.where(constant, 1.0, deviation)


def shuffled_groups(groups: Sequence[str], seed: int | Sequence[int]) -> list[np.ndarray]:
    """Row numbers of each group (patient), groups in random order.

    The order depends only on the names of the groups and the seed.
    """
    rows = group_rows(groups)
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def split_groups(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Sorted row numbers of each part; a part has a share of the groups, all of them whole.

    UserError: a part would be empty.
    """
    shuffled = shuffled_groups(groups, seed)
    ends = [0, *(round(end * len(shuffled)) for end in np.cumsum(shares))]
    if min(np.diff(ends)) < 1:
        parts = " / ".join(f"{share:.0%}" for share in shares)
        raise UserError(f"{len(shuffled)} patients or images; expected enough to split {parts}.")
    return [np.sort(np.concatenate(shuffled[first:last])) for first, last in zip(ends, ends[1:])]


def nested_subsets(
    groups: Sequence[str], percents: Sequence[float], seed: int | Sequence[int]
) -> list[np.ndarray]:
    """Sorted row numbers for each share of the groups, in percent, at least one group.

    Each subset is part of every larger one.
    """
    shuffled = shuffled_groups(groups, seed)
    return [
        np.sort(np.concatenate(shuffled[: max(1, round(percent / 100 * len(shuffled)))]))
        for percent in percents
    ]


def fit_probe(
    train: np.ndarray, train_labels: np.ndarray, valid: np.ndarray, valid_labels: np.ndarray
) -> Probe | None:
    """Fit probes at ascending C and return the one with the best validation macro AUROC.

    Of equal ones it is that of the smallest C. Each fit starts from the weights of the one before.
    Features (N, D) float64, standardised; labels (N, K): 1, 0 or NaN, which leaves the row out for
    that class. A class without a positive or a negative in `train` is left out. None if no class
    can be fitted and validated. UserError: no scikit-learn.
    """
    known = [np.flatnonzero(~np.isnan(label)) for label in train_labels.T]
    fitted = np.array(
        [
            len(np.unique(label[rows])) == 2
            for label, rows in zip(train_labels.T, known, strict=True)
        ],
        dtype=bool,
    )
    judged = fitted & ~np.isnan(auroc(valid_labels, np.zeros(valid_labels.shape)))
    if not judged.any():
        return None
    rows_of = {k: known[k] for k in np.flatnonzero(fitted)}
    data = {
        k: (train if len(rows) == len(train) else train[rows], train_labels[rows, k])
        for k, rows in rows_of.items()
    }
    models = {k: _model() for k in data}
    weights, bias = np.full((len(fitted), train.shape[1]), np.nan), np.full(len(fitted), np.nan)
    best: Probe | None = None
    tried: dict[float, float] = {}
    unconverged = 0
    for strength in STRENGTHS:
        for k, model in models.items():
            model.C = strength
            unconverged += _fit(model, *data[k])
            weights[k], bias[k] = model.coef_[0], model.intercept_[0]
        scores = valid @ weights[judged].T + bias[judged]
        tried[strength] = float(auroc(valid_labels[:, judged], scores).mean())
        if best is None or tried[strength] > best.validation[best.strength]:
            best = Probe(strength, weights.copy(), bias.copy(), fitted, tried, 0)
        last = np.array(list(tried.values())[-FALLS - 1 :])
        if len(last) > FALLS and (np.diff(last) < 0).all():
            break
    assert best is not None  # set at the first of STRENGTHS
    return Probe(best.strength, best.weights, best.bias, fitted, tried, unconverged)


def _model() -> LogisticRegression:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            "the linear probe needs scikit-learn: pip install 'openclip_eclip[evaluate]'"
        ) from error
    return LogisticRegression(solver="lbfgs", max_iter=MAX_ITERATIONS, warm_start=True)


def _fit(model: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> bool:
    """Fit in place; True if lbfgs did not converge, which is counted instead of a warning."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    return any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
