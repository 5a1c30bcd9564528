"""What the writers of annotations take: regions of images, and a file that is written in parts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from ...config import UserError


class Region(NamedTuple):
    """One region. `mask`: bool (h, w) over the whole image, of any resolution."""

    label: str
    mask: np.ndarray
    score: float | None = None


class Predicted(NamedTuple):
    """All regions of one image. `size`: (height, width)."""

    name: str
    size: tuple[int, int]
    regions: Sequence[Region]


def at_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at the size of its image: each pixel has the value at its centre, bool."""
    rows, columns = (
        ((np.arange(side) + 0.5) * cells / side).astype(np.int64)
        for side, cells in zip(size, mask.shape)
    )
    return np.asarray(mask, dtype=bool)[rows[:, None], columns]


def check_new(name: str, known: set[str], path: Path) -> None:
    """UserError: an image comes twice."""
    if name in known:
        raise UserError(f"{path}: the image {name!r} comes twice; expected each once.")
    known.add(name)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name when the block succeeds; else nothing is left."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
