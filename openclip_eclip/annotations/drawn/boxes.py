"""Tables of boxes (CSV or TSV): VinDr-CXR, NIH's BBox_List, RSNA, or any names of columns.

A box is xmin, ymin, xmax, ymax, or x, y, width, height with (x, y) its top left corner. Pixels or
fractions: that is found over the whole table. A row without a box says that the image was looked
at.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.tables.missing_text import is_missing
from ...data.tables.near_names import did_you_mean
from ...data.tables.text import line_of, read_table_text, sniff_separator
from ...gaze.plausible import find_fractions
from ...json_text import show
from ..record import NOTHING_DRAWN, Drawing, LeaveOut, Record
from .box_columns import BoxColumns, guess_columns, named_columns
from .values import box_of, check_on_image, parse_number, parse_side

HEAD = 1 << 16  # bytes
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
RSNA = {"patientId", "x", "y", "width", "height", "Target"}  # its boxes have no name in the table
RSNA_LABEL = "lung opacity"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--box-columns",
        metavar="NAMES",
        help=(
            "columns of a table of boxes, with commas between: image,xmin,ymin,xmax,ymax[,label"
            "[,annotator]] or image,x,y,width,height... (default: guessed from the header); needs"
            " --annotation-format boxes"
        ),
    )
    parser.add_argument(
        "--box-form",
        choices=("corners", "sides"),
        help=(
            "what --box-columns names: corners (xmin, ymin, xmax, ymax) or sides (x, y, width,"
            " height) (default: by the names)"
        ),
    )


def claims(path: Path, head: bytes) -> bool:
    """Whether the header has an image and a box, and nothing of a table of gaze."""
    if not path.name.lower().endswith(SUFFIXES):
        return False
    return guess_columns(read_header(path)) is not None


def read_header(path: Path) -> list[str]:
    """The names in the first line that is not blank; [] if the file cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = file.read(HEAD).decode("utf-8-sig", "replace").splitlines()
        line = next((line for line in lines if line.strip()), "")
        return next(csv.reader([line], delimiter="\t" if "\t" in line else ","), [])
    except (OSError, EOFError, zlib.error, csv.Error):
        return []


def accepts(path: Path) -> bool:
    """Whether a file in a folder is read if the user names this format."""
    return path.name.lower().endswith(SUFFIXES)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """One drawing for each box, in the order of the tables.

    Raises:
        UserError: no such columns, a cell that is no number, an empty box, mixed units.
    """
    given = getattr(args, "box_columns", None)
    form = getattr(args, "box_form", None)
    if form and not given:
        raise UserError(f"--box-form {form} without --box-columns; expected both.")
    for path in files:
        columns = named_columns(given, form) if given else guess_columns(read_header(path))
        if columns is None:
            raise UserError(
                f"{path}: no columns of an image and a box among {show(read_header(path))}; name"
                " them with --box-columns image,xmin,ymin,xmax,ymax[,label[,annotator]]."
            )
        yield from drawings(path, columns, leave_out)


def drawings(path: Path, columns: BoxColumns, leave_out: LeaveOut) -> Iterator[Drawing]:
    """One drawing for each row with a box. UserError: see `read`."""
    frame, _, lines = read_table_text(path, sniff_separator(path), used=columns.used)
    for name in columns.used:
        if name not in frame:
            hint = did_you_mean(name, frame.columns)
            raise UserError(f"{path}: no column {name!r}; found {show(list(frame.columns))}.{hint}")
    where = [f"{path}, row {i}{line_of(lines, i)}" for i in range(1, len(frame) + 1)]
    images = np.array(frame[columns.image].str.strip(), dtype=object)
    for i in np.flatnonzero(images == "")[:1]:
        raise UserError(f"{where[i]}, column {columns.image!r}: blank; expected an image.")
    blank = frame[list(columns.box)].map(is_missing).to_numpy()
    for i in np.flatnonzero(blank.any(axis=1) & ~blank.all(axis=1))[:1]:
        name = columns.box[int(np.argmax(blank[i]))]
        raise UserError(f"{where[i]}, column {name!r}: blank; expected four numbers, or none.")
    drawn = np.flatnonzero(~blank.any(axis=1))
    for i in np.flatnonzero(blank.all(axis=1)):
        leave_out(NOTHING_DRAWN, where[i])
    boxes = _corners(frame, columns, drawn, where)
    fractions = find_fractions(boxes, [where[i] for i in drawn])
    fixed = RSNA_LABEL if set(frame) == RSNA else ""
    labels = frame[columns.label].str.strip().tolist() if columns.label else [fixed] * len(frame)
    annotators = (
        frame[columns.annotator].str.strip().tolist() if columns.annotator else [""] * len(frame)
    )
    sizes = [frame[name].tolist() for name in columns.size]
    for i, box in zip(drawn.tolist(), boxes):
        size = _size(columns, [cells[i] for cells in sizes], where[i])
        shape = box_of(box.tolist(), where[i])
        check_on_image(shape, (1, 1) if fractions else size, where[i])
        label = "" if is_missing(labels[i]) else labels[i]
        yield Drawing(images[i], shape, where[i], label, annotators[i], size, fractions, path)


def _corners(
    frame: pd.DataFrame, columns: BoxColumns, drawn: np.ndarray, where: Sequence[str]
) -> np.ndarray:
    """(N, 4) of xmin, ymin, xmax, ymax of the rows with a box."""
    cells = frame[list(columns.box)].iloc[drawn]
    boxes = np.array(cells.apply(pd.to_numeric, errors="coerce"), dtype=np.float64)
    for i, j in np.argwhere(~np.isfinite(boxes))[:1]:
        parse_number(cells.iat[i, j], f"column {columns.box[j]!r}", where[drawn[i]])
    if not columns.corners:
        boxes[:, 2:] += boxes[:, :2]
    return boxes


def _size(columns: BoxColumns, cells: Sequence[str], where: str) -> tuple[int, int] | None:
    """(height, width) of the image, if the table has it."""
    if not cells or any(map(is_missing, cells)):
        return None
    height, width = (
        parse_side(cell, f"column {name!r}", where) for name, cell in zip(columns.size, cells)
    )
    return height, width
