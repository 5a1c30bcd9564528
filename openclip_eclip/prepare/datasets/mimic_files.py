"""Paths, ids and splits of MIMIC-CXR, shared by the three data sets of its images."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ...config import UserError
from ..plan import Item, Plan
from ..tables import find_table, read_numbers, read_table

SPLITS = ("train", "validate", "test")  # the official names: "validate", not "valid"
DICOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")  # 44 characters
IMAGE_PATH = re.compile(r"files/p(\d\d)/p(\d{8})/s(\d{8})/([^/]+)\.(?:dcm|jpg)$")


def add_exclusion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude-subjects",
        type=Path,
        action="append",
        default=[],
        metavar="TABLE",
        help=(
            "leaves out all patients of this table (column patient or subject_id), such as the"
            " mimic-5x200.csv of an earlier run; may be repeated"
        ),
    )


def image_path(root: Path, subject: str, study: str, dicom: str) -> Path:
    """The JPEG of an image in MIMIC-CXR-JPG."""
    return root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg"


def report_path(root: Path, subject: str, study: str) -> Path:
    """The report of a study: a file beside the study's folder, not in it."""
    return root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"


def read_place(path: str, where: str) -> tuple[str, str, str]:
    """(subject, study, dicom_id) of ".../files/p19/p19999999/s59999999/<dicom_id>.dcm".

    Raises:
        UserError: the path has another form; the message begins with `where`.
    """
    match = IMAGE_PATH.search(path.strip())
    if match is None or match[2][:2] != match[1]:
        raise UserError(
            f"{where}: {path!r}; expected .../files/pNN/pNNNNNNNN/sNNNNNNNN/<dicom_id>.dcm."
        )
    return match[2], match[3], PurePosixPath(path.strip()).stem


def check_id(dicom: str, where: str) -> None:
    """UserError, beginning with `where`, unless this is a dicom_id."""
    if not DICOM_ID.fullmatch(dicom):
        raise UserError(
            f"{where}: {dicom!r}; expected a dicom_id of 44 characters, five groups of eight hex"
            " digits."
        )


def check_unique(frame: pd.DataFrame, column: str, table: Path) -> None:
    """UserError if a value of this column occurs twice."""
    repeated = frame[column].duplicated()
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise UserError(
            f"{table}, row {row + 1}, column {column!r}: {frame[column].iat[row]!r} occurs twice;"
            " expected each once."
        )


def find_metadata(images: Path) -> Path:
    """The table of image sizes, views and studies; release 2.1.0 uses the same file name."""
    return find_table(images, "mimic-cxr-2.0.0-metadata.csv")


def read_sizes(table: Path, wanted: set[str]) -> dict[str, tuple[int, int]]:
    """{dicom_id: (height, width)} in pixels of the wanted images.

    Raises:
        UserError: a size is not a positive number.
    """
    frame = read_table(table, ["dicom_id", "Rows", "Columns"])
    rows = np.flatnonzero(frame["dicom_id"].isin(wanted))
    numbers = read_numbers(frame.iloc[rows], ["Rows", "Columns"])
    wrong = ~(numbers > 0).all(axis=1)
    if wrong.any():
        row = int(rows[np.flatnonzero(wrong)[0]])
        raise UserError(
            f"{table}, row {row + 1}, columns 'Rows' and 'Columns': {frame['Rows'].iat[row]!r}, "
            f"{frame['Columns'].iat[row]!r}; expected the image's height and width in pixels."
        )
    return {
        frame["dicom_id"].iat[row]: (int(height), int(width))
        for row, (height, width) in zip(rows, numbers)
    }


def read_official_splits(images: Path) -> tuple[dict[str, str], Path]:
    """{dicom_id: train, validate or test}, and the table of these splits."""
    table = find_table(images, "mimic-cxr-2.0.0-split.csv")
    frame = read_table(table, ["dicom_id", "split"])
    check_unique(frame, "dicom_id", table)
    for i, split in enumerate(frame["split"]):
        check_split(split, f"{table}, row {i + 1}, column 'split'")
    return dict(zip(frame["dicom_id"], frame["split"])), table


def check_split(split: str, where: str) -> None:
    """UserError, beginning with `where`, unless this is an official split."""
    if split not in SPLITS:
        raise UserError(f"{where}: {split!r}; expected one of {', '.join(SPLITS)}.")


def read_excluded(plan: Plan, tables: Iterable[Path]) -> set[str]:
    """Subject ids of all rows of the tables; the tables are added to the plan."""
    excluded: set[str] = set()
    for path in tables:
        table = find_table(path.parent, path.name)
        frame = read_table(table, [])
        column = next(
            (name for name in ("patient", "subject_id", "patient_id") if name in frame), None
        )
        if column is None:
            raise UserError(
                f"{table}: no column 'patient' or 'subject_id'; found {list(frame.columns)}."
            )
        plan.tables.append(table)
        excluded.update(subject.strip().removeprefix("p") for subject in frame[column])
    return excluded


def without_subjects(plan: Plan, items: list[Item], excluded: set[str], reason: str) -> list[Item]:
    """The items of all other patients; the excluded ones are counted under `reason`."""
    kept = []
    for item in items:
        if item.patient in excluded:
            plan.leave_out(reason, item.key)
        else:
            kept.append(item)
    return kept
