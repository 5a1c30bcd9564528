"""Label Studio JSON: rectangles, outlines, ellipses, key points and brush strokes of every task.

Positions are percentages of original_width and original_height. A task without the key
`annotations` is a pre-annotation, as `write_label_studio` writes it: its predictions are read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...gaze import Annotation, Points, Polygons
from ...json_text import show
from ..record import NOTHING_DRAWN, Drawing, LeaveOut
from .brush import BrushMask
from .json_files import JsonFile, json_head
from .label_studio_image import image_of
from .values import (
    Shape,
    box_of,
    check_on_image,
    ellipse_of,
    image_size,
    member,
    name_of,
    number,
    numbers,
    turn,
)

# lists of a task with results, and the key of who made one
AUTHOR = {
    "annotations": "completed_by",
    "completions": "completed_by",
    "predictions": "model_version",
}
MARKS = {(key, "result") for key in AUTHOR}
SIZE = ("original_height", "original_width")
TOOLS = ("rectangle", "polygon", "ellipse", "keypoint", "brush")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--label-studio-image",
        metavar="FIELD",
        help="field of a task's data with the image (default: image, or the only picture)",
    )


def claims(path: Path, head: bytes) -> bool:
    found = json_head(head)
    return found is not None and found.is_list and bool(MARKS & found.keys)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Drawing]:
    """All regions of all annotations that were not cancelled. UserError: a broken one."""
    for path in files:
        known: set[str] = set()
        for i, task in enumerate(JsonFile(path, list).items(None), 1):
            if not isinstance(task, dict):
                raise UserError(f"{path}, task {i}: {show(task)}; expected an object.")
            own = name_of(task.get("id"), "id", f"{path}, task {i} of the list")
            where = f"{path}, task {own or f'{i} of the list'}"
            if "id" in task and where in known:
                raise UserError(f"{where}: the id is there twice; expected each once.")
            known.add(where)
            yield from _task(task, path, args.label_studio_image, where, leave_out)


def _task(
    task: dict[str, Any], path: Path, field: str | None, where: str, leave_out: LeaveOut
) -> Iterator[Drawing]:
    key = next((key for key in AUTHOR if key in task), "annotations")
    name = image_of(member(task, "data", dict, where), field, where)
    annotations = member(task, key, list, where)
    if not annotations:
        leave_out("task without an annotation", where)
    for i, annotation in enumerate(annotations, 1):
        place = f"{where}, {key[:-1]} {i}"
        results = member(annotation, "result", list, place)
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            leave_out("cancelled annotation", place)
            continue
        if not results:
            leave_out(NOTHING_DRAWN, place)
        author = annotation.get(AUTHOR[key])
        if isinstance(author, dict):
            author = author.get("email") or author.get("id")
        annotator = name_of(author, AUTHOR[key], place)
        for region, tool, labels in _regions(results, place, leave_out):
            spot = f"{place}, result {region.get('id') or region['position']}"
            size = image_size(region, spot, SIZE)
            shape = _shape(region, tool, size, spot, leave_out)
            for label in labels if shape is not None else ():
                assert shape is not None
                yield Drawing(name, shape, spot, label, annotator, size, size is None, path)


def _regions(
    results: list[Any], where: str, leave_out: LeaveOut
) -> Iterator[tuple[dict[str, Any], str, list[str]]]:
    """(result with the positions, its tool, labels) of every region.

    With separate tags for shapes and labels, a region has one result of each, with the same id.
    """
    regions: dict[int | str, tuple[dict[str, Any], str, list[str]]] = {}
    for i, result in enumerate(results, 1):
        kind = member(result, "type", str, f"{where}, result {i}").lower()
        tool = kind.removesuffix("labels")
        if tool not in (*TOOLS, ""):
            leave_out(f"result of the type {kind}", f"{where}, result {i}")
            continue
        value = member(result, "value", dict, f"{where}, result {i}")
        labels = value.get(kind, [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(
                f"{where}, result {i}, key {kind!r}: {show(labels)}; expected a list of names."
            )
        own = name_of(result.get("id"), "id", f"{where}, result {i}") or i
        region, known, names = regions.get(own, ({}, "", []))
        if tool and known:
            raise UserError(
                f"{where}, result {i}: the id {show(own)} is there twice; expected each once."
            )
        if tool:
            region = {**result, "position": i}
        regions[own] = region, tool or known, [*names, *labels]
    for region, tool, names in regions.values():
        if tool:
            yield region, tool, names or [""]
        else:
            leave_out("label without a shape", where)


def _shape(
    region: dict[str, Any],
    tool: str,
    size: tuple[int, int] | None,
    where: str,
    leave_out: LeaveOut,
) -> Annotation | None:
    """The shape of a region in pixels, or in fractions if `size` is not known."""
    value = region["value"]
    if region.get("image_rotation"):
        leave_out("region on a turned image (image_rotation)", where)
        return None
    if tool == "brush":
        return _brush(value, size, where, leave_out)
    height, width = size or (1, 1)
    scale = np.array([width, height]) / 100
    shape: Shape
    if tool == "polygon":
        line = [numbers(point, "points", where) for point in member(value, "points", list, where)]
        if any(len(point) != 2 for point in line):
            raise UserError(f"{where}, key 'points': expected pairs of x and y.")
        if len(line) < 3:
            leave_out("outline of fewer than 3 points", where)
            return None
        shape = Polygons([np.array(line) * scale])
    else:
        x, y = (
            number(value.get(key), key, where) * part for key, part in zip("xy", scale.tolist())
        )
        if tool == "keypoint":
            shape = Points([x], [y])
        else:
            shape = _area(value, tool, (x, y), scale, where, size is None)
    check_on_image(shape, size, where)
    return shape


def _area(
    value: dict[str, Any],
    tool: str,
    xy: tuple[float, float],
    scale: np.ndarray,
    where: str,
    fractions: bool,
) -> Shape:
    """A rectangle, which turns around its first corner, or an ellipse around its centre."""
    keys = ("radiusX", "radiusY") if tool == "ellipse" else ("width", "height")
    sides = [
        number(value.get(key), key, where, positive=True) * part
        for key, part in zip(keys, scale.tolist())
    ]
    turned = math.radians(number(value.get("rotation") or 0, "rotation", where))
    if turned and fractions:
        raise UserError(
            f"{where}: a rotation without original_width and original_height; expected both."
        )
    if tool == "ellipse":
        return ellipse_of((*xy, *sides), turned, where)
    if not turned:
        return box_of((*xy, xy[0] + sides[0], xy[1] + sides[1]), where)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
    return Polygons([turn(corners, turned) + xy])


def _brush(
    value: dict[str, Any], size: tuple[int, int] | None, where: str, leave_out: LeaveOut
) -> BrushMask | None:
    if size is None:
        raise UserError(
            f"{where}: a brush without original_width and original_height; expected both."
        )
    code = member(value, "rle", list, where)
    try:
        content = bytes(code)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}, key 'rle': {error}; expected a list of bytes.") from error
    if int.from_bytes(content[:4], "big") != 4 * size[0] * size[1]:
        raise UserError(
            f"{where}, key 'rle': a code of {int.from_bytes(content[:4], 'big')} values; expected 4"
            f" for each of the {size[0]} x {size[1]} pixels (height x width)."
        )
    return BrushMask(content, size)
