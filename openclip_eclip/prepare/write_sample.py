"""Encodes one sample: image, heatmap of one or several readers, sentence windows."""

from __future__ import annotations

from typing import NamedTuple

from ..data.heatmap import is_flat
from ..data.images.picture import Frame, turn_maps
from ..data.scanpath import encode_scanpath
from ..data.sentence_windows import encode_windows
from ..data.tables.missing_text import is_missing
from ..gaze import Fixations, GazeError, merge, render
from .images import ImageError, encode_jpeg, encode_map, read_small_picture
from .options import Options
from .plan import Item


class Written(NamedTuple):
    """The encoded sample.

    `windows` is (json, npz), `scanpath` its member. `notes` are the reasons why something was left
    out, to be counted.
    """

    image: bytes
    heatmap: bytes | None
    windows: tuple[bytes, bytes] | None
    notes: tuple[str, ...] = ()
    scanpath: bytes | None = None


def write_sample(item: Item, options: Options) -> Written:
    """Reads, reduces and encodes one sample.

    Raises:
        FileNotFoundError: there is no image.
        ImageError: the image is unreadable, or its size is not that of the tables.
        GazeError: an annotation cannot be drawn, for example because its unit is wrong.
    """
    try:
        return _write(item, options)
    except GazeError as error:
        raise GazeError(f"{item.image}: {error}") from error


def _write(item: Item, options: Options) -> Written:
    if not item.image.is_file():
        raise FileNotFoundError(2, "no such image", str(item.image))
    image, frame = read_small_picture(
        item.image, options.size, options=options.reading, colour=item.colour
    )
    original, orientation = annotated_grid(item, frame)
    if (
        options.size is None
        and item.image.suffix.lower() in (".jpg", ".jpeg")
        and frame.orientation == 1
    ):
        content = item.image.read_bytes()  # unchanged
    else:  # upright, so that maps fit the written image
        content = encode_jpeg(image, options.quality)
    # (height, width) before turning; orientations from 5 on swap the sides
    size = (image.height, image.width) if orientation < 5 else (image.width, image.height)
    rendered = [render(annotation, original, size, item.config) for annotation in item.annotations]
    heatmaps = [heatmap for heatmap in rendered if heatmap is not None]
    heatmap, notes = merge(heatmaps, item.merge) if heatmaps else None, []
    if heatmap is not None and is_flat(heatmap.values / heatmap.values.max()):
        heatmap = None
        notes.append("heatmap: the same everywhere (the image stays, without one)")
    windows, left_out = _windows(item, original, size, orientation)
    notes += left_out
    png = None if heatmap is None else encode_map(turn_maps(heatmap.values, orientation))
    return Written(content, png, windows, tuple(notes), _scanpath(item, original, orientation))


def annotated_grid(item: Item, frame: Frame) -> tuple[tuple[int, int], int]:
    """(height, width) of the pixel grid of all positions, and the orientation of that grid.

    Positions count the stored pixels. If only the upright image has the size of the tables, they
    count its pixels instead.

    Raises:
        ImageError: neither has the size of the tables.
    """
    if item.upright and item.size is not None and not _differs(item.size, frame.shown_size):
        return frame.shown_size, 1
    if item.size is None or not _differs(item.size, frame.stored_size):
        return frame.stored_size, frame.orientation
    if _differs(item.size, frame.shown_size):
        raise ImageError(
            f"{item.image}: {frame.stored_size[0]} x {frame.stored_size[1]} pixels (height x"
            f" width); the tables say {item.size[0]} x {item.size[1]}. Gaze positions would be"
            " wrong: use the original images."
        )
    return frame.shown_size, 1


def _differs(promised: tuple[int, int], actual: tuple[int, int]) -> bool:
    """Whether two sizes differ; EGD-CXR's tables may round a side up to the next even number."""
    return any(not 0 <= side - other <= 1 for side, other in zip(promised, actual))


def _scanpath(item: Item, original: tuple[int, int], orientation: int) -> bytes | None:
    """The member with order and durations of all readings; None if it is not wanted.

    Positions are fractions of the written image, so none is made of turned pixels.
    """
    readings = [one for one in item.annotations if isinstance(one, Fixations)]
    if not item.scanpath or orientation != 1:
        return None
    return encode_scanpath(readings, original)


def _windows(
    item: Item, original: tuple[int, int], size: tuple[int, int], orientation: int
) -> tuple[tuple[bytes, bytes] | None, list[str]]:
    """(json, npz) of the sentences with times and one uint8 map each, (N, h, w); None without any.

    Also returns why sentences were left out: no fixation on the image, a map that is the same
    everywhere, or no words.
    """
    sentences, maps, notes = [], [], []
    for window in item.windows:
        heatmap = render(window.annotation, original, size, item.config)
        if heatmap is None:
            notes.append("windows: sentence without a fixation on the image")
        elif is_flat(heatmap.values / heatmap.values.max()):
            notes.append("windows: sentence whose map is the same everywhere")
        elif is_missing(window.sentence):
            notes.append("windows: sentence without words")
        else:
            sentences.append((window.sentence, window.start, window.end))
            maps.append(turn_maps(heatmap.values, orientation))
    if not sentences:
        return None, notes
    return encode_windows(sentences, maps), notes
