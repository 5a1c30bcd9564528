"""The predictions of several methods, each with several seeds, brought into one order of
samples.
"""

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
    """`runs`: predictions a seed, all in the order of the first result; `records`: what each
    folder's result.json holds.
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


def read_methods(words: Sequence[str]) -> list[Method]:
    """`NAME=FOLDER[,FOLDER...]` or `FOLDER` each; UserError for fewer than two, equal names, or
    sets that differ.
    """
    named = [_parse(word) for word in words]
    names = [name for name, _ in named]
    if len(named) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"compare {' '.join(words)}: {names}; expected two or more methods with names of their"
            " own, as NAME=FOLDER,FOLDER."
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
            raise UserError(f"{method.name}: the same folder twice; seeds are different runs.")
    return methods


def scorer(method: Method) -> Scorer:
    """What measures it; UserError for a score that is NaN."""
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
    """Of result.json; {} where there is none. UserError where it is no JSON object."""
    path = folder / "result.json"
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found.get("settings", {}), dict):
        raise UserError(
            f"{path}: no record of a result; expected what an evaluation wrote, with its settings."
        )
    return found


def _aligned(found: Predictions, folder: Path, reference: Predictions, first: Path) -> Predictions:
    """`found` in the reference's order; UserError where kind, ids, classes or labels differ."""
    kinds = str(found["kind"]), str(reference["kind"])
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{folder} holds {kinds[0]}, {first} holds {kinds[1]}; expected results of one kind of"
            " task."
        )
    if kinds[0] != "ranks" and found["classes"].tolist() != reference["classes"].tolist():
        raise UserError(
            f"{folder} has classes {found['classes'].tolist()}, {first}"
            f" {reference['classes'].tolist()}; expected the same."
        )
    ids, expected = found["id"].tolist(), reference["id"].tolist()
    if ids != expected:
        found = _reordered(found, folder, expected, first)
    if "label" in found and not np.array_equal(found["label"], reference["label"], equal_nan=True):
        mine, theirs = found["label"], reference["label"]
        # blank (NaN) in both is equal
        wrong = ~((mine == theirs) | ((mine != mine) & (theirs != theirs)))
        rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))
        raise UserError(
            f"{folder} and {first}: {len(rows)} of {len(expected)} samples have other labels, the"
            f" first {expected[rows[0]]!r}; expected the same test set."
        )
    return found


def _reordered(found: Predictions, folder: Path, expected: list[str], first: Path) -> Predictions:
    place = {name: i for i, name in enumerate(found["id"].tolist())}
    only = [
        [name for name in own if name not in other]
        for own, other in ((list(place), set(expected)), (expected, place))
    ]
    if any(only):
        said = "; ".join(
            f"{len(names)} only in {where}"
            f" ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            for names, where in zip(only, (folder, first), strict=True)
            if names
        )
        raise UserError(
            f"{folder} ({len(place)} samples) and {first} ({len(set(expected))}) are of different"
            f" sets: {said}."
        )
    if len(place) < len(found["id"]) or len(set(expected)) < len(expected):
        raise UserError(
            f"{folder} and {first}: ids that occur twice, in another order; expected one id a"
            " sample."
        )
    order = [place[name] for name in expected]
    rows = {key for key in found if found[key].ndim and key != "classes"}
    return {key: value[order] if key in rows else value for key, value in found.items()}
