"""Tables and the figure of a comparison."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ..output.result import Cell, Table
from .comparison import MEDIAN, Comparison, class_p, needed_sizes, statistic_title


def mean_table(comparison: Comparison) -> Table:
    rows = [
        [
            name,
            statistic,
            estimate.value[q],
            estimate.sd[q],
            estimate.low[q],
            estimate.high[q],
            comparison.seeds(name),
        ]
        for q, statistic in enumerate(comparison.statistics)
        for name, estimate in comparison.means.items()
    ]
    return Table(
        "Methods",
        ["method", "metric", "mean", "sd over seeds", "low", "high", "seeds"],
        rows,
        f"Mean over seeds with its 95 % interval over seeds (Student's t) and {comparison.unit}"
        f" (bootstrap); one seed: {comparison.unit} alone.",
    )


def difference_table(comparison: Comparison) -> Table:
    rows = [
        [
            name,
            statistic_title(statistic),
            estimate.value[q],
            estimate.sd[q],
            estimate.low[q],
            estimate.high[q],
            estimate.p[q],
        ]
        for q, statistic in enumerate(comparison.statistics)
        for name, estimate in comparison.differences.items()
    ]
    columns = ["method", "metric", "difference", "sd over seeds", "low", "high", "p"]
    return Table(
        f"Difference to {comparison.methods[0].name}",
        columns,
        rows,
        "p: two-sided, below 0.05 where the interval excludes 0. It is not corrected for the number"
        " of metrics and methods in this table.",
    )


def class_table(comparison: Comparison, name: str) -> Table:
    estimate, adjusted = comparison.differences[name], class_p(comparison, name)
    reference, mean = comparison.means[comparison.methods[0].name], comparison.means[name]
    order = sorted(
        comparison.classes, key=lambda entry: -np.nan_to_num(estimate.value[entry[0]], nan=-np.inf)
    )
    rows = [
        [
            label,
            reference.value[q],
            mean.value[q],
            estimate.value[q],
            estimate.low[q],
            estimate.high[q],
            estimate.p[q],
            adjusted[label],
        ]
        for q, label in order
    ]
    return Table(
        f"{comparison.scorer.per_class} of each class, {name} - {comparison.methods[0].name}",
        ["class", comparison.methods[0].name, name, "difference", "low", "high", "p", "p (Holm)"],
        rows,
        f"Holm: adjusted over the {len(rows)} classes. The intervals are for one class at a time,"
        " not simultaneous.",
    )


def needed_table(comparison: Comparison, difference: float) -> Table:
    rows: list[list[Cell]] = []
    for name in comparison.differences:
        for q, statistic in enumerate(comparison.statistics):
            sizes = needed_sizes(comparison, name, q, difference)
            if sizes:
                rows.append(
                    [
                        name,
                        statistic,
                        sizes["smallest_difference"],
                        size(sizes["seeds"]),
                        size(sizes["images"]),
                    ]
                )
    return Table(
        f"What it takes to see a difference of {difference:g}",
        [
            "method",
            "metric",
            "smallest difference seen now",
            f"seeds, with {comparison.units} {comparison.unit}",
            f"{comparison.unit}, with these seeds",
        ],
        rows,
        "80 % power at alpha 0.05 with this interval, from the variance of the paired difference"
        " between seeds and between images. 'no number': the other factor alone is too noisy.",
    )


def size(number: float) -> str | int | None:
    """A needed number of seeds or images as a cell of the table."""
    return None if math.isnan(number) else "no number" if math.isinf(number) else int(number)


def forest(comparison: Comparison) -> Figure:
    """Differences with intervals: overall metrics above, sorted classes below.

    Each method has its own panel.
    """
    overall = [q for q, name in enumerate(comparison.statistics) if name != MEDIAN]
    figure = Figure(
        figsize=(
            5.2 * len(comparison.differences),
            1.4 + 0.3 * (len(overall) + len(comparison.classes)),
        ),
        layout="constrained",
    )
    axes = np.atleast_1d(figure.subplots(1, len(comparison.differences), sharex=True))
    for axis, (name, estimate) in zip(axes, comparison.differences.items(), strict=True):
        classes = sorted(
            (entry for entry in comparison.classes if not np.isnan(estimate.value[entry[0]])),
            key=lambda entry: -estimate.value[entry[0]],
        )
        rows = [
            *((q, comparison.statistics[q], "#1f6fb2") for q in overall),
            *((q, f"{comparison.scorer.per_class} {label}", "#5d6b7a") for q, label in classes),
        ]
        for y, (q, _, colour) in enumerate(rows):
            axis.plot(
                [estimate.low[q], estimate.high[q]],
                [y, y],
                color=colour,
                lw=2,
                solid_capstyle="round",
            )
            axis.plot(estimate.value[q], y, "o", color=colour, ms=6)
        axis.axvline(0, color="#1c2733", lw=1)
        axis.axhline(len(overall) - 0.5, color="#dde3ea", lw=1)
        axis.set_yticks(range(len(rows)), [label for _, label, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", color="#dde3ea", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.set_title(f"{name} − {comparison.methods[0].name}", loc="left", fontsize=11)
        axis.set_xlabel("difference, 95 % interval")
    return figure
