"""What reading an image gives, and how maps over it lie over what is shown (decision 0039)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...config import DataError
from ..heatmap import aspect_fits, check_aspect
from .options import ReadOptions

TURNS = {  # EXIF orientation -> what makes the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)
BACK = {6: 8, 8: 6}  # the orientation that undoes another; all others undo themselves


@dataclass(frozen=True)
class Frame:
    """How the pixels that a file stores lie in what a person sees; both sizes are (height, width).

    `orientation` is EXIF's, 1 to 8. The sizes differ by more than that where pixels are not square.
    """

    stored_size: tuple[int, int]
    shown_size: tuple[int, int]
    orientation: int = 1


@dataclass(frozen=True)
class Picture:
    """An image as a person sees it: upright, "L" or "RGB", 8 bits. `deep`: the file has more."""

    image: Image.Image
    frame: Frame
    deep: bool = False


def turn_image(image: Image.Image, orientation: int) -> Image.Image:
    """The stored picture upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def turn_maps(maps: np.ndarray, orientation: int) -> np.ndarray:
    """(..., h, w) over stored pixels -> over the upright picture, as `turn_image` does."""
    if orientation in QUARTER_TURNS:
        maps = maps.swapaxes(-1, -2)
    if orientation in (3, 4, 7, 8):  # after the transposition: upside down
        maps = maps[..., ::-1, :]
    if orientation in (2, 3, 6, 7):
        maps = maps[..., ::-1]
    return np.ascontiguousarray(maps)


def turn_maps_back(maps: np.ndarray, orientation: int) -> np.ndarray:
    """(..., h, w) over the upright picture -> over the pixels as the file stores them."""
    return turn_maps(maps, BACK.get(orientation, orientation))


def orient_maps(maps: np.ndarray, frame: Frame, name: str) -> np.ndarray:
    """Maps (..., h, w) of an image's file -> over what is shown of it.

    They lie over the stored pixels and are turned with them. Where a quarter turn belongs to the
    file and the maps have the proportions of the shown picture alone, they were drawn on that.
    DataError with `name`: other proportions than the image's.
    """
    size = maps.shape[-2:]
    if not aspect_fits(size, frame.stored_size):
        if aspect_fits(size, frame.shown_size):
            return maps
        check_aspect(size, frame.stored_size, name)
    return turn_maps(maps, frame.orientation) if frame.orientation != 1 else maps


def check_size(size: tuple[int, int], bytes_a_pixel: int, options: ReadOptions, name: str) -> None:
    """DataError where (height, width) is more than `options` allow, before anything is unpacked."""
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
