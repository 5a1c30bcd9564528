"""Differences between methods with several seeds each on one test set: intervals, p, Holm, sizes.

The mean over S seeds of a statistic on N images varies with the seeds and with the images.
Decision 0043: half of an interval = sqrt(t(S - 1)^2 A + t(N - 1)^2 B). A = (variance between
seeds) / S, with Student's t because it is known from few seeds; B = the part of the images, from a
bootstrap over images. scripts/studies/coverage.py measures the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from scipy.stats import norm

from .resampled import Scorer, weight_chunks

LEVEL = 0.05
MOST_FREEDOM = 1e9  # degrees of freedom at which Student's t is the normal distribution
MOST_SEEDS, MOST_IMAGES = 10**6, 10**12  # upper limits of needed sizes


@dataclass
class Draws:
    """Statistics of one method, with S seeds, Q statistics and D draws of images.

    `full` (S, Q): on all images; `drawn` (D, S, Q): on each draw; `units`: number of images or
    patients that were drawn from, inf if it is not known.
    """

    full: np.ndarray
    drawn: np.ndarray
    units: float = math.inf


@dataclass
class Estimate:
    """A mean over seeds, or a difference of two means; all fields are arrays (Q,).

    `sd`: over seeds, NaN for one seed; `low`, `high`: 95 % interval; `p`: two-sided, for
    differences, below 0.05 exactly where the interval excludes 0; `lost`: number of draws in which
    the statistic is undefined; `seeds`, `images`: the two parts of the variance of `value`;
    `freedom`: degrees of freedom of the first part.
    """

    value: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    lost: np.ndarray
    seeds: np.ndarray
    images: np.ndarray
    freedom: np.ndarray


@dataclass
class Components:
    """Variance components of a difference d_si = d + u_s + v_i + e_si of seed s on image i.

    So var(mean) = seed/S + image/N + both/(S N). A statistic that is not a mean over images (F1,
    AUROC, median) is treated as one: its bootstrap variance times N is `image` + `both`. `seed` is
    NaN for one seed: it is not known then.
    """

    seed: float
    image: float
    both: float

    def variance(self, seeds: float, images: float) -> float:
        """Variance of the mean difference over `seeds` seeds and `images` images."""
        return self.seed / seeds + self.image / images + self.both / (seeds * images)


def draw_all(
    scorers: Sequence[Scorer],
    count: int,
    draws: int,
    seed: int,
    groups: Sequence[object] | None = None,
) -> list[Draws]:
    """Statistics of all methods on the same draws of `count` images, or of whole `groups` (N,)."""
    ones = np.ones((count, 1))
    parts: list[list[np.ndarray]] = [[] for _ in scorers]
    for weights in weight_chunks(count, draws, seed, groups):
        for part, scorer in zip(parts, scorers, strict=True):
            part.append(scorer(weights))
    units = count if groups is None else len(np.unique(np.asarray(groups)))
    return [
        Draws(scorer(ones)[0], np.concatenate(part), units)
        for scorer, part in zip(scorers, parts, strict=True)
    ]


def estimate_mean(method: Draws) -> Estimate:
    """Mean over the seeds of one method. With one seed the interval covers the images only."""
    return _estimate(method.full.mean(0), [method], method.drawn.mean(1))


def estimate_difference(method: Draws, reference: Draws) -> Estimate:
    """Difference method - reference; every draw has the same images in both.

    With equal numbers of seeds they are paired by their order, and sd is that of the paired
    differences. With other numbers the variances of the seeds are added, the degrees of freedom are
    Welch's, a method with one seed has no such variance, and sd is NaN.
    """
    if len(method.full) == len(reference.full):
        full, drawn = method.full - reference.full, method.drawn - reference.drawn
        return estimate_mean(Draws(full, drawn, method.units))
    value = method.full.mean(0) - reference.full.mean(0)
    return _estimate(value, [method, reference], method.drawn.mean(1) - reference.drawn.mean(1))


def _estimate(value: np.ndarray, groups: Sequence[Draws], centre: np.ndarray) -> Estimate:
    """Estimate of `value` (Q,) from the means over seeds of `groups`.

    `centre` (D, Q): the same statistic in each draw.
    """
    several = [method for method in groups if len(method.full) > 1]
    parts = [method.full.var(0, ddof=1) / len(method.full) for method in several]
    seeds = np.sum(parts, axis=0) if parts else np.zeros(len(value))
    squares = np.sum(
        [part**2 / (len(method.full) - 1) for part, method in zip(parts, several, strict=True)],
        axis=0,
    )
    freedom = np.divide(seeds**2, squares, out=np.full(len(value), MOST_FREEDOM), where=squares > 0)
    images = _variance(centre, groups[0].units)
    for method in several:  # the part of one seed on one image is already in the part of seeds
        images = images - _both(method.drawn, method.units) / len(method.full)
    images = np.maximum(images, 0.0)
    half = half_width(seeds, images, freedom, groups[0].units, LEVEL)
    sd = _sd(groups[0].full) if len(groups) == 1 else np.full(len(value), np.nan)
    p = p_value(value, seeds, images, freedom, groups[0].units)
    return Estimate(
        value, sd, value - half, value + half, p, np.isnan(centre).sum(0), seeds, images, freedom
    )


def half_width(
    seeds: np.ndarray,
    images: np.ndarray,
    freedom: np.ndarray,
    units: float,
    alpha: np.ndarray | float,
) -> np.ndarray:
    """Half of the 1 - alpha interval (Q,) from the variances `seeds` and `images`, each (Q,).

    `freedom`: degrees of freedom of `seeds`; `units`: number of images that `images` is known
    from. Each part has its own quantile, and their squares are added: with one part alone it is the
    usual interval. Satterthwaite's degrees of freedom for the sum cover less with two and three
    seeds (docs/results/coverage.md).
    """
    few = stdtrit(np.minimum(freedom, MOST_FREEDOM), np.asarray(alpha) / 2)
    many = stdtrit(min(max(units - 1, 1), MOST_FREEDOM), np.asarray(alpha) / 2)
    return np.sqrt(few**2 * seeds + many**2 * images)


def p_value(
    value: np.ndarray, seeds: np.ndarray, images: np.ndarray, freedom: np.ndarray, units: float
) -> np.ndarray:
    """p (Q,): the alpha whose interval ends at 0, by bisection.

    It is below 0.05 exactly where the 95 % interval excludes 0.
    """
    low, high = np.full(len(value), -700.0), np.zeros(len(value))  # of log alpha
    for _ in range(45):
        middle = (low + high) / 2
        outside = np.abs(value) > half_width(seeds, images, freedom, units, np.exp(middle))
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return np.where(np.isnan(value), np.nan, np.where(value == 0, 1.0, np.exp(high)))


def _variance(drawn: np.ndarray, units: float) -> np.ndarray:
    """Variance over the draws (first axis) with a value, corrected for drawing from `units`."""
    known = ~np.isnan(drawn)
    count = known.sum(0)
    mean = np.where(known, drawn, 0).sum(0) / np.maximum(count, 1)
    squares = (np.where(known, drawn - mean, 0) ** 2).sum(0) / np.maximum(count - 1, 1)
    unbiased = units / (units - 1) if 1 < units < math.inf else 1.0
    return np.where(count > 1, squares, np.nan) * unbiased


def _both(drawn: np.ndarray, units: float) -> np.ndarray:
    """Variance (Q,) of one seed's statistic that comes from single seeds on single images.

    `drawn` (D, S, Q), S > 1.
    """
    seeds = drawn.shape[1]
    alone, mean = _variance(drawn, units).mean(0), _variance(drawn.mean(1), units)
    return np.clip((alone - mean) * seeds / (seeds - 1), 0.0, alone)


def _sd(full: np.ndarray) -> np.ndarray:
    return full.std(0, ddof=1) if len(full) > 1 else np.full(full.shape[1], np.nan)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p-values (K,), monotone and at most 1.

    NaN stays NaN and does not count as a test.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def variance_components(method: Draws, reference: Draws, statistic: int, images: int) -> Components:
    """Variance components of the differences of paired seeds.

    `images`: number of units (images or patients) that were drawn. With d_s on all images and d*_s
    on those of a draw: v1 = mean over s of var(d*_s) estimates (image + both) / N, v2 = var(mean of
    d*_s) estimates (image + both / S) / N, v3 = var over s of d_s estimates seed + both / N.
    ValueError: numbers of seeds that differ.
    """
    if len(method.full) != len(reference.full):
        raise ValueError(
            f"{len(method.full)} and {len(reference.full)} seeds; expected equally many, paired."
        )
    full = (method.full - reference.full)[:, statistic]
    drawn = (method.drawn - reference.drawn)[:, :, [statistic]]
    alone = float(_variance(drawn, images).mean())
    if math.isnan(alone):
        return Components(math.nan, math.nan, math.nan)
    if len(full) == 1:
        return Components(math.nan, alone * images, 0.0)
    both = float(_both(drawn, images)[0])
    return Components(
        max(float(full.var(ddof=1)) - both, 0.0), (alone - both) * images, both * images
    )


def smallest_difference(
    parts: Components, seeds: int, images: float, alpha: float = LEVEL, power: float = 0.8
) -> float:
    """The smallest difference that `seeds` seeds per method and `images` images show with `power`.

    It is half of the interval + z_power sqrt(var(mean)). Assumes a normal mean difference, known
    components, paired seeds and a two-sided test. With one seed (`parts.seed` NaN) the answer holds
    for these weights only.
    """
    of_seeds = 0.0 if math.isnan(parts.seed) else (parts.seed + parts.both / images) / seeds
    of_images = parts.image / images
    half = half_width(
        np.array(of_seeds), np.array(of_images), np.array(max(seeds - 1, 1)), math.inf, alpha
    )
    return float(half + norm.ppf(power) * math.sqrt(of_seeds + of_images))


def needed_seeds(
    parts: Components, difference: float, images: int, alpha: float = LEVEL, power: float = 0.8
) -> float:
    """The smallest number of seeds per method that shows `difference` on `images` images.

    inf: no number does; NaN: not known.
    """
    if math.isnan(parts.seed) or math.isnan(parts.image):
        return math.nan
    return _smallest(
        lambda seeds: smallest_difference(parts, seeds, images, alpha, power),
        difference,
        2,
        MOST_SEEDS,
    )


def needed_images(
    parts: Components, difference: float, seeds: int, alpha: float = LEVEL, power: float = 0.8
) -> float:
    """The smallest number of images that shows `difference` with `seeds` seeds per method.

    inf: no number does; NaN: not known. New images are assumed to be like these.
    """
    if math.isnan(parts.image):
        return math.nan
    return _smallest(
        lambda images: smallest_difference(parts, seeds, images, alpha, power),
        difference,
        1,
        MOST_IMAGES,
    )


def _smallest(shown: Callable[[int], float], difference: float, low: int, high: int) -> float:
    """The smallest integer from `low` to `high` at which `shown` is at most `difference`.

    `shown` must fall. inf: there is none.
    """
    if shown(high) > difference:
        return math.inf
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) <= difference else (middle + 1, high)
    return float(low)
