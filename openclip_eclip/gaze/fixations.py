"""The fixations of one reading of one image, and the selection of those that can be drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .errors import GazeError, as_rows, sieve
from .plausible import refuse_fractions, refuse_percentages


@dataclass(frozen=True, eq=False)
class Fixations:
    """N fixations; every field becomes float64 and may hold NaN for blank cells.

    EGD-CXR (fixations.csv): X_ORIGINAL, Y_ORIGINAL, FPOGD, FPOGS. REFLACX (fixations.csv):
    x_position, y_position, end - start, timestamp_start_fixation,
    angular_resolution_x/y_pixels_per_degree, xmin/ymin/xmax/ymax_shown_from_image.

    Raises:
        GazeError: a field has another shape, or only one of ppd_x and ppd_y was given.
    """

    x: np.ndarray  # (N,) pixels of the original image
    y: np.ndarray  # (N,)
    duration: np.ndarray  # (N,) seconds
    start: np.ndarray | None = None  # (N,) seconds, on the clock of the transcript
    ppd_x: np.ndarray | None = None  # (N,) pixels of the original per degree of visual angle
    ppd_y: np.ndarray | None = None  # (N,)
    # (N, 4) xmin, ymin, xmax, ymax of the part of the image shown on the screen; max exclusive
    shown: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(np.atleast_1d(np.asarray(self.x)))
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None:
                shape = (count, 4) if field.name == "shown" else (count,)
                object.__setattr__(
                    self, field.name, as_rows(f"fixations: {field.name}", values, shape)
                )
        if (self.ppd_x is None) != (self.ppd_y is None):
            raise GazeError(
                "fixations: only one of ppd_x and ppd_y; expected both or neither. Give the same"
                " array twice if the axes share it."
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Fixations:
        """Select the fixations `rows`, an index or bool array."""
        values: dict[str, Any] = {
            field.name: None if (array := getattr(self, field.name)) is None else array[rows]
            for field in fields(self)
        }
        return Fixations(**values)

    def between(self, t0: float, t1: float) -> Fixations:
        """Select the fixations that overlap the seconds t0 .. t1, for example of one sentence.

        Durations become those of the overlap, and starts are clipped; the REFLACX authors weight
        fixations by this overlap. Rows without a start or a positive duration stay, with duration
        NaN, so that `usable` counts them.

        Raises:
            GazeError: no start times, or t1 <= t0.
        """
        if self.start is None:
            raise GazeError(
                "fixations: between() without start times; expected `start` in seconds. Pass FPOGS"
                " or timestamp_start_fixation."
            )
        if not t1 > t0:
            raise GazeError(f"fixations: between({t0:g}, {t1:g}); expected an end after the start.")
        start = np.maximum(self.start, t0)
        overlap = np.minimum(self.start + self.duration, t1) - start
        broken = ~(np.isfinite(self.start) & (self.duration > 0))
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"start": start, "duration": np.where(broken, np.nan, overlap)}
        return Fixations(**values).take(broken | (overlap > 0))

    def usable(
        self, image_size: tuple[int, int], weight: str = "duration", unit: str = "pixels"
    ) -> tuple[Fixations, dict[str, int]]:
        """Select the fixations that `render` can draw; count the others by reason.

        The parts of the image shown are clipped to the image. Reasons, of which the first that
        holds is counted: "no position", "off image", "no duration" (unless weight is "count"), "no
        resolution" (if unit is "degrees"), "empty window".

        Raises:
            GazeError: unit is "degrees" and there are no ppd_x and ppd_y, or all positions are
                fractions or percentages of the image.
        """
        height, width = image_size
        xy = np.stack([self.x, self.y], axis=1)
        # a short sentence may have one or two fixations near the corner
        refuse_fractions("fixations", xy, image_size, least=3)
        refuse_percentages("fixations", xy, image_size)
        tests = {
            "no position": ~(np.isfinite(self.x) & np.isfinite(self.y)),
            "off image": ~((self.x >= 0) & (self.x < width) & (self.y >= 0) & (self.y < height)),
        }
        if weight == "duration":
            tests["no duration"] = ~(np.isfinite(self.duration) & (self.duration > 0))
        if unit == "degrees":
            if self.ppd_x is None or self.ppd_y is None:
                raise GazeError(
                    "fixations: sigma in degrees, but no ppd_x and ppd_y; expected pixels per"
                    " degree. Pass them, or give sigma in pixels or as a share of the width."
                )
            ppd = np.minimum(self.ppd_x, self.ppd_y)  # NaN if either is
            tests["no resolution"] = ~(np.isfinite(self.ppd_x + self.ppd_y) & (ppd > 0))
        clipped = self
        if self.shown is not None:
            # NaN stays NaN, and fails the test for an empty window
            shown = np.clip(self.shown, 0, [width, height, width, height])
            tests["empty window"] = ~((shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1]))
            clipped = Fixations(
                self.x, self.y, self.duration, self.start, self.ppd_x, self.ppd_y, shown
            )
        rows, dropped = sieve(tests, len(self))
        return clipped.take(rows), dropped
