"""One picture of all gaze: whether axes, origin, units and placement are right."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from ...annotations.eye.quality import LONG, SHORT, GazeQuality, off_by_side
from ...data.figures import agg_figure
from ...files import write_whole

# of Okabe and Ito, told apart with any colour vision
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
MOST = 20_000  # points that are drawn
FARTHEST = 4.0  # sides of the image beyond which a point is drawn at the edge of the picture
BINS = 40


def picture_of(out: Path) -> Path:
    """Beside OUT, so that it is there when nothing is written to OUT: OUT-gaze.png."""
    out = out.absolute()
    return out.with_name(f"{out.name}-gaze.png")


def draw_gaze(quality: GazeQuality, path: Path) -> None:
    """Draw positions in the frame of the image, durations, and where gaze goes for each side named.

    The same picture is drawn for the same gaze.
    """
    xy, side, durations = quality.all()
    figure = agg_figure()
    figure.set_size_inches(11, 6)
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    _positions(left.subplots(), xy, side)
    named = [axis for axis in "xy" if quality.statements[axis]]
    below = right.subplots(1 + len(named), 1, height_ratios=(2, *[1] * len(named)), squeeze=False)
    axes = list(below[:, 0])
    _durations(axes.pop(0), durations)
    for axis, where in zip(named, axes):
        _statements(where, axis, quality.statements[axis])
    found = quality.sentences() or ["The numbers show no fault."]
    title = f"{len(xy)} fixations, {quality.recordings} recordings, {len(quality.images)} images"
    lines = [title, *(textwrap.fill(one, 130, break_on_hyphens=False) for one in found[:2])]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _positions(axis: Any, xy: np.ndarray, side: np.ndarray) -> None:
    """All positions as fractions of their image, y down, and the share beyond each side."""
    aspect = 1.0
    limits = np.array([[-0.15, 1.15]] * 2)
    if len(xy):
        aspect = float(np.median(side[:, 1] / side[:, 0]))
        some = np.random.default_rng(0).permutation(len(xy))[:MOST]
        points = (xy / side)[some]
        far = np.quantile(points, (0.005, 0.995), axis=0).T
        limits[:, 0] = np.clip(far[:, 0] - 0.05, -FARTHEST, limits[:, 0])
        limits[:, 1] = np.clip(far[:, 1] + 0.05, limits[:, 1], FARTHEST)
        points = np.clip(points, limits[:, 0], limits[:, 1])
        opacity = float(np.clip(600 / len(points), 0.08, 0.7))
        axis.scatter(*points.T, s=14, color=BLUE, alpha=opacity, linewidths=0)
        middle = np.clip(np.median(xy / side, axis=0), limits[:, 0], limits[:, 1])
        axis.plot(*middle, "X", color=ORANGE, ms=12, mec="white", label="middle of gaze")
    axis.plot(0.5, 0.5, "+", color="black", ms=14, mew=2, label="middle of the image")
    axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, linewidth=2))
    shares = off_by_side(xy, side)
    axis.set(xlim=limits[0], ylim=limits[1][::-1], aspect=aspect)
    off = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    axis.set_title(f"Positions; the frame is the border of the image\noff it: {off}", fontsize=10)
    axis.set_xlabel("x, fraction of the width")
    axis.set_ylabel("y, fraction of the height, down")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=9)


def _durations(axis: Any, durations: np.ndarray) -> None:
    axis.set_title("Durations of fixations; shaded: usual", fontsize=10)
    axis.set_xlabel("seconds")
    known = durations[durations > 0]
    if not len(known):
        axis.text(0.5, 0.5, "none stated", ha="center", transform=axis.transAxes)
        return
    low, high = min(known.min(), SHORT) / 1.2, max(known.max(), LONG) * 1.2
    axis.axvspan(SHORT, LONG, color=GREEN, alpha=0.15)
    axis.hist(known, np.geomspace(low, high, BINS), color=BLUE)
    middle = float(np.median(known))
    axis.axvline(middle, color=ORANGE, linestyle="--", label=f"median {middle:.3g} s")
    axis.set(xscale="log", xlim=(low, high))
    axis.legend(fontsize=9)


def _statements(axis: Any, name: str, said: list[tuple[bool, float]]) -> None:
    """Where gaze goes when the text names one side or the other; mirrored gaze changes places."""
    sides, whole = {
        "x": (("left", "right"), "width"),
        "y": (("upper", "lower"), "height, down"),
    }[name]
    jitter = np.random.default_rng(0)
    for row, (colour, mark) in enumerate(((BLUE, "o"), (ORANGE, "^"))):
        at = [position for later, position in said if later == bool(row)]
        axis.plot(at, row + jitter.uniform(-0.25, 0.25, len(at)), mark, color=colour, alpha=0.6)
        if at:
            axis.plot([np.median(at)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
    axis.axvline(0.5, color="black", linewidth=0.5)
    axis.set(xlim=(0, 1), ylim=(1.5, -0.5), yticks=(0, 1), yticklabels=sides)
    axis.set_title(f"Gaze where the text says {' or '.join(sides)}", fontsize=10)
    axis.set_xlabel(f"{name}, fraction of the {whole}")
