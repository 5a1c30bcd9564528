"""Annotations that are decoded when they are drawn, and several that are drawn as one.

A data set may have 100 000 masks: kept encoded, they fit into memory and into messages between
processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from .errors import GazeError
from .fixations import Fixations
from .rle import decode_rle
from .shapes import Boxes, Ellipses, Mask, Points, Polygons


@runtime_checkable
class Stored(Protocol):
    """An annotation that `load` reads or decodes. GazeError: it cannot be read."""

    def load(self) -> Annotation: ...


@dataclass(frozen=True, eq=False)
class RleMask:
    """A run-length encoded mask, as for `decode_rle`."""

    counts: str | Sequence[int]
    size: tuple[int, int]  # (height, width)
    kind: str = "coco"
    row_major: bool = False

    def load(self) -> Mask:
        return Mask(decode_rle(self.counts, self.size, self.kind, row_major=self.row_major))


@dataclass(frozen=True, eq=False)
class MaskFile:
    """A picture that marks a region: where it has `value`, or is not 0 if `value` is None.

    Palette pictures count by index, grey ones by grey value; of colours, `value` is a hex triple
    such as 0xFF0000, and black is 0.
    """

    path: Path
    value: int | None = None

    def load(self) -> Mask:
        values = read_mask_values(self.path)
        return Mask(values != 0 if self.value is None else values == self.value)


def read_mask_values(path: Path) -> np.ndarray:
    """(H, W) int64: the index, grey value, or 0xRRGGBB of every pixel of a mask picture.

    Raises:
        GazeError: not a readable picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode in ("P", "L", "1") or picture.mode.startswith("I"):
                values = np.asarray(picture).astype(np.int64)
                return values * 255 if picture.mode == "1" else values
            colours = np.asarray(picture.convert("RGB")).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise GazeError(f"{path}: not a readable mask picture ({error}).") from error
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


@dataclass(frozen=True, eq=False)
class Union:
    """Several shapes of one annotator: the map is the maximum of theirs."""

    parts: tuple[Annotation, ...]


Annotation = Fixations | Points | Boxes | Ellipses | Polygons | Mask | Stored | Union
