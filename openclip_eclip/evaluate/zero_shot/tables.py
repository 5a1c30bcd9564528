"""Tables, figure and examples of a zero-shot result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...json_text import counted
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.classification import Numbers, confusion_matrix, floor_f1, measure, measure_multi
from ..inputs.eval_set import EvalSet
from ..output.result import Cell, Example, Result, Table, with_interval
from .protocols import Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = ("macro-F1", "balanced accuracy", "accuracy", "macro AUROC")
PATIENT = "patient"
EXAMPLES = 4  # of right answers, and as many of wrong answers


def single_label_result(
    data: EvalSet, classes: list[str], scores: np.ndarray, rule: Rule
) -> Result:
    """The result of a set with a column `label`; `scores` (N, K) float64."""
    labels = data.class_labels(classes)
    measured, intervals, resampling = _with_intervals(
        data, lambda rows: measure(labels[rows], scores[rows])
    )
    table = confusion_matrix(labels, scores.argmax(axis=1), len(classes))
    counts = table.sum(axis=1)
    is_binary = len(classes) == 2
    names = [*HEADLINE, *(["F1 of the positive class"] if is_binary else [])]
    names.sort(key=lambda name: name != rule.headline)
    present, largest = np.count_nonzero(counts), counts.max() / counts.sum()
    floors = {
        "macro-F1": floor_f1(largest) / present,
        "balanced accuracy": 1 / present,
        "accuracy": largest,
        "macro AUROC": 0.5,
    }
    if is_binary:
        floors["F1 of the positive class"] = floor_f1(counts[1] / counts.sum())
    headline = Table(
        "Over all classes",
        ["metric", "value", "95 % interval", "without skill"],
        [
            [_mark(name, rule), float(measured[name]), _interval(intervals[name]), floors[name]]
            for name in names
        ],
        f"{resampling} Without skill: the same answer for all images (the most frequent class; the"
        " positive class for its F1), or random scores (AUROC).",
    )
    rows: list[Sequence[Cell]] = []
    for k, name in enumerate(classes):
        cells = [
            with_interval(measured[metric][k], *(bound[k] for bound in intervals[metric]))
            for metric in ("F1", "precision", "recall", "AUROC")
        ]
        rows.append([name, *cells, int(counts[k]), counts[k] / counts.sum()])
    per_class = Table(
        "By class",
        ["class", "F1", "precision", "recall", "AUROC", "n", "prevalence"],
        rows,
        "In brackets: 95 % interval. There is no precision where no image was given the class."
        + (" AUROC of two classes is by the difference of their scores." if is_binary else ""),
    )
    return Result(
        "zero-shot",
        {},
        _values(measured, intervals, classes, counts, rule) | {"confusion_matrix": table},
        [headline, per_class],
        {"confusion_matrix": draw_confusion(table, classes)},
        {
            "confusion_matrix": (
                "Number of images of each true class (row) that were given each class (column), and"
                " their share of the row."
            )
        },
        choose_examples(data, classes, labels, scores),
        {
            "kind": np.array("classes"),
            "id": np.array(data.ids),
            "label": labels,
            "score": scores,
            "classes": np.array(classes),
        },
        _absent_notes(classes, counts) + _tie_notes(scores),
        [
            "macro-F1",
            *(["F1 of the positive class"] if is_binary else []),
            "balanced accuracy",
            "accuracy",
            "AUROC",
            "precision",
            "recall",
            "prevalence",
        ],
    )


def multi_label_result(data: EvalSet, classes: list[str], scores: np.ndarray, rule: Rule) -> Result:
    """The result of a set with a 0/1 column for each class; `scores` (N, K) float64.

    Only AUROC is measured: a decision would need a threshold for each class.
    """
    labels = data.multi_labels(classes)
    measured, intervals, resampling = _with_intervals(
        data, lambda rows: measure_multi(labels[rows], scores[rows])
    )
    known, positive = (~np.isnan(labels)).sum(axis=0), np.nansum(labels, axis=0).astype(int)
    headline = Table(
        "Over all classes",
        ["metric", "value", "95 % interval", "without skill"],
        [["macro AUROC", float(measured["macro AUROC"]), _interval(intervals["macro AUROC"]), 0.5]],
        resampling,
    )
    rows = [
        [
            name,
            with_interval(measured["AUROC"][k], *(bound[k] for bound in intervals["AUROC"])),
            int(positive[k]),
            int(known[k]),
            positive[k] / known[k] if known[k] else None,
        ]
        for k, name in enumerate(classes)
    ]
    per_class = Table(
        "By class",
        ["class", "AUROC", "positive", "n labelled", "prevalence"],
        rows,
        "In brackets: 95 % interval.",
    )
    values = _values(measured, intervals, classes, positive, rule) | {
        "labelled": dict(zip(classes, known, strict=True))
    }
    undefined = [
        f"Class {name!r} has {positive[k]} positive and {known[k] - positive[k]} negative samples:"
        " it has no AUROC and is left out of the mean."
        for k, name in enumerate(classes)
        if np.isnan(measured["AUROC"][k])
    ]
    return Result(
        "zero-shot",
        {},
        values,
        [headline, per_class],
        notes=undefined,
        terms=["AUROC", "prevalence"],
        predictions={
            "kind": np.array("binary"),
            "id": np.array(data.ids),
            "label": labels,
            "score": scores,
            "classes": np.array(classes),
        },
    )


def _with_intervals(
    data: EvalSet, statistic: Callable[[np.ndarray], Numbers]
) -> tuple[Numbers, dict[str, tuple[Any, Any]], str]:
    """(numbers, {name: (low, high)}, sentence on the resampling).

    Numbers that are undefined on the whole set have no interval.
    """
    groups = data.column(PATIENT) if PATIENT in data.table else None
    measured = statistic(np.arange(len(data)))
    shapes = {name: value.shape for name, value in measured.items()}
    flat = np.hstack([value.ravel() for value in measured.values()])
    defined = np.isfinite(flat)
    low, high = (np.full(len(flat), np.nan) for _ in range(2))
    low[defined], high[defined] = bootstrap_interval(
        lambda rows: np.hstack([value.ravel() for value in statistic(rows).values()])[defined],
        len(data),
        groups=groups,
    )
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    bounds = [
        dict(
            zip(
                shapes,
                (
                    part.reshape(shape)
                    for part, shape in zip(np.split(side, cuts), shapes.values(), strict=True)
                ),
                strict=True,
            )
        )
        for side in (low, high)
    ]
    count = (
        counted(len(set(groups)), "patient") if groups is not None else counted(len(data), "image")
    )
    return (
        measured,
        {name: (bounds[0][name], bounds[1][name]) for name in measured},
        f"Percentile bootstrap, 1 000 draws of {count}.",
    )


def _values(
    measured: Numbers,
    intervals: dict[str, tuple[Any, Any]],
    classes: list[str],
    counts: np.ndarray,
    rule: Rule,
) -> dict[str, Any]:
    def with_bounds(name: str, k: tuple[int, ...] = ()) -> dict[str, float]:
        return {
            "value": measured[name][k],
            "low": intervals[name][0][k],
            "high": intervals[name][1][k],
        }

    overall = {name: with_bounds(name) for name in measured if not measured[name].shape}
    by_class = {
        cls: {
            "n": counts[k],
            **{name: with_bounds(name, (k,)) for name in measured if measured[name].shape},
        }
        for k, cls in enumerate(classes)
    }
    headline = rule.headline if rule.headline in overall else "macro AUROC"
    return {
        "headline": {"metric": headline, **overall[headline]},
        "overall": overall,
        "by_class": by_class,
        "classes_counted": np.count_nonzero(counts),
        "prevalence": dict(zip(classes, counts / max(counts.sum(), 1), strict=True)),
    }


def _absent_notes(classes: list[str], counts: np.ndarray) -> list[str]:
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not absent:
        return []
    return [
        f"No sample is of {', '.join(absent)}, so there is no F1, recall or AUROC of it; means over"
        f" classes are over the {np.count_nonzero(counts)} of {len(classes)} classes with samples."
        " Absent classes stay among the answers, so a sample that is given one counts as wrong."
    ]


def _tie_notes(scores: np.ndarray) -> list[str]:
    ties = int(((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
    return (
        [
            f"{counted(ties, 'sample has', 'samples have')} equal highest scores; the first of"
            " these classes counts as answer."
        ]
        if ties
        else []
    )


def choose_examples(
    data: EvalSet, classes: list[str], labels: np.ndarray, scores: np.ndarray
) -> list[Example]:
    """The most certain right and wrong answers, by the margin to the second class.

    One of each true class comes first.
    """
    predicted = scores.argmax(axis=1)
    ordered = np.sort(scores, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    chosen = []
    for right in (True, False):
        rows = np.flatnonzero((predicted == labels) == right)
        rows = rows[np.argsort(-margin[rows], kind="stable")]
        first_of_class = np.zeros(len(rows), bool)
        first_of_class[np.unique(labels[rows], return_index=True)[1]] = True
        rows = np.concatenate([rows[first_of_class], rows[~first_of_class]])[:EXAMPLES]
        chosen += [(row, "right" if right else "wrong") for row in rows.tolist()]
    return [
        Example(
            data.thumbnail(row),
            [
                f"{verdict}: called {classes[predicted[row]]}, is {classes[labels[row]]}",
                "scores: "
                + ", ".join(
                    f"{classes[k]} {scores[row, k]:.3f}" for k in np.argsort(-scores[row])[:3]
                ),
                data.ids[row],
            ],
        )
        for row, verdict in chosen
    ]


def draw_confusion(table: np.ndarray, classes: Sequence[str]) -> Figure:
    """The confusion matrix (K, K): number and share of the row in each cell, shaded by share."""
    from matplotlib.figure import Figure

    count, totals = len(classes), table.sum(axis=1)
    share = table / np.maximum(totals, 1)[:, None]
    figure = Figure(figsize=(2.6 + 0.8 * count, 1.6 + 0.62 * count), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), number in np.ndenumerate(table):
        text = (f"{number}\n{share[i, j]:.0%}" if number else "0") if totals[i] else "–"
        axes.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold" if i == j else "normal",
            color="white" if share[i, j] > 0.55 else "#1c2733" if number else "#9aa8b7",
        )
    axes.set_xticks(range(count), classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(count), [f"{name} ({total})" for name, total in zip(classes, totals, strict=True)]
    )
    axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="called", ylabel="is (number)")
    figure.colorbar(picture, label="share of the row", fraction=0.05)
    return figure


def _mark(name: str, rule: Rule) -> str:
    return (
        f"{name} (the protocol's)" if rule.protocol is not None and name == rule.headline else name
    )


def _interval(bounds: Sequence[Any]) -> str | None:
    low, high = (float(bound) for bound in bounds)
    return None if np.isnan(low) else f"{low:.3f} to {high:.3f}"
