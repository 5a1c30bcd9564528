"""Converts raw images to small grey JPEGs; data/images/read.py reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..config import DataError, UserError
from ..data.images.options import ReadOptions
from ..data.images.picture import Frame
from ..data.images.read import read_picture

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")


class ImageError(UserError):
    """An image that cannot be read; the message names its file."""


def list_images(folders: Iterable[Path]) -> dict[str, Path]:
    """{name without suffixes: file} of the images in these folders.

    If a name is in several folders, the first folder counts.
    """
    images: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in SUFFIXES:
                    images.setdefault(path.name.partition(".")[0], path)
    return images


def read_grey(
    path: Path, size: int | None, content: bytes | None = None, options: ReadOptions = ReadOptions()
) -> tuple[Image.Image, tuple[int, int]]:
    """The image of `read_small_picture`, and its original (height, width) as shown."""
    image, frame = read_small_picture(path, size, content, options)
    return image, frame.shown_size


def read_small_picture(
    path: Path,
    size: int | None,
    content: bytes | None = None,
    options: ReadOptions = ReadOptions(),
    colour: bool = False,
) -> tuple[Image.Image, Frame]:
    """The upright image of 8 bits a channel, and its frame (sizes and orientation).

    It is grey, or of three channels if `colour` and the file has colours. The shortest side is
    reduced to `size` pixels; images are never enlarged. `content` is given for a file in an
    archive; `path` then only names it.

    Raises:
        ImageError: `read_picture` cannot read the file.
    """
    try:
        picture = read_picture(
            path if content is None else content,
            str(path),
            options,
            None if size is None else partial(_draft, size=size, colour=colour),
        )
    except DataError as error:
        raise ImageError(str(error)) from error
    grey = not colour or picture.image.mode in ("1", "L", "LA") or picture.image.mode[0] in "IF"
    image, original = picture.image.convert("L" if grey else "RGB"), picture.frame.shown_size
    if size is not None and min(original) > size:
        height, width = _scaled(original, size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return image, picture.frame


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """The image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_map(values: np.ndarray) -> bytes:
    """A heatmap, (h, w) float in [0, 1], as a grey PNG file; 1 becomes 255."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _draft(image: Image.Image, _: int, size: int, colour: bool = False) -> None:
    """Lets a JPEG be decoded at the smallest scale that is at least twice `size`.

    It is decoded to grey, unless it has a colour profile or `colour`.
    """
    small = _scaled((image.height, image.width), 2 * size)
    image.draft(None if colour or image.info.get("icc_profile") else "L", small[::-1])


def _scaled(original: tuple[int, int], shortest: int) -> tuple[int, int]:
    """(height, width) with `shortest` as the shorter side."""
    scale = shortest / min(original)
    return round(original[0] * scale), round(original[1] * scale)
