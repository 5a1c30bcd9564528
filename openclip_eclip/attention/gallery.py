"""One HTML page to look through many images and the attention maps of several models.

The page holds everything and asks for nothing from the network. Maps are stored as grids of bytes
and coloured in the browser; images are JPEG of a limited size. So 200 images with 2 models, 2 texts
and the expert's map stay under 30 MB, whatever is in them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import colormaps
from PIL import Image

from ..config import UserError
from ..data.figures import COLOURS
from ..files import whole_file

# (pixels of the longer side, JPEG quality): the first that makes an image small enough, else the
# last; only noise needs more than the first
IMAGE_TRIES = ((640, 85), (640, 65), (640, 45), (480, 45), (320, 45))
IMAGE_BYTES = 70_000
SMALL_TRIES = ((80, 70),)  # for the filmstrip
MAP_SIDE = 64  # cells of the longer side of a stored map; a tower has fewer positions
EXPERT_SIDE = 128  # finer, since its outline is drawn


@dataclass(frozen=True, eq=False)
class GalleryImage:
    """An image of the gallery, its texts, and for each text the map of every model."""

    key: str
    image: Image.Image  # RGB or L
    texts: Sequence[str]  # T of them
    maps: Mapping[str, np.ndarray]  # name of a model or method: (T, h, w), any range
    expert: np.ndarray | None = None  # (h, w), >= 0, of the image's aspect ratio
    # name of a model or method: for each text whether the map's maximum is in the region that the
    # expert marked; None: there is none
    hits: Mapping[str, Sequence[bool | None]] = field(default_factory=dict)


def write_gallery(
    path: Path,
    images: Iterable[GalleryImage],
    title: str,
    notes: Sequence[str] = (),
    compared: str = "Model",
) -> int:
    """Write one HTML file that shows `images`; returns its size in bytes.

    One image at a time is held in memory. A map (h, w) is stretched over the whole image and
    coloured from its own lowest to its own highest value, which the page states. `notes` stand
    below the title; `compared` says what the names of the maps are.

    Raises:
        UserError: there is no image, or its parts do not fit together. Nothing is written then.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = (Path(__file__).parent / "gallery.html.jinja").read_text(encoding="utf-8")
    colours = np.uint8(np.rint(colormaps[COLOURS](np.arange(256))[:, :3] * 255))
    pieces = environment.from_string(template).generate(
        title=title,
        notes=notes,
        compared=compared,
        colours=_base64(colours.tobytes()),
        entries=_entries(images),
    )
    size = 0
    with whole_file(path) as stream:
        for piece in pieces:
            # a file's name need not be Unicode
            size += stream.write(piece.encode("utf-8", "replace"))
    return size


def _entries(images: Iterable[GalleryImage]) -> Iterator[dict[str, Any]]:
    """What the template needs of one image after the other."""
    some = False
    for sample in images:
        some = True
        _check(sample)
        image = sample.image
        models = []
        counts = {}  # (hits, texts that can be hit)
        for model, maps in sample.maps.items():
            hits = sample.hits.get(model, [None] * len(sample.texts))
            known = [hit for hit in hits if hit is not None]
            counts[model] = sum(known), len(known)
            grids = [_grid(values) for values in maps]
            models.append({"name": model, "maps": grids, "hits": list(hits)})
        yield {
            "key": sample.key,
            "small": _jpeg(image, SMALL_TRIES),
            "counts": counts,
            "annotated": sample.expert is not None,
            "content": {
                "image": _jpeg(image, IMAGE_TRIES),
                "size": image.size,
                "texts": list(sample.texts),
                "models": models,
                "expert": None if sample.expert is None else _expert_grid(sample.expert),
            },
        }
    if not some:
        raise UserError("gallery: there is no image; expected at least one to show.")


def _check(sample: GalleryImage) -> None:
    """UserError where the parts of an image do not fit together."""
    width, height = sample.image.size
    count = len(sample.texts)

    def require(passed: bool, found: str, expected: str) -> None:
        if not passed:
            raise UserError(f"gallery: image {sample.key}: {found}; expected {expected}.")

    mode = sample.image.mode
    require(mode in ("RGB", "L"), f"mode {mode}", "RGB or L (convert it)")
    require(count > 0 and len(sample.maps) > 0, "no text or no map", "at least one of each")
    for model, maps in sample.maps.items():
        fits = maps.ndim == 3 and len(maps) == count and maps.size > 0
        expected = f"({count}, height, width), a map for each text"
        require(fits, f"maps of {model} have shape {maps.shape}", expected)
        finite = bool(np.isfinite(maps).all())
        require(finite, f"maps of {model} hold NaN or infinity", "finite numbers")
    for model, hits in sample.hits.items():
        require(model in sample.maps, f"hits of {model}, which has no maps", "the same models")
        fits = len(hits) == count
        require(fits, f"{len(hits)} hits of {model}", f"{count}, one for each text")
    if sample.expert is not None:
        shape = sample.expert.shape
        # one cell may be lost in rounding
        fits = len(shape) == 2 and abs(shape[1] * height - shape[0] * width) <= width + height
        ratio = f"(height, width) in the ratio of the image's {height} x {width}"
        require(fits and min(shape) > 0, f"the expert's map has shape {shape}", ratio)
        legal = bool(np.isfinite(sample.expert).all()) and sample.expert.min() >= 0
        require(legal, "the expert's map holds NaN, infinity or less than 0", "numbers from 0 on")


def _grid(values: np.ndarray) -> dict[str, Any]:
    """A map as bytes from its lowest (0) to its highest value (255), averaged to MAP_SIDE."""
    exact = np.asarray(values, dtype=np.float64)
    low, high = float(exact.min()), float(exact.max())
    shares = np.float32((exact - low) / ((high - low) or 1))
    rows, columns = _within(shares.shape, MAP_SIDE)
    small = Image.fromarray(shares).resize((columns, rows), Image.Resampling.BOX)
    return _stored(np.asarray(small)) | {"low": low, "high": high, "cells": exact.shape}


def _expert_grid(values: np.ndarray) -> dict[str, Any]:
    """The expert's map as bytes of its highest value; thin regions survive as their highest."""
    starts = [
        np.arange(cells) * length // cells
        for length, cells in zip(values.shape, _within(values.shape, EXPERT_SIDE))
    ]
    rows = np.maximum.reduceat(np.asarray(values, dtype=np.float64), starts[0], axis=0)
    small = np.maximum.reduceat(rows, starts[1], axis=1)
    return _stored(small / (small.max() or 1))


def _within(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """(rows, columns) of the same ratio, none more than `side`."""
    factor = min(1, side / max(shape))
    rows, columns = (max(1, round(length * factor)) for length in shape)
    return rows, columns


def _stored(shares: np.ndarray) -> dict[str, Any]:
    """Numbers in [0, 1] as bytes."""
    levels = np.uint8(np.rint(shares * 255))
    return {"shape": levels.shape, "levels": _base64(levels.tobytes())}


def _jpeg(image: Image.Image, tries: Sequence[tuple[int, int]]) -> str:
    """The data URI of a JPEG of at most IMAGE_BYTES, or of the last of `tries`."""
    small = image.copy()
    small.info.clear()  # a comment in the original may name a patient
    for side, quality in tries:
        small.thumbnail((side, side))  # never enlarges
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= IMAGE_BYTES:
            break
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
