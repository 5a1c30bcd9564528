"""Outlines of rectangles and ellipses that are turned around their centre."""

from __future__ import annotations

import math

import numpy as np

from ...gaze import Boxes, Ellipses, Polygons
from .values import turn

CORNERS = np.array([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]])
STEPS = 128  # corners of the outline of a turned ellipse; it covers 99.96 % of it


def turned_box(
    centre: tuple[float, float], half: tuple[float, float], degrees: float
) -> Boxes | Polygons:
    """The rectangle of `half` (width, height), turned clockwise as seen on the screen."""
    if degrees % 180 == 0:
        return Boxes([[*np.subtract(centre, half), *np.add(centre, half)]])
    return Polygons([turn(CORNERS * half, math.radians(degrees)) + centre])


def turned_ellipse(
    centre: tuple[float, float], half: tuple[float, float], degrees: float
) -> Ellipses | Polygons:
    """The ellipse of the half axes `half` (along x, along y), turned clockwise on the screen."""
    if degrees % 180 == 0:
        return Ellipses(np.array([[*np.subtract(centre, half), *np.add(centre, half)]]))
    angle = np.arange(STEPS) * 2 * np.pi / STEPS
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Polygons([turn(circle * half, math.radians(degrees)) + centre])
