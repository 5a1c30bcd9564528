"""Grounding metrics: how well an attention map finds the region of a phrase.

`attention` (H, W): values of any range, enlarged to the grid of the region; `region` (H, W) bool.
An empty region gives NaN. Metrics that compare inside with outside also give NaN for a region that
is the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from .auroc import shares_outside

TOLERANCE = 15  # pixels of the image: the pointing game's
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of mIoU and Dice
FPR_LIMIT = 0.3  # of AUPRO
SENSITIVITY = 0.95  # share of the phrases with a region that are detected


def widen(region: np.ndarray, tolerance: float) -> np.ndarray:
    """The pixels (H, W) bool within `tolerance` pixels of the region, the region included."""
    return distance_transform_edt(~region) <= tolerance if region.any() else region


def pointing_game(attention: np.ndarray, region: np.ndarray) -> float:
    """1 if the maximum of the map is in the region, else 0 (Zhang et al., arXiv 1608.00507).

    With several equal maxima it is the share of them in the region. The paper also counts a maximum
    within 15 pixels of the region, at the image's size: pass `widen(region, 15)`.
    """
    return float(region[attention == attention.max()].mean()) if region.any() else np.nan


def cnr(attention: np.ndarray, region: np.ndarray, signed: bool = False) -> float:
    """Contrast-to-noise ratio: |mean inside - mean outside| / sqrt(var inside + var outside).

    As in BioViL (Boecking et al., arXiv 2204.09817). The absolute value also rewards a map that
    avoids the region; `signed` leaves it out. 0 for a constant map. NaN for a map that is constant
    both inside and outside, but differs: the ratio is infinite.
    """
    if region.all() or not region.any():
        return np.nan
    inside, outside = attention[region], attention[~region]
    # not by the variance, which can be some 1e-33 by rounding
    if inside.max() == inside.min() and outside.max() == outside.min():
        return 0.0 if inside[0] == outside[0] else np.nan
    ratio = float((inside.mean() - outside.mean()) / np.sqrt(inside.var() + outside.var()))
    return ratio if signed else abs(ratio)


def rescaled(attention: np.ndarray) -> np.ndarray:
    """The map with minimum 0 and maximum 1; a constant map becomes 0."""
    low, high = attention.min(), attention.max()
    return (attention - low) / (high - low) if high > low else np.zeros_like(attention, np.float64)


def overlaps(
    attention: np.ndarray, region: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[np.ndarray, np.ndarray]:
    """(IoU, Dice), each (T,), of the region and the pixels of at least each threshold.

    Thresholds ascend and apply to the map scaled to [0, 1]. The mean of IoU over 0.1 to 0.5 is the
    mIoU of BioViL and RadZero (arXiv 2504.07416); Dice 1945.
    """
    if not region.any():
        return np.full(len(thresholds), np.nan), np.full(len(thresholds), np.nan)
    # number of thresholds that a pixel reaches
    reached = np.searchsorted(thresholds, rescaled(attention).ravel(), side="right")
    size = len(thresholds) + 1
    area = np.bincount(reached, minlength=size)[::-1].cumsum()[::-1][1:]
    shared = np.bincount(reached[region.ravel()], minlength=size)[::-1].cumsum()[::-1][1:]
    both = area + region.sum()
    return shared / (both - shared), 2 * shared / both


def aupro(attention: np.ndarray, region: np.ndarray, limit: float = FPR_LIMIT) -> float:
    """Area under the per-region overlap, up to a false-positive rate of `limit`, divided by it.

    As in Bergmann et al. 2020 (arXiv 1911.02357): the overlap is the mean over the connected parts
    of the region (8 neighbours) of the share of the part at or above a threshold; the curve is
    linear between thresholds. They take one curve over a data set; here each map has its own, as
    maps of different phrases have no common scale. A constant map gives `limit` / 2.
    """
    if region.all() or not region.any():
        return np.nan
    parts, count = label(region, structure=np.ones((3, 3)))
    part = parts[region]
    weight = 1 / np.bincount(part)[part] / count
    # a pixel adds its weight from `above` on, linearly until `reached`: between them are its ties
    above, reached = shares_outside(attention.ravel(), region.ravel())
    width = reached - above
    rise = np.minimum(limit, reached) - above
    found = np.divide(rise, width, out=np.ones_like(width), where=width > 0)
    area = np.where(above < limit, rise * found / 2 + np.maximum(limit - reached, 0), 0)
    return float((weight * area).sum() / limit)


def false_alarm_rate(
    with_region: np.ndarray, without: np.ndarray, sensitivity: float = SENSITIVITY
) -> float:
    """Share of the phrases without a region that count as detected.

    A phrase is detected if the maximum of its map, not rescaled, reaches the highest threshold that
    at least `sensitivity` of the phrases with a region reach. This is the false-positive rate at
    95 % true positives of Liang et al. (arXiv 1706.02690). `with_region` (N,), `without` (M,): the
    maxima. NaN if either is empty.
    """
    if not len(with_region) or not len(without):
        return np.nan
    # 1e-9: 0.55 * 100 is above 55 in floating point
    needed = int(np.ceil(sensitivity * len(with_region) - 1e-9))
    threshold = np.sort(with_region)[len(with_region) - needed]
    return float((without >= threshold).mean())


def on_left_side(attention: np.ndarray) -> float:
    """Share of the map's maxima in the left half of the image; the middle column counts half."""
    columns = (np.nonzero(attention == attention.max())[1] + 0.5) / attention.shape[1]
    return float((columns < 0.5).mean() + (columns == 0.5).mean() / 2)
