"""COCO JSON: boxes, polygons of several parts, both forms of RLE, and keypoints.

Of an annotation with several shapes one is read: the segmentation, else the keypoints, else the
box. Masks stay encoded. A large file is streamed.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...config import UserError
from ...gaze import Annotation, Points, Polygons, RleMask
from ...json_text import LONGEST, shorten, show
from ..record import NOTHING_DRAWN, Drawing, LeaveOut
from .json_files import JsonFile, json_head
from .values import Shape, box_of, check_on_image, identity, image_size, member, name_of, numbers

MARKS = {
    ("images", "file_name"),
    ("annotations", "image_id"),
    ("annotations", "segmentation"),
    ("categories", "supercategory"),
}
SHAPES = ("segmentation", "keypoints", "bbox")  # in this order
ANNOTATOR = ("annotator", "annotator_id")
Value = TypeVar("Value")


class Picture(NamedTuple):
    """`size`: (height, width), if the file states it."""

    name: str
    size: tuple[int, int] | None


class Ids:
    """The ids of annotations, to find one that is there twice.

    Whole numbers take 8 bytes each: a set of 10 million would take 1 GB.
    """

    def __init__(self) -> None:
        self._numbers = array("q")
        self._texts: set[str] = set()

    def add(self, own: int | str, where: str) -> None:
        """UserError: a text that is there already. Numbers are compared by `refuse_twice`."""
        if isinstance(own, int) and abs(own) < 1 << 63:
            self._numbers.append(own)
        elif str(own) in self._texts:
            raise UserError(f"{where}: the id is there twice; expected each once.")
        else:
            self._texts.add(str(own))

    def refuse_twice(self, path: Path) -> None:
        """UserError: a number that is there twice."""
        ordered = np.sort(np.array(self._numbers, dtype=np.int64))
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise UserError(
                f"{path}, annotation of id {twice[0]}: the id is there twice; expected each once."
            )


def claims(path: Path, head: bytes) -> bool:
    found = json_head(head)
    return found is not None and not found.is_list and bool(MARKS & found.keys)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Drawing]:
    """All annotations, in the order of the files. UserError: a broken one, or an unknown id."""
    for path in files:
        yield from _read_file(path, leave_out)


def _read_file(path: Path, leave_out: LeaveOut) -> Iterator[Drawing]:
    content = JsonFile(path, dict)
    pictures, names = _pictures(content), _categories(content)
    ids = Ids()
    drawn: set[Any] = set()
    for i, record in enumerate(content.items("annotations"), 1):
        where = _place(path, "annotation", record, i)
        if record.get("id") is not None:
            ids.add(identity(record["id"], "id", where), where)
        picture = pictures.get(_key(record, "image_id", where))
        if picture is None:
            raise UserError(
                f"{where}, key 'image_id': {show(record['image_id'])}, which no image of the file"
                f" has; expected an id of its {len(pictures)} images. Add the image, or delete the"
                " annotation."
            )
        drawn.add(record["image_id"])
        label = _label(record, names, where)
        shape = read_shape(record, picture.size, where, leave_out)
        if shape is not None:
            annotator = next(
                (name_of(record[key], key, where) for key in ANNOTATOR if key in record), ""
            )
            yield Drawing(picture.name, shape, where, label, annotator, picture.size, file=path)
    ids.refuse_twice(path)
    for own, picture in pictures.items():
        if own not in drawn:
            leave_out(NOTHING_DRAWN, picture.name)


def _pictures(content: JsonFile) -> dict[int | str, Picture]:
    pictures: dict[int | str, Picture] = {}
    for i, record in enumerate(content.items("images"), 1):
        where = _place(content.path, "image", record, i)
        name = member(record, "file_name", str, where)
        _add(pictures, record, Picture(name, image_size(record, where)), where)
    return pictures


def _categories(content: JsonFile) -> dict[int | str, str]:
    names: dict[int | str, str] = {}
    for i, record in enumerate(content.items("categories"), 1):
        where = _place(content.path, "category", record, i)
        _add(names, record, member(record, "name", str, where), where)
    return names


def _add(known: dict[int | str, Value], record: Any, value: Value, where: str) -> None:
    """Add what a record says, by its id. UserError: the id is there already."""
    own = _key(record, "id", where)
    if own in known:
        raise UserError(f"{where}: the id is there twice; expected each once.")
    known[own] = value


def _label(record: dict[str, Any], names: dict[int | str, str], where: str) -> str:
    if not names and "category_id" not in record:
        return ""
    own = _key(record, "category_id", where)
    if own not in names:
        raise UserError(
            f"{where}, key 'category_id': {show(own)}; expected the id of one of the"
            f" {len(names)} categories of the file."
        )
    return names[own]


def read_shape(
    record: dict[str, Any], size: tuple[int, int] | None, where: str, leave_out: LeaveOut
) -> Annotation | None:
    """The shape of an annotation; None if it has none, which is counted."""
    if not any(record.get(key) for key in SHAPES):
        leave_out("annotation without a shape, such as a caption", where)
        return None
    if record.get("iscrowd"):
        leave_out("a crowd (iscrowd 1)", where)
        return None
    shape: Shape | None
    if segmentation := record.get("segmentation"):
        if isinstance(segmentation, dict):
            return _mask(segmentation, size, f"{where}, key 'segmentation'")
        shape = _outlines(segmentation, where, leave_out)
    elif record.get("keypoints") and (record.get("num_keypoints") != 0 or not record.get("bbox")):
        shape = _keypoints(record["keypoints"], where, leave_out)
    else:
        values = numbers(record["bbox"], "bbox", where)
        if len(values) != 4:
            raise UserError(
                f"{where}, key 'bbox': {len(values)} numbers; expected x, y, width, height."
            )
        x, y, width, height = values.tolist()
        shape = box_of((x, y, x + width, y + height), f"{where}, key 'bbox'")
    if shape is not None:
        check_on_image(shape, size, where)
    return shape


def _outlines(parts: Any, where: str, leave_out: LeaveOut) -> Polygons | None:
    if not isinstance(parts, list):
        raise UserError(
            f"{where}, key 'segmentation': {show(parts)}; expected a list of outlines or an"
            " object with size and counts."
        )
    outlines = []
    for part in parts:
        line = numbers(part, "segmentation", where)
        if len(line) % 2:
            raise UserError(
                f"{where}, key 'segmentation': an outline of {len(line)} numbers; expected pairs"
                " of x and y."
            )
        if len(line) < 6:
            leave_out("outline of fewer than 3 points", where)
        else:
            outlines.append(line.reshape(-1, 2))
    return Polygons(outlines) if outlines else None


def _keypoints(values: Any, where: str, leave_out: LeaveOut) -> Points | None:
    triples = numbers(values, "keypoints", where)
    if len(triples) % 3:
        raise UserError(
            f"{where}, key 'keypoints': {len(triples)} numbers; expected triples of x, y and"
            " visibility."
        )
    x, y, visible = triples.reshape(-1, 3).T
    if not (visible > 0).any():
        leave_out("keypoints that are all without a position", where)
        return None
    return Points(x[visible > 0], y[visible > 0])


def _mask(code: dict[str, Any], size: tuple[int, int] | None, where: str) -> RleMask:
    """A mask that stays encoded. UserError: of another size than the image, or cut off."""
    sides = numbers(member(code, "size", list, where), "size", where)
    if len(sides) != 2 or (sides < 1).any() or (sides % 1).any():
        raise UserError(f"{where}: size {code['size']}; expected [height, width] in pixels.")
    height, width = (int(side) for side in sides)
    if size is not None and size != (height, width):
        raise UserError(
            f"{where}: a mask of {height} x {width} (height x width), the image has {size[0]} x"
            f" {size[1]}; expected the same."
        )
    counts = member(code, "counts", object, where)
    if isinstance(counts, str):
        groups = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
        # bit 6 says that another group follows
        if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 0x20:
            raise UserError(
                f"{where}: counts that are cut off or not COCO's packed form; expected characters"
                " from '0' to 'o'. Export the file again."
            )
        return RleMask(counts, (height, width))
    runs = numbers(counts, "counts", where)
    if (runs < 0).any() or (runs % 1).any() or runs.sum() != height * width:
        raise UserError(
            f"{where}: counts that add up to {runs.sum():g}; expected whole numbers from 0 that"
            f" add up to {height} x {width} = {height * width}."
        )
    return RleMask(array("q", runs.astype(np.int64).tolist()), (height, width))


def _key(record: Any, key: str, where: str) -> int | str:
    return identity(member(record, key, object, where), key, where)


def _place(path: Path, kind: str, record: Any, position: int) -> str:
    """Name a record by its id, or by its position in the list."""
    if not isinstance(record, dict):
        raise UserError(f"{path}, {kind} {position}: {show(record)}; expected an object.")
    own = record.get("id")
    if not isinstance(own, int | str):
        return f"{path}, {kind} {position} of the list"
    return f"{path}, {kind} of id {shorten(str(own), LONGEST)}"
