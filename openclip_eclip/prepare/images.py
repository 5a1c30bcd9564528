"""Raw images to small grey JPEGs, read by the one reader of the package (data/images/read.py)."""

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
    """An image that cannot be read, named by its file."""


def list_images(folders: Iterable[Path]) -> dict[str, Path]:
    """{name without suffixes: file} of the images in these folders; the first folder that has a
    name wins.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in SUFFIXES:
                    found.setdefault(path.name.partition(".")[0], path)
    return found


def read_grey(
    path: Path, size: int | None, content: bytes | None = None, options: ReadOptions = ReadOptions()
) -> tuple[Image.Image, tuple[int, int]]:
    """`read_grey_picture` without the frame: the image and its original (height, width) as
    shown.
    """
    image, frame = read_grey_picture(path, size, content, options)
    return image, frame.shown_size


def read_grey_picture(
    path: Path, size: int | None, content: bytes | None = None, options: ReadOptions = ReadOptions()
) -> tuple[Image.Image, Frame]:
    """The 8-bit grey image as a person sees it, its shortest side reduced to `size` pixels (never
    enlarged), and its frame.

    `content`: the file's, where it lies in an archive; `path` then only names it. ImageError: as
    `read_picture`.
    """

    try:
        picture = read_picture(
            path if content is None else content,
            str(path),
            options,
            None if size is None else partial(_draft, size=size),
        )
    except DataError as error:
        raise ImageError(str(error)) from error
    image, original = picture.image.convert("L"), picture.frame.shown_size
    if size is not None and min(original) > size:
        height, width = _scaled(original, size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return image, picture.frame


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_map(values: np.ndarray) -> bytes:
    """A grey PNG of a heatmap: (h, w) float in [0, 1], 1 becoming 255."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _draft(image: Image.Image, size: int) -> None:
    """Have a JPEG decoded at the smallest scale that is at least twice `size`, in grey unless its
    colours have a profile.
    """
    small = _scaled((image.height, image.width), 2 * size)
    image.draft(None if image.info.get("icc_profile") else "L", small[::-1])


def _scaled(original: tuple[int, int], shortest: int) -> tuple[int, int]:
    scale = shortest / min(original)
    return round(original[0] * scale), round(original[1] * scale)
