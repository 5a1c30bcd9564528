"""Training, validation and test data of a linear probe, split by patient.

No patient and no image is in two parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config import UserError
from ...data.images.options import read_options
from ...json_text import counted
from ...metrics.probe import split_groups
from ..inputs.eval_set import EvalSet, read_eval_set

PATIENT = "patient"
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validate": "valid",
    "test": "test",
}
SHARES = (0.6, 0.2, 0.2)  # of the patients of one table: train, valid, test
VALID_SHARE = 0.2  # of the training patients, if no validation set is given


@dataclass
class ProbeSet:
    """The rows of all sets in order.

    `labels` (N, K) float64: 1, 0 or NaN; `parts`: {"train", "valid", "test": row numbers}.
    """

    classes: list[str]
    labels: np.ndarray
    patients: list[str]  # the image stands for its patient if the patient is unknown
    images: list[str]
    ids: list[str]
    parts: dict[str, np.ndarray]
    by_patient: bool

    def digest(self, part: str) -> str:
        """SHA-256 over ids and labels of a part, for result.json."""
        rows = self.parts[part]
        content = [
            [self.ids[row] for row in rows],
            [str(value) for value in self.labels[rows].ravel()],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for one data set per part, or for one data set that is split."""
    parser.add_argument(
        "--train-data",
        metavar="T",
        help=(
            "training set: .csv, .tsv or .tar shards with labels, and a column 'patient' if"
            " patients are known"
        ),
    )
    parser.add_argument(
        "--val-data",
        metavar="V",
        help=(
            "validation set that chooses the regularisation strength C (default:"
            f" {VALID_SHARE:g} of the training patients, drawn by --seed)"
        ),
    )
    parser.add_argument("--test-data", metavar="S", help="test set; it is used for the scores only")
    parser.add_argument(
        "--data",
        help=(
            "one data set instead of the three; it is split 60 / 20 / 20 by patient, or by image"
            " if it has no column 'patient'"
        ),
    )
    parser.add_argument(
        "--split-column",
        metavar="COLUMN",
        help=(
            "column of --data with the part of each row: train, valid (or val, validate) or test,"
            " such as the column fold of openi-5. Without valid rows the validation set is drawn as"
            " without --val-data"
        ),
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help=(
            "classes: names of 0/1 columns, or the names in column 'label' in the order of their"
            " numbers. Of two names in 'label' the second is the positive class (default: the"
            " classes of the recipe beside the data)"
        ),
    )


def read_sets(args: argparse.Namespace) -> dict[str, EvalSet]:
    """{"data": set}, or sets for "train", "test" and perhaps "valid".

    UserError: the flags name neither form, or both.
    """
    three = {"train": args.train_data, "valid": args.val_data, "test": args.test_data}
    if args.data:
        if any(three.values()):
            raise UserError(
                "--data replaces --train-data, --val-data and --test-data; give --data alone, or"
                " leave it out."
            )
        wanted = {"data": args.data}
    elif not (args.train_data and args.test_data) or args.split_column:
        raise UserError(
            "expected --train-data and --test-data, or --data (with --split-column if it has such a"
            " column)."
        )
    else:
        wanted = {name: path for name, path in three.items() if path}
    return {
        name: read_eval_set(path, args.on_bad_sample == "skip", read_options(args))
        for name, path in wanted.items()
    }


def gather(
    sets: dict[str, EvalSet], classes: Sequence[str] | None, split_column: str | None, seed: int
) -> ProbeSet:
    """Join the sets; `seed` draws the parts that the data do not define.

    UserError: no classes, a wrong label or split, or a patient or image in two parts.
    """
    named = list(
        classes
        or next(
            (
                data.recipe["classes"]
                for data in reversed(sets.values())
                if data.recipe.get("classes")
            ),
            (),
        )
    )
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"classes {named}: {twice!r} occurs twice; expected each class once.")
    if not named:
        raise UserError(
            f"{list(sets.values())[-1].path}: no recipe with classes beside it; name the classes"
            " with --classes."
        )
    matrices = [_labels(data, named) for data in sets.values()]
    if len({matrix.shape[1] for matrix in matrices}) > 1:
        raise UserError(
            f"{[str(data.path) for data in sets.values()]}: some have the 0/1 columns {named},"
            " others a column 'label'; expected the same form in all."
        )
    if len(named) == 2 and matrices[0].shape[1] == 1:
        named = named[1:]
    images = [_image(data, row) for data in sets.values() for row in range(len(data))]
    by_patient = all(PATIENT in data.table for data in sets.values())
    patients = (
        [cell for data in sets.values() for cell in data.column(PATIENT)] if by_patient else images
    )
    patients = [patient or image for patient, image in zip(patients, images, strict=True)]
    ids = [name for data in sets.values() for name in data.ids]
    parts = _parts(sets, split_column, patients, seed)
    data = ProbeSet(named, np.concatenate(matrices), patients, images, ids, parts, by_patient)
    _refuse_leaks(data)
    return data


def _labels(data: EvalSet, classes: list[str]) -> np.ndarray:
    """Labels (N, K) float64 of 0/1 columns, or of column `label`: then K = 1 for two classes."""
    if set(classes) <= set(data.table.columns):
        return data.multi_labels(classes)
    if "label" not in data.table:
        missing = [name for name in classes if name not in data.table]
        raise UserError(
            f"{data.path}: no 0/1 column {missing[0]!r} and no column 'label'; found"
            f" {list(data.table.columns)}. Name the classes with --classes."
        )
    one_hot = np.eye(len(classes))[data.class_labels(classes)]
    return one_hot[:, 1:] if len(classes) == 2 else one_hot


def _image(data: EvalSet, row: int) -> str:
    image = data.images[row]
    return str(
        image.resolve() if isinstance(image, Path) else f"{image.shard.resolve()}/{image.key}"
    )


def _parts(
    sets: dict[str, EvalSet], split_column: str | None, patients: list[str], seed: int
) -> dict[str, np.ndarray]:
    if "data" in sets:
        if split_column is None:
            try:
                parts_of = split_groups(patients, SHARES, seed)
            except UserError as error:
                raise UserError(f"{sets['data'].path}: {error}") from error
            return dict(zip(("train", "valid", "test"), parts_of, strict=True))
        cells = sets["data"].column(split_column)
        for row, cell in enumerate(cells):
            if cell not in SPLIT_NAMES:
                raise UserError(
                    f"{sets['data'].name(row)}, column {split_column!r}: {cell!r}; expected one of "
                    f"{list(SPLIT_NAMES)}."
                )
        part_of = np.array([SPLIT_NAMES[cell] for cell in cells])
        for name in ("train", "test"):
            if name not in part_of:
                raise UserError(
                    f"{sets['data'].path}, column {split_column!r}: no row is {name!r}; expected at"
                    " least one."
                )
    else:
        part_of = np.repeat(list(sets), [len(data) for data in sets.values()])
    parts = {name: np.flatnonzero(part_of == name) for name in ("train", "valid", "test")}
    if not len(parts["valid"]):
        rows = parts["train"]
        train_rows, valid_rows = split_groups(
            [patients[row] for row in rows], (1 - VALID_SHARE, VALID_SHARE), seed
        )
        parts |= {"train": rows[train_rows], "valid": rows[valid_rows]}
    return parts


def _refuse_leaks(data: ProbeSet) -> None:
    for part, other in (("train", "test"), ("valid", "test"), ("train", "valid")):
        for kind, names in (("patient", data.patients), ("image", data.images)):
            both = sorted(
                {names[row] for row in data.parts[part]} & {names[row] for row in data.parts[other]}
            )
            if both and (kind == "image" or data.by_patient):
                shared = counted(len(both), f"{kind} is", f"{kind}s are")
                raise UserError(
                    f"{shared} both in {part} and in {other}, such as {', '.join(both[:3])};"
                    " expected each in one part only. Remove them from one of the parts."
                )
