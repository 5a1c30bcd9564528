"""Differences between methods with several seeds each, on one set of images: crossed bootstrap, Holm, sizes needed."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from .resampled import Scorer, weight_chunks


@dataclass
class Draws:
    """Of one method: `full` (S, Q) a seed's statistics on all images, `drawn` (D, S, Q) on the images of each draw."""

    full: np.ndarray
    drawn: np.ndarray


@dataclass
class Estimate:
    """Arrays (Q,): a mean over seeds (or a difference of two), its sd over seeds (NaN: one seed) and 95 % interval.

    `p`: two-sided, for differences. `lost`: draws in which the statistic is not defined.
    """

    value: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    lost: np.ndarray


@dataclass
class Components:
    """Variances of a difference d_si of seed s on image i: d + u_s + v_i + e_si, so var(mean) = seed/S + image/N + both/(S N).

    A statistic that is no mean over images (F1, AUROC, median) is taken as one: its bootstrap variance times N stands for `image`
    + `both`. `seed` NaN: one seed, not known.
    """

    seed: float
    image: float
    both: float

    def variance(self, seeds: float, images: float) -> float:
        """Of the mean difference over `seeds` seeds and `images` images."""
        return self.seed / seeds + self.image / images + self.both / (seeds * images)


def draw_all(scorers: Sequence[Scorer], count: int, draws: int, seed: int, groups: Sequence[object] | None = None) -> list[Draws]:
    """Every method on the same draws of `count` images, or of whole `groups` (N,) of them."""
    ones = np.ones((count, 1))
    parts: list[list[np.ndarray]] = [[] for _ in scorers]
    for weights in weight_chunks(count, draws, seed, groups):
        for part, scorer in zip(parts, scorers, strict=True):
            part.append(scorer(weights))
    return [Draws(scorer(ones)[0], np.concatenate(part)) for scorer, part in zip(scorers, parts, strict=True)]


def seed_picks(seeds: int, draws: int, seed: int) -> np.ndarray:
    """(D, S) numbers of seeds drawn with replacement; methods with equally many seeds get the same picks, hence are paired."""
    return np.random.default_rng([seed, seeds]).integers(0, seeds, (draws, seeds))


def mean_over_seeds(drawn: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """(D, Q) of `drawn` (D, S, Q): the mean over the seeds that `picks` (D, S) names, on each draw's images.

    The deviation from the mean over all seeds is multiplied by sqrt(S / (S - 1)): drawing S of S values has (S - 1) / S of the
    variance it should have, which with three seeds would make every interval a fifth too narrow.
    """
    centre = drawn.mean(1)
    seeds = drawn.shape[1]
    if seeds == 1:
        return centre
    picked = np.take_along_axis(drawn, picks[:, :, None], axis=1).mean(1)
    return centre + math.sqrt(seeds / (seeds - 1)) * (picked - centre)


def estimate_mean(method: Draws, seed: int = 0) -> Estimate:
    """Mean over the seeds of one method."""
    picks = seed_picks(len(method.full), len(method.drawn), seed)
    return _estimate(method.full.mean(0), _sd(method.full), mean_over_seeds(method.drawn, picks))


def estimate_difference(method: Draws, reference: Draws, seed: int = 0) -> Estimate:
    """method - reference, seeds paired by their order where both have equally many (sd: of the paired differences, else NaN).

    Images are the same in both in every draw. Where both factors are drawn the variance of what belongs to one seed and one image
    enters three times (Owen, The pigeonhole bootstrap, 2007), so that the interval errs to the wide side.
    """
    means = [mean_over_seeds(one.drawn, seed_picks(len(one.full), len(one.drawn), seed)) for one in (method, reference)]
    paired = len(method.full) == len(reference.full)
    sd = _sd(method.full - reference.full) if paired else np.full(method.full.shape[1], np.nan)
    return _estimate(method.full.mean(0) - reference.full.mean(0), sd, means[0] - means[1])


def _sd(full: np.ndarray) -> np.ndarray:
    return full.std(0, ddof=1) if len(full) > 1 else np.full(full.shape[1], np.nan)


def _estimate(value: np.ndarray, sd: np.ndarray, drawn: np.ndarray) -> Estimate:
    whole = np.where(np.isnan(drawn).all(0), 0, drawn)  # a statistic without any draw: NaN below, without numpy's warning
    low, high = np.where(np.isnan(value), np.nan, np.nanquantile(whole, [0.025, 0.975], axis=0))
    return Estimate(value, sd, low, high, np.where(np.isnan(value), np.nan, bootstrap_p(drawn)), np.isnan(drawn).sum(0))


def bootstrap_p(drawn: np.ndarray) -> np.ndarray:
    """(Q,) two-sided p-values of drawn differences (D, Q): twice (1 + draws on the rarer side of 0, those at 0 included) / (draws
    + 1).

    Never 0, at most 1; below 0.05 where the 95 % percentile interval leaves 0 out (up to one draw).
    """
    counts = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))  # NaN is in neither
    return np.minimum(1.0, 2 * (1 + counts) / ((~np.isnan(drawn)).sum(0) + 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p-values (K,), monotone and at most 1; NaN stays and does not count as a test."""
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[:int((~np.isnan(p)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def variance_components(method: Draws, reference: Draws, statistic: int, images: int) -> Components:
    """Of the differences of paired seeds. `images`: how many units (images, or patients) were drawn.

    With d_s on all images, d*_s on those of a draw: v1 = mean over s of var(d*_s) estimates (image + both) / N, v2 = var(mean of
    d*_s) estimates (image + both / S) / N, v3 = var over s of d_s estimates seed + both / N. ValueError: numbers of seeds that
    differ.
    """
    if len(method.full) != len(reference.full):
        raise ValueError(f"{len(method.full)} and {len(reference.full)} seeds; expected equally many, paired.")
    full = (method.full - reference.full)[:, statistic]
    drawn = (method.drawn - reference.drawn)[:, :, statistic]
    drawn = drawn[~np.isnan(drawn).any(1)]
    seeds = len(full)
    if len(drawn) < 2:
        return Components(math.nan, math.nan, math.nan)
    v1, v2 = float(drawn.var(0, ddof=1).mean()), float(drawn.mean(1).var(ddof=1))
    if seeds == 1:
        return Components(math.nan, v1 * images, 0.0)
    both = min(max((v1 - v2) * seeds / (seeds - 1), 0.0), v1)
    return Components(max(float(full.var(ddof=1)) - both, 0.0), (v1 - both) * images, both * images)


def _reach(alpha: float, power: float) -> float:
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))


def needed_seeds(parts: Components, difference: float, images: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The least number S of seeds a method that shows `difference` on `images` images; inf: no number does; NaN: not known.

    S = (seed + both / N) / ((difference / (z_{1 - alpha/2} + z_power))² - image / N). Assumes a normal mean difference, known
    components (which they are not: with less than ten seeds add two), paired seeds and a two-sided test.
    """
    room = (difference / _reach(alpha, power)) ** 2 - parts.image / images
    return _least(parts.seed + parts.both / images, room)


def needed_images(parts: Components, difference: float, seeds: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The least number N of images that shows `difference` with `seeds` seeds a method; inf: no number does; NaN: not known.

    N = (image + both / S) / ((difference / (z_{1 - alpha/2} + z_power))² - seed / S). The assumptions of `needed_seeds`, and new
    images as these are. One seed: the answer holds for these very weights.
    """
    seed = 0.0 if math.isnan(parts.seed) else parts.seed
    return _least(parts.image + parts.both / seeds, (difference / _reach(alpha, power)) ** 2 - seed / seeds)


def smallest_difference(parts: Components, seeds: int, images: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """What `seeds` seeds and `images` images show with this power: (z_{1 - alpha/2} + z_power) sqrt(var(mean))."""
    known = Components(0.0 if math.isnan(parts.seed) else parts.seed, parts.image, parts.both)
    return _reach(alpha, power) * math.sqrt(known.variance(seeds, images))


def _least(variance: float, room: float) -> float:
    if math.isnan(variance) or math.isnan(room):
        return math.nan
    return math.inf if room <= 0 else max(1.0, math.ceil(variance / room))
