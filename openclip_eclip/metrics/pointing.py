"""How well a map points at what an expert marked: pointing game, NSS, AUC-Judd, IoU, each for one
map and one heatmap.
"""

from __future__ import annotations

import numpy as np

from .auroc import auroc

REGION = 0.5  # of a heatmap's maximum: what counts as marked


def marked_region(heatmap: np.ndarray, level: float = REGION) -> np.ndarray:
    """(H, W) bool: at least `level` of the heatmap's maximum. A box or mask of ones is its own
    region.
    """
    return heatmap >= level * heatmap.max()


def pointing_scores(found: np.ndarray, heatmap: np.ndarray) -> dict[str, float]:
    """Scores of the map `found` (H, W), any scale, against `heatmap` (H, W) >= 0 with some mass.

    - `pointing game` (Zhang et al., arXiv 1608.00507): 1 if the map's maximum lies in the marked
      region; with several equal maxima the share of them that does.
    - `NSS` (normalised scanpath saliency): mean of the standardised map, weighted by the heatmap; 0
        is chance.
    - `AUC-Judd`: AUROC of the map's values, marked against unmarked pixels, ties half; NaN if all
      or none are marked. Deviation: the marked region stands for fixated pixels, since a heatmap
      does not tell single fixations.
    - `IoU`: of the marked region with as many of the map's highest pixels; equal values at the
        border share the rest.

    ValueError: other shapes, NaN, an empty heatmap.
    """
    found, heatmap = np.asarray(found, np.float64), np.asarray(heatmap, np.float64)
    if found.shape != heatmap.shape or found.ndim != 2:
        raise ValueError(
            f"map {found.shape} and heatmap {heatmap.shape}; expected two (H, W) of the same size."
        )
    if (
        not np.isfinite(found).all()
        or not np.isfinite(heatmap).all()
        or heatmap.min() < 0
        or heatmap.max() <= 0
    ):
        raise ValueError(
            "map or heatmap with NaN or infinite values, or a heatmap that is negative or all zero."
        )
    region = marked_region(heatmap)
    deviation = found.std()
    standard = (found - found.mean()) / deviation if deviation > 0 else np.zeros_like(found)
    return {
        "pointing game": float(region[found == found.max()].mean()),
        "NSS": float((standard * heatmap).sum() / heatmap.sum()),
        "AUC-Judd": float(auroc(region.reshape(-1, 1), found.reshape(-1, 1))[0]),
        "IoU": _iou_of_equal_area(found, region),
    }


def _iou_of_equal_area(found: np.ndarray, region: np.ndarray) -> float:
    area = int(region.sum())
    threshold = np.partition(found, found.size - area, axis=None)[found.size - area]
    above, equal = found > threshold, found == threshold
    share = (area - above.sum()) / equal.sum()  # of the pixels at the threshold
    shared = (above & region).sum() + share * (equal & region).sum()
    return float(shared / (2 * area - shared))
