"""An image as it was read, and how maps over its file are laid over it (decision 0039)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...config import DataError
from ..heatmap import aspect_fits, check_aspect
from .options import ReadOptions

TURNS = {  # EXIF orientation -> the operation that makes the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)
BACK = {6: 8, 8: 6}  # orientation -> its inverse; all others are their own inverse


@dataclass(frozen=True)
class Frame:
    """How the stored pixels of a file relate to the image shown.

    The two sizes differ if the orientation is a quarter turn, or if pixels are not square.
    """

    stored_size: tuple[int, int]  # (height, width)
    shown_size: tuple[int, int]  # (height, width)
    orientation: int = 1  # EXIF's, 1 to 8


@dataclass(frozen=True)
class Picture:
    """An image as a viewer shows it."""

    image: Image.Image  # upright, mode "L" or "RGB", 8 bits
    frame: Frame
    deep: bool = False  # the file has more than 8 bits


def turn_image(image: Image.Image, orientation: int) -> Image.Image:
    """Turn the stored image upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def turn_maps(maps: np.ndarray, orientation: int) -> np.ndarray:
    """Turn maps (..., h, w) over the stored pixels, as `turn_image` turns the image."""
    if orientation in QUARTER_TURNS:
        maps = maps.swapaxes(-1, -2)
    if orientation in (3, 4, 7, 8):  # after the transposition: upside down
        maps = maps[..., ::-1, :]
    if orientation in (2, 3, 6, 7):
        maps = maps[..., ::-1]
    return np.ascontiguousarray(maps)


def turn_maps_back(maps: np.ndarray, orientation: int) -> np.ndarray:
    """Turn maps (..., h, w) over the upright image back, to lie over the stored pixels."""
    return turn_maps(maps, BACK.get(orientation, orientation))


def orient_maps(maps: np.ndarray, frame: Frame, name: str) -> np.ndarray:
    """Lay maps (..., h, w) of an image file over the upright image.

    Maps lie over the stored pixels and are turned with them. With one exception: if the file has a
    quarter turn and the maps have the aspect ratio of the upright image only, they were drawn on
    that, and are not turned.

    Raises:
        DataError: with `name`: another aspect ratio than that of the image.
    """
    size = maps.shape[-2:]
    if not aspect_fits(size, frame.stored_size):
        if aspect_fits(size, frame.shown_size):
            return maps
        check_aspect(size, frame.stored_size, name)
    return turn_maps(maps, frame.orientation) if frame.orientation != 1 else maps


def check_size(size: tuple[int, int], bytes_a_pixel: int, options: ReadOptions, name: str) -> None:
    """Raise a DataError if (height, width) exceeds `options`, before anything is unpacked."""
    pixels, shape = size[0] * size[1], f"{size[0]} x {size[1]} pixels (height x width)"
    if pixels < 1:
        raise DataError(f"{name}: {shape}; expected at least one.")
    if pixels > options.max_pixels:
        raise DataError(
            f"{name}: {shape}; expected at most {options.max_pixels} pixels (--max-pixels)."
        )
    if pixels * bytes_a_pixel > options.max_bytes:
        raise DataError(
            f"{name}: unpacks to {pixels * bytes_a_pixel} bytes ({shape}); expected at "
            f"most {options.max_bytes} (--max-bytes)."
        )
