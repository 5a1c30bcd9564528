"""Shapes of the graphic objects of a DICOM presentation state."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...config import UserError
from ...gaze import Annotation, Points, Polygons
from .values import ellipse_of


def shape_of(
    graphic: Any, kind: str, displayed: tuple[list[float], list[float]] | None, where: str
) -> Annotation | None:
    """The shape in pixels of the image; None for a line that encloses nothing.

    Pixels: 0, 0 is the top left corner of the image (DICOM PS3.3, C.10.5.1.2). `displayed`: the
    area that fractions refer to.

    Raises:
        UserError: an unknown type or unit, or numbers that are no pairs.
    """
    xy = _positions(graphic, displayed, where)
    if kind == "POINT":
        return Points(xy[:, 0], xy[:, 1])
    if kind in ("POLYLINE", "INTERPOLATED"):
        closed = len(xy) > 3 and (xy[0] == xy[-1]).all()
        filled = str(graphic.get("GraphicFilled", "N")) == "Y"
        enough = len(xy) > 2 and not (np.ptp(xy, axis=0) == 0).any()
        return Polygons([xy]) if (closed or filled) and enough else None
    if kind == "CIRCLE" and len(xy) == 2:
        radius = float(np.hypot(*(xy[1] - xy[0])))
        return ellipse_of((xy[0, 0], xy[0, 1], radius, radius), 0, where) if radius else None
    if kind == "ELLIPSE" and len(xy) == 4:
        centre, major, minor = xy[:2].mean(axis=0), xy[1] - xy[0], xy[3] - xy[2]
        half = float(np.hypot(*major)) / 2, float(np.hypot(*minor)) / 2
        angle = float(np.arctan2(major[1], major[0]))
        return ellipse_of((centre[0], centre[1], *half), angle, where) if min(half) else None
    raise UserError(
        f"{where}: {len(xy)} points of type {kind!r}; expected POINT, POLYLINE, INTERPOLATED,"
        " CIRCLE with 2 points or ELLIPSE with 4."
    )


def _positions(
    graphic: Any, displayed: tuple[list[float], list[float]] | None, where: str
) -> np.ndarray:
    stored = graphic.get("GraphicData")  # None: empty; one number is no list
    data = np.atleast_1d(np.asarray([] if stored is None else stored, dtype=np.float64))
    if not len(data) or len(data) % 2 or not np.isfinite(data).all():
        raise UserError(f"{where}, GraphicData: {len(data)} numbers; expected pairs of x and y.")
    xy = data.reshape(-1, 2)
    units = str(graphic.get("GraphicAnnotationUnits", "PIXEL"))
    if units == "PIXEL":
        return xy
    if units == "DISPLAY" and displayed is not None:
        first, last = (np.array(corner) for corner in displayed)
        return first + xy * (last - first)
    raise UserError(
        f"{where}, GraphicAnnotationUnits: {units!r}"
        f"{' without a displayed area' if units == 'DISPLAY' else ''}; expected PIXEL, or DISPLAY"
        " with a displayed area of the image."
    )
