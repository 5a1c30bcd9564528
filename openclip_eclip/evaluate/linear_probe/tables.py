"""Tables and figures of a linear probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..output.result import Table, with_interval
from .data import ProbeSet
from .learning_curve import Curve, CurvePoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1f6fb2", "#d9772b")  # of features before and after the projection


def curve_table(curves: dict[str, Curve]) -> Table:
    """Macro AUROC by share of the labels, a row for each share."""
    first = next(iter(curves.values()))
    rows = []
    for i, point in enumerate(first.points):
        rows.append(
            [
                f"{point.percent:g} %",
                _images(point),
                *(_spread(curve, i) for curve in curves.values()),
                _left_out(point),
            ]
        )
    return Table(
        "Macro AUROC by share of the training labels",
        ["labels", "images", *curves, "classes left out (resamples)"],
        rows,
        "Mean ± standard deviation over resamples of the training patients. Resamples are nested:"
        " a small share is part of every larger share of its resample. Left out: classes without a"
        " positive or a negative among those labels, and in how many resamples. 100 % is one set;"
        " its 95 % interval over the test set is in brackets. The mean is over the classes that"
        " could be fitted, so rows with classes left out do not compare with the others.",
    )


def class_table(curves: dict[str, Curve], data: ProbeSet) -> Table:
    """AUROC of each class at 100 % of the labels."""
    train, test = data.labels[data.parts["train"]], data.labels[data.parts["test"]]
    rows = []
    for k, name in enumerate(data.classes):
        counts = [_positives(labels[:, k]) for labels in (train, test)]
        rows.append(
            [
                name,
                *counts,
                *(
                    with_interval(curve.points[-1].aurocs[0][k], curve.low[k], curve.high[k])
                    for curve in curves.values()
                ),
            ]
        )
    return Table(
        "AUROC of each class with all training labels",
        ["class", "train positives", "test positives", *curves],
        rows,
        "In brackets: 95 % interval over the test set. Positives are counted among labelled"
        " images.",
    )


def curve_figure(curves: dict[str, Curve]) -> Figure:
    """Macro AUROC against the number of labelled images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, ((kind, curve), colour) in enumerate(zip(curves.items(), COLOURS)):
        points = [point for point in curve.points if len(point.macro)]
        images = np.array([np.mean(point.images) for point in points])
        mean, spread = (
            np.array([point.macro.mean() for point in points]),
            np.array([_deviation(point.macro) for point in points]),
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
    positions = np.arange(len(data.classes))
    for i, ((kind, curve), colour) in enumerate(zip(curves.items(), COLOURS)):
        shifted = positions + 0.24 * i - 0.12 * (len(curves) - 1)
        axes.hlines(shifted, curve.low[:-1], curve.high[:-1], color=colour, alpha=0.5, linewidth=3)
        axes.plot(curve.points[-1].aurocs[0], shifted, "o", color=colour, label=kind)
    axes.axvline(0.5, color="0.5", linestyle="--", linewidth=1, label="chance")
    axes.set_yticks(positions, data.classes)
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
            "Macro AUROC against the number of labelled images: mean over resamples, with a band of"
            " one standard deviation. Bars at the right end: 95 % interval over the test set."
        ),
        "classes": "AUROC of each class with all training labels, 95 % interval over the test set.",
    }


def _images(point: CurvePoint) -> str:
    fewest, most = min(point.images), max(point.images)
    return str(fewest) if fewest == most else f"{fewest}–{most}"


def _left_out(point: CurvePoint) -> str | None:
    if not len(point.macro):
        return "all"
    return ", ".join(f"{name} ({count})" for name, count in sorted(point.left_out.items())) or None


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _spread(curve: Curve, i: int) -> str | None:
    macro = curve.points[i].macro
    if not len(macro):
        return None
    if i == len(curve.points) - 1:
        return with_interval(macro[0], curve.low[-1], curve.high[-1])
    return f"{macro.mean():.3f} ± {macro.std(ddof=1):.3f}" if len(macro) > 1 else f"{macro[0]:.3f}"


def _positives(labels: np.ndarray) -> str:
    known = labels[~np.isnan(labels)]
    return f"{int(known.sum())} of {len(known)}"
