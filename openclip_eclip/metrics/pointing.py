"""Agreement of an attention map with an expert's heatmap: pointing game, NSS, AUC-Judd, IoU."""

from __future__ import annotations

import numpy as np

from .grounding import pointing_game
from .saliency import auc_judd, nss

REGION = 0.5  # share of a heatmap's maximum from which a pixel is marked


def marked_region(heatmap: np.ndarray, level: float = REGION) -> np.ndarray:
    """The marked region (H, W) bool: pixels of at least `level` of the heatmap's maximum.

    A box or mask of ones is its own region.
    """
    return heatmap >= level * heatmap.max()


def pointing_scores(attention: np.ndarray, heatmap: np.ndarray) -> dict[str, float]:
    """Scores of `attention` (H, W) of any scale against `heatmap` (H, W) >= 0, not all zero.

    - `pointing game`: `grounding.pointing_game` of the marked region, without tolerance.
    - `NSS`, `AUC-Judd`: as in `saliency`, the latter of the marked region.
    - `IoU`: overlap of the marked region with as many of the highest pixels of the map; pixels with
      the value at the limit count in equal shares.

    ValueError: other shapes, NaN, an empty heatmap.
    """
    attention, heatmap = np.asarray(attention, np.float64), np.asarray(heatmap, np.float64)
    if attention.shape != heatmap.shape or attention.ndim != 2:
        raise ValueError(
            f"map {attention.shape} and heatmap {heatmap.shape}; expected two arrays (H, W) of the"
            " same size."
        )
    if (
        not np.isfinite(attention).all()
        or not np.isfinite(heatmap).all()
        or heatmap.min() < 0
        or heatmap.max() <= 0
    ):
        raise ValueError(
            "map or heatmap with NaN or infinite values, or a heatmap that is negative or all zero."
        )
    region = marked_region(heatmap)
    return {
        "pointing game": pointing_game(attention, region),
        "NSS": nss(attention, heatmap),
        "AUC-Judd": auc_judd(attention, region),
        "IoU": _iou_of_equal_area(attention, region),
    }


def _iou_of_equal_area(attention: np.ndarray, region: np.ndarray) -> float:
    area = int(region.sum())
    threshold = np.partition(attention, attention.size - area, axis=None)[attention.size - area]
    above, equal = attention > threshold, attention == threshold
    share = (area - above.sum()) / equal.sum()  # of the pixels at the threshold
    shared = (above & region).sum() + share * (equal & region).sum()
    return float(shared / (2 * area - shared))
