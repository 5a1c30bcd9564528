"""ROC-AUC of several classes over rows that may repeat, as a bootstrap needs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUROC of each class (K,); ties count half.

    `labels` (N, K): 1, 0 or NaN, which leaves the row out for that class; `scores` (N, K). NaN for
    a class without a positive or without a negative.
    """
    return auroc_of_rows(labels, scores)(np.arange(len(labels)))


def shares_outside(scores: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(above, reached): of the scores outside, the share above each score inside, and from it on.

    `scores` (N,) and `inside` (N,) bool, neither all nor none; results in the order of those
    inside. The scores outside are sorted, which takes a third of the time of an order of all.
    """
    found, outside = scores[inside], np.sort(scores[~inside])
    shares = [
        (len(outside) - np.searchsorted(outside, found, side=side)) / len(outside)
        for side in ("right", "left")
    ]
    return shares[0], shares[1]


def auroc_of_rows(labels: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """`auroc` as a function of row numbers; it sorts only once for all draws of a bootstrap.

    ValueError: NaN scores, or shapes that differ.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 2:
        raise ValueError(
            f"labels {labels.shape} and scores {scores.shape}; expected two arrays (N, K)."
        )
    if np.isnan(scores[~np.isnan(labels)]).any():
        raise ValueError("NaN among the scores; expected numbers wherever there is a label.")
    prepared = []
    for label, score in zip(labels.T, scores.T, strict=True):
        known = np.flatnonzero(~np.isnan(label))
        order = known[np.argsort(score[known], kind="stable")]
        first_of_tie = (
            np.flatnonzero(np.r_[True, np.diff(score[order]) > 0]) if len(order) else order
        )
        prepared.append((order, first_of_tie, label[order]))

    def of_rows(rows: np.ndarray) -> np.ndarray:
        counts = np.bincount(rows, minlength=len(labels)).astype(np.float64)
        return np.array(
            [_area(counts[order], first_of_tie, label) for order, first_of_tie, label in prepared]
        )

    return of_rows


def _area(counts: np.ndarray, first_of_tie: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs in the right order, ties half.

    Rows are sorted by score and occur `counts` (N,) times; `first_of_tie`: index of the first row
    of each score; `labels` (N,).
    """
    if not len(counts):
        return np.nan
    positives = np.add.reduceat(counts * labels, first_of_tie)
    negatives = np.add.reduceat(counts * (1 - labels), first_of_tie)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else np.nan
