"""Tables and the figure of a comparison."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ..output.result import Cell, Table
from .comparison import MEDIAN, Comparison, class_p, needed_sizes, statistic_title


def mean_table(found: Comparison) -> Table:
    rows = [
        [
            name,
            statistic,
            estimate.value[q],
            estimate.sd[q],
            estimate.low[q],
            estimate.high[q],
            found.seeds(name),
        ]
        for q, statistic in enumerate(found.statistics)
        for name, estimate in found.means.items()
    ]
    return Table(
        "Methods",
        ["method", "metric", "mean", "sd over seeds", "low", "high", "seeds"],
        rows,
        f"Mean over seeds with its 95 % interval over seeds (Student's t) and {found.unit}"
        f" (bootstrap); one seed: {found.unit} alone.",
    )


def difference_table(found: Comparison) -> Table:
    rows = [
        [name, statistic_title(statistic), e.value[q], e.sd[q], e.low[q], e.high[q], e.p[q]]
        for q, statistic in enumerate(found.statistics)
        for name, e in found.differences.items()
    ]
    columns = ["method", "metric", "difference", "sd over seeds", "low", "high", "p"]
    return Table(
        f"Difference to {found.methods[0].name}",
        columns,
        rows,
        "p: two-sided, below 0.05 where the interval leaves 0 out; not corrected for the number of"
        " metrics and methods in this table.",
    )


def class_table(found: Comparison, name: str) -> Table:
    e, adjusted = found.differences[name], class_p(found, name)
    reference, own = found.means[found.methods[0].name], found.means[name]
    order = sorted(found.classes, key=lambda entry: -np.nan_to_num(e.value[entry[0]], nan=-np.inf))
    rows = [
        [
            label,
            reference.value[q],
            own.value[q],
            e.value[q],
            e.low[q],
            e.high[q],
            e.p[q],
            adjusted[label],
        ]
        for q, label in order
    ]
    return Table(
        f"{found.scorer.per_class} of each class, {name} - {found.methods[0].name}",
        ["class", found.methods[0].name, name, "difference", "low", "high", "p", "p (Holm)"],
        rows,
        f"Holm: adjusted over the {len(rows)} classes. The interval of each class is its own, not"
        " simultaneous.",
    )


def needed_table(found: Comparison, difference: float) -> Table:
    rows: list[list[Cell]] = []
    for name in found.differences:
        for q, statistic in enumerate(found.statistics):
            sizes = needed_sizes(found, name, q, difference)
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
            f"seeds, with {found.units} {found.unit}",
            f"{found.unit}, with these seeds",
        ],
        rows,
        "80 % power at alpha 0.05 with this very interval, from the variance between seeds and"
        " between images of the paired difference. 'no number': the other factor alone is too"
        " noisy.",
    )


def size(number: float) -> str | int | None:
    return None if math.isnan(number) else "no number" if math.isinf(number) else int(number)


def forest(found: Comparison) -> Figure:
    """Overall metrics above, classes sorted below; a panel a method."""
    overall = [q for q, name in enumerate(found.statistics) if name != MEDIAN]
    figure = Figure(
        figsize=(5.2 * len(found.differences), 1.4 + 0.3 * (len(overall) + len(found.classes))),
        layout="constrained",
    )
    axes = np.atleast_1d(figure.subplots(1, len(found.differences), sharex=True))
    for axis, (name, e) in zip(axes, found.differences.items(), strict=True):
        classes = sorted(
            (entry for entry in found.classes if not np.isnan(e.value[entry[0]])),
            key=lambda entry: -e.value[entry[0]],
        )
        rows = [
            *((q, found.statistics[q], "#1f6fb2") for q in overall),
            *((q, f"{found.scorer.per_class} {label}", "#5d6b7a") for q, label in classes),
        ]
        for y, (q, _, colour) in enumerate(rows):
            axis.plot([e.low[q], e.high[q]], [y, y], color=colour, lw=2, solid_capstyle="round")
            axis.plot(e.value[q], y, "o", color=colour, ms=6)
        axis.axvline(0, color="#1c2733", lw=1)
        axis.axhline(len(overall) - 0.5, color="#dde3ea", lw=1)
        axis.set_yticks(range(len(rows)), [label for _, label, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", color="#dde3ea", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.set_title(f"{name} − {found.methods[0].name}", loc="left", fontsize=11)
        axis.set_xlabel("difference, 95 % interval")
    return figure
