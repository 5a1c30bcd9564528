"""Annotations other than gaze: points, boxes, ellipses, polygons and masks.

All are in pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .errors import GazeError, as_rows, sieve
from .plausible import refuse_fractions, refuse_off_image, refuse_percentages, refuse_reversed

# Certainty 0-5 of REFLACX as probabilities: the middle of "< 10 %", "about 25 %", ..., "> 90 %"
CERTAINTY = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95])


def _weights(kind: str, weight: ArrayLike | None, count: int) -> np.ndarray:
    """The weights as float64 (count,), 1 by default."""
    return np.ones(count) if weight is None else as_rows(f"{kind}: weight", weight, (count,))


def _no_weight(weight: np.ndarray) -> np.ndarray:
    return ~(np.isfinite(weight) & (weight > 0))


def _usable_rectangles(
    kind: str, xyxy: np.ndarray, weight: np.ndarray, image_size: tuple[int, int]
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the rectangles (N, 4) that can be drawn, and a count of the others by reason."""
    height, width = image_size
    left, top, right, bottom = xyxy.T
    corners = xyxy.reshape(-1, 2)
    refuse_fractions(kind, corners, image_size)
    rows, dropped = sieve(
        {
            "no position": ~np.isfinite(xyxy).all(axis=1),
            "empty": ~((right > left) & (bottom > top)),
            "off image": ~((left < width) & (top < height) & (right > 0) & (bottom > 0)),
            "no weight": _no_weight(weight),
        },
        len(xyxy),
    )
    if not len(rows):
        refuse_reversed(kind, xyxy)
        refuse_off_image(kind, dropped, corners, image_size)
    return rows, dropped


@dataclass(frozen=True, eq=False)
class Points:
    """N points, such as clicks; drawn as Gaussians, like fixations."""

    x: np.ndarray  # (N,)
    y: np.ndarray  # (N,)
    weight: np.ndarray  # (N,), 1 by default

    def __init__(self, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> None:
        count = len(np.atleast_1d(np.asarray(x)))
        object.__setattr__(self, "x", as_rows("points: x", x, (count,)))
        object.__setattr__(self, "y", as_rows("points: y", y, (count,)))
        object.__setattr__(self, "weight", _weights("points", weight, count))

    def usable(self, image_size: tuple[int, int]) -> tuple[Points, dict[str, int]]:
        """Select the points on the image with a positive weight; count the others by reason.

        Raises:
            GazeError: all are fractions of the image, or off it, as for all shapes.
        """
        xy = np.stack([self.x, self.y], axis=1)
        refuse_fractions("points", xy, image_size)
        refuse_percentages("points", xy, image_size)
        rows, dropped = sieve(
            {
                "no position": ~(np.isfinite(self.x) & np.isfinite(self.y)),
                "off image": ~(
                    (self.x >= 0)
                    & (self.x < image_size[1])
                    & (self.y >= 0)
                    & (self.y < image_size[0])
                ),
                "no weight": _no_weight(self.weight),
            },
            len(self.x),
        )
        if not len(rows):
            refuse_off_image("points", dropped, xy, image_size)
        return Points(self.x[rows], self.y[rows], self.weight[rows]), dropped


@dataclass(frozen=True, eq=False)
class Boxes:
    """N boxes xmin, ymin, xmax, ymax, max exclusive.

    The table of EGD-CXR has the order x1, x2, y1, y2 and must be reordered.
    """

    xyxy: np.ndarray  # (N, 4)
    weight: np.ndarray  # (N,), 1 by default

    def __init__(self, xyxy: ArrayLike, weight: ArrayLike | None = None) -> None:
        object.__setattr__(self, "xyxy", as_rows("boxes", xyxy, (None, 4)))
        object.__setattr__(self, "weight", _weights("boxes", weight, len(self.xyxy)))

    @classmethod
    def from_xywh(cls, xywh: ArrayLike, weight: ArrayLike | None = None) -> Boxes:
        """Make boxes from (N, 4) of x, y, width, height, as in RSNA and COCO."""
        rows = as_rows("boxes", xywh, (None, 4))
        return cls(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1), weight)

    def usable(self, image_size: tuple[int, int]) -> tuple[Boxes, dict[str, int]]:
        """Select the boxes with an area on the image and a positive weight; count the others."""
        rows, dropped = _usable_rectangles("boxes", self.xyxy, self.weight, image_size)
        return Boxes(self.xyxy[rows], self.weight[rows]), dropped


@dataclass(frozen=True, eq=False)
class Ellipses:
    """N axis-aligned ellipses, each given by the rectangle around it.

    The weight is the probability of the certainty.
    """

    xyxy: np.ndarray  # (N, 4) xmin, ymin, xmax, ymax
    certainty: np.ndarray | None = None  # (N,) 0-5 as in REFLACX; without it every ellipse weighs 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", as_rows("ellipses", self.xyxy, (None, 4)))
        if self.certainty is not None:
            object.__setattr__(
                self, "certainty", as_rows("ellipses: certainty", self.certainty, (len(self.xyxy),))
            )

    @property
    def weight(self) -> np.ndarray:
        """(N,) 0.05, 0.25, 0.5, 0.75, 0.95 for certainty 1-5, 0 for anything else."""
        if self.certainty is None:
            return np.ones(len(self.xyxy))
        known = np.isin(self.certainty, np.arange(len(CERTAINTY)))
        return CERTAINTY[np.where(known, self.certainty, 0).astype(int)]

    def usable(self, image_size: tuple[int, int]) -> tuple[Ellipses, dict[str, int]]:
        """Select the ellipses with an area on the image and certainty 1-5; count the others."""
        rows, dropped = _usable_rectangles("ellipses", self.xyxy, self.weight, image_size)
        certainty = None if self.certainty is None else self.certainty[rows]
        return Ellipses(self.xyxy[rows], certainty), dropped


@dataclass(frozen=True, eq=False)
class Polygons:
    """N closed outlines, each (K, 2) of x, y, K >= 3; inside, the winding number is not 0."""

    outlines: Sequence[np.ndarray]
    weight: np.ndarray  # (N,), 1 by default

    def __init__(self, outlines: Iterable[ArrayLike], weight: ArrayLike | None = None) -> None:
        rows = tuple(as_rows("polygons: outline", line, (None, 2)) for line in outlines)
        object.__setattr__(self, "outlines", rows)
        object.__setattr__(self, "weight", _weights("polygons", weight, len(rows)))

    def usable(self, image_size: tuple[int, int]) -> tuple[Polygons, dict[str, int]]:
        """Select the outlines of at least 3 points that touch the image; count the others."""
        finite = np.array(
            [len(line) > 0 and bool(np.isfinite(line).all()) for line in self.outlines], dtype=bool
        )
        boxes = np.array(
            [
                [*line.min(axis=0), *line.max(axis=0)] if ok else [np.nan] * 4
                for ok, line in zip(finite, self.outlines)
            ]
        ).reshape(-1, 4)
        rows, dropped = _usable_rectangles("polygons", boxes, self.weight, image_size)
        few = [int(i) for i in rows if len(self.outlines[i]) < 3]
        if few:
            dropped["fewer than 3 points"] = len(few)
            rows = np.setdiff1d(rows, few)
        return Polygons([self.outlines[i] for i in rows], self.weight[rows]), dropped


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask of the size of the image.

    Integers and bools are inside where they are not 0; floats are weights.

    Raises:
        GazeError: not two-dimensional, not real numbers, negative, or not finite.
    """

    values: np.ndarray  # (H, W)

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or values.dtype.kind not in "biuf":
            raise GazeError(
                f"mask: shape {values.shape} of {values.dtype}; expected (height, width) of"
                " numbers. Decode an RLE with decode_rle; take one channel of a colour image."
            )
        if values.dtype.kind != "f":
            values = values != 0
        elif not (np.isfinite(values).all() and (values >= 0).all()):
            raise GazeError(
                "mask: negative, infinite or NaN values; expected weights of at least 0. Threshold"
                " it first."
            )
        object.__setattr__(self, "values", values)

    def usable(self, image_size: tuple[int, int]) -> tuple[Mask | None, dict[str, int]]:
        """(the mask, {}), or (None, {"empty": 1}) if it is zero everywhere.

        Raises:
            GazeError: the mask's size is not the image's.
        """
        if self.values.shape != tuple(image_size):
            swapped = self.values.shape == tuple(image_size)[::-1]
            hint = (
                "It fits transposed: the sizes of PIL are (width, height)."
                if swapped
                else "Resize neither before rendering."
            )
            raise GazeError(
                f"mask: {self.values.shape} (height, width), image {tuple(image_size)}; expected"
                f" the same. {hint}"
            )
        return (self, {}) if self.values.any() else (None, {"empty": 1})
