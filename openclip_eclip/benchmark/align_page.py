"""The page and the figures of `benchmark align`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .align_cells import (
    ALIGN_SETTINGS,
    CLEAN,
    HARD,
    NAMES,
    OVERSAMPLING,
    PICTURED,
    RECIPE_METHODS,
    STUDENT,
    STUDENT_OVERSAMPLED,
)
from .page import GREY, OTHER_MACHINE, change, draw_differences, spread, tidy

COLOURS = {
    "CLIP, twice the steps": GREY,
    "mask": "#c07a2b",
    "eCLIP": "#8e5ba6",
    "align": "#1f6fb2",
    "eclip-plus": "#14532d",
    OVERSAMPLING: "#5fb37c",
    HARD: "#d4a017",
    STUDENT: "#b3202c",
    STUDENT_OVERSAMPLED: "#ec8c74",
}
MIXED = (
    "Rows of different machines are compared (--mixed-machines): a difference may be that of the"
    " machines."
)
MACHINES = (
    "Rows that ran on another kind of machine than CLIP's are not compared with it: CLIP alone"
    " moves by .06 between a CPU and a GPU (600 films: .386 and .321)."
)
LIMITS = (
    "No row but the aligning ones had development runs: their weight, minimum share and replay were"
    " chosen in dozens of trials on seeds from 90 on, while the learning rate and the other"
    " settings of the baselines are shared and were not tuned. CLIP for twice the steps still"
    " improves with 300 films on four of five seeds, so that CLIP's best is not known. With 600"
    " films, 15 %, maps of other images of the same class give about half of eclip-plus's gain:"
    " that half needs no right map. Views: how often an annotated image entered with its heatmap up"
    " to the checkpoint taken; blank: without heatmaps, or not recorded (eCLIP, replay,"
    " oversample). The paper's dose is about 527 views: nothing here says what eCLIP does at that"
    " dose."
)
HEAD = 2  # lines of the head of a Markdown table


def page(facts: dict) -> str:
    """The Markdown page of the content of align.json."""
    seeds = " ".join(map(str, facts["seeds"]))
    mixed = facts.get("mixed_machines", False)
    kinds = sorted({row["machine"] for rows in facts["cells"].values() for row in rows.values()})
    machines = (
        MIXED
        if mixed
        else MACHINES
        if len(kinds) > 1
        else f"All rows ran on one kind of machine: {kinds[0]}."
    )
    lines = [
        "# Where alignment helps\n",
        (
            "`python -m openclip_eclip.benchmark align`: phantom films of 64 px, an"
            f" attention-pooled ResNet with 8 x 8 places; seeds {seeds}, each with films of its"
            f" own; {facts['machine']}. {facts['note'] + ' ' * bool(facts['note'])}The checkpoint"
            " of each run is the one of eight with the best mean rank on 300 validation pairs."
            " Mean ± sd over seeds; differences to CLIP, seeds paired, with 95 % intervals over"
            f" seeds (Student's t) and test films.{facts.get('intervals', '')} Pointing and NSS:"
            " where the tower looks against where the gaze was, on test films.\n"
        ),
        f"{machines}\n",
        f"{LIMITS}\n",
        "![Differences to CLIP](align.png)\n",
        "![By share of annotations, and under bad gaze](align_map.png)\n",
    ]
    parts = {
        "At a glance": (
            "best other: the row with the highest mean of all that do not align, placebos apart.",
            glance,
        ),
        "Few annotated images, shown once more": ("", glance_again),
        "One to three annotated images, longer and harder": (
            (
                "Replay, `--align-weight 1` and twice the steps. Best other: the row with the"
                " highest mean of those that do not align."
            ),
            glance_hard,
        ),
        "Self-training": (
            (
                'A model of the row "teacher" makes the heatmaps that are missing; another one is'
                " trained on all. In cells with 1 % and less the teacher is eclip-plus with replay."
            ),
            glance_taught,
        ),
    }
    for title, (words, table) in parts.items():
        if len(shown := table(facts["cells"])) > HEAD:
            lines += [f"## {title}\n", *[f"{words}\n"] * bool(words), *shown, ""]
    for cell, rows in facts["cells"].items():
        lines += [
            f"## {cell}\n",
            (
                "| row | macro-F1 | − CLIP | R@5 | − CLIP | pointing | NSS | views an annotated"
                " image |"
            ),
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            shown = [
                word
                for score in ("macro-F1", "R@5")
                for word in (spread(row[score]), against_clip(name, row[score]))
            ]
            seen = "" if row.get("views") is None else f"{row['views']:.0f}"
            lines.append(
                f"| {name} | {' | '.join(shown)} | {spread(row['pointing'])} | {spread(row['NSS'])}"
                f" | {seen} |"
            )
        for name, score in product(RECIPE_METHODS, ("macro-F1", "R@5")):
            if best := rows.get(name, {}).get(score, {}).get("best_other"):
                lines.append(
                    f"\n{name} − the best other row in {score} ({best['row']}): {change(best)}."
                )
        lines.append("")
    return "\n".join(lines)


def glance(cells: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with eclip-plus."""
    lines = [
        (
            "| | macro-F1: CLIP | align, weight 1 | eclip-plus | − best other | R@5: CLIP |"
            " eclip-plus − CLIP | − best other | pointing: CLIP | eclip-plus |"
        ),
        "|---" * 10 + "|",
    ]
    for cell, rows in cells.items():
        if (recipe := rows.get("eclip-plus")) is None:
            continue
        clip, others = (
            rows["CLIP"],
            {score: against_best(recipe[score]) for score in ("macro-F1", "R@5")},
        )
        words = [
            cell,
            spread(clip["macro-F1"]),
            spread(rows["align"]["macro-F1"]) if "align" in rows else "",
            spread(recipe["macro-F1"]),
            others["macro-F1"],
            spread(clip["R@5"]),
            against_clip("eclip-plus", recipe["R@5"]),
            others["R@5"],
            f"{clip['pointing']['value']:.3f}",
            f"{recipe['pointing']['value']:.3f}",
        ]
        lines.append(f"| {' | '.join(words)} |".replace("-0", "−0"))
    return without_columns_of_other_machines(lines)


def without_columns_of_other_machines(lines: list[str]) -> list[str]:
    """The table without columns that have no comparison in any row."""
    cells = [line.strip("|").split("|") for line in lines]
    columns = [
        i
        for i, column in enumerate(zip(*cells))
        if not all(OTHER_MACHINE in cell for cell in column[HEAD:]) or len(lines) == HEAD
    ]
    return [f"|{'|'.join(row[i] for i in columns)}|" for row in cells]


def against_best(score: dict) -> str:
    """The difference from the best other method as text; blank if there is no other method."""
    best = score.get("best_other")
    return (
        f"{change(best)} ({best['row']})"
        if best
        else OTHER_MACHINE
        if score["difference"] is None
        else ""
    )


def against_clip(name: str, score: dict) -> str:
    return (
        OTHER_MACHINE
        if score["difference"] is None and name != "CLIP"
        else change(score["difference"])
    )


def glance_again(cells: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with eclip-plus, with and without oversampling."""
    return _pairs(cells, ("eclip-plus", "eclip-plus"), (OVERSAMPLING, "with replay"))


def glance_hard(cells: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with oversampling at weight 1 for twice the steps."""
    return _pairs(cells, (OVERSAMPLING, "with replay"), (HARD, "weight 1, twice the steps"))


def _pairs(cells: dict[str, dict], first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Lines of the table of all settings with two methods, each given as (name, heading).

    The second method is compared with CLIP and with the best other method.
    """
    scores = [
        f"{score}: {first[1]} | {second[1]} | − CLIP | − best other"
        for score in ("macro-F1", "R@5")
    ]
    lines = [f"| | {' | '.join(scores)} | pointing: {first[1]} | {second[1]} |", "|---" * 11 + "|"]
    for cell, rows in cells.items():
        if {first[0], second[0]} <= set(rows):
            lines.append(
                _pair(
                    cell,
                    rows[first[0]],
                    rows[second[0]],
                    lambda _, after: against_clip(second[0], after),
                )
            )
    return without_columns_of_other_machines(lines)


def glance_taught(cells: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with self-training: teachers and their students."""
    lines = [
        (
            "| | macro-F1: teacher | self-trained | − teacher | − best other | R@5: teacher |"
            " self-trained | − teacher | − best other | pointing: teacher | self-trained |"
        ),
        "|---" * 11 + "|",
    ]
    for (cell, rows), name in product(cells.items(), (STUDENT, STUDENT_OVERSAMPLED)):
        if name in rows:
            lines.append(
                _pair(
                    cell,
                    rows[name]["teacher"],
                    rows[name],
                    lambda teacher, student: change(teacher["change"]),
                )
            )
    return without_columns_of_other_machines(lines)


def _pair(cell: str, before: dict, after: dict, difference: Callable[[dict, dict], str]) -> str:
    """A line of a table: two scores of two methods with their difference, and pointing."""
    words = [cell]
    for score in ("macro-F1", "R@5"):
        words += [
            spread(before[score]),
            spread(after[score]),
            difference(before[score], after[score]),
            against_best(after[score]),
        ]
    words += [f"{row['pointing']['value']:.3f}" for row in (before, after)]
    return f"| {' | '.join(words)} |".replace("-0", "−0")


def draw_cells(results: dict[str, dict]) -> Figure:
    """Differences from CLIP in macro-F1 and R@5, a column for a setting of each size."""
    shown = [cell for cell in PICTURED if cell in results] or list(results)[:3]
    names = [
        name
        for name in NAMES
        if any(results[cell].get(name, {}).get("macro-F1", {}).get("difference") for cell in shown)
    ]
    figure = Figure(figsize=(2.2 + 3.3 * len(shown), 1.6 + 0.5 * len(names)), layout="constrained")
    grid = figure.subplots(2, len(shown), sharey=True, sharex="row", squeeze=False)
    for axes, (score, cell) in zip(
        grid.flat, [(score, cell) for score in ("macro-F1", "R@5") for cell in shown]
    ):
        differences = [
            results[cell].get(name, {}).get(score, {}).get("difference") for name in names
        ]
        draw_differences(axes, names, differences, f"{cell}: {score} − CLIP")
    return figure


def draw_map(results: dict[str, dict]) -> Figure:
    """Three scores of the main methods, by share of annotated images and by quality of gaze.

    Each number of images has its own panel. Hollow markers: runs on another machine than CLIP.
    """
    clean = [
        cell for cell in ALIGN_SETTINGS if cell.name in results and not cell.gaze and not cell.films
    ]
    worse = [
        cell.name
        for cell in ALIGN_SETTINGS
        if cell.name in results and (cell.gaze or cell.films or cell.name == CLEAN)
    ]
    counts = sorted({cell.count for cell in clean})
    widths = [1.0] * len(counts) + [1.6] * bool(worse)
    figure = Figure(figsize=(max(11, 2.9 * sum(widths)), 8.4), layout="constrained")
    grid = figure.subplots(3, len(widths), width_ratios=widths, squeeze=False)
    for row, score in zip(grid, ("macro-F1", "R@5", "pointing")):
        for axes, count in zip(row, counts):
            shares = sorted(
                (100 * cell.annotated, cell.name) for cell in clean if cell.count == count
            )
            _draw_rows(
                axes,
                results,
                [cell for _, cell in shares],
                [share for share, _ in shares],
                score,
                spacing=None,
            )
            axes.set_xscale("log")
            axes.set_xticks([share for share, _ in shares], [f"{share:g} %" for share, _ in shares])
            axes.minorticks_off()
            axes.set_title(f"{count} films, by share annotated", loc="left", fontsize=9)
        if worse:
            _draw_rows(row[-1], results, worse, list(range(len(worse))), score, spacing=0.12)
            row[-1].set_xticks(
                range(len(worse)),
                [fill(cell.split(", ", 2)[-1].replace("15 %", "as it is"), 12) for cell in worse],
                fontsize=8,
            )
            row[-1].set_title(CLEAN + " of them annotated", loc="left", fontsize=9)
        row[0].set_ylabel(f"{score}, mean ± sd over seeds")
    handles, labels = grid[0][0].get_legend_handles_labels()
    # the first handle of each name: runs on CLIP's machine come first
    named = {label: handles[labels.index(label)] for label in labels}
    figure.legend(
        named.values(), named.keys(), loc="outside upper center", ncols=5, frameon=False, fontsize=9
    )
    if any(_elsewhere(rows, name) for rows in results.values() for name in COLOURS if name in rows):
        figure.supxlabel(
            "hollow, dotted: ran on another kind of machine than CLIP, not comparable with the"
            " rest",
            fontsize=9,
        )
    return figure


def _elsewhere(rows: dict[str, dict], name: str) -> bool:
    return rows[name]["machine"] != rows["CLIP"]["machine"]


def _draw_rows(
    axes: Axes,
    results: dict[str, dict],
    cells: list[str],
    positions: list[float],
    score: str,
    spacing: float | None,
) -> None:
    """Draw the main methods at `places`, one for each of `cells`.

    Without `spacing` points are joined by lines; else methods are side by side at that distance.
    Runs of another machine are hollow.
    """
    drawn = {
        name: colour
        for name, colour in COLOURS.items()
        if any(name in rows for rows in results.values())
    }
    for i, (name, colour) in enumerate(drawn.items()):
        shown = [
            (x, results[cell][name][score], _elsewhere(results[cell], name))
            for x, cell in zip(positions, cells)
            if name in results[cell]
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
