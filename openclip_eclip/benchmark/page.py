"""Scores over seeds and differences with intervals, as text and figures of benchmark pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

OTHER_MACHINE = "other machine: not compared"
GREY, BETTER, WORSE = "#8a96a3", "#1f6fb2", "#c0392b"


def spread(score: dict) -> str:
    """The text of a score {value, sd}; sd is None for a single seed."""
    return f"{score['value']:.3f}" + ("" if score["sd"] is None else f" ± {score['sd']:.3f}")


def change(difference: dict | None) -> str:
    """The text of a difference {value, low, high}; blank for the base, which has None."""
    if difference is None:
        return ""
    text = f"{difference['value']:+.3f} [{difference['low']:.3f}, {difference['high']:.3f}]"
    return text.replace("-", "−")


def machine_kinds(runs: Iterable[dict]) -> list[str]:
    """Kinds of machines from {machine, torch} of runs.

    "16 runs at a time on 1 x NVIDIA H200" with torch "2.11.0" is "NVIDIA H200, torch 2.11.0".
    """
    devices = {
        (facts["machine"].split(" on ", 1)[-1].split(" x ", 1)[-1], facts.get("torch"))
        for facts in runs
    }
    return sorted(device + (f", torch {torch}" if torch else "") for device, torch in devices)


def draw_differences(
    axes: Axes, names: Sequence[str], differences: Sequence[dict | None], title: str
) -> None:
    """Draw each difference on its own line of `axes`, the first on top.

    It is coloured if its interval excludes 0. A difference of None is not drawn; low and high of
    None have no interval.
    """
    for y, difference in enumerate(differences):
        if difference is None:
            continue
        low, high = (
            difference["value"] if difference[end] is None else difference[end]
            for end in ("low", "high")
        )
        colour = (
            GREY if difference["low"] is None or low <= 0 <= high else BETTER if low > 0 else WORSE
        )
        axes.plot([low, high], [y, y], color=colour, lw=2.5, solid_capstyle="round")
        axes.plot(difference["value"], y, "o", color=colour, ms=6)
    axes.axvline(0, color="#1c2733", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    tidy(axes, "x")


def tidy(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """A light grid behind the data, without the upper and the right frame line."""
    axes.grid(axis=grid, color="#dde3ea", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
