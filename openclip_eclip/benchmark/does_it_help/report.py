"""The report: the answer, tables with intervals, learning curves, examples, cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...evaluate.output.result import Cell, Result, Table, plain
from ..page import draw_differences
from .examples import attention_figure, curve_figure
from .live import duration
from .methods import RECIPE, TESTED, Choice
from .runs import Runs, mean_rank
from .scores import TaskScores, measure
from .verdict import MARGIN, Interval, answer, outcome, percent, points

NOTES = {
    "attention": (
        "attends inside: share of test images where the maximum of the attention is in the marked"
        " region. share of attention inside: how much of the attention is in the region."
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
    order = {"attention": 0, "retrieval": 1, "zero-shot": 2}
    scores = sorted(scores, key=lambda one: order[one.task])
    names = [choice.name for choice in choices]
    tested = next(name for name in TESTED if name in names)
    measures = [measure(one, tested, choices) for one in scores]
    tables = [_summary(scores, choices), *(_table(one, choices, tested) for one in scores)]
    tables.append(_cost(runs, choices, seeds, best))
    figures = {"differences": _differences(scores, names, tested)}
    captions = {
        "differences": (
            "Difference to CLIP with its 95 % interval. Blue: better, red: worse, grey: may be"
            " chance."
        ),
        "curves": "Score on the validation images during training, a line for each seed.",
    }
    if "attention" in (one.task for one in scores):
        models = {
            choice.name: runs.model(choice, best[choice.name], seeds[0]) for choice in choices
        }
        figures["attention"] = attention_figure(models, runs.data.test)
        captions["attention"] = (
            "Four test images, evenly spaced in the table, not selected. Blue outline: the region"
            " that the expert marked. Bright: attention of the method, first seed. Cross: its"
            " maximum."
        )
    figures["curves"] = curve_figure(_curves(runs, choices, seeds, best))
    values = {
        "tested": tested,
        "outcomes": {one.task: outcome(one) for one in measures},
        "learning_rates": best,
        "scores": {one.task: _values(one) for one in scores},
        "cost": {name: _seconds(runs, choice, seeds, best) for name, choice in zip(names, choices)},
        "forecast_seconds": record["forecast"],
        "seconds": record["seconds"],
    }
    return Result(
        "benchmark",
        _settings(record),
        plain(values),
        tables,
        figures,
        captions,
        notes=_notes(runs, choices, seeds, record),
        terms=["95 % interval", *(["R@k"]), *(["macro-F1"] if len(scores) > 2 else [])],
        title="Do the annotations help?",
        answer=answer(tested, measures, len(seeds)),
    )


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings as the page shows them: the model under the title, hashes at the end."""
    model = record["start"] or record["model"]
    rest = {key: value for key, value in record.items() if key not in ("data", "model")}
    return plain({"model": model, **rest, "data_hashes": record["data"]})


def _summary(scores: Sequence[TaskScores], choices: Sequence[Choice]) -> Table:
    """The first metric of every task, for all methods."""
    columns = ["method", *(f"{one.task}: {one.metrics[0]}" for one in scores), "what it is"]
    rows: list[list[Cell]] = [
        [
            choice.name,
            *(percent(one.score[choice.name][one.metrics[0]]) for one in scores),
            choice.what,
        ]
        for choice in choices
    ]
    attention = [one for one in scores if one.chance is not None]
    note = f"Mean over seeds with its 95 % interval, over seeds and {scores[0].images} test images."
    if attention:
        note += (
            f" The marked regions cover {100 * (attention[0].chance or 0):.0f} % of the image: a"
            " model without any preference attends inside as often as that."
        )
    return Table("At a glance", columns, rows, note)


def _table(scores: TaskScores, choices: Sequence[Choice], tested: str) -> Table:
    """Difference of each method from CLIP, and of the tested one from each method."""
    rows: list[list[Cell]] = []
    for metric in scores.metrics:
        for choice in choices:
            to_clip = scores.difference.get((choice.name, "CLIP"))
            lead = scores.difference.get((tested, choice.name))
            rows.append(
                [
                    metric,
                    choice.name,
                    percent(scores.score[choice.name][metric]),
                    points(to_clip[metric]) if to_clip else None,
                    points(lead[metric]) if lead else None,
                ]
            )
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
    epoch = max(1, runs.data.rows // runs.settings.batch_size)
    curves = {}
    for choice in choices:
        lines = [runs.curve(choice, best[choice.name], seed) for seed in seeds]
        curves[choice.name] = [
            ([line["epoch"] * epoch for line in part], [mean_rank(line) for line in part])
            for part in lines
        ]
    return curves


def _values(scores: TaskScores) -> dict[str, Any]:
    def numbers(intervals: dict[str, Interval]) -> dict[str, Any]:
        return {metric: dataclasses.asdict(interval) for metric, interval in intervals.items()}

    return {
        "images": scores.images,
        "methods": {name: numbers(score) for name, score in scores.score.items()},
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
    if not record["resumed"]:
        notes.append(
            f"It took {duration(record['seconds'])}; the forecast was"
            f" {duration(record['forecast'])} after the trial runs."
        )
    return notes
