"""YOLO txt: a file an image, a row for each object, all positions as fractions of the image.

`class x y width height` is a box by its centre; a sixth number is the confidence of a model.
`class x1 y1 x2 y2 x3 y3 ...` is an outline, as for segmentation and turned boxes. Names of classes
come from classes.txt, obj.names or data.yaml in the folder or above it. Where data.yaml has
kpt_shape, rows go on with keypoints, of which only the box is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...gaze import Boxes, Polygons
from ...json_text import decode_text, show
from ..record import NOTHING_DRAWN, Drawing, LeaveOut, Record
from .class_names import ClassNames, find_class_names, is_class_file, read_yaml
from .values import box_of, check_on_image, parse_number

HEAD = 1 << 16  # bytes that `claims` gets of a longer file: the last row may be cut
BEYOND = 1.5  # a fraction beyond the edge of the image; above it is another unit
DIGITS = 9  # of the number of a class
LARGEST = 1 << 28  # bytes of one file


def claims(path: Path, head: bytes) -> bool:
    """Whether all rows begin with a class, followed by four fractions or more."""
    if path.suffix.lower() != ".txt" or is_class_file(path):
        return False
    lines = head.decode("utf-8", "replace").splitlines()
    rows = [line.split() for line in (lines[:-1] if len(head) == HEAD else lines) if line.strip()]
    return bool(rows) and all(map(_is_row, rows))


def _is_row(cells: list[str]) -> bool:
    try:
        values = [float(cell) for cell in cells[1:]]
    except ValueError:
        return False
    shares = all(abs(value) <= BEYOND for value in values[:4])
    return cells[0].isascii() and cells[0].isdigit() and len(values) >= 4 and shares


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """All objects, by folder and file; an image has the name of its file, without suffix.

    Raises:
        UserError: a row of another form, other units, an unknown class.
    """
    for folder in sorted({path.parent for path in files}):
        for path in sorted(folder.glob("*.txt")):
            if path.stat().st_size == 0:
                leave_out(NOTHING_DRAWN, str(path))
        names = find_class_names(folder, root)
        keypoints = (
            names is not None
            and names.path.suffix in (".yaml", ".yml")
            and "kpt_shape" in read_yaml(names.path)
        )
        for path in (path for path in files if path.parent == folder):
            yield from _drawings(path, names, keypoints)


def _drawings(path: Path, names: ClassNames | None, keypoints: bool) -> Iterator[Drawing]:
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: {path.stat().st_size} bytes; expected at most {LARGEST}.")
    for i, line in enumerate(decode_text(path.read_bytes(), str(path)).splitlines(), 1):
        cells = line.removeprefix("\ufeff").split()
        if not cells:
            continue
        where = f"{path}, line {i}"
        label = _label(cells[0], names, where)
        values = [parse_number(cell, f"number {j}", where) for j, cell in enumerate(cells[1:], 2)]
        shape = _shape(values[:4] if keypoints else values, where)
        check_on_image(shape, (1, 1), where)
        yield Drawing(path.stem, shape, where, label, fractions=True, file=path)


def _label(cell: str, names: ClassNames | None, where: str) -> str:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= DIGITS):
        raise UserError(f"{where}: the class {show(cell)}; expected its number, from 0.")
    if names is None:
        return f"class {int(cell)}"
    if int(cell) not in names.names:
        raise UserError(
            f"{where}: the class {cell}; expected one of the {len(names.names)} in {names.path}."
        )
    return names.names[int(cell)]


def _shape(values: list[float], where: str) -> Boxes | Polygons:
    if len(values) < 4 or (len(values) > 5 and len(values) % 2):
        raise UserError(
            f"{where}: {len(values)} numbers after the class; expected x, y, width, height or pairs"
            " of x, y."
        )
    beyond = max(values, key=abs)
    if abs(beyond) > BEYOND:
        raise UserError(
            f"{where}: the number {beyond:g}; expected fractions of the image, 0 to 1. Divide"
            " pixels by width and height."
        )
    if len(values) < 6:
        x, y, width, height = values[:4]
        return box_of((x - width / 2, y - height / 2, x + width / 2, y + height / 2), where)
    xy = np.array(values).reshape(-1, 2)
    box_of([*xy.min(axis=0).tolist(), *xy.max(axis=0).tolist()], where)  # an outline has an area
    return Polygons([xy])
