"""Tables of phrases (CSV or TSV), each with its region on an image, or without one.

A row has an image (filepath), a `phrase`, and one region: a box in the columns that tables of boxes
have, an outline or mask in COCO's form in a column `segmentation`, or the file of a mask in a
column `mask`. Several rows of one image and phrase are several regions. A row without a region says
that the image does not show the phrase.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ...config import UserError
from ...data.tables.csv_source import locate
from ...data.tables.missing_text import file_cell, is_missing
from ...data.tables.text import line_of, read_table_text, sniff_separator
from ...gaze import Annotation, MaskFile
from ...json_text import parse_json, show
from ..record import Absent, Drawing, LeaveOut, Record
from . import boxes
from .box_columns import ANNOTATOR, IMAGE, BoxColumns, first_of, guess_columns, simplified
from .coco import read_shape

PHRASE = ("phrase",)
OUTLINE = ("segmentation", "polygon", "polygons", "rle")
MASK = ("mask", "maskpath", "maskfile")


@dataclass(frozen=True)
class Columns:
    """Names of columns; "" or None: the table has none."""

    image: str
    phrase: str
    box: BoxColumns | None
    outline: str
    mask: str
    annotator: str


def claims(path: Path, head: bytes) -> bool:
    """Whether the header has an image, a phrase and a region."""
    return boxes.accepts(path) and _columns(boxes.read_header(path)) is not None


accepts = boxes.accepts


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """The boxes of each table, then its outlines and masks, then the phrases without a region.

    Raises:
        UserError: no such columns, a blank image or phrase, two regions in a row, a broken region.
    """
    for path in files:
        header = boxes.read_header(path)
        columns = _columns(header)
        if columns is None:
            raise UserError(
                f"{path}: columns {show(header)}; expected filepath, phrase, and a region: a box"
                " such as x, y, w, h, or segmentation, or mask."
            )
        yield from _read_table(path, columns, leave_out)


def _columns(header: Sequence[str]) -> Columns | None:
    names = simplified(header)
    image, phrase, outline, mask, annotator = (
        first_of(names, usual) for usual in (IMAGE, PHRASE, OUTLINE, MASK, ANNOTATOR)
    )
    box = guess_columns(header)
    if not (image and phrase and (box or outline or mask)):
        return None
    if box is not None:
        box = replace(box, image=image, label=phrase, annotator=annotator)
    return Columns(image, phrase, box, outline, mask, annotator)


def _read_table(path: Path, columns: Columns, leave_out: LeaveOut) -> Iterator[Record]:
    frame, _, lines = read_table_text(path, sniff_separator(path))
    regions = [name for name in (columns.outline, columns.mask) if name]
    box = columns.box.box[0] if columns.box else ""
    others: list[Record] = []
    for i, row in enumerate(frame.to_dict("records"), 1):
        where = f"{path}, row {i}{line_of(lines, i)}"
        image, phrase = row[columns.image].strip(), row[columns.phrase].strip()
        for name, cell in ((columns.image, image), (columns.phrase, phrase)):
            if is_missing(cell):
                raise UserError(f"{where}, column {name!r}: blank; expected an image and a phrase.")
        given = [name for name in (*regions, box) if name and not is_missing(row[name])]
        if len(given) > 1:
            raise UserError(
                f"{where}, columns {', '.join(map(repr, given))}: {len(given)} regions; expected"
                " one in a row. Give each a row of its own."
            )
        if not given:
            others.append(Absent(image, phrase, where))
        elif given[0] != box:
            place = f"{where}, column {given[0]!r}"
            shape = _shape(given[0] == columns.mask, row[given[0]], path, place, leave_out)
            annotator = row[columns.annotator].strip() if columns.annotator else ""
            if shape is not None:
                others.append(Drawing(image, shape, place, phrase, annotator, file=path))
    drawn = boxes.drawings(path, columns.box, _nothing) if columns.box else ()
    yield from chain(drawn, others)


def _nothing(reason: str, where: str) -> None:
    """Rows without a box are read here, not left out."""


def _shape(
    is_mask: bool, cell: str, path: Path, where: str, leave_out: LeaveOut
) -> Annotation | None:
    if is_mask:
        file = locate(file_cell(cell), path.parent)
        if not file.is_file():
            raise UserError(f"{where}: {file}: no such file; expected a mask.")
        return MaskFile(file)
    value: Any = parse_json(cell, where, object)
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]  # one outline, as x, y, x, y, ...
    return read_shape({"segmentation": value}, None, where, leave_out)
