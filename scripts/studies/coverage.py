"""Coverage of 95 % intervals over few seeds, in simulated experiments with a known truth.

    OMP_NUM_THREADS=1 python scripts/studies/coverage.py --write docs/results/coverage.md

See decision 0043. A difference of seed s on image i is d_si = u_s + v_i + e_si, normal around 0.
REGIMES gives the shares of the three terms in the variance of the mean over S seeds and N images.
Each experiment is bootstrapped over its images and given to openclip_eclip.metrics.compare, as in
`evaluate compare`. Two other intervals are computed from the same draws: the percentile bootstrap
over images and seeds of earlier versions, and Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from openclip_eclip.metrics.compare import Draws, Estimate, estimate_difference, estimate_mean
from openclip_eclip.metrics.power_law import bootstrap_power_law
from openclip_eclip.metrics.resampled import weight_chunks

SEEDS = (2, 3, 5, 10)
IMAGES = 100
CHUNK = 250  # number of experiments at a time


class Shares(NamedTuple):
    """Shares of the variance of the mean: of seeds, of images, of one seed on one image."""

    seed: float
    image: float
    both: float


REGIMES = {
    "seeds": Shares(1, 0, 0),
    "images": Shares(0, 1, 0),
    "one seed on one image": Shares(0, 0, 1),
    "seeds mostly": Shares(0.85, 0.15, 0),
    "seeds and images alike": Shares(0.5, 0.5, 0),
    "seeds a little": Shares(0.1, 0.8, 0.1),
    "all three alike": Shares(1 / 3, 1 / 3, 1 / 3),
}


def experiment(
    rng: np.random.Generator, seeds: int, count: int, shares: Shares, image: np.ndarray
) -> np.ndarray:
    """Values (S, N, Q) of Q = `count` experiments around 0, with variance 1 of the mean.

    `image` (N, Q): their v_i, standard normal.
    """
    of_seeds = np.sqrt(shares.seed * seeds) * rng.standard_normal((seeds, 1, count))
    both = np.sqrt(shares.both * seeds * IMAGES) * rng.standard_normal((seeds, IMAGES, count))
    return of_seeds + both + np.sqrt(shares.image * IMAGES) * image


def drawn_of(values: np.ndarray, weights: np.ndarray) -> Draws:
    """Draws of `values` (S, N, Q) with the bootstrap weights (N, D)."""
    drawn = np.einsum("nd,snq->dsq", weights / IMAGES, values, optimize=True)
    return Draws(values.mean(1), drawn, IMAGES)


def crossed_bootstrap(method: Draws, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The interval of earlier versions: percentiles over draws of images and of seeds.

    The deviations of the seeds are scaled by sqrt(S / (S - 1)).
    """
    count, seeds = method.drawn.shape[:2]
    centre = method.drawn.mean(1)
    if seeds > 1:
        picks = rng.integers(0, seeds, (count, seeds))
        picked = np.take_along_axis(method.drawn, picks[:, :, None], axis=1).mean(1)
        centre = centre + np.sqrt(seeds / (seeds - 1)) * (picked - centre)
    low, high = np.quantile(centre, [0.025, 0.975], axis=0)
    return low, high


def satterthwaite(estimate: Estimate) -> np.ndarray:
    """Half widths with one Student's t for the sum of both parts."""
    squares = estimate.seeds**2 / estimate.freedom + estimate.images**2 / (IMAGES - 1)
    freedom = (estimate.seeds + estimate.images) ** 2 / squares
    return student.ppf(0.975, freedom) * np.sqrt(estimate.seeds + estimate.images)


def paired(regime: str, seeds: int, experiments: int, draws: int, start: int) -> dict[str, float]:
    """{interval: share that contains 0}, and the median width.

    The width is relative to that of a normal interval with known variance.
    """
    covered = {"before": 0, "Satterthwaite": 0, "now": 0}
    widths = []
    for first in range(0, experiments, CHUNK):
        rng = np.random.default_rng([start, seeds, list(REGIMES).index(regime), first])
        weights = next(weight_chunks(IMAGES, draws, int(rng.integers(2**31))))
        count = min(CHUNK, experiments - first)
        image = rng.standard_normal((IMAGES, count))
        drawn = drawn_of(experiment(rng, seeds, count, REGIMES[regime], image), weights)
        estimate = estimate_mean(drawn)
        low, high = crossed_bootstrap(drawn, rng)
        covered["before"] += int(((low <= 0) & (0 <= high)).sum())
        covered["Satterthwaite"] += int((np.abs(estimate.value) <= satterthwaite(estimate)).sum())
        covered["now"] += int(((estimate.low <= 0) & (0 <= estimate.high)).sum())
        if ((estimate.p < 0.05) != ((estimate.low > 0) | (estimate.high < 0))).any():
            raise AssertionError("p and interval disagree")
        widths.append(estimate.high - estimate.low)
    return {name: number / experiments for name, number in covered.items()} | {
        "width": float(np.median(np.concatenate(widths)) / (2 * 1.96))
    }


def unpaired(
    regime: str, seeds: tuple[int, int], spread: float, experiments: int, draws: int, start: int
) -> float:
    """Coverage of the difference of two methods with unequal numbers of seeds.

    The second method varies `spread` times as much as the first.
    """
    covered = 0
    for first in range(0, experiments, CHUNK):
        rng = np.random.default_rng([start, *seeds, first])
        weights = next(weight_chunks(IMAGES, draws, int(rng.integers(2**31))))
        count = min(CHUNK, experiments - first)
        shared = rng.standard_normal((IMAGES, count))
        drawn = [
            drawn_of(experiment(rng, number, count, REGIMES[regime], shared * sign), weights)
            for number, sign in zip(seeds, (1, -1), strict=True)
        ]
        drawn[1] = Draws(spread * drawn[1].full, spread * drawn[1].drawn, IMAGES)
        estimate = estimate_difference(*drawn)
        covered += int(((estimate.low <= 0) & (0 <= estimate.high)).sum())
    return covered / experiments


def one_seed(experiments: int, draws: int, start: int) -> float:
    """Coverage with one seed of the score that the same weights would have on all images."""
    covered = 0
    for first in range(0, experiments, CHUNK):
        rng = np.random.default_rng([start, first])
        weights = next(weight_chunks(IMAGES, draws, int(rng.integers(2**31))))
        count = min(CHUNK, experiments - first)
        values = np.sqrt(IMAGES) * rng.standard_normal((1, IMAGES, count))
        estimate = estimate_mean(drawn_of(values, weights))
        covered += int(((estimate.low <= 0) & (0 <= estimate.high)).sum())
    return covered / experiments


def power_law(seeds: int, experiments: int, start: int) -> float:
    """Coverage of a curve's band at its six points.

    Seeds differ by a shift of the whole curve, and by a small amount at each point.
    """
    x = np.array([50, 100, 200, 400, 800, 1600])
    truth, rng, covered = 0.3 + 2 * x**-0.5, np.random.default_rng([start, seeds]), 0
    for repeat in range(experiments):
        noise = rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.005, (seeds, 6))
        error = np.clip(truth + noise, 0, 1)
        drawn = [law.predict(x) for law in bootstrap_power_law(x, error, draws=200, seed=repeat)]
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        covered += int(((low <= truth) & (truth <= high)).sum())
    return covered / (6 * experiments)


def page(experiments: int, draws: int, start: int) -> str:
    """The Markdown page of all coverages."""
    noise = 196 * np.sqrt(0.95 * 0.05 / experiments)
    lines = [
        "# How often 95 % intervals hold the truth\n",
        (
            f"`python scripts/studies/coverage.py`: {experiments} simulated experiments a setting (so"
            f" one figure is known to ± {noise:.1f} percentage points), {IMAGES} images, {draws}"
            f" draws of the bootstrap, random seed {start}. Before: percentiles of a bootstrap over"
            " images and seeds. Now: decision 0043. Median width: of the interval now, beside that"
            " of a normal interval whose variance is known.\n"
        ),
        "## The mean of paired differences\n",
        "| what varies | seeds | before | Satterthwaite | now | median width |",
        "|---|---|---|---|---|---|",
    ]
    for regime in REGIMES:
        for seeds in SEEDS:
            result = paired(regime, seeds, experiments, draws, start)
            shares = [f"{100 * result[name]:.1f} %" for name in ("before", "Satterthwaite", "now")]
            lines.append(f"| {regime} | {seeds} | {' | '.join(shares)} | {result['width']:.2f} |")
    lines += [
        "\n## Unequal numbers of seeds, not paired (Welch's degrees of freedom)\n",
        "| what varies | seeds | the second method varies | now |",
        "|---|---|---|---|",
    ]
    for regime in ("seeds", "images", "all three alike"):
        for seeds in ((2, 3), (3, 5), (5, 10)):
            for spread in (1.0, 0.5):
                shares = unpaired(regime, seeds, spread, experiments, draws, start)
                much = "as much" if spread == 1 else "half as much"
                lines.append(
                    f"| {regime} | {seeds[0]} and {seeds[1]} | {much} | {100 * shares:.1f} % |"
                )
    alone = 100 * one_seed(experiments, draws, start)
    lines += [
        "\n## One seed\n",
        (
            "The interval knows the images alone. Of these very weights it holds the score on all "
            f"images in {alone:.1f} % of experiments; of the method it says nothing.\n"
        ),
        "## The band of a fitted curve (`evaluate curve`)\n",
        "| seeds | now |",
        "|---|---|",
    ]
    lines += [f"| {seeds} | {100 * power_law(seeds, 300, start):.1f} % |" for seeds in SEEDS]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="Markdown file to write, besides the standard output",
    )
    for name, value, what in (
        ("experiments", 4000, "number of experiments of each setting"),
        ("draws", 1000, "number of bootstrap draws"),
        ("seed", 43, "random seed"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=value, help=f"{what} (default: %(default)s)"
        )
    args = parser.parse_args()
    began = time.process_time()
    text = page(args.experiments, args.draws, args.seed)
    text += f"\n{time.process_time() - began:.0f} CPU seconds.\n"
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
