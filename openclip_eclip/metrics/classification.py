"""Classification metrics: confusion matrix, F1, recall, precision, AUROC; scores from prompts.

They are closed forms on whole arrays, because a bootstrap calls them a thousand times. Tests
compare them with scikit-learn to 1e-12. A class without samples has no F1, recall or AUROC (NaN),
and means over classes leave it out (docs/decisions/0011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .auroc import auroc

CLASS_VECTORS = ("mean", "unit_mean", "max", "pair_softmax")
Numbers = dict[str, np.ndarray]


def class_scores(
    images: np.ndarray, positive: Sequence[np.ndarray], negative: Sequence[np.ndarray], rule: str
) -> np.ndarray:
    """Scores (N, K) float64 of unit image features (N, D) for K classes.

    `positive`, `negative`: unit prompt features (P_k, D) of each class. `rule`:
    mean: cosine averaged over prompts, which is the product with the mean vector;
    unit_mean: cosine with the mean vector;
    max: cosine with the best prompt;
    pair_softmax: softmax of the cosines with `positive` and `negative` (unit_mean each), without
    temperature, which would change neither order nor decision (peers.md §2.1).
    """
    images = images.astype(np.float64)
    if rule == "max":
        return np.stack(
            [(images @ prompts.T.astype(np.float64)).max(axis=1) for prompts in positive], axis=1
        )
    if rule == "mean":
        return images @ np.stack([prompts.mean(axis=0, dtype=np.float64) for prompts in positive]).T
    similarity = images @ np.stack([_unit_mean(prompts) for prompts in positive]).T
    if rule == "unit_mean":
        return similarity
    if rule != "pair_softmax":
        raise ValueError(f"class vector {rule!r}; expected one of {CLASS_VECTORS}.")
    return 1 / (
        1 + np.exp(images @ np.stack([_unit_mean(prompts) for prompts in negative]).T - similarity)
    )


def _unit_mean(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(axis=0, dtype=np.float64)
    return mean / np.linalg.norm(mean)


def standardise(scores: np.ndarray) -> np.ndarray:
    """Scores (N, K) of each class with mean 0 and population s.d. 1 over the samples.

    GLoRIA does this; it uses the whole test set. A constant column becomes 0. ValueError: fewer
    than two samples.
    """
    if len(scores) < 2:
        raise ValueError(
            f"{len(scores)} samples; expected at least 2 to standardise over the test set."
        )
    varies = np.ptp(scores, axis=0) > 0  # the s.d. of equal numbers is not always exactly 0
    return np.where(varies, scores - scores.mean(axis=0), 0) / np.where(
        varies, scores.std(axis=0), 1
    )


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix (K, K) int64, rows are true classes.

    `labels`, `predicted` (N,) int64 in 0 .. K-1. ValueError: other values or shapes, or no samples.
    """
    if labels.shape != predicted.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"labels {labels.shape} and predictions {predicted.shape}; expected two equally long"
            " rows of at least one."
        )
    for name, values in (("label", labels), ("prediction", predicted)):
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(
                f"a {name} is {values.min() if values.min() < 0 else values.max()}; expected 0 to"
                f" {classes - 1}."
            )
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(
        classes, classes
    )


def measure(labels: np.ndarray, scores: np.ndarray) -> Numbers:
    """All metrics of a single-label set: arrays (K,) by class, 0-d over classes.

    `labels` (N,) int64, `scores` (N, K) float64. The predicted class has the highest score, the
    first of equal ones. AUROC is that of one class against the rest by the score of the class; of
    two classes by the difference of their scores, which decides. With two classes there is also the
    F1 of the positive (second) class.
    """
    classes = scores.shape[1]
    table = confusion_matrix(labels, scores.argmax(axis=1), classes)
    hits, truths, guesses = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    present = truths > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(present, 2 * hits / (truths + guesses), np.nan)
        recall, precision = hits / truths, hits / guesses
    areas = auroc(
        (labels[:, None] == np.arange(classes)).astype(np.float64),
        scores - scores[:, ::-1] if classes == 2 else scores,
    )
    numbers = {
        "macro-F1": f1[present].mean(),
        "balanced accuracy": recall[present].mean(),
        "accuracy": hits.sum() / len(labels),
        "macro AUROC": _mean(areas),
        "F1": f1,
        "precision": precision,
        "recall": recall,
        "AUROC": areas,
    }
    if classes == 2:
        numbers["F1 of the positive class"] = f1[1]
    return {name: np.asarray(value, dtype=np.float64) for name, value in numbers.items()}


def measure_multi(labels: np.ndarray, scores: np.ndarray) -> Numbers:
    """AUROC of a multi-label set: by class (K,), and the mean.

    `labels` (N, K): 1, 0 or NaN (not labelled); `scores` (N, K).
    """
    areas = auroc(labels, scores)
    return {"macro AUROC": np.asarray(_mean(areas)), "AUROC": areas}


def floor_f1(prevalence: float) -> float:
    """F1 of the positive class when everything is called positive: 2p / (1 + p)."""
    return 2 * prevalence / (1 + prevalence)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
