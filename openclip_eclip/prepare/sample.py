"""One sample's bytes: the image, its heatmap from one or several readers, its sentence windows."""
from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..gaze import merge, render
from .images import ImageError, encode_jpeg, encode_map, read_grey
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
    image, original = read_grey(item.image, options.size)
    if item.size is not None and _differs(item.size, original):
        raise ImageError(f"{item.image}: {original[0]} x {original[1]} pixels (height x width); the tables say "
                         f"{item.size[0]} x {item.size[1]}. Positions of gaze would be wrong: use the original images.")
    if options.size is None and item.image.suffix.lower() in (".jpg", ".jpeg"):
        content = item.image.read_bytes()
    else:
        content = encode_jpeg(image, options.quality)
    size = (image.height, image.width)
    heatmaps = [found for found in (render(annotation, original, size, item.config) for annotation in item.annotations) if found is not None]
    heatmap = merge(heatmaps, item.merge) if heatmaps else None
    return Written(content, None if heatmap is None else encode_map(heatmap.values), _windows(item, original, size))


def _differs(promised: tuple[int, int], found: tuple[int, int]) -> bool:
    """EGD's tables round sides up to even."""
    return any(not 0 <= p - f <= 1 for p, f in zip(promised, found))


def _windows(item: Item, original: tuple[int, int], size: tuple[int, int]) -> tuple[bytes, bytes] | None:
    """Sentences with times, and one uint8 map each, (N, h, w); sentences without any fixation are left out."""
    kept = [(window, found) for window in item.windows if (found := render(window.annotation, original, size, item.config)) is not None]
    if not kept:
        return None
    return encode_windows([(window.sentence, window.start, window.end) for window, _ in kept], [found.values for _, found in kept])


def encode_windows(spoken: Sequence[tuple[str, float, float]], heatmaps: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
    """(JSON, npz) of sentences with start and end in seconds, and their maps, each (h, w) in [0, 1]."""
    text = [{"sentence": sentence, "start": start, "end": end} for sentence, start, end in spoken]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, heatmaps=np.stack([np.rint(values * 255).astype(np.uint8) for values in heatmaps]))
    return json.dumps(text).encode(), buffer.getvalue()
