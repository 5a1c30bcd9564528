"""Metrics of two clouds of unit vectors, images and texts: alignment, uniformity, gap, clusters.

Computed in float64; matrices of pairs are computed in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np

from ..config import UserError

BLOCK_BYTES = 64 * 2**20  # of one block of the matrix of pairs


def alignment(images: np.ndarray, texts: np.ndarray) -> float:
    """Eq. 2 of the paper, -E_i[|v_i - t_i|^2 - min_{j != i} |v_i - t_j|^2], the mean of `margins`.

    `images`, `texts` (N, D). Higher is better. It falls with N, the number of texts: compare values
    of the same N only. The code of Oh et al. leaves the minus out and is called with texts first,
    so its minimum is over images and lower is better: that is another number.
    """
    return float(margins(images, texts).mean())


def margins(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Squared distance of each image to its nearest wrong text, minus that to its own text (N,).

    Above 0 the own text is the nearest.
    """
    images, texts = _pairs(images, texts)
    nearest = np.empty(len(images))
    for rows, squared in _squared_distances(images, texts):
        squared[np.arange(len(squared)), rows] = np.inf
        nearest[rows] = squared.min(axis=1)
    return nearest - _paired(images, texts)


def uniformity(images: np.ndarray, texts: np.ndarray) -> float:
    """Eq. 3 of the paper, -log E_{i != j} exp(-2 |v_i - t_j|^2), from 0 to 8.

    `images`, `texts` (N, D). The paper calls higher better. Distances between the two clouds count
    as spread, so it rises with the modality gap. The code of Oh et al. takes distances among images
    and a log without minus: that is another number.
    """
    images, texts = _pairs(images, texts)
    return -_log_mean_kernel(images, texts)


def wang_isola_alignment(images: np.ndarray, texts: np.ndarray, alpha: float = 2) -> float:
    """E_i |v_i - t_i|^alpha (Wang and Isola 2020). Lower is better."""
    return float((_paired(*_pairs(images, texts)) ** (alpha / 2)).mean())


def wang_isola_uniformity(points: np.ndarray) -> float:
    """log E_{x != y} exp(-2 |x - y|^2) in one cloud (N, D) (Wang and Isola 2020).

    Lower is better; random directions have -4.
    """
    points = np.asarray(points, dtype=np.float64)
    return _log_mean_kernel(*_pairs(points, points))


def modality_gap(images: np.ndarray, texts: np.ndarray) -> float:
    """Length of mean(v) - mean(t) (Liang et al. 2022), from 0 to 2."""
    return float(
        np.linalg.norm(
            np.mean(images, axis=0, dtype=np.float64) - np.mean(texts, axis=0, dtype=np.float64)
        )
    )


def centre(points: np.ndarray) -> np.ndarray:
    """Points (N, D) float64 with their mean subtracted, scaled to length 1.

    UserError: a point equals the mean, so it has no direction.
    """
    points = np.asarray(points, dtype=np.float64)
    moved = points - points.mean(axis=0)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    if (length < 1e-12).any():
        raise UserError(
            f"{int((length < 1e-12).sum())} of {len(points)} features equal their mean, so the"
            " centred version does not exist. Expected different features: check whether the"
            " encoder collapsed to one feature."
        )
    return moved / length


def cosine_histogram(
    points: np.ndarray, groups: np.ndarray, bins: int = 100
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histograms of the cosines of unit vectors `points` (N, D), by pair of groups.

    `groups` (N,) int 0..K-1; each pair of different points counts once. Returns counts (K, K, bins)
    of equal bins of [-1, 1], mean and standard deviation (K, K), all symmetric; NaN for no pair.
    """
    points, count = np.asarray(points, dtype=np.float64), int(groups.max()) + 1
    clouds = [points[groups == group] for group in range(count)]
    counts = np.zeros((count, count, bins), np.int64)
    mean, deviation = np.full((2, count, count), np.nan)
    for first, second in combinations_with_replacement(range(count), 2):
        number, total, squares = 0, 0.0, 0.0
        for rows, cosines in _blocks(clouds[first], clouds[second]):
            if first == second:
                cosines = cosines[np.arange(cosines.shape[1]) > rows[:, None]]
            # rounding could push the cosine of equal points above 1, out of the last bin
            cosines = np.clip(cosines, -1, 1)
            counts[first, second] += np.histogram(cosines, bins, (-1, 1))[0]
            number, total, squares = (
                number + cosines.size,
                total + float(cosines.sum()),
                squares + float((cosines**2).sum()),
            )
        if number:
            mean[first, second] = mean[second, first] = total / number
            deviation[first, second] = deviation[second, first] = np.sqrt(
                max(squares / number - (total / number) ** 2, 0)
            )
        counts[second, first] = counts[first, second]
    return counts, mean, deviation


def clustering(
    points: np.ndarray, groups: np.ndarray, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """k-means with k = number of groups and n_init 20; {metric: a value for each seed}.

    NMI and ARI are against the groups; silhouette and Calinski-Harabasz of the clusters. `points`
    (N, D) unit vectors, `groups` (N,) int. UserError: fewer than two groups, too few points, or no
    scikit-learn.
    """
    try:
        from sklearn import cluster, config_context, metrics
    except ImportError as error:
        raise UserError(
            "clusters need scikit-learn: pip install 'openclip_eclip[evaluate]'"
        ) from error
    points, count = np.asarray(points, dtype=np.float64), len(np.unique(groups))
    if count < 2 or len(np.unique(points, axis=0)) <= count:
        raise UserError(
            f"{len(np.unique(points, axis=0))} different points in {count} groups; expected at"
            " least two groups, and more points than groups."
        )
    scores: dict[str, list[float]] = {
        "NMI": [],
        "ARI": [],
        "silhouette": [],
        "Calinski-Harabasz": [],
    }
    for seed in seeds:
        clusters = cluster.KMeans(count, n_init=20, random_state=seed).fit_predict(points)
        scores["NMI"].append(metrics.normalized_mutual_info_score(groups, clusters))
        scores["ARI"].append(metrics.adjusted_rand_score(groups, clusters))
        with config_context(working_memory=BLOCK_BYTES // 2**20):
            scores["silhouette"].append(metrics.silhouette_score(points, clusters))
        scores["Calinski-Harabasz"].append(metrics.calinski_harabasz_score(points, clusters))
    return {name: np.array(values) for name, values in scores.items()}


def _pairs(images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, texts = np.asarray(images, dtype=np.float64), np.asarray(texts, dtype=np.float64)
    if images.shape != texts.shape or images.ndim != 2 or len(images) < 2:
        raise ValueError(
            f"images {images.shape}, texts {texts.shape}; expected two arrays (N, D) of pairs, N at"
            " least 2."
        )
    return images, texts


def _paired(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    return ((images - texts) ** 2).sum(axis=1)


def _blocks(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row numbers, their dot products with all of `right`), a block of rows at a time."""
    step = max(1, BLOCK_BYTES // (right.itemsize * max(1, len(right))))
    for first in range(0, len(left), step):
        rows = np.arange(first, min(first + step, len(left)))
        yield rows, left[rows] @ right.T


def _squared_distances(
    left: np.ndarray, right: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    lengths = (left**2).sum(axis=1), (right**2).sum(axis=1)
    for rows, products in _blocks(left, right):
        products *= -2
        products += lengths[0][rows, None]
        products += lengths[1]
        yield rows, np.maximum(products, 0, out=products)


def _log_mean_kernel(left: np.ndarray, right: np.ndarray) -> float:
    """log of the mean of exp(-2 |x_i - y_j|^2) over i != j."""
    total = 0.0
    for rows, squared in _squared_distances(left, right):
        squared *= -2
        np.exp(squared, out=squared)
        squared[np.arange(len(squared)), rows] = 0
        total += float(squared.sum())
    return float(np.log(total / (len(left) * (len(left) - 1))))
