"""Checked values of annotation files: numbers, sizes, boxes and outlines, with their place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...gaze import Boxes, Ellipses, Points, Polygons
from ...gaze.plausible import NEAR_ONE, SMALL, SWAPPED, refuse_fractions
from ...json_text import NAMES, read_json, shorten

LARGEST = 1 << 28  # bytes of a JSON file that is read at once
ARC = math.radians(2)  # an ellipse that is turned becomes an outline of such arcs
Shape = Boxes | Ellipses | Points | Polygons
KINDS = {**NAMES, str: "a text", int: "a whole number"}


def read_small_json(path: Path, kind: type = dict) -> Any:
    """`read_json` of a file of bounded size. UserError: it is larger."""
    if path.stat().st_size > LARGEST:
        raise UserError(
            f"{path}: {path.stat().st_size >> 20} MiB; expected at most {LARGEST >> 20} MiB of JSON"
            " in this format. Split it, or export COCO JSON, which may be of any size."
        )
    return read_json(path, kind)


def member(record: Any, key: str, kind: type, where: str) -> Any:
    """The value of `key`. UserError: not an object, no such key, or a value of another kind."""
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: {_shown(record)}; expected an object.")
    if key not in record:
        raise UserError(
            f"{where}: no key {key!r} among {_shown(list(record))}; expected {KINDS[kind]} there."
        )
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}, key {key!r}: {_shown(value)}; expected {KINDS[kind]}.")
    return value


def number(value: Any, key: str, where: str, positive: bool = False) -> float:
    """A finite number, above 0 if it must be `positive`. UserError: anything else."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or (positive and value <= 0):
        expected = "a positive number" if positive else "a finite number"
        raise UserError(f"{where}, key {key!r}: {_shown(value)}; expected {expected}.")
    return float(value)


def numbers(values: Any, key: str, where: str) -> np.ndarray:
    """A list of finite numbers as float64. UserError: anything else."""
    fits = isinstance(values, list) and not set(map(type, values)) - {int, float}
    array = np.array(values, dtype=np.float64) if fits else np.empty(0)
    if not fits or not np.isfinite(array).all():
        raise UserError(f"{where}, key {key!r}: {_shown(values)}; expected a list of numbers.")
    return array


def image_size(
    record: Mapping[str, Any], where: str, keys: tuple[str, str] = ("height", "width")
) -> tuple[int, int] | None:
    """(height, width); None if a key is absent or null. UserError: not whole positive numbers."""
    values = [record.get(key) for key in keys]
    if None in values:
        return None
    sides = [number(value, key, where, positive=True) for value, key in zip(values, keys)]
    for side, key in zip(sides, keys):
        if side % 1:
            raise UserError(f"{where}, key {key!r}: {side:g}; expected a whole number of pixels.")
    return int(sides[0]), int(sides[1])


def box_of(xywh: Iterable[float], where: str) -> Boxes:
    """One box of x, y, width, height. UserError: it has no area."""
    x, y, width, height = xywh
    if width <= 0 or height <= 0:
        raise UserError(
            f"{where}: a box of width {width:g} and height {height:g}; expected both above 0."
            " Correct or delete it."
        )
    return Boxes([[x, y, x + width, y + height]])


def ellipse_of(values: Iterable[float], turned: float, where: str) -> Ellipses | Polygons:
    """An ellipse of x, y and half-axes; if turned, clockwise by radians, an outline.

    UserError: it has no area.
    """
    x, y, along_x, along_y = values
    if along_x <= 0 or along_y <= 0:
        raise UserError(
            f"{where}: an ellipse of half-axes {along_x:g} and {along_y:g}; expected both above 0."
            " Correct or delete it."
        )
    if turned % math.pi == 0:
        return Ellipses(np.array([[x - along_x, y - along_y, x + along_x, y + along_y]]))
    angle = np.arange(0, 2 * math.pi - ARC / 2, ARC)
    line = np.stack([along_x * np.cos(angle), along_y * np.sin(angle)], axis=1)
    return Polygons([turn(line, turned) + [x, y]])


def turn(xy: np.ndarray, angle: float) -> np.ndarray:
    """Turn positions (N, 2) around (0, 0), clockwise on the screen, by radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return xy @ np.array([[cosine, sine], [-sine, cosine]])


def check_on_image(shape: Shape, size: tuple[int, int] | None, where: str) -> None:
    """UserError: the shape lies off its image, or seems to be in fractions of it.

    A point may lie on the right or lower edge.
    """
    if size is None:
        return
    left, top, right, bottom = _around(shape)
    height, width = size
    if left > width or top > height or right < 0 or bottom < 0:
        swapped = left <= height and top <= width and right >= 0 and bottom >= 0
        raise UserError(
            f"{where}: x {left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g} on an image of"
            f" {height} x {width} pixels (height x width); expected a part of it on the image."
            f" {SWAPPED if swapped else 'Was the image resized after it was annotated?'}"
        )
    if max(right, bottom) <= NEAR_ONE[1] and min(size) >= SMALL:
        refuse_fractions(where, _positions(shape), size)


def _around(shape: Shape) -> list[float]:
    """xmin, ymin, xmax, ymax of a shape."""
    if isinstance(shape, Boxes | Ellipses) and len(shape.xyxy) == 1:  # most, so without arrays
        return shape.xyxy[0].tolist()
    xy = _positions(shape)
    return [*xy.min(axis=0).tolist(), *xy.max(axis=0).tolist()]


def _positions(shape: Shape) -> np.ndarray:
    """(N, 2) all corners and points of a shape."""
    if isinstance(shape, Points):
        return np.stack([shape.x, shape.y], axis=1)
    if isinstance(shape, Polygons):
        return np.concatenate(list(shape.outlines))
    return shape.xyxy.reshape(-1, 2)


def text_of(value: Any) -> str:
    """A name or id as text; "" for null."""
    return "" if value is None else str(value)


def _shown(value: Any) -> str:
    return shorten(repr(value), 80)
