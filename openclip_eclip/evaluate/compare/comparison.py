"""Means of methods and their differences to the first one, with intervals."""

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


def class_p(found: Comparison, name: str) -> dict[str, float]:
    adjusted = holm(found.differences[name].p[len(found.statistics) :])
    return dict(zip(found.scorer.classes, adjusted.tolist(), strict=True))


MEDIAN = "median rank"


@dataclass
class Comparison:
    """Everything that the report says. `differences` and `components`: by name of the method, the
    reference left out.
    """

    methods: list[Method]
    scorer: Scorer  # of the reference: names
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
        """(place among the statistics, name) of the classes."""
        return [(len(self.statistics) + k, name) for k, name in enumerate(self.scorer.classes)]

    def seeds(self, name: str) -> int:
        return next(len(method.runs) for method in self.methods if method.name == name)


def compare(methods: list[Method], draws: int, seed: int) -> Comparison:
    """Means and differences to the first method."""
    scorers = [scorer(method) for method in methods]
    images = len(methods[0].runs[0]["id"])
    patients = next(
        (run["patient"].tolist() for method in methods for run in method.runs if "patient" in run),
        None,
    )
    units = images if patients is None else len(np.unique(patients))
    drawn = draw_all(scorers, images, draws, seed, patients)
    reference = drawn[0]
    others = {method.name: own for method, own in zip(methods[1:], drawn[1:], strict=True)}
    return Comparison(
        methods,
        scorers[0],
        images,
        units,
        "images" if patients is None else "patients",
        {method.name: _mean(own, scorers[0]) for method, own in zip(methods, drawn, strict=True)},
        {name: estimate_difference(own, reference) for name, own in others.items()},
        {
            name: _components(own, reference, len(scorers[0].names), units)
            for name, own in others.items()
        },
    )


def _mean(own: Draws, scorer: Scorer) -> Estimate:
    """Its interval ends where the statistic does."""
    found, (low, high) = estimate_mean(own), scorer.limits
    return replace(found, low=np.maximum(found.low, low), high=np.minimum(found.high, high))


def _components(
    own: Draws, reference: Draws, statistics: int, units: int
) -> list[Components] | None:
    if len(own.full) != len(reference.full):
        return None
    return [variance_components(own, reference, q, units) for q in range(statistics)]


def needed_sizes(
    found: Comparison, name: str, q: int, difference: float
) -> dict[str, float] | None:
    """Components and sizes; None where they are not known."""
    components = found.components[name]
    if components is None or found.statistics[q] == MEDIAN:
        return None
    parts, seeds = components[q], found.seeds(name)
    return {
        "variance_seed": parts.seed,
        "variance_image": parts.image,
        "variance_both": parts.both,
        "smallest_difference": smallest_difference(parts, seeds, found.units),
        "seeds": needed_seeds(parts, difference, found.units),
        "images": needed_images(parts, difference, seeds),
    }


def statistic_title(name: str) -> str:
    return f"{name} (lower is better)" if name == MEDIAN else name
