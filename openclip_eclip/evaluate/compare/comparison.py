"""Means of methods and their differences from the first method, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...metrics.compare import (
    Components,
    Draws,
    Estimate,
    draw_all,
    estimate_difference,
    estimate_mean,
    holm,
    needed_images,
    needed_seeds,
    smallest_difference,
    variance_components,
)
from ...metrics.resampled import Scorer
from .read import Method, scorer

MEDIAN = "median rank"


@dataclass
class Comparison:
    """Estimates of all methods.

    `differences` and `components` are keyed by the name of the method, without the reference,
    which is the first of `methods`.
    """

    methods: list[Method]
    scorer: Scorer  # of the reference; gives the names of statistics and classes
    images: int
    units: int
    unit: str  # "images" or "patients"
    means: dict[str, Estimate]
    differences: dict[str, Estimate]
    # a statistic each; None where seeds are not paired
    components: dict[str, list[Components] | None]

    @property
    def statistics(self) -> list[str]:
        return self.scorer.names

    @property
    def classes(self) -> list[tuple[int, str]]:
        """(index into the arrays of an `Estimate`, name) of each class."""
        return [(len(self.statistics) + k, name) for k, name in enumerate(self.scorer.classes)]

    def seeds(self, name: str) -> int:
        """The number of seeds of a method."""
        return next(len(method.runs) for method in self.methods if method.name == name)


def class_p(comparison: Comparison, name: str) -> dict[str, float]:
    """{class: p of its difference}, adjusted by Holm over the classes."""
    adjusted = holm(comparison.differences[name].p[len(comparison.statistics) :])
    return dict(zip(comparison.scorer.classes, adjusted.tolist(), strict=True))


def compare(methods: list[Method], draws: int, seed: int) -> Comparison:
    """Means and differences from the first method.

    `draws` and `seed` are those of the bootstrap. It draws patients if any result has them, else
    images; all phrases of an image stay together.
    """
    scorers = [scorer(method) for method in methods]
    images = len(methods[0].runs[0]["id"])
    runs = [run for method in methods for run in method.runs]
    unit, groups = next(
        (
            (f"{key}s", run[key].tolist())
            for key in ("patient", "image")
            for run in runs
            if key in run
        ),
        ("images", None),
    )
    units = images if groups is None else len(np.unique(groups))
    drawn = draw_all(scorers, images, draws, seed, groups)
    reference = drawn[0]
    others = {method.name: samples for method, samples in zip(methods[1:], drawn[1:], strict=True)}
    return Comparison(
        methods,
        scorers[0],
        images,
        units,
        unit,
        {
            method.name: _mean(samples, scorers[0])
            for method, samples in zip(methods, drawn, strict=True)
        },
        {name: estimate_difference(samples, reference) for name, samples in others.items()},
        {
            name: _components(samples, reference, len(scorers[0].names), units)
            for name, samples in others.items()
        },
    )


def _mean(samples: Draws, scorer: Scorer) -> Estimate:
    """The mean of a method; its interval is cut to the range of the statistic."""
    estimate, (low, high) = estimate_mean(samples), scorer.limits
    return replace(
        estimate, low=np.maximum(estimate.low, low), high=np.minimum(estimate.high, high)
    )


def _components(
    samples: Draws, reference: Draws, statistics: int, units: int
) -> list[Components] | None:
    if len(samples.full) != len(reference.full):
        return None  # different numbers of seeds: not paired
    return [variance_components(samples, reference, q, units) for q in range(statistics)]


def needed_sizes(
    comparison: Comparison, name: str, q: int, difference: float
) -> dict[str, float] | None:
    """Variance components of statistic `q`, and the seeds and images that `difference` needs.

    None if seeds are not paired, and for the median rank.
    """
    components = comparison.components[name]
    if components is None or comparison.statistics[q] == MEDIAN:
        return None
    parts, seeds = components[q], comparison.seeds(name)
    return {
        "variance_seed": parts.seed,
        "variance_image": parts.image,
        "variance_both": parts.both,
        "smallest_difference": smallest_difference(parts, seeds, comparison.units),
        "seeds": needed_seeds(parts, difference, comparison.units),
        "images": needed_images(parts, difference, seeds),
    }


def statistic_title(name: str) -> str:
    return f"{name} (lower is better)" if name == MEDIAN else name
