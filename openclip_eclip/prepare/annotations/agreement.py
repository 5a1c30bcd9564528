"""How far several annotators of the same images agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ...gaze import render
from ..plan import Item

GRID = 64  # pixels of the shorter side on which regions are compared
CELLS = 16  # a side, for Cohen's kappa: neighbouring pixels are no independent judgements
MOST = 500  # images that are compared
INSIDE = 0.5  # of a map's maximum: inside the region


def agreement(items: Sequence[Item]) -> dict[str, float | int]:
    """Mean intersection over union of pairs of annotators, and Cohen's kappa on cells.

    Both over the first MOST images with at least two annotators; {} without any. Kappa (Cohen 1960)
    is pooled over images and pairs: it corrects for the agreement of regions of this area by
    chance. `Item.size` must be known.
    """
    overlaps, first, second = [], [], []
    once = {item.image: item for item in items}  # an image with several texts is several samples
    images = [item for item in once.values() if len(item.annotations) > 1 and item.size][:MOST]
    for item in images:
        assert item.size is not None
        maps = [render(shape, item.size, GRID, item.config) for shape in item.annotations]
        regions = [heatmap.values >= INSIDE for heatmap in maps if heatmap is not None]
        for one, other in combinations(regions, 2):
            overlaps.append((one & other).sum() / max((one | other).sum(), 1))
            first.append(_cells(one))
            second.append(_cells(other))
    if not overlaps:
        return {}
    return {
        "images with several annotators": len(images),
        "mean IoU of two annotators": round(float(np.mean(overlaps)), 3),
        "Cohen's kappa on cells": round(kappa(np.concatenate(first), np.concatenate(second)), 3),
    }


def _cells(region: np.ndarray) -> np.ndarray:
    """(CELLS * CELLS,) bool: whether the middle of each cell is inside."""
    rows, columns = (((np.arange(CELLS) + 0.5) * side / CELLS).astype(int) for side in region.shape)
    return region[np.ix_(rows, columns)].ravel()


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two bool arrays (N,): (observed - expected) / (1 - expected); NaN if all
    judgements are the same."""
    observed = float((one == other).mean())
    p, q = float(one.mean()), float(other.mean())
    expected = p * q + (1 - p) * (1 - q)
    return float("nan") if expected == 1 else (observed - expected) / (1 - expected)
