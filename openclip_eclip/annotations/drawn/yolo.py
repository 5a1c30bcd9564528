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
from ...gaze import Annotation, Boxes, Polygons
from ...json_text import decode_text
from ..record import Drawing, LeaveOut, Record
from .class_names import ClassNames, find_class_names, is_class_file, read_yaml
from .numbers import check_box, number

HEAD = 1 << 16  # bytes that `claims` gets of a longer file: the last row may be cut
BEYOND = 1.5  # a fraction beyond the edge of the image; above it is another unit
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
        UserError: two files for an image, a row of another form, other units, an unknown class.
    """
    known: dict[str, Path] = {}
    for folder in sorted({path.parent for path in files}):
        for path in sorted(folder.glob("*.txt")):
            if path.stat().st_size == 0:
                leave_out("no object on the image", str(path))
        names = find_class_names(folder, root)
        keypoints = (
            names is not None
            and names.path.suffix in (".yaml", ".yml")
            and "kpt_shape" in read_yaml(names.path)
        )
        for path in (path for path in files if path.parent == folder):
            if path.stem in known:
                raise UserError(
                    f"{path}: the image {path.stem!r} again, first in {known[path.stem]}; expected"
                    " one file for each image. Give images of the same name different ones."
                )
            known[path.stem] = path
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
        values = [number(cell, where, f"number {j}") for j, cell in enumerate(cells[1:], 2)]
        shape = _shape(values[:4] if keypoints else values, where)
        yield Drawing(path.stem, shape, where, label, fractions=True)


def _label(cell: str, names: ClassNames | None, where: str) -> str:
    if not (cell.isascii() and cell.isdigit()):
        raise UserError(f"{where}: the class {cell!r}; expected its number, from 0.")
    if names is None:
        return f"class {int(cell)}"
    if int(cell) not in names.names:
        raise UserError(
            f"{where}: the class {cell}; expected one of the {len(names.names)} in {names.path}."
        )
    return names.names[int(cell)]


def _shape(values: list[float], where: str) -> Annotation:
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
        left, top = x - width / 2, y - height / 2
        check_box((left, top, x + width / 2, y + height / 2), where, (1, 1))
        return Boxes.from_xywh([[left, top, width, height]])
    xy = np.array(values).reshape(-1, 2)
    (left, top), (right, bottom) = xy.min(axis=0), xy.max(axis=0)
    check_box((left, top, right, bottom), where, (1, 1))
    return Polygons([xy])
