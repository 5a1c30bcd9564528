"""Scores of all methods on the test data, and differences, with intervals over seeds and images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...evaluate.compare.comparison import compare
from ...evaluate.compare.read import Method as Compared
from ...evaluate.compare.read import read_methods
from ...evaluate.grounding.attention import FLOORS
from ...evaluate.grounding.priors import MEAN_MAP, PRIORS
from ...metrics.compare import Estimate
from .data import GROUNDING
from .methods import Choice
from .verdict import Control, Interval, Measure

DRAWS = 1000
UNBOUNDED = ("NSS",)  # in standard deviations of a map; all other scores are shares
# task of openclip_eclip.evaluate: (its name in the report, metrics, the first one is in the answer)
TASKS = {
    GROUNDING: ("attention", ("pointing game", "NSS", "mIoU")),
    "retrieval": ("retrieval", ("R@5", "R@1", "R@10")),
    "zero-shot": ("zero-shot", ("macro-F1", "accuracy")),
}
Folders = dict[str, list[Path]]  # {method: results of its seeds}


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """All scores of one task.

    `score` {method: {metric: Interval}}; `difference` {(method, reference): {metric: Interval}};
    `priors` {prior: {metric: Interval}}: maps that need no model, for attention alone. Their
    intervals are over images.
    """

    task: str
    images: int
    metrics: Sequence[str]
    score: dict[str, dict[str, Interval]]
    difference: dict[tuple[str, str], dict[str, Interval]]
    priors: dict[str, dict[str, Interval]] = dataclasses.field(default_factory=dict)


def score_task(task: str, folders: Folders, test: Path, with_patients: bool) -> TaskScores:
    """Compare all methods with each other method. Intervals draw patients if these are known."""
    name, metrics = TASKS[task]
    words = [f"{method}={','.join(map(str, results))}" for method, results in folders.items()]
    methods = read_methods(words)
    if with_patients:
        patient_of = dict(
            pd.read_csv(test, dtype=str, keep_default_na=False)[["filepath", "patient"]].values
        )
        for method in methods:
            for run in method.runs:
                if "patient" in run:  # grounding knows them
                    continue
                run["patient"] = np.array([patient_of[row] for row in run["id"]])
    score, difference = {}, {}
    for reference in methods:
        others = [method for method in methods if method is not reference]
        compared = compare([reference, *others], DRAWS, 0)
        known = [metric for metric in metrics if metric in compared.statistics]
        index = {metric: compared.statistics.index(metric) for metric in known}
        score[reference.name] = _intervals(compared.means[reference.name], index, 0.0)
        for other, estimate in compared.differences.items():
            difference[other, reference.name] = _intervals(estimate, index, -1.0)
    priors = _priors(methods[0], known) if task == GROUNDING else {}
    return TaskScores(name, len(methods[0].runs[0]["id"]), known, score, difference, priors)


def _intervals(estimate: Estimate, index: dict[str, int], least: float) -> dict[str, Interval]:
    """{metric: interval}; a share is cut to its values (from 0), or a difference (from -1)."""
    return {
        metric: Interval(
            float(estimate.value[q]),
            max(-np.inf if metric in UNBOUNDED else least, float(estimate.low[q])),
            min(np.inf if metric in UNBOUNDED else 1.0, float(estimate.high[q])),
        )
        for metric, q in index.items()
    }


def _priors(method: Compared, metrics: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """The scores of maps that need no model, so they are the same in every result."""
    text = (method.folders[0] / "result.json").read_text(encoding="utf-8")
    measured = json.loads(text)["values"]["methods"]
    return {
        name: {
            metric: Interval(measured[name][metric]["value"], *measured[name][metric]["interval"])
            for metric in metrics
        }
        for name in (*FLOORS, *PRIORS)
    }


def measure(scores: TaskScores, tested: str, choices: Sequence[Choice]) -> Measure:
    """The measure of the method `tested` in the answer, with all its controls."""
    metric = scores.metrics[0]
    controls = [
        Control(
            choice.name,
            "placebo" in choice.name,
            scores.score[choice.name][metric],
            scores.difference[tested, choice.name][metric],
        )
        for choice in choices
        if tested in choice.control_of
    ]
    return Measure(
        scores.task,
        metric,
        scores.images,
        scores.score[tested][metric],
        scores.score["CLIP"][metric],
        scores.difference[tested, "CLIP"][metric],
        controls,
        scores.priors[MEAN_MAP][metric] if scores.priors else None,
    )
