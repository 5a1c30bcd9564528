"""The figures of `benchmark align`."""

from __future__ import annotations

from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .align_cells import (
    ALIGN,
    ALIGN_SETTINGS,
    CLEAN,
    HARD,
    NAMES,
    OVERSAMPLING,
    PICTURED,
    STUDENT,
    STUDENT_OVERSAMPLED,
)
from .page import GREY, draw_differences, tidy

COLOURS = {
    "CLIP, twice the steps": GREY,
    "mask view": "#c07a2b",
    "eCLIP": "#8e5ba6",
    ALIGN: "#1f6fb2",
    "eclip-plus": "#14532d",
    OVERSAMPLING: "#5fb37c",
    HARD: "#d4a017",
    STUDENT: "#b3202c",
    STUDENT_OVERSAMPLED: "#ec8c74",
}


def draw_settings(results: dict[str, dict]) -> Figure:
    """Differences from CLIP in macro-F1 and R@5, a column for a setting of each size."""
    shown = [setting for setting in PICTURED if setting in results] or list(results)[:3]
    names = [
        name
        for name in NAMES
        if any(
            results[setting].get(name, {}).get("macro-F1", {}).get("difference")
            for setting in shown
        )
    ]
    figure = Figure(figsize=(2.2 + 3.3 * len(shown), 1.6 + 0.62 * len(names)), layout="constrained")
    grid = figure.subplots(2, len(shown), sharey=True, sharex="row", squeeze=False)
    for axes, (score, setting) in zip(
        grid.flat, [(score, setting) for score in ("macro-F1", "R@5") for setting in shown]
    ):
        differences = [
            results[setting].get(name, {}).get(score, {}).get("difference") for name in names
        ]
        draw_differences(
            axes, [fill(name, 46) for name in names], differences, f"{setting}:\n{score} − CLIP"
        )
        axes.tick_params(axis="y", labelsize=8)  # two lines of a long name fit
    return figure


def draw_map(results: dict[str, dict]) -> Figure:
    """Three scores of the main methods, by share of annotated images and by quality of gaze.

    Each number of images has its own panel. Hollow markers: runs on another machine than CLIP.
    """
    clean = [
        setting
        for setting in ALIGN_SETTINGS
        if setting.name in results and not setting.gaze and not setting.images
    ]
    worse = [
        setting.name
        for setting in ALIGN_SETTINGS
        if setting.name in results and (setting.gaze or setting.images or setting.name == CLEAN)
    ]
    counts = sorted({setting.count for setting in clean})
    widths = [1.0] * len(counts) + [1.6] * bool(worse)
    figure = Figure(figsize=(max(11, 2.9 * sum(widths)), 8.4), layout="constrained")
    grid = figure.subplots(3, len(widths), width_ratios=widths, squeeze=False)
    for row, score in zip(grid, ("macro-F1", "R@5", "pointing")):
        for axes, count in zip(row, counts):
            shares = sorted(
                (100 * setting.annotated, setting.name)
                for setting in clean
                if setting.count == count
            )
            _draw_methods(
                axes,
                results,
                [setting for _, setting in shares],
                [share for share, _ in shares],
                score,
                spacing=None,
            )
            axes.set_xscale("log")
            axes.set_xticks([share for share, _ in shares], [f"{share:g} %" for share, _ in shares])
            axes.minorticks_off()
            axes.set_title(f"{count} images, by share annotated", loc="left", fontsize=9)
        if worse:
            _draw_methods(row[-1], results, worse, list(range(len(worse))), score, spacing=0.12)
            row[-1].set_xticks(
                range(len(worse)),
                [
                    fill(setting.split(", ", 2)[-1].replace("15 %", "as generated"), 14)
                    for setting in worse
                ],
                fontsize=8,
            )
            row[-1].set_title(f"{CLEAN} annotated", loc="left", fontsize=9)
        row[0].set_ylabel(f"{score}, mean ± sd over seeds")
    handles, labels = grid[0][0].get_legend_handles_labels()
    # the first handle of each name: runs on CLIP's machine come first
    named = {label: handles[labels.index(label)] for label in labels}
    figure.legend(
        named.values(), named.keys(), loc="outside upper center", ncols=5, frameon=False, fontsize=9
    )
    if any(
        _elsewhere(methods, name)
        for methods in results.values()
        for name in COLOURS
        if name in methods
    ):
        figure.supxlabel(
            "hollow, dotted: ran on another kind of machine than CLIP, not comparable with the"
            " rest",
            fontsize=9,
        )
    return figure


def _elsewhere(methods: dict[str, dict], name: str) -> bool:
    return methods[name]["machine"] != methods["CLIP"]["machine"]


def _draw_methods(
    axes: Axes,
    results: dict[str, dict],
    settings: list[str],
    positions: list[float],
    score: str,
    spacing: float | None,
) -> None:
    """Draw the main methods at `positions`, one for each of `settings`.

    Without `spacing` points are joined by lines; else methods are side by side at that distance.
    Runs of another machine are hollow.
    """
    drawn = {
        name: colour
        for name, colour in COLOURS.items()
        if any(name in methods for methods in results.values())
    }
    for i, (name, colour) in enumerate(drawn.items()):
        shown = [
            (x, results[setting][name][score], _elsewhere(results[setting], name))
            for x, setting in zip(positions, settings)
            if name in results[setting]
        ]
        # shares are on a logarithmic axis: a factor of 1.05 keeps error bars from overlapping
        aside = i - (len(drawn) - 1) / 2
        for is_elsewhere in (False, True):
            points = [
                (x * 1.05**aside if spacing is None else x + spacing * aside, entry)
                for x, entry, other in shown
                if other == is_elsewhere
            ]
            line = "" if spacing else ":" if is_elsewhere else "-"
            # a method that only other panels have is drawn without points, for the legend
            if points or not (shown or is_elsewhere):
                axes.errorbar(
                    [x for x, _ in points],
                    [entry["value"] for _, entry in points],
                    yerr=[entry["sd"] or 0 for _, entry in points],
                    color=colour,
                    fmt=f"o{line}",
                    ms=4,
                    mfc="white" if is_elsewhere else colour,
                    lw=1.3,
                    capsize=2,
                    label=name,
                )
    tidy(axes, "y")
