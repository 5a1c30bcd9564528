"""Predictions of several methods, each with several seeds, in one common order of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...json_text import read_json
from ...metrics.resampled import AurocScorer, ClassScorer, MeanScorer, RankScorer, Scorer
from ..output.result import read_predictions

Predictions = dict[str, np.ndarray]


@dataclass
class Method:
    """The results of one method, a folder for each seed.

    `runs`: the predictions of each seed, in the order of the first method's first result;
    `records`: the content of each result.json.
    """

    name: str
    folders: list[Path]
    runs: list[Predictions]
    records: list[dict[str, Any]]

    @property
    def facts(self) -> list[tuple[Any, Any]]:
        """(task, protocol) of each folder."""
        return [
            (record.get("task"), record.get("settings", {}).get("protocol"))
            for record in self.records
        ]

    @property
    def maps(self) -> str:
        """The attention methods whose maps were measured, of results of grounding; else ""."""
        settings = [
            record["settings"] for record in self.records if record.get("task") == "grounding"
        ]
        return ", ".join(dict.fromkeys(one["methods"][0] for one in settings))


def read_methods(words: Sequence[str]) -> list[Method]:
    """Methods from words of the form `NAME=FOLDER[,FOLDER...]` or `FOLDER`.

    UserError: fewer than two methods, equal names, or different test sets.
    """
    named = [_parse(word) for word in words]
    names = [name for name, _ in named]
    if len(named) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"compare {' '.join(words)}: {names}; expected two or more methods with different"
            " names, as NAME=FOLDER,FOLDER."
        )
    first = named[0][1][0]
    reference = read_predictions(first)
    methods = [
        Method(
            name,
            folders,
            [_aligned(read_predictions(folder), folder, reference, first) for folder in folders],
            [_record(folder) for folder in folders],
        )
        for name, folders in named
    ]
    for method in methods:
        if len(set(method.folders)) < len(method.folders):
            raise UserError(
                f"{method.name}: the same folder twice; expected a different run for each seed."
            )
    return methods


def scorer(method: Method) -> Scorer:
    """The metrics that fit the kind of its predictions. UserError: a score is NaN."""
    first = method.runs[0]
    kind = str(first["kind"])
    values = np.stack([run["rank" if kind == "ranks" else "score"] for run in method.runs]).astype(
        np.float64
    )
    if np.isnan(values).any():
        raise UserError(
            f"{method.name}: {int(np.isnan(values).sum())} predictions are NaN; expected numbers."
        )
    if kind == "ranks":
        return RankScorer(values)
    classes = first["classes"].tolist()
    if kind == "means":
        return MeanScorer(values, classes)
    if kind == "classes":
        return ClassScorer(first["label"], values.argmax(2), classes)
    return AurocScorer(first["label"], values, classes)


def _parse(word: str) -> tuple[str, list[Path]]:
    if Path(word).is_dir():
        return word, [Path(word)]
    name, _, folders = word.rpartition("=")
    if not name or not folders:
        raise UserError(
            f"compare {word}: no such folder; expected FOLDER or NAME=FOLDER[,FOLDER...]."
        )
    return name, [Path(folder) for folder in folders.split(",") if folder]


def _record(folder: Path) -> dict[str, Any]:
    """The content of result.json, {} if there is none. UserError: not a JSON object."""
    path = folder / "result.json"
    if not path.is_file():
        return {}
    record = read_json(path)
    if not isinstance(record.get("settings", {}), dict):
        raise UserError(
            f"{path}: not a record of a result; expected the file of an evaluation, with its"
            " settings."
        )
    return record


def _aligned(
    predictions: Predictions, folder: Path, reference: Predictions, first: Path
) -> Predictions:
    """`predictions` in the order of `reference`.

    UserError: kind, ids, classes or labels differ.
    """
    kind, expected_kind = str(predictions["kind"]), str(reference["kind"])
    if kind != expected_kind:
        raise UserError(
            f"{folder} holds {kind}, {first} holds {expected_kind}; expected results of one kind of"
            " task."
        )
    if kind != "ranks" and predictions["classes"].tolist() != reference["classes"].tolist():
        raise UserError(
            f"{folder} has classes {predictions['classes'].tolist()}, {first}"
            f" {reference['classes'].tolist()}; expected the same."
        )
    ids, expected = predictions["id"].tolist(), reference["id"].tolist()
    if ids != expected:
        predictions = _reordered(predictions, folder, expected, first)
    if "label" in predictions and not np.array_equal(
        predictions["label"], reference["label"], equal_nan=True
    ):
        mine, theirs = predictions["label"], reference["label"]
        # a label that is blank (NaN) in both results is equal
        wrong = ~((mine == theirs) | ((mine != mine) & (theirs != theirs)))
        rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))
        raise UserError(
            f"{folder} and {first}: {len(rows)} of {len(expected)} samples have other labels, the"
            f" first {expected[rows[0]]!r}; expected the same test set."
        )
    return predictions


def _reordered(
    predictions: Predictions, folder: Path, expected: list[str], first: Path
) -> Predictions:
    """`predictions` in the order of the ids `expected`. UserError: other ids, or repeated ones."""
    row_of = {name: i for i, name in enumerate(predictions["id"].tolist())}
    unmatched = [
        [name for name in names if name not in others]
        for names, others in ((list(row_of), set(expected)), (expected, row_of))
    ]
    if any(unmatched):
        listed = "; ".join(
            f"{len(names)} only in {where}"
            f" ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            for names, where in zip(unmatched, (folder, first), strict=True)
            if names
        )
        raise UserError(
            f"{folder} ({len(row_of)} samples) and {first} ({len(set(expected))}) are of different"
            f" test sets: {listed}."
        )
    if len(row_of) < len(predictions["id"]) or len(set(expected)) < len(expected):
        raise UserError(
            f"{folder} and {first}: ids that occur twice, in another order; expected one id for"
            " each sample."
        )
    order = [row_of[name] for name in expected]
    per_sample = {key for key, values in predictions.items() if values.ndim and key != "classes"}
    return {
        key: values[order] if key in per_sample else values for key, values in predictions.items()
    }
