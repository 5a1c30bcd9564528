"""Figures of two pages of results, drawn from the tables that the pages hold.

    python scripts/studies/draw_tables.py    # docs/results/coverage.png and docs/results/methods.png

The numbers are read from docs/results/coverage.md, methods.md and benchmark_train_gpu.md. Nothing is
measured again. To measure: scripts/studies/coverage.py, scripts/costs/methods.py, scripts/costs/train.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from openclip_eclip.benchmark.page import BETTER, GREY, WORSE, tidy

RESULTS = Path(__file__).resolve().parent.parent.parent / "docs" / "results"
COVERAGE_ROW = re.compile(
    r"^\| (?P<regime>[^|]+) \| (?P<seeds>\d+) \| (?P<before>[\d.]+) % \| [\d.]+ % \|"
    r" (?P<now>[\d.]+) % \| [\d.]+ \|$",
    re.MULTILINE,
)
RATIO = r"(?P<ratio>[\d.]+) \((?P<low>[\d.]+)-(?P<high>[\d.]+)\)"
METHOD_ROW = re.compile(rf"^\| (?P<method>[^|]+) \| Swin-T \| \d+ ms \| {RATIO} \|", re.MULTILINE)
ALIGN_ROW = re.compile(
    rf"^\| [^|]*alignment[^|]*Swin-T[^|]* \| [^|]+ \| [^|]+ \| {RATIO} \|", re.MULTILINE
)


class Coverage(NamedTuple):
    """Coverage in percent of one setting of simulated experiments."""

    regime: str
    seeds: int
    before: float
    now: float


def coverages(page: str) -> list[Coverage]:
    """The settings in the first table of coverage.md; ValueError if the page has none."""
    found = [
        Coverage(m["regime"], int(m["seeds"]), float(m["before"]), float(m["now"]))
        for m in COVERAGE_ROW.finditer(page)
    ]
    if not found:
        raise ValueError("the page has no table of coverages; expected docs/results/coverage.md")
    return found


def step_costs(methods: str, alignment: str) -> dict[str, float]:
    """{method: time of a step with Swin-T over CLIP's} from methods.md and benchmark_train_gpu.md.

    ValueError if a page lacks its table.
    """
    found = {m["method"]: float(m["ratio"]) for m in METHOD_ROW.finditer(methods)}
    own = ALIGN_ROW.search(alignment)
    if not found or own is None:
        raise ValueError("a table of step times is missing; expected those of docs/results")
    return found | {"eclip-plus": float(own["ratio"])}


def draw_coverage(settings: list[Coverage]) -> Figure:
    """One dot a setting: coverage against number of seeds, earlier and present intervals."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    seeds = sorted({setting.seeds for setting in settings})
    for shift, name, label, colour in (
        (-0.12, "before", "percentiles of a bootstrap (earlier versions)", WORSE),
        (0.12, "now", "Student's t over seeds (now)", BETTER),
    ):
        x = [seeds.index(setting.seeds) + shift for setting in settings]
        y = [getattr(setting, name) for setting in settings]
        axes.plot(x, y, "o", color=colour, ms=6, alpha=0.7, mew=0, label=label)
    axes.axhline(95, color="#1c2733", lw=1)
    axes.annotate("95 %", (len(seeds) - 0.55, 95), va="bottom", fontsize=9)
    axes.set_xticks(range(len(seeds)), [str(number) for number in seeds])
    axes.set_xlim(-0.5, len(seeds) - 0.2)
    axes.set_xlabel("seeds")
    axes.set_ylabel("intervals with the truth, %")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    tidy(axes, "y")
    return figure


def draw_costs(costs: dict[str, float]) -> Figure:
    """One bar a method, the cheapest on top."""
    names = sorted(costs, key=lambda name: costs[name])
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    colours = [BETTER if name == "eclip-plus" else GREY for name in names]
    bars = axes.barh(names, [costs[name] for name in names], color=colours, height=0.65)
    axes.bar_label(bars, [f"{costs[name]:.2f}" for name in names], padding=4, fontsize=9)
    axes.axvline(1, color="#1c2733", lw=1)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step, CLIP = 1 (Swin-T, batch 256, H200)")
    axes.tick_params(axis="y", length=0)
    tidy(axes, "x")
    return figure


def main() -> None:
    methods, gpu, coverage = (
        (RESULTS / name).read_text(encoding="utf-8")
        for name in ("methods.md", "benchmark_train_gpu.md", "coverage.md")
    )
    draw_coverage(coverages(coverage)).savefig(RESULTS / "coverage.png", dpi=150)
    draw_costs(step_costs(methods, gpu)).savefig(RESULTS / "methods.png", dpi=150)


if __name__ == "__main__":
    main()
