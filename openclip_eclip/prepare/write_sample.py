"""One sample's bytes: the image, its heatmap from one or several readers, its sentence windows."""

from __future__ import annotations

from typing import NamedTuple

from ..data.heatmap import is_flat
from ..data.images.picture import Frame, turn_maps
from ..data.sentence_windows import encode_windows
from ..data.tables.missing_text import is_missing
from ..gaze import merge, render
from .images import ImageError, encode_jpeg, encode_map, read_grey_picture
from .options import Options
from .plan import Item


class Written(NamedTuple):
    """Encoded members; `windows` is (json, npz). `notes`: what was left out of the sample, to be
    counted.
    """

    image: bytes
    heatmap: bytes | None
    windows: tuple[bytes, bytes] | None
    notes: tuple[str, ...] = ()


def write_sample(item: Item, options: Options) -> Written:
    """Read, reduce and encode one sample. FileNotFoundError: no image; ImageError: unreadable or of
    another size.
    """
    if not item.image.is_file():
        raise FileNotFoundError(2, "no such image", str(item.image))
    image, frame = read_grey_picture(item.image, options.size, options=options.reading)
    original, orientation = _annotated_grid(item, frame)
    if (
        options.size is None
        and item.image.suffix.lower() in (".jpg", ".jpeg")
        and frame.orientation == 1
    ):
        content = item.image.read_bytes()
    else:  # upright: maps lie over what is written
        content = encode_jpeg(image, options.quality)
    size = (image.height, image.width) if orientation < 5 else (image.width, image.height)
    heatmaps = [
        found
        for found in (
            render(annotation, original, size, item.config) for annotation in item.annotations
        )
        if found is not None
    ]
    heatmap, notes = merge(heatmaps, item.merge) if heatmaps else None, []
    if heatmap is not None and is_flat(heatmap.values / heatmap.values.max()):
        heatmap = None
        notes.append("heatmap: the same everywhere (the image stays, without one)")
    windows, left_out = _windows(item, original, size, orientation)
    notes += left_out
    png = None if heatmap is None else encode_map(turn_maps(heatmap.values, orientation))
    return Written(content, png, windows, tuple(notes))


def _annotated_grid(item: Item, frame: Frame) -> tuple[tuple[int, int], int]:
    """((height, width) of the pixels that positions count, the orientation that turns maps of them
    upright).

    The stored pixels, or, where the tables promise the size of the upright picture alone, its own.
    ImageError: neither.
    """
    if item.size is None or not _differs(item.size, frame.stored_size):
        return frame.stored_size, frame.orientation
    if _differs(item.size, frame.shown_size):
        raise ImageError(
            f"{item.image}: {frame.stored_size[0]} x {frame.stored_size[1]} pixels (height x"
            f" width); the tables say {item.size[0]} x {item.size[1]}. Positions of gaze would be"
            " wrong: use the original images."
        )
    return frame.shown_size, 1


def _differs(promised: tuple[int, int], found: tuple[int, int]) -> bool:
    """EGD's tables round sides up to even."""
    return any(not 0 <= p - f <= 1 for p, f in zip(promised, found))


def _windows(
    item: Item, original: tuple[int, int], size: tuple[int, int], orientation: int
) -> tuple[tuple[bytes, bytes] | None, list[str]]:
    """Sentences with times, and one uint8 map each, (N, h, w); and why others were left out: no
    fixation on the image, a map that is the same everywhere, no words.
    """
    kept, notes = [], []
    for window in item.windows:
        found = render(window.annotation, original, size, item.config)
        if found is None:
            notes.append("windows: sentence without a fixation on the image")
        elif is_flat(found.values / found.values.max()):
            notes.append("windows: sentence whose map is the same everywhere")
        elif is_missing(window.sentence):
            notes.append("windows: sentence without words")
        else:
            kept.append((window, found))
    if not kept:
        return None, notes
    spoken = [(window.sentence, window.start, window.end) for window, _ in kept]
    return (
        encode_windows(spoken, [turn_maps(found.values, orientation) for _, found in kept]),
        notes,
    )
