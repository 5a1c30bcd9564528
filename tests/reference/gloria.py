"""GLoRIA's losses in slow numpy loops, written from the paper's equations.

They share no code with the package.
"""

from __future__ import annotations

import numpy as np


def similarity(
    regions: np.ndarray, words: np.ndarray, attention: float, word: float, aggregate: str
) -> float:
    """M of one image (P, D) and one report of (L, D) words, no padding."""
    energy = np.array([[float(c @ t) for t in words] for c in regions])  # (P, L)
    total = 0.0
    alpha = np.zeros_like(energy)
    for r, row in enumerate(energy):
        weights = np.exp(row - row.max())
        alpha[r] = weights / weights.sum()
    for w, t in enumerate(words):
        weights = np.exp(attention * alpha[:, w])
        weights = weights / weights.sum()
        context = np.zeros_like(t)
        for r, c in enumerate(regions):
            context = context + weights[r] * c
        total += np.exp(word * float(context @ t) / (np.linalg.norm(context) * np.linalg.norm(t)))
    return float(np.log(total if aggregate == "sum" else total / len(words)))


def cross_entropies(scores: np.ndarray) -> float:
    """CE of the rows plus CE of the columns, targets on the diagonal."""
    total = 0.0
    for matrix in (scores, scores.T):
        for i, row in enumerate(matrix):
            total -= (row[i] - row.max() - np.log(np.exp(row - row.max()).sum())) / len(matrix)
    return float(total)


def local_loss(
    regions: list[np.ndarray],
    words: list[np.ndarray],
    aggregate: str = "sum",
    attention: float = 4.0,
    word: float = 5.0,
    contrast: float = 10.0,
) -> float:
    """`words[k]` holds the words of report k only."""
    return cross_entropies(
        contrast
        * np.array([[similarity(c, t, attention, word, aggregate) for t in words] for c in regions])
    )


def global_loss(image: np.ndarray, text: np.ndarray, contrast: float = 10.0) -> float:
    """The global loss of unit features (B, D)."""
    return cross_entropies(np.array([[contrast * float(v @ t) for t in text] for v in image]))
