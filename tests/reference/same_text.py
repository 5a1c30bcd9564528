"""The contrastive losses with repeated texts, in slow numpy loops; no code of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """What a pair of the batch is."""

    sample: int
    text: object  # equal where texts are the same
    is_mixed: bool


def kind(row: Row, column: Row, is_partner: bool, own_pairs: str, same_text: str) -> str:
    """'positive', 'negative' or 'out' for the pair of an image and a text.

    A mixed pair and its own sample: own_pairs. Two samples with the same text: same_text. One
    sample drawn twice is both; 'out' wins, then 'positive'.
    """
    if is_partner:
        return "positive"
    words = set()
    if row.sample == column.sample:
        words.add({"diagonal": "negative", "multi": "positive", "mask": "out"}[own_pairs])
    is_copy = row.sample == column.sample and (row.is_mixed or column.is_mixed)
    if row.text == column.text and not is_copy:
        words.add({"negative": "negative", "positive": "positive", "ignore": "out"}[same_text])
    return next((word for word in ("out", "positive") if word in words), "negative")


def info_nce(
    image: np.ndarray,
    text: np.ndarray,
    scale: float,
    rows: Sequence[Row],
    own_pairs: str,
    same_text: str,
) -> float:
    """Mean over rows and both directions of -log(sum over positives / sum over all but 'out')."""

    def direction(first: np.ndarray, second: np.ndarray) -> float:
        total = 0.0
        for i, row in enumerate(rows):
            positive = everything = 0.0
            for j, column in enumerate(rows):
                what = kind(row, column, i == j, own_pairs, same_text)
                value = 0.0 if what == "out" else np.exp(scale * float(first[i] @ second[j]))
                everything += value
                positive += value if what == "positive" else 0.0
            total -= np.log(positive / everything)
        return total / len(rows)

    return (direction(image, text) + direction(text, image)) / 2


def l_out(image: np.ndarray, text: np.ndarray, scale: float, texts: Sequence[object]) -> float:
    """Khosla et al. 2020, Eq. 2, in both directions: the target is shared by the positives."""

    def direction(first: np.ndarray, second: np.ndarray) -> float:
        total = 0.0
        for i in range(len(texts)):
            logits = [scale * float(first[i] @ other) for other in second]
            denominator = np.log(sum(np.exp(logits)))
            positive = [j for j in range(len(texts)) if texts[j] == texts[i]]
            total += sum(denominator - logits[j] for j in positive) / len(positive)
        return total / len(texts)

    return (direction(image, text) + direction(text, image)) / 2


def sigmoid_loss(
    image: np.ndarray,
    text: np.ndarray,
    scale: float,
    bias: float,
    rows: Sequence[Row],
    own_pairs: str,
    same_text: str,
) -> float:
    """-sum log sigmoid(z (scale v.t + bias)) over all pairs but 'out', by row."""
    total = 0.0
    for i, row in enumerate(rows):
        for j, column in enumerate(rows):
            what = kind(row, column, i == j, own_pairs, same_text)
            if what != "out":
                sign = 1 if what == "positive" else -1
                total += np.log1p(np.exp(-sign * (scale * float(image[i] @ text[j]) + bias)))
    return total / len(rows)
