"""Checked values of annotation files, of JSON, XML and tables: numbers, sizes, shapes on images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...config import UserError
from ...data.images.options import MAX_PIXELS
from ...gaze import Boxes, Ellipses, GazeError, Points, Polygons
from ...gaze.plausible import NEAR_ONE, SMALL, SWAPPED, refuse_fractions
from ...json_text import NAMES, read_json, show

LARGEST = 1 << 28  # bytes of a JSON file that is read at once
LONGEST = 1 << 20  # pixels of a side of an image
CORNERS = np.array([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]])
ARC = math.radians(2)  # an ellipse that is turned becomes an outline of such arcs
RESIZED = "Was the image resized after it was annotated, or has the file another unit?"
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
        raise UserError(f"{where}: {show(record)}; expected an object.")
    if key not in record:
        raise UserError(
            f"{where}: no key {key!r} among {show(list(record))}; expected {KINDS[kind]} there."
        )
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}, key {key!r}: {show(value)}; expected {KINDS[kind]}.")
    return value


def number(value: Any, key: str, where: str, positive: bool = False) -> float:
    """A finite number, above 0 if it must be `positive`. UserError: anything else."""
    found = _finite(value) if isinstance(value, int | float) else None
    if found is None or isinstance(value, bool) or (positive and found <= 0):
        _refuse_number(f"{where}, key {key!r}", value, positive)
    return found


def parse_number(text: str | None, name: str, where: str) -> float:
    """The number in the text of an element, an attribute or a cell; None: there is none.

    UserError: anything else.
    """
    try:
        found = _finite(float(text or ""))
    except ValueError:
        found = None
    if found is None:
        _refuse_number(f"{where}, {name}", text)
    return found


def numbers(values: Any, key: str, where: str) -> np.ndarray:
    """A list of finite numbers as float64. UserError: anything else."""
    array = np.empty(0)
    fits = isinstance(values, list) and not set(map(type, values)) - {int, float}
    if fits:
        try:
            array = np.array(values, dtype=np.float64)
        except OverflowError:  # a whole number of hundreds of digits
            fits = False
    if not fits or not np.isfinite(array).all():
        raise UserError(f"{where}, key {key!r}: {show(values)}; expected a list of finite numbers.")
    return array


def _finite(value: float) -> float | None:
    """The value, or None if it is infinite, NaN, or a whole number beyond every float."""
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _refuse_number(place: str, found: Any, positive: bool = False) -> NoReturn:
    expected = "a positive number" if positive else "a finite number"
    raise UserError(f"{place}: {_shown(found)}; expected {expected}.")


def identity(value: Any, key: str, where: str) -> int | str:
    """An id: a whole number or a text. UserError: anything else."""
    whole = isinstance(value, float) and value.is_integer()
    if not isinstance(value, int | str) and not whole or isinstance(value, bool):
        raise UserError(
            f"{where}, key {key!r}: {_shown(value)}; expected a whole number or a text."
        )
    return value if isinstance(value, str) else int(value)


def name_of(value: Any, key: str, where: str) -> str:
    """A name or an id as text; "" for null. UserError: anything else."""
    return "" if value is None else str(identity(value, key, where))


def image_size(
    record: Mapping[str, Any], where: str, keys: tuple[str, str] = ("height", "width")
) -> tuple[int, int] | None:
    """(height, width); None if a key is absent or null. UserError: not whole positive numbers."""
    values = [record.get(key) for key in keys]
    if None in values:
        return None
    height, width = (
        _side(number(value, key, where), f"{where}, key {key!r}")
        for value, key in zip(values, keys)
    )
    return height, width


def parse_side(text: str | None, name: str, where: str) -> int:
    """A width or height in pixels, from text. UserError: not a whole number of at least 1."""
    return _side(parse_number(text, name, where), f"{where}, {name}")


def _side(value: float, place: str) -> int:
    if not 1 <= value <= LONGEST or value % 1:
        raise UserError(
            f"{place}: {value:g}; expected a whole number of pixels from 1 to {LONGEST}."
        )
    return int(value)


def check_area(size: tuple[int, int]) -> None:
    """GazeError: an image of more pixels than any that is read; before a mask is allocated."""
    height, width = size
    if height * width > MAX_PIXELS:
        raise GazeError(
            f"a mask of an image of {height} x {width} (height x width); expected at most"
            f" {MAX_PIXELS} pixels."
        )


def box_of(xyxy: Sequence[float], where: str, turned: float = 0) -> Boxes | Polygons:
    """A box of xmin, ymin, xmax, ymax; if turned, clockwise by radians, an outline.

    UserError: it has no area.
    """
    left, top, right, bottom = xyxy
    if not (right > left and bottom > top):
        raise UserError(
            f"{where}: a box of width {right - left:g} and height {bottom - top:g}; expected both"
            " above 0. Correct or delete it."
        )
    if turned % math.pi == 0:
        return Boxes([[left, top, right, bottom]])
    middle, half = (
        [(left + right) / 2, (top + bottom) / 2],
        [(right - left) / 2, (bottom - top) / 2],
    )
    return Polygons([turn(CORNERS * half, turned) + middle])


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


def check_on_image(shape: Shape, size: tuple[float, float] | None, where: str) -> None:
    """UserError: the shape lies off its image, or seems to be in fractions of it.

    A point may lie on the edge. `size`: (height, width); (1, 1) if positions are fractions; None:
    not known, so only what lies above and to the left of every image is off it.
    """
    left, top, right, bottom = _around(shape)
    height, width = size or (math.inf, math.inf)
    if isinstance(shape, Points):
        off = left > width or top > height or right < 0 or bottom < 0
    else:
        off = left >= width or top >= height or right <= 0 or bottom <= 0
    if off:
        swapped = left <= height and top <= width and right >= 0 and bottom >= 0
        on = f"an image of {height:g} x {width:g} (height x width)" if size else "any image"
        raise UserError(
            f"{where}: x {left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g} on {on}; expected a"
            f" part of it on the image. {SWAPPED if swapped else RESIZED}"
        )
    if size and max(right, bottom) <= NEAR_ONE[1] and min(size) >= SMALL:
        refuse_fractions(where, _positions(shape), (int(height), int(width)))


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


def _shown(value: Any) -> str:
    """A value in a message; what JSON calls null and XML does not have is missing."""
    return "missing" if value is None else show(value)
