"""LabelMe JSON, one file an image: rectangles, outlines, circles, points and masks."""

from __future__ import annotations

import argparse
import base64
import binascii
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from ...config import UserError
from ...gaze import Annotation, GazeError, Mask, Points, Polygons
from ...json_text import show
from ..record import NOTHING_DRAWN, Drawing, LeaveOut
from .json_files import json_head
from .values import (
    Shape,
    box_of,
    check_area,
    check_on_image,
    ellipse_of,
    image_size,
    member,
    numbers,
    read_small_json,
)

LINES = ("line", "linestrip")
OUTLINES = ("polygon", "oriented_rectangle")
TWO_POINTS = ("rectangle", "circle", "mask")


def claims(path: Path, head: bytes) -> bool:
    found = json_head(head)
    if found is None or found.is_list:
        return False
    of_shapes = {("shapes", "label"), ("shapes", "points")} <= found.keys
    return of_shapes or {("shapes",), ("imagePath",)} <= found.keys


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Drawing]:
    """All shapes of all files; pixels in them are not read. UserError: a broken file or shape."""
    for path in files:
        content = read_small_json(path)
        image = PureWindowsPath(member(content, "imagePath", str, str(path))).as_posix()
        size = image_size(content, str(path), ("imageHeight", "imageWidth"))
        shapes = member(content, "shapes", list, str(path))
        if not shapes:
            leave_out(NOTHING_DRAWN, str(path))
        for i, record in enumerate(shapes, 1):
            where = f"{path}, shape {i}"
            label = member(record, "label", str, where)
            shape = _shape(record, size, where, leave_out)
            if shape is not None:
                yield Drawing(image, shape, where, label, "", size, file=path)


def _shape(
    record: dict[str, Any], size: tuple[int, int] | None, where: str, leave_out: LeaveOut
) -> Annotation | None:
    kind = record.get("shape_type") or "polygon"  # early versions had outlines alone
    if kind in LINES:
        leave_out("a line, which has no area", where)
        return None
    points = [numbers(point, "points", where) for point in member(record, "points", list, where)]
    if any(len(point) != 2 for point in points) or not points:
        raise UserError(f"{where}, key 'points': expected at least one pair of x and y.")
    xy = np.array(points)
    if kind in TWO_POINTS and len(xy) != 2:
        raise UserError(f"{where}, key 'points': {len(xy)} points; expected 2 for a {kind}.")
    if kind == "mask":
        return _mask(record, xy, size, where)
    if kind in OUTLINES and len(xy) < 3:
        leave_out("outline of fewer than 3 points", where)
        return None
    shape: Shape
    if kind in OUTLINES:
        shape = Polygons([xy])
    elif kind == "rectangle":
        (left, top), (right, bottom) = xy.min(axis=0).tolist(), xy.max(axis=0).tolist()
        shape = box_of((left, top, right, bottom), where)
    elif kind == "circle":
        radius = math.dist(*xy)
        shape = ellipse_of((*xy[0].tolist(), radius, radius), 0, where)
    elif kind in ("point", "points"):
        shape = Points(*xy.T)
    else:
        raise UserError(
            f"{where}, key 'shape_type': {show(kind)}; expected one of"
            f" {', '.join((*OUTLINES, *TWO_POINTS, *LINES, 'point', 'points'))}."
        )
    check_on_image(shape, size, where)
    return shape


def _mask(
    record: dict[str, Any], xy: np.ndarray, size: tuple[int, int] | None, where: str
) -> PartMask:
    """A mask within a rectangle whose last row and column count. UserError: not on the image."""
    if size is None:
        raise UserError(
            f"{where}: a mask, but no imageHeight and imageWidth; expected both in the file."
        )
    (left, top), (right, bottom) = np.trunc(xy).tolist()
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise UserError(
            f"{where}, key 'points': a mask from x {left:g}, y {top:g} to x {right:g}, y {bottom:g}"
            f" on an image of {size[0]} x {size[1]} (height x width); expected it on the image."
        )
    try:
        code = base64.b64decode(member(record, "mask", str, where), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}, key 'mask': {error}; expected a PNG in base64.") from error
    mask = PartMask(code, (int(left), int(top), int(right) + 1, int(bottom) + 1), size)
    try:
        mask.open().close()
    except GazeError as error:
        raise UserError(f"{where}, key 'mask': {error}") from error
    return mask


@dataclass(frozen=True, eq=False)
class PartMask:
    """A PNG of a part of an image, decoded when it is drawn: inside where it is not 0."""

    code: bytes
    box: tuple[int, int, int, int]  # xmin, ymin, xmax, ymax; max exclusive
    size: tuple[int, int]  # (height, width) of the image

    def open(self) -> Image.Image:
        """The picture, not decoded. GazeError: no PNG, or not of the size of the part."""
        left, top, right, bottom = self.box
        try:
            picture = Image.open(io.BytesIO(self.code), formats=["PNG"])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise GazeError(f"not a readable PNG ({error}); expected a mask.") from error
        if picture.size != (right - left, bottom - top):
            picture.close()
            raise GazeError(
                f"a picture of {picture.height} x {picture.width}; expected {bottom - top} x"
                f" {right - left} (height x width), the size of its rectangle."
            )
        return picture

    def load(self) -> Mask:
        check_area(self.size)
        left, top, right, bottom = self.box
        with self.open() as picture:
            try:
                part = np.asarray(picture)
            except (OSError, ValueError, SyntaxError) as error:
                raise GazeError(f"mask: not a readable PNG ({error}).") from error
        if part.ndim != 2:
            raise GazeError(
                f"mask: a PNG of mode {picture.mode}; expected grey or black and white."
            )
        values = np.zeros(self.size, dtype=bool)
        values[top:bottom, left:right] = part != 0
        return Mask(values)
