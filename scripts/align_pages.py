"""The page and the pictures of `run_table.py align`."""
from __future__ import annotations

from textwrap import fill

from align_cells import CELLS, CLEAN, NAMES, PICTURED
from intervals import GREY, change, draw_differences, spread, tidy
from matplotlib.figure import Figure

COLOURS = {"CLIP": GREY, "mask": "#c07a2b", "align": "#1f6fb2", "eclip-plus": "#14532d"}


def page(facts: dict) -> str:
    seeds = " ".join(map(str, facts["seeds"]))
    lines = ["# Where alignment helps\n", f"`python scripts/run_table.py align`: phantom films of 64 px, an attention-pooled ResNet with 8 x 8 places; seeds {seeds}, each with "
             f"films of its own; {facts['machine']}. {facts['note']} The checkpoint of each run is the one of eight with the best mean rank on 300 validation pairs. Mean ± sd over "
             "seeds; differences to CLIP, seeds paired, with 95 % intervals over seeds and test films. Pointing and NSS: where the tower looks against where the "
             "gaze was, on test films.\n", "![Differences to CLIP](align.png)\n", "![By share of annotations, and under bad gaze](align_map.png)\n"]
    for cell, rows in facts["cells"].items():
        lines += [f"## {cell}\n", "| row | macro-F1 | − CLIP | R@5 | − CLIP | pointing | NSS |", "|---|---|---|---|---|---|---|"]
        for name, row in rows.items():
            shown = [word for score in ("macro-F1", "R@5") for word in (spread(row[score]), change(row[score]["difference"]))]
            lines.append(f"| {name} | {' | '.join(shown)} | {spread(row['pointing'])} | {spread(row['NSS'])} |")
        for score in ("macro-F1", "R@5"):
            if best := rows.get("eclip-plus", {}).get(score, {}).get("best_other"):
                lines.append(f"\neclip-plus − the best other row in {score} ({best['row']}): {change(best)}.")
        lines.append("")
    return "\n".join(lines)


def draw_cells(found: dict[str, dict]) -> Figure:
    """Differences to CLIP in macro-F1 and R@5 in a cell of each size."""
    shown = [cell for cell in PICTURED if cell in found] or list(found)[:3]
    names = [name for name in NAMES if any(name in found[cell] for cell in shown) and name != "CLIP"]
    figure = Figure(figsize=(2.2 + 3.3 * len(shown), 1.6 + 0.5 * len(names)), layout="constrained")
    grid = figure.subplots(2, len(shown), sharey=True, sharex="row", squeeze=False)
    for axes, (score, cell) in zip(grid.flat, [(score, cell) for score in ("macro-F1", "R@5") for cell in shown]):
        differences = [found[cell].get(name, {}).get(score, {}).get("difference") for name in names]
        draw_differences(axes, names, differences, f"{cell}: {score} − CLIP")
    return figure


def draw_map(found: dict[str, dict]) -> Figure:
    """macro-F1 of the four main rows against the share of annotations at 600 films, and under worse gaze; pointing below."""
    shares = sorted((cell.annotated, cell.name) for cell in CELLS if cell.name in found and cell.count == 600 and not cell.gaze and not cell.films)
    worse = [cell.name for cell in CELLS if cell.name in found and (cell.gaze or cell.films or cell.name == CLEAN)]
    figure = Figure(figsize=(11, 6), layout="constrained")
    for row, score in zip(figure.subplots(2, 2, width_ratios=(1, 1.3)), ("macro-F1", "pointing")):
        for name, colour in COLOURS.items():
            rows = [(share, found[cell][name][score]) for share, cell in shares if name in found[cell]]
            if rows:
                row[0].errorbar([100 * share for share, _ in rows], [score["value"] for _, score in rows], yerr=[score["sd"] or 0 for _, score in rows], color=colour,
                                marker="o", ms=5, lw=1.5, capsize=2, label=name)
            places = [(x, found[cell][name][score]) for x, cell in enumerate(worse) if name in found[cell]]
            offset = 0.16 * (list(COLOURS).index(name) - 1.5)
            row[1].errorbar([x + offset for x, _ in places], [score["value"] for _, score in places], yerr=[score["sd"] or 0 for _, score in places], color=colour, fmt="o", ms=5,
                            capsize=2)
        row[0].set_xscale("log")
        row[0].set_xticks([100 * share for share, _ in shares], [f"{100 * share:g}" for share, _ in shares])
        row[0].set_xlabel("annotated, % of 600 films")
        row[0].set_ylabel(f"{score}, mean ± sd over seeds")
        row[1].set_xticks(range(len(worse)), [fill(cell.split(", ", 2)[-1].replace("15 %", "as it is"), 12) for cell in worse], fontsize=8)
        for axes in row:
            tidy(axes, "y")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
