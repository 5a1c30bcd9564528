"""Numbers and sizes in annotation files, checked with one sentence for what is wrong."""

from __future__ import annotations

import math

from ...config import UserError


def number(text: str | None, where: str, key: str) -> float:
    """A finite number. UserError: missing, or anything else."""
    try:
        value = float("" if text is None else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "missing" if text is None else repr(text)
        raise UserError(f"{where}, {key}: {found}; expected a number.")
    return value


def side(text: str | None, where: str, key: str) -> int:
    """A width or height in pixels. UserError: not a whole number of at least 1."""
    value = number(text, where, key)
    if value < 1 or value % 1:
        raise UserError(f"{where}, {key}: {text!r}; expected a whole number of pixels from 1.")
    return int(value)


def check_box(
    xyxy: tuple[float, float, float, float], where: str, size: tuple[float, float] | None = None
) -> None:
    """UserError: the box is empty or reversed, or has no part on the image of (height, width)."""
    left, top, right, bottom = xyxy
    if not (right > left and bottom > top):
        raise UserError(
            f"{where}: a box from x {left:g}, y {top:g} to x {right:g}, y {bottom:g}, of width"
            f" {right - left:g} and height {bottom - top:g}; expected both above 0."
        )
    height, width = size or (math.inf, math.inf)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        on = "the image" if size is None else f"an image of {height:g} x {width:g} (height x width)"
        raise UserError(
            f"{where}: x {left:g} to {right:g}, y {top:g} to {bottom:g} is quite outside {on};"
            " expected a part on it. Check the unit, and whether this image was annotated."
        )
