"""Saliency metrics of an attention map against recorded gaze: NSS, AUC-Judd, CC, KL.

The definitions are those of the MIT/Tuebingen saliency benchmark (Bylinskii et al., arXiv
1604.03605). One thing differs, because a heatmap holds no single fixations: NSS weights pixels by
the heatmap, and AUC-Judd takes the marked pixels for the fixated ones.

`attention` (H, W): any range; `gaze` (H, W) >= 0, of any scale. A gaze map of zeros gives NaN.
"""

from __future__ import annotations

import numpy as np

from .auroc import shares_outside

EPSILON = 2.2204e-16  # of the benchmark's KL


def nss(attention: np.ndarray, gaze: np.ndarray) -> float:
    """Normalised scanpath saliency (Peters et al. 2005): chance is 0; 0 for a constant map.

    The mean of the standardised map, weighted by the gaze.
    """
    if not gaze.any():
        return np.nan
    # a constant map can have a deviation of some 1e-17 by rounding
    if attention.max() == attention.min():
        return 0.0
    standard = (attention - attention.mean()) / attention.std()
    return float((standard * gaze).sum() / gaze.sum())


def auc_judd(attention: np.ndarray, region: np.ndarray) -> float:
    """AUROC of the map's values (Judd et al. 2009), pixels of `region` (H, W) bool against others.

    Ties count half. NaN if all or no pixels are marked.
    """
    if region.all() or not region.any():
        return np.nan
    above, reached = shares_outside(attention.ravel(), region.ravel())
    return float(1 - (above + reached).mean() / 2)


def cc(attention: np.ndarray, gaze: np.ndarray) -> float:
    """Pearson's correlation of the maps; 0 for a constant attention, NaN for constant gaze."""
    if gaze.max() == gaze.min():
        return np.nan
    if attention.max() == attention.min():
        return 0.0
    return float(np.corrcoef(attention.ravel(), gaze.ravel())[0, 1])


def kl(attention: np.ndarray, gaze: np.ndarray) -> float:
    """Kullback-Leibler divergence of the attention from the gaze, in nats; 0 for equal maps.

    Both are scaled to sum to 1; an attention with negative values is shifted to minimum 0 first. If
    it is 0 everywhere then, it is the uniform distribution.
    """
    if not gaze.any():
        return np.nan
    share = attention - min(attention.min(), 0)
    share = share / share.sum() if share.any() else np.full(gaze.shape, 1 / gaze.size)
    some = gaze > 0
    expected, share = gaze[some] / gaze.sum(), share[some]
    return float((expected * np.log(EPSILON + expected / (share + EPSILON))).sum())
