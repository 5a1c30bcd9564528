"""What a linear probe learns from and is tested on: labelled sets, split by patient, nobody on two
sides.
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
SHARES = (0.6, 0.2, 0.2)  # train, valid, test of one table
VALID_SHARE = 0.2  # of the training patients, where no validation set is given


@dataclass
class ProbeSet:
    """Rows of all sets in order. `labels` (N, K) 1, 0 or NaN; `parts`: {"train", "valid", "test":
    row numbers}.
    """

    classes: list[str]
    labels: np.ndarray
    patients: list[str]  # the image itself where no patient is known
    images: list[str]
    ids: list[str]
    parts: dict[str, np.ndarray]
    by_patient: bool

    def digest(self, part: str) -> str:
        """SHA-256 over ids and labels of a part, for the record."""
        rows = self.parts[part]
        content = [
            [self.ids[row] for row in rows],
            [str(value) for value in self.labels[rows].ravel()],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Either a set for each part, or one to split."""
    parser.add_argument(
        "--train-data",
        metavar="T",
        help=".csv, .tsv or .tar shards with labels, and column 'patient' where known",
    )
    parser.add_argument(
        "--val-data",
        metavar="V",
        help=f"chooses C (default: {VALID_SHARE:g} of the training patients, by the seed)",
    )
    parser.add_argument("--test-data", metavar="S", help="is scored, nothing else")
    parser.add_argument(
        "--data",
        help=(
            "one set instead of the three, split 60 / 20 / 20 by patient (by image without that"
            " column)"
        ),
    )
    parser.add_argument(
        "--split-column",
        metavar="COLUMN",
        help=(
            "of --data: holds train, valid (or val, validate) and test, such as the fold of"
            " openi-5; without valid, as without --val-data"
        ),
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help=(
            "0/1 columns, or the names in column 'label' in the order of their numbers; of two"
            " names in 'label' the second is the positive one (default: of the recipe beside the"
            " set)"
        ),
    )


def read_sets(args: argparse.Namespace) -> dict[str, EvalSet]:
    """{"data": set}, or train, valid (perhaps) and test. UserError: neither form, or both."""
    three = {"train": args.train_data, "valid": args.val_data, "test": args.test_data}
    if args.data:
        if any(three.values()):
            raise UserError(
                "--data stands for all of --train-data, --val-data and --test-data; give it or"
                " them."
            )
        wanted = {"data": args.data}
    elif not (args.train_data and args.test_data) or args.split_column:
        raise UserError(
            "expected --train-data and --test-data, or --data (with --split-column, if it has one)."
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
    """Labels and parts of the sets' rows in order. UserError: no classes, a bad label or split, or
    someone in two parts.
    """
    named = list(
        classes
        or next(
            (
                found.recipe["classes"]
                for found in reversed(sets.values())
                if found.recipe.get("classes")
            ),
            (),
        )
    )
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"classes {named}: {twice!r} stands there twice; expected each once.")
    if not named:
        raise UserError(
            f"{list(sets.values())[-1].path}: no recipe with classes beside it; name them with"
            " --classes."
        )
    matrices = [_labels(found, named) for found in sets.values()]
    if len({matrix.shape[1] for matrix in matrices}) > 1:
        raise UserError(
            f"{[str(found.path) for found in sets.values()]}: some have the 0/1 columns {named},"
            " others a column 'label'; expected one form in all."
        )
    if len(named) == 2 and matrices[0].shape[1] == 1:
        named = named[1:]
    images = [_image(found, row) for found in sets.values() for row in range(len(found))]
    by_patient = all(PATIENT in found.table for found in sets.values())
    patients = (
        [cell for found in sets.values() for cell in found.column(PATIENT)]
        if by_patient
        else images
    )
    patients = [patient or image for patient, image in zip(patients, images, strict=True)]
    ids = [name for found in sets.values() for name in found.ids]
    parts = _parts(sets, split_column, patients, seed)
    found = ProbeSet(named, np.concatenate(matrices), patients, images, ids, parts, by_patient)
    _refuse_leaks(found)
    return found


def _labels(data: EvalSet, classes: list[str]) -> np.ndarray:
    """(N, K) of 0/1 columns, or of column `label`: K = 1 for two classes."""
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
                drawn = split_groups(patients, SHARES, seed)
            except UserError as error:
                raise UserError(f"{sets['data'].path}: {error}") from error
            return dict(zip(("train", "valid", "test"), drawn, strict=True))
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
                    f"{sets['data'].path}, column {split_column!r}: no row is {name!r}."
                )
    else:
        part_of = np.repeat(list(sets), [len(found) for found in sets.values()])
    parts = {name: np.flatnonzero(part_of == name) for name in ("train", "valid", "test")}
    if not len(parts["valid"]):
        rows = parts["train"]
        kept, chosen = split_groups(
            [patients[row] for row in rows], (1 - VALID_SHARE, VALID_SHARE), seed
        )
        parts |= {"train": rows[kept], "valid": rows[chosen]}
    return parts


def _refuse_leaks(data: ProbeSet) -> None:
    for one, other in (("train", "test"), ("valid", "test"), ("train", "valid")):
        for kind, names in (("patients", data.patients), ("images", data.images)):
            both = sorted(
                {names[row] for row in data.parts[one]} & {names[row] for row in data.parts[other]}
            )
            if both and (kind == "images" or data.by_patient):
                raise UserError(
                    f"{len(both)} {kind} are both in {one} and in {other}, such as"
                    f" {', '.join(both[:3])}; expected everybody on one side. Remove them from one"
                    " of the sets."
                )
