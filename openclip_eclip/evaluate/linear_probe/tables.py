"""Tables and pictures of a linear probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..output.result import Table, with_interval
from .data import ProbeSet
from .learning_curve import Cell, Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1f6fb2", "#d9772b")  # before, after


def curve_table(curves: dict[str, Curve]) -> Table:
    """A row a share of the labels."""
    first = next(iter(curves.values()))
    rows = []
    for i, cell in enumerate(first.cells):
        rows.append(
            [
                f"{cell.percent:g} %",
                _images(cell),
                *(_spread(curve, i) for curve in curves.values()),
                _left_out(cell),
            ]
        )
    return Table(
        "Macro AUROC by share of the training labels",
        ["labels", "images", *curves, "classes left out (resamples)"],
        rows,
        "Mean ± standard deviation over resamples of the training patients (nested: a small share"
        " is part of every larger one of its resample). Left out: classes without a positive or"
        " without a negative among those labels, and in how many resamples. 100 % is one set: in"
        " brackets its 95 % interval over the test set. The mean is over the classes that could be"
        " fitted, so rows with classes left out do not compare with the others.",
    )


def class_table(curves: dict[str, Curve], data: ProbeSet) -> Table:
    """A row a class, at 100 %."""
    train, test = data.labels[data.parts["train"]], data.labels[data.parts["test"]]
    rows = []
    for k, name in enumerate(data.classes):
        counts = [_positives(labels[:, k]) for labels in (train, test)]
        rows.append(
            [
                name,
                *counts,
                *(
                    with_interval(curve.cells[-1].aurocs[0][k], curve.low[k], curve.high[k])
                    for curve in curves.values()
                ),
            ]
        )
    return Table(
        "AUROC of each class with all training labels",
        ["class", "train positives", "test positives", *curves],
        rows,
        "In brackets: 95 % interval over the test set. Positives of labelled images.",
    )


def curve_figure(curves: dict[str, Curve]) -> Figure:
    """Macro AUROC against labelled images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, ((kind, curve), colour) in enumerate(zip(curves.items(), COLOURS)):
        cells = [cell for cell in curve.cells if len(cell.macro)]
        images = np.array([np.mean(cell.images) for cell in cells])
        mean, spread = (
            np.array([cell.macro.mean() for cell in cells]),
            np.array([_deviation(cell.macro) for cell in cells]),
        )
        axes.plot(images, mean, "o-", color=colour, label=kind)
        axes.fill_between(
            images[:-1],
            (mean - spread)[:-1],
            (mean + spread)[:-1],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        axes.vlines(
            images[-1] * (1.03 + 0.03 * i),
            curve.low[-1],
            curve.high[-1],
            color=colour,
            linewidth=3,
            alpha=0.6,
        )
        axes.set_xscale("log")
        axes.set_xticks(images, [f"{count:.0f}" for count in images])
        axes.set_xticks([], minor=True)
    axes.axhline(0.5, color="0.5", linestyle="--", linewidth=1, label="chance")
    axes.set(xlabel="labelled training images", ylabel="macro AUROC")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def class_figure(curves: dict[str, Curve], data: ProbeSet) -> Figure:
    """AUROC of each class at 100 %, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.34 * len(data.classes)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(data.classes))
    for i, ((kind, curve), colour) in enumerate(zip(curves.items(), COLOURS)):
        shifted = places + 0.24 * i - 0.12 * (len(curves) - 1)
        axes.hlines(shifted, curve.low[:-1], curve.high[:-1], color=colour, alpha=0.5, linewidth=3)
        axes.plot(curve.cells[-1].aurocs[0], shifted, "o", color=colour, label=kind)
    axes.axvline(0.5, color="0.5", linestyle="--", linewidth=1, label="chance")
    axes.set_yticks(places, data.classes)
    axes.invert_yaxis()
    axes.set_xlabel("AUROC")
    axes.grid(axis="x", alpha=0.25)
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=3
    )
    return figure


def figure_captions() -> dict[str, str]:
    return {
        "curve": (
            "Macro AUROC against the number of labelled images: mean over resamples, band of one"
            " standard deviation; bars at the right end: 95 % interval over the test set."
        ),
        "classes": "AUROC of each class with all training labels, 95 % interval over the test set.",
    }


def _images(cell: Cell) -> str:
    least, most = min(cell.images), max(cell.images)
    return str(least) if least == most else f"{least}–{most}"


def _left_out(cell: Cell) -> str | None:
    if not len(cell.macro):
        return "all"
    return ", ".join(f"{name} ({count})" for name, count in sorted(cell.left_out.items())) or None


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _spread(curve: Curve, place: int) -> str | None:
    macro = curve.cells[place].macro
    if not len(macro):
        return None
    if place == len(curve.cells) - 1:
        return with_interval(macro[0], curve.low[-1], curve.high[-1])
    return f"{macro.mean():.3f} ± {macro.std(ddof=1):.3f}" if len(macro) > 1 else f"{macro[0]:.3f}"


def _positives(labels: np.ndarray) -> str:
    known = labels[~np.isnan(labels)]
    return f"{int(known.sum())} of {len(known)}"
