"""Tables, curve and example images of a retrieval result."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter, ScalarFormatter

from ...json_text import shorten
from ...metrics.ranking import TIES
from ..inputs.eval_set import EvalSet
from ..inputs.report_index import ReportIndex
from ..output.result import Cell, Example, Table
from .ranks import DirectionResult, Reports

DIRECTIONS = {"image_to_text": "image to report", "text_to_image": "report to image"}
COLOURS = {"image_to_text": "#1f6fb2", "text_to_image": "#c8641b"}
# the dashes alternate, so that both lines are visible where they coincide
DASHES = {"image_to_text": (0, (4, 4)), "text_to_image": (4, (4, 4))}
LONGEST = 100  # largest k of the curve
LONGEST_TEXT = 240  # characters of a report in an example
EXAMPLES = 6


def tables(
    results: dict[str, DirectionResult], semantic: dict[str, Any], ks: tuple[int, ...]
) -> list[Table]:
    """Scores of both directions by convention for ties, with chance; and P@k if labels are known.

    An R@k that would be 1 for any model is a dash.
    """
    names = [*(f"R@{k}" for k in ks), "median rank", "mean rank", "MRR"]
    rows: list[list[Cell]] = []
    for name, result in results.items():
        for ties in TIES if result.ranks.tied else TIES[:1]:
            label = ties if result.ranks.tied else "none"
            rows.append(
                [
                    DIRECTIONS[name],
                    label,
                    *(_cell(metric, result.scores[ties].get(metric)) for metric in names),
                ]
            )
        rows.append(
            [
                DIRECTIONS[name],
                "chance",
                *(_number(metric, result.chance_scores.get(metric)) for metric in names),
            ]
        )
    parts = [
        Table(
            "Retrieval",
            ["direction", "ties", *names],
            rows,
            "In brackets: 95 % intervals, bootstrap over the queries (or their patients); the"
            " gallery is not resampled.",
        )
    ]
    if semantic:
        precision = [key for key in semantic if key.startswith("P@")]
        note = (
            "Share of the nearest k reports with the same values of"
            f" {', '.join(semantic['columns'])} as the image, its own report among them."
        )
        if semantic["mixed"]:
            note += (
                f" {semantic['mixed']} reports belong to images with different values; the values"
                " of the first image count."
            )
        parts.append(
            Table(
                "Same labels, image to report",
                ["", *precision, "chance"],
                [["P@k", *(semantic[key] for key in precision), semantic["chance"]]],
                note,
            )
        )
    return parts


def curve_figure(results: dict[str, DirectionResult]) -> Figure:
    """R@k for k from 1 to 100, both directions, with chance."""
    figure = Figure(figsize=(7, 4.2))
    axes = figure.add_subplot()
    longest = 1
    for name, result in results.items():
        ks = np.arange(1, min(LONGEST, result.ranks.gallery - 1) + 1)
        curve = {ties: [result.ranks.hits(k, ties).mean() for k in ks.tolist()] for ties in TIES}
        axes.plot(
            ks,
            curve["expected"],
            color=COLOURS[name],
            label=DIRECTIONS[name],
            marker="o" if len(ks) < 2 else None,
        )
        axes.fill_between(
            ks,
            curve["pessimistic"],
            curve["optimistic"],
            color=COLOURS[name],
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(
            ks,
            [result.chance.hits(k, "expected").mean() for k in ks.tolist()],
            linestyle=DASHES[name],
            color=COLOURS[name],
            linewidth=1.2,
            label=f"chance, {DIRECTIONS[name]}",
        )
        longest = max(longest, len(ks))
    axes.set_xscale("log")
    axes.set_xticks([k for k in (1, 2, 5, 10, 20, 50, 100) if k <= longest])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="k", ylabel="right answer among the first k")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def example_images(
    data: EvalSet, unit: np.ndarray, reports: Reports, ranks: np.ndarray, index: ReportIndex
) -> list[Example]:
    """Images at even steps from the best to the worst rank, with their five nearest reports.

    `unit` (N, D) image features; `ranks` (N,). Right reports have a tick.
    """
    order = np.argsort(ranks, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).round().astype(int))]
    scores, indices = index.search(unit[rows], 5)
    examples = []
    for row, near, cosines in zip(rows, indices, scores, strict=True):
        lines = [f"{data.ids[row]}: own report at rank {ranks[row]:g} of {len(reports.texts)}"]
        for rank, report, cosine in zip(range(1, 6), near, cosines):
            if report >= 0:
                text = shorten(reports.texts[report], LONGEST_TEXT)
                mark = "✓ " if reports.groups[report] == reports.image_groups[row] else ""
                lines.append(f"{rank}. {mark}({cosine:.3f}) {text}")
        if all(reports.groups[report] != reports.image_groups[row] for report in near):
            lines.append(f"own: {shorten(reports.texts[reports.report_of[row]], LONGEST_TEXT)}")
        examples.append(Example(data.thumbnail(int(row)), lines))
    return examples


def _cell(metric: str, interval: dict[str, float] | None) -> str | None:
    if interval is None:
        return None
    value, low, high = (_number(metric, interval[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(metric: str, value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.1f}" if metric.endswith("rank") else f"{value:.3f}"
