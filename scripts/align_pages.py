"""The page and the pictures of `run_table.py align`."""
from __future__ import annotations

from itertools import product
from textwrap import fill
from typing import Callable

from align_cells import CELLS, CLEAN, HARD, NAMES, PICTURED, RECIPE_ROWS, REPLAY, TAUGHT, TAUGHT_AGAIN
from intervals import GREY, change, draw_differences, spread, tidy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"CLIP, twice the steps": GREY, "mask": "#c07a2b", "eCLIP": "#8e5ba6", "align": "#1f6fb2", "eclip-plus": "#14532d", REPLAY: "#5fb37c", HARD: "#d4a017",
           TAUGHT: "#b3202c", TAUGHT_AGAIN: "#ec8c74"}
HEAD = 2  # lines of a table without rows


def page(facts: dict) -> str:
    seeds = " ".join(map(str, facts["seeds"]))
    lines = ["# Where alignment helps\n", f"`python scripts/run_table.py align`: phantom films of 64 px, an attention-pooled ResNet with 8 x 8 places; seeds {seeds}, each with "
             f"films of its own; {facts['machine']}. {facts['note'] + ' ' * bool(facts['note'])}The checkpoint of each run is the one of eight with the best mean rank on 300 validation pairs. Mean ± sd over "
             "seeds; differences to CLIP, seeds paired, with 95 % intervals over seeds and test films. Pointing and NSS: where the tower looks against where the "
             "gaze was, on test films.\n", "![Differences to CLIP](align.png)\n", "![By share of annotations, and under bad gaze](align_map.png)\n"]
    parts = {"At a glance": ("best other: the row with the highest mean of all that do not align, placebos apart.", glance),
             "Few annotated images, shown once more": ("", glance_again),
             "One to three annotated images, longer and harder": ("Replay, `--align-weight 1` and twice the steps. Best other: the row with the highest mean of those that do not align.", glance_hard),
             "Self-training": ("A model of the row \"teacher\" makes the heatmaps that are missing; another one is trained on all. In cells with 1 % and less the teacher is "
                               "eclip-plus with replay.", glance_taught)}
    for title, (words, table) in parts.items():
        if len(shown := table(facts["cells"])) > HEAD:
            lines += [f"## {title}\n", *[f"{words}\n"] * bool(words), *shown, ""]
    for cell, rows in facts["cells"].items():
        lines += [f"## {cell}\n", "| row | macro-F1 | − CLIP | R@5 | − CLIP | pointing | NSS |", "|---|---|---|---|---|---|---|"]
        for name, row in rows.items():
            shown = [word for score in ("macro-F1", "R@5") for word in (spread(row[score]), change(row[score]["difference"]))]
            lines.append(f"| {name} | {' | '.join(shown)} | {spread(row['pointing'])} | {spread(row['NSS'])} |")
        for name, score in product(RECIPE_ROWS, ("macro-F1", "R@5")):
            if best := rows.get(name, {}).get(score, {}).get("best_other"):
                lines.append(f"\n{name} − the best other row in {score} ({best['row']}): {change(best)}.")
        lines.append("")
    return "\n".join(lines)


def glance(cells: dict[str, dict]) -> list[str]:
    """A table of all cells in which eclip-plus was run."""
    lines = ["| | macro-F1: CLIP | align, weight 1 | eclip-plus | − best other | R@5: CLIP | eclip-plus − CLIP | − best other | pointing: CLIP | eclip-plus |",
             "|---" * 10 + "|"]
    for cell, rows in cells.items():
        if (own := rows.get("eclip-plus")) is None:
            continue
        clip, others = rows["CLIP"], {score: against_best(own[score]) for score in ("macro-F1", "R@5")}
        words = [cell, spread(clip["macro-F1"]), spread(rows["align"]["macro-F1"]) if "align" in rows else "", spread(own["macro-F1"]), others["macro-F1"], spread(clip["R@5"]),
                 change(own["R@5"]["difference"]), others["R@5"], f"{clip['pointing']['value']:.3f}", f"{own['pointing']['value']:.3f}"]
        lines.append(f"| {' | '.join(words)} |".replace("-0", "−0"))
    return lines


def against_best(score: dict) -> str:
    best = score.get("best_other")
    return f"{change(best)} ({best['row']})" if best else ""


def glance_again(cells: dict[str, dict]) -> list[str]:
    """A table of the cells in which eclip-plus was run with replay too."""
    return _pairs(cells, ("eclip-plus", "eclip-plus"), (REPLAY, "with replay"))


def glance_hard(cells: dict[str, dict]) -> list[str]:
    """A table of the cells in which replay was also run at weight 1 for twice the steps."""
    return _pairs(cells, (REPLAY, "with replay"), (HARD, "weight 1, twice the steps"))


def _pairs(cells: dict[str, dict], own: tuple[str, str], more: tuple[str, str]) -> list[str]:
    """A table of the cells that have both rows (name, heading), the second against CLIP and the best other."""
    scores = [f"{score}: {own[1]} | {more[1]} | − CLIP | − best other" for score in ("macro-F1", "R@5")]
    lines = [f"| | {' | '.join(scores)} | pointing: {own[1]} | {more[1]} |", "|---" * 11 + "|"]
    for cell, rows in cells.items():
        if {own[0], more[0]} <= set(rows):
            lines.append(_pair(cell, rows[own[0]], rows[more[0]], lambda _, after: change(after["difference"])))
    return lines


def glance_taught(cells: dict[str, dict]) -> list[str]:
    """A table of the cells with self-training: the very teachers, and the models taught by them."""
    lines = ["| | macro-F1: teacher | self-trained | − teacher | − best other | R@5: teacher | self-trained | − teacher | − best other | pointing: teacher | self-trained |",
             "|---" * 11 + "|"]
    for (cell, rows), name in product(cells.items(), (TAUGHT, TAUGHT_AGAIN)):
        if name in rows:
            lines.append(_pair(cell, rows[name]["teacher"], rows[name], lambda own, more: change(own["change"])))
    return lines


def _pair(cell: str, own: dict, more: dict, difference: Callable[[dict, dict], str]) -> str:
    """A row: two scores before and after, and pointing."""
    words = [cell]
    for score in ("macro-F1", "R@5"):
        words += [spread(own[score]), spread(more[score]), difference(own[score], more[score]), against_best(more[score])]
    words += [f"{row['pointing']['value']:.3f}" for row in (own, more)]
    return f"| {' | '.join(words)} |".replace("-0", "−0")


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
    """Three scores of the main rows: a panel for each size against the share of annotations, and one under worse gaze."""
    clean = [cell for cell in CELLS if cell.name in found and not cell.gaze and not cell.films]
    worse = [cell.name for cell in CELLS if cell.name in found and (cell.gaze or cell.films or cell.name == CLEAN)]
    counts = sorted({cell.count for cell in clean})
    widths = [1.0] * len(counts) + [1.6] * bool(worse)
    figure = Figure(figsize=(max(11, 2.9 * sum(widths)), 8.4), layout="constrained")
    grid = figure.subplots(3, len(widths), width_ratios=widths, squeeze=False)
    for row, score in zip(grid, ("macro-F1", "R@5", "pointing")):
        for axes, count in zip(row, counts):
            shares = sorted((100 * cell.annotated, cell.name) for cell in clean if cell.count == count)
            _draw_rows(axes, found, [cell for _, cell in shares], [share for share, _ in shares], score, spacing=None)
            axes.set_xscale("log")
            axes.set_xticks([share for share, _ in shares], [f"{share:g} %" for share, _ in shares])
            axes.minorticks_off()
            axes.set_title(f"{count} films, by share annotated", loc="left", fontsize=9)
        if worse:
            _draw_rows(row[-1], found, worse, list(range(len(worse))), score, spacing=0.12)
            row[-1].set_xticks(range(len(worse)), [fill(cell.split(", ", 2)[-1].replace("15 %", "as it is"), 12) for cell in worse], fontsize=8)
            row[-1].set_title(CLEAN + " of them annotated", loc="left", fontsize=9)
        row[0].set_ylabel(f"{score}, mean ± sd over seeds")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return figure


def _draw_rows(axes: Axes, found: dict[str, dict], cells: list[str], places: list[float], score: str, spacing: float | None) -> None:
    """The main rows over `places`, one a cell: joined by lines, or side by side at a distance of `spacing`."""
    drawn = {name: colour for name, colour in COLOURS.items() if any(name in rows for rows in found.values())}
    for i, (name, colour) in enumerate(drawn.items()):
        shown = [(place, found[cell][name][score]) for place, cell in zip(places, cells) if name in found[cell]]
        # shares lie on a logarithmic axis: a twentieth apart, so that bars do not hide each other
        aside = i - (len(drawn) - 1) / 2
        moved = [place * 1.05 ** aside if spacing is None else place + spacing * aside for place, _ in shown]
        axes.errorbar(moved, [one["value"] for _, one in shown], yerr=[one["sd"] or 0 for _, one in shown], color=colour, fmt="o" if spacing else "o-", ms=4, lw=1.3, capsize=2,
                      label=name)
    tidy(axes, "y")
