"""One sample's bytes: the image, its heatmap from one or several readers, its sentence windows."""
from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.picture import Frame, turn_maps
from ..gaze import merge, render
from .images import ImageError, encode_jpeg, encode_map, read_grey_picture
from .options import Options
from .plan import Item


class Written(NamedTuple):
    """Encoded members; `windows` is (json, npz)."""

    image: bytes
    heatmap: bytes | None
    windows: tuple[bytes, bytes] | None


def write_sample(item: Item, options: Options) -> Written:
    """Read, reduce and encode one sample. FileNotFoundError: no image; ImageError: unreadable or of another size."""
    if not item.image.is_file():
        raise FileNotFoundError(2, "no such image", str(item.image))
    image, frame = read_grey_picture(item.image, options.size, options=options.reading)
    original, orientation = _annotated_grid(item, frame)
    if options.size is None and item.image.suffix.lower() in (".jpg", ".jpeg") and frame.orientation == 1:
        content = item.image.read_bytes()
    else:  # upright: maps lie over what is written
        content = encode_jpeg(image, options.quality)
    size = (image.height, image.width) if orientation < 5 else (image.width, image.height)
    heatmaps = [found for found in (render(annotation, original, size, item.config) for annotation in item.annotations) if found is not None]
    heatmap = merge(heatmaps, item.merge) if heatmaps else None
    return Written(content, None if heatmap is None else encode_map(turn_maps(heatmap.values, orientation)),
                   _windows(item, original, size, orientation))


def _annotated_grid(item: Item, frame: Frame) -> tuple[tuple[int, int], int]:
    """((height, width) of the pixels that positions count, the orientation that turns maps of them upright).

    The stored pixels, or, where the tables promise the size of the upright picture alone, its own. ImageError: neither.
    """
    if item.size is None or not _differs(item.size, frame.stored_size):
        return frame.stored_size, frame.orientation
    if _differs(item.size, frame.shown_size):
        raise ImageError(f"{item.image}: {frame.stored_size[0]} x {frame.stored_size[1]} pixels (height x width); the tables say "
                         f"{item.size[0]} x {item.size[1]}. Positions of gaze would be wrong: use the original images.")
    return frame.shown_size, 1


def _differs(promised: tuple[int, int], found: tuple[int, int]) -> bool:
    """EGD's tables round sides up to even."""
    return any(not 0 <= p - f <= 1 for p, f in zip(promised, found))


def _windows(item: Item, original: tuple[int, int], size: tuple[int, int], orientation: int) -> tuple[bytes, bytes] | None:
    """Sentences with times, and one uint8 map each, (N, h, w); sentences without any fixation are left out."""
    kept = [(window, found) for window in item.windows if (found := render(window.annotation, original, size, item.config)) is not None]
    if not kept:
        return None
    return encode_windows([(window.sentence, window.start, window.end) for window, _ in kept],
                          [turn_maps(found.values, orientation) for _, found in kept])


def encode_windows(spoken: Sequence[tuple[str, float, float]], heatmaps: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
    """(JSON, npz) of sentences with start and end in seconds, and their maps, each (h, w) in [0, 1]."""
    text = [{"sentence": sentence, "start": start, "end": end} for sentence, start, end in spoken]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, heatmaps=np.stack([np.rint(values * 255).astype(np.uint8) for values in heatmaps]))
    return json.dumps(text).encode(), buffer.getvalue()
