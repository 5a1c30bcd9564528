"""Scanpaths: order, positions and durations of fixations, as the member `scanpath.npz`.

Arrays x, y (float32, fractions of the image), start and duration (float32, seconds; start NaN where
unknown), in the order of viewing, and `reading` (int32), the number of the recording. A reader of a
data set loads the member only when asked.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..config import DataError
from .heatmap import UNREADABLE, read_npz
from .images.options import ReadOptions

MEMBER = "scanpath.npz"
FIELDS = ("x", "y", "start", "duration")
MOST = 1_000_000  # fixations of a sample
FARTHEST = 100.0  # image sides away from the image


class Viewing(Protocol):
    """What is used of `gaze.Fixations`: pixels and seconds."""

    @property
    def x(self) -> np.ndarray: ...
    @property
    def y(self) -> np.ndarray: ...
    @property
    def start(self) -> np.ndarray | None: ...
    @property
    def duration(self) -> np.ndarray: ...


class Scanpath(NamedTuple):
    """N fixations; `reading` (N,) tells the recordings of several readers apart."""

    x: np.ndarray  # (N,) float32, fractions of the width; outside 0 to 1: off the image
    y: np.ndarray  # (N,) of the height
    start: np.ndarray  # (N,) seconds, NaN: unknown
    duration: np.ndarray  # (N,) seconds
    reading: np.ndarray  # (N,) int32, from 0


def encode_scanpath(recordings: Sequence[Viewing], image_size: tuple[int, int]) -> bytes | None:
    """The member for fixations in pixels of the image of (height, width), one entry per recording.

    Fixations without a position or a duration are left out; None if no fixation remains.
    """
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*FIELDS, "reading")}
    for i, one in enumerate(recordings):
        scale = np.array(image_size[::-1], dtype=np.float64)
        x, y = one.x / scale[0], one.y / scale[1]
        start = np.full(len(one.x), np.nan) if one.start is None else one.start
        near = (np.abs(x) <= FARTHEST) & (np.abs(y) <= FARTHEST)
        kept = near & np.isfinite(one.duration) & (one.duration > 0)
        order = np.flatnonzero(kept)
        if np.isfinite(start[order]).all():
            order = order[np.argsort(start[order], kind="stable")]
        for name, values in zip(FIELDS, (x, y, start, one.duration)):
            columns[name].append(values[order].astype(np.float32))
        columns["reading"].append(np.full(len(order), i, dtype=np.int32))
    arrays: dict[str, Any] = {
        name: np.concatenate(parts) for name, parts in columns.items() if parts
    }
    if not arrays or not len(arrays["x"]):
        return None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def decode_scanpath(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> Scanpath:
    """The scanpath of a member.

    Raises:
        DataError: with `name`: no npz, pickled objects, other arrays, shapes or types, no fixation
            or too many, positions far off the image or not finite, durations that are not positive,
            or more bytes than `options` allow.
    """
    what = f"scanpath {name!r}"
    try:
        arrays = read_npz(content, what, options)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{what}: not a readable npz of plain numbers ({error}).") from error
    if sorted(arrays) != sorted((*FIELDS, "reading")):
        raise DataError(
            f"{what}: arrays {sorted(arrays)}; expected {', '.join((*FIELDS, 'reading'))}."
        )
    shape = arrays["x"].shape
    for field, values in arrays.items():
        dtype = np.dtype(np.int32 if field == "reading" else np.float32)
        if values.shape != shape or values.ndim != 1 or values.dtype != dtype:
            raise DataError(
                f"{what}: {field} is {values.dtype} {values.shape}; expected {dtype} (fixations,),"
                " as many for all."
            )
    if not 0 < shape[0] <= MOST:
        raise DataError(f"{what}: {shape[0]} fixations; expected 1 to {MOST}.")
    path = Scanpath(*(arrays[field] for field in (*FIELDS, "reading")))
    for field, passes in {
        "x": np.abs(path.x) <= FARTHEST,
        "y": np.abs(path.y) <= FARTHEST,
        "start": np.isnan(path.start) | (np.abs(path.start) < 1e12),
        "duration": (path.duration > 0) & (path.duration < 1e12),
        "reading": path.reading >= 0,
    }.items():
        if not passes.all():
            at = int(np.flatnonzero(~passes)[0])
            raise DataError(
                f"{what}: {field} of fixation {at + 1} is {arrays[field][at]}; expected fractions"
                " of the image, seconds, positive durations and readings from 0."
            )
    return path
