"""The alignment loss in slow numpy loops, written from its definition.

It shares no code with the package.
"""

from __future__ import annotations

import numpy as np


def cell_means(heatmap: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) means of an (H, W) map whose sides the grid divides."""
    height, width = heatmap.shape[0] // rows, heatmap.shape[1] // columns
    result = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            result[r, c] = heatmap[
                r * height : (r + 1) * height, c * width : (c + 1) * width
            ].mean()
    return result


def attention(positions: np.ndarray, text: np.ndarray, temperature: float) -> np.ndarray:
    """(h, w) probabilities of an image from the cosines of positions (h, w, D) and text (D,)."""
    scores = np.zeros(positions.shape[:2])
    for r in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            scores[r, c] = (
                positions[r, c]
                @ text
                / np.linalg.norm(positions[r, c])
                / np.linalg.norm(text)
                / temperature
            )
    weights = np.exp(scores)
    return weights / weights.sum()


def cross_entropy(heatmap: np.ndarray, probabilities: np.ndarray, power: float) -> float:
    target = cell_means(heatmap, *probabilities.shape) ** power
    target = target / target.sum()
    return -sum(
        float(target[i]) * float(np.log(probabilities[i])) for i in np.ndindex(probabilities.shape)
    )


def loss(
    heatmaps: list[np.ndarray],
    probabilities: list[np.ndarray],
    power: float = 3.0,
    minimum: float = 0.0,
) -> float:
    """The mean over annotated samples, 0 without any.

    With fewer samples than `minimum`, their sum is divided by `minimum`.
    """
    errors = [cross_entropy(heatmap, p, power) for heatmap, p in zip(heatmaps, probabilities)]
    return sum(errors) / max(len(errors), minimum) if errors else 0.0


def sentence_loss(
    samples: list[tuple[list[np.ndarray], list[np.ndarray]]],
    power: float = 3.0,
    minimum: float = 0.0,
) -> float:
    """The mean over samples of the mean over their sentences, 0 without a sample.

    Each sentence has a heatmap and probabilities. A sample with a heatmap of the whole report
    counts as one sentence, its report. With fewer samples than `minimum`, the sum is divided by
    `minimum`.
    """
    errors = [loss(heatmaps, probabilities, power) for heatmaps, probabilities in samples]
    return sum(errors) / max(len(errors), minimum) if errors else 0.0


def uniform_cross_entropy(probabilities: np.ndarray) -> float:
    cells = list(np.ndindex(probabilities.shape))
    return -sum(float(np.log(probabilities[i])) for i in cells) / len(cells)


def region_feature(positions: np.ndarray, heatmap: np.ndarray, power: float) -> np.ndarray:
    """(D,) of unit length: unit positions (h, w, D), weighted by the cells of a heatmap (H, W)."""
    cells = cell_means(heatmap, *positions.shape[:2]) ** power
    total = np.zeros(positions.shape[2])
    for i in np.ndindex(cells.shape):
        total += cells[i] / cells.sum() * positions[i] / np.linalg.norm(positions[i])
    return total / np.linalg.norm(total)


def contrast(
    regions: list[np.ndarray], phrases: list[np.ndarray], texts: list, scale: float
) -> list[float]:
    """Of each pair the mean of both cross-entropies; phrases with equal text are left out."""
    errors = []
    for i, (region, phrase) in enumerate(zip(regions, phrases)):
        right = scale * float(region @ phrase)
        others = [k for k, text in enumerate(texts) if k == i or text != texts[i]]
        to_phrases = np.log(sum(np.exp(scale * float(region @ phrases[k])) for k in others))
        to_regions = np.log(sum(np.exp(scale * float(regions[k] @ phrase)) for k in others))
        errors.append((to_phrases - right + to_regions - right) / 2)
    return errors
