"""The report: the answer, tables with intervals, learning curves, examples, cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...evaluate.output.result import Cell, Result, Table, plain
from ..page import draw_differences
from .data import GROUNDING
from .examples import NO_MODEL, curve_figure, draw_examples
from .live import duration
from .methods import RECIPE, TESTED, Choice
from .regions import LEAST_REACHABLE, Regions, make_regions, read_test_regions
from .runs import Runs
from .scores import TaskScores, measure
from .verdict import ATTENTION, MARGIN, Interval, answer, outcome, percent, points

NUMBERS = ("NSS", "mIoU")  # metrics that are not shown in percent
NOTES = {
    ATTENTION: (
        "Pointing game: share of the images where the maximum of the map is inside the marked"
        " region. NSS: how high the map is where the expert looked, in standard deviations; chance"
        " is 0. mIoU: overlap of the region and the highest part of the map. center, random, the"
        " mean map of the data (of all other images) and another image's map use no model, so a"
        " model should beat them; their intervals are over images."
    ),
    "retrieval": "R@k: share of the images whose text is among the first k of all test texts.",
    "zero-shot": "macro-F1: mean over the classes of F1; every class has the same weight.",
}


def make_result(
    runs: Runs,
    choices: Sequence[Choice],
    seeds: Sequence[int],
    best: dict[str, float],
    scores: Sequence[TaskScores],
    record: dict[str, Any],
) -> Result:
    """The result, whose `answer` is about the first of TESTED that was trained."""
    order = {ATTENTION: 0, "retrieval": 1, "zero-shot": 2}
    scores = sorted(scores, key=lambda one: order[one.task])
    names = [choice.name for choice in choices]
    tested = next(name for name in TESTED if name in names)
    examples, regions = None, None
    if scores[0].task == ATTENTION:
        folders = {name: runs.model(one, best[name], seeds[0]) for name, one in zip(names, choices)}
        data = read_test_regions(runs.data)
        examples = draw_examples(folders, data)
        regions = make_regions(data, examples.grid)
    judged = scores if regions is None or regions.can_be_pointed_at else scores[1:]
    measures = [measure(one, tested, choices) for one in judged]
    tables = [
        _summary(scores, choices, regions),
        *(_table(one, choices, tested) for one in scores),
        _cost(runs, choices, seeds, best),
    ]
    figures = {
        "differences": _differences(judged, names, tested),
        "curves": curve_figure(_curves(runs, choices, seeds, best)),
        **(examples.figures if examples else {}),
    }
    captions = {
        "differences": (
            "Difference to CLIP with its 95 % interval. Blue: better, red: worse, grey: may be"
            " chance."
        ),
        "curves": "Score on the validation images during training, a line for each seed.",
        **(examples.captions if examples else {}),
    }
    values = {
        "tested": tested,
        "outcomes": {one.task: outcome(one) for one in measures},
        "learning_rates": best,
        "scores": {one.task: _values(one) for one in scores},
        "cost": {name: _seconds(runs, choice, seeds, best) for name, choice in zip(names, choices)},
        "forecast_seconds": record["forecast"],
        "seconds": record["seconds"],
    }
    if regions is not None:
        values["regions"] = {
            "images": len(regions.data.grounded),
            "area": regions.area,
            "positions": regions.grid,
            "reachable": regions.reachable,
        }
    return Result(
        "benchmark",
        _settings(record),
        plain(values),
        tables,
        figures,
        captions,
        notes=_notes(runs, choices, seeds, record),
        terms=_terms(scores),
        title="Do the annotations help?",
        answer=[*answer(tested, measures, len(seeds)), *_unjudged(regions)],
    )


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings as the page shows them: the model under the title, hashes at the end."""
    model = record["start"] or record["model"]
    rest = {key: value for key, value in record.items() if key not in ("data", "model")}
    return plain({"model": model, **rest, "data_hashes": record["data"]})


def _terms(scores: Sequence[TaskScores]) -> list[str]:
    tasks = [one.task for one in scores]
    attention = ["pointing game", "NSS", "mIoU"] * (ATTENTION in tasks)
    return ["95 % interval", *attention, "R@k", *["macro-F1"] * ("zero-shot" in tasks)]


def _unjudged(regions: Regions | None) -> list[str]:
    """Why the answer leaves attention out, where it does."""
    if regions is None or regions.can_be_pointed_at:
        return []
    return [
        f"Attention is not judged: {_positions(regions)} are too few for the pointing game."
        f" {_reachable(regions)} Below {_share(LEAST_REACHABLE)} the game says more about the"
        " positions than about the model. NSS, below, needs no maximum. Larger images"
        " (--force-image-size) or another image tower have more positions."
    ]


def _positions(regions: Regions) -> str:
    return "{} x {} positions".format(*regions.grid)


def _reachable(regions: Regions) -> str:
    return (
        "An enlarged map is highest at the centre of a position or at the image's border;"
        f" {_share(regions.reachable)} of the marked regions hold such a pixel."
    )


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _summary(
    scores: Sequence[TaskScores], choices: Sequence[Choice], regions: Regions | None
) -> Table:
    """The first metrics of every task, for all methods and for maps without a model."""
    shown = [(one, one.metrics[q]) for one in scores for q in range(1 + (one.task == ATTENTION))]
    # short: with three tasks the table must still fit
    columns = [
        "method",
        *(metric if one.task == ATTENTION else f"{one.task}: {metric}" for one, metric in shown),
        "what it is",
    ]
    rows: list[list[Cell]] = [
        [
            choice.name,
            *(_cell(metric, one.score[choice.name][metric]) for one, metric in shown),
            choice.what,
        ]
        for choice in choices
    ]
    note = (
        f"Mean over seeds with its 95 % interval, over seeds and {scores[-1].images} test images."
    )
    if regions is None:
        return Table("At a glance", columns, rows, note)
    what = ("no model: a map of the centre", "no model: the mean map of all other images")
    for name, text in zip(NO_MODEL, what, strict=True):
        cells = (
            _cell(metric, one.priors[name][metric]) if name in one.priors else None
            for one, metric in shown
        )
        rows.append([name, *cells, text])
    marked = len(regions.data.grounded)
    note += (
        f" {'All' if marked == scores[-1].images else marked} of them have a marked region. The"
        " last two rows use no model: a model should beat them. The regions cover"
        f" {_share(regions.area)} of the image: a map without any preference has its maximum inside"
        f" as often as that. The image tower has {_positions(regions)}."
    )
    if regions.reachable < 1:
        note += f" {_reachable(regions)}"
    return Table("At a glance", columns, rows, note)


def _cell(metric: str, score: Interval) -> str:
    """A score with its interval, in percent where it is a share."""
    if metric not in NUMBERS:
        return percent(score)
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]".replace("-", "−")


def _change(metric: str, difference: Interval | None) -> str | None:
    """A difference with its interval, in points where it is one of shares."""
    if difference is None:
        return None
    if metric not in NUMBERS:
        return points(difference)
    text = f"{difference.value:+.2f} [{difference.low:.2f}, {difference.high:.2f}]"
    return text.replace("-", "−")


def _table(scores: TaskScores, choices: Sequence[Choice], tested: str) -> Table:
    """Difference of each method from CLIP, and of the tested one from each method."""
    rows: list[list[Cell]] = []
    for metric in scores.metrics:
        for choice in choices:
            to_clip = scores.difference.get((choice.name, "CLIP"), {})
            lead = scores.difference.get((tested, choice.name), {})
            rows.append(
                [
                    metric,
                    choice.name,
                    _cell(metric, scores.score[choice.name][metric]),
                    _change(metric, to_clip.get(metric)),
                    _change(metric, lead.get(metric)),
                ]
            )
        for prior, score in scores.priors.items():
            rows.append([metric, prior, _cell(metric, score[metric]), None, None])
    return Table(
        f"{scores.task.capitalize()}, {scores.images} test images",
        ["score", "method", "value", "minus CLIP", f"{tested} minus it"],
        rows,
        NOTES[scores.task],
    )


def _seconds(
    runs: Runs, choice: Choice, seeds: Sequence[int], best: dict[str, float]
) -> list[float]:
    return [runs.seconds(choice, best[choice.name], seed) for seed in seeds]


def _cost(
    runs: Runs, choices: Sequence[Choice], seeds: Sequence[int], best: dict[str, float]
) -> Table:
    rows: list[list[Cell]] = []
    for choice in choices:
        epochs = [
            runs.bench.facts(runs.method(choice, best[choice.name]), seed)["epoch"]
            for seed in seeds
        ]
        rows.append(
            [
                choice.name,
                f"{np.mean(_seconds(runs, choice, seeds, best)):.0f}",
                runs.settings.steps * choice.length,
                f"{best[choice.name]:g}",
                ", ".join(map(str, epochs)),
            ]
        )
    return Table(
        "Cost",
        ["method", "seconds a run", "steps", "learning rate", "epoch of the checkpoint"],
        rows,
        f"{runs.workers.machine}. Learning rate and checkpoint were chosen on the validation"
        " images, the rate with the first seed.",
    )


def _differences(scores: Sequence[TaskScores], names: Sequence[str], tested: str) -> Figure:
    """A panel for each task: the first metric minus CLIP's, in points."""
    others = [name for name in names if name != "CLIP"]
    figure = Figure(
        figsize=(1.6 + 3.1 * len(scores), 0.9 + 0.32 * len(others)), layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(1, len(scores), sharey=True))
    for axes, one in zip(panels, scores):
        metric = one.metrics[0]
        differences = [
            {
                key: 100 * value
                for key, value in dataclasses.asdict(one.difference[name, "CLIP"][metric]).items()
            }
            for name in others
        ]
        draw_differences(axes, others, differences, f"{one.task}: {metric}")
        axes.set_xlabel("points, minus CLIP")
    return figure


def _curves(
    runs: Runs, choices: Sequence[Choice], seeds: Sequence[int], best: dict[str, float]
) -> dict[str, list[tuple[list[float], list[float]]]]:
    steps = max(1, runs.data.rows // runs.settings.batch_size)  # of an epoch
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    for choice in choices:
        ranks = [runs.curve(choice, best[choice.name], seed) for seed in seeds]
        curves[choice.name] = [
            ([epoch * steps for epoch in of_seed], list(of_seed.values())) for of_seed in ranks
        ]
    return curves


def _values(scores: TaskScores) -> dict[str, Any]:
    def numbers(intervals: dict[str, Interval]) -> dict[str, Any]:
        return {metric: dataclasses.asdict(interval) for metric, interval in intervals.items()}

    return {
        "images": scores.images,
        "methods": {name: numbers(score) for name, score in scores.score.items()},
        "priors": {name: numbers(score) for name, score in scores.priors.items()},
        "differences": {
            f"{name} minus {reference}": numbers(difference)
            for (name, reference), difference in scores.difference.items()
        },
    }


def _notes(
    runs: Runs, choices: Sequence[Choice], seeds: Sequence[int], record: dict[str, Any]
) -> list[str]:
    data, names = runs.data, [choice.name for choice in choices]
    notes = []
    if data.annotated is not None:
        share = data.annotated / data.rows
        notes.append(
            f"{data.rows} training images; {data.annotated} ({100 * share:.0f} %) are annotated."
        )
        least = RECIPE.align_min_share or 0
        if share < least and "eclip-plus" in names:
            notes.append(
                f"eclip-plus uses maps only where at least {100 * least:g} % of the images have"
                " one, so here it is nearly CLIP."
            )
    notes += [
        f"{len(seeds)} seed{'s' * (len(seeds) > 1)}. All methods of a seed start with the same"
        " weights and see the images in the same order.",
        f"'Unchanged' means that the whole interval is within {100 * MARGIN:g} points of 0. A wide"
        " interval says that the data cannot tell, not that there is no effect. More seeds and more"
        " test images make it narrower.",
    ]
    if GROUNDING not in data.tasks:
        notes.append(
            "Where the methods attend was not measured, and no examples are shown: fewer than two"
            " test images (or patients) have a heatmap. Give --test-data with heatmaps to see it."
        )
    if not record["resumed"]:
        notes.append(
            f"It took {duration(record['seconds'])}; the forecast was"
            f" {duration(record['forecast'])} after the trial runs."
        )
    return notes
