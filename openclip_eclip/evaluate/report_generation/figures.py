"""Figures of written reports: scores by writer, findings found, missed and invented."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

COLOURS = ("#1f6fb2", "#c8641b", "#8a96a3")
KINDS = {"found": "#2e8b57", "missed": "#c0392b", "invented": "#e0a030"}


def draw_scores(numbers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Scores with intervals: a panel for each metric, a dot for each writer.

    `numbers`: {writer: {metric: {"value", "low", "high"}}}.
    """
    metrics = [
        name
        for name, scores in next(iter(numbers.values())).items()
        if not np.isnan(scores["value"])
    ]
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = Figure(
        figsize=(3.4 * columns, 0.6 + (0.55 + 0.3 * len(numbers)) * lines),
        layout=ConstrainedLayoutEngine(hspace=0.15),
    )
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    for axes, metric in zip(panels, metrics):
        for y, (writer, colour) in enumerate(zip(numbers, COLOURS)):
            score = numbers[writer][metric]
            axes.plot(
                [score["low"], score["high"]], [y, y], color=colour, lw=2.5, solid_capstyle="round"
            )
            axes.plot(score["value"], y, "o", color=colour, ms=6)
        axes.set_yticks(range(len(numbers)), list(numbers))
        axes.set_ylim(len(numbers) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(metric, loc="left", fontsize=10)
        axes.grid(axis="x", color="#dde3ea", lw=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def draw_findings(counts: Mapping[str, Mapping[str, int]], writer: str) -> Figure:
    """A bar for each finding that occurs in any report, the most frequent first.

    `counts`: {finding: {"found", "missed", "invented"}}.
    """
    shown = sorted(
        (name for name, kinds in counts.items() if sum(kinds.values())),
        key=lambda name: -sum(counts[name].values()),
    )
    figure = Figure(figsize=(7.5, 1.1 + 0.3 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(shown))
    for kind, colour in KINDS.items():
        widths = np.array([counts[name][kind] for name in shown], dtype=float)
        axes.barh(range(len(shown)), widths, left=left, color=colour, label=kind, height=0.72)
        left += widths
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("reports")
    axes.set_title(f"Findings in the reports of {writer}", loc="left", fontsize=11)
    axes.legend(frameon=False, ncols=3, loc="lower right", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
