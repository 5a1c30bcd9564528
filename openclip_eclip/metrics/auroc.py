"""ROC-AUC of a class, or of several, over rows that may repeat: the form that a bootstrap needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(K,) of `labels` (N, K) 1, 0 or NaN (row left out for that class) and `scores` (N, K); ties
    count half.

    NaN for a class without a positive or without a negative.
    """
    return auroc_of_rows(labels, scores)(np.arange(len(labels)))


def auroc_of_rows(labels: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """`auroc` as a function of row numbers; sorts once, for a thousand draws. ValueError: NaN
    scores.
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
    """Pairs in the right order, ties half, over all pairs; rows sorted by score, `counts` times
    each.
    """
    if not len(counts):
        return np.nan
    positives = np.add.reduceat(counts * labels, first_of_tie)
    negatives = np.add.reduceat(counts * (1 - labels), first_of_tie)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else np.nan
