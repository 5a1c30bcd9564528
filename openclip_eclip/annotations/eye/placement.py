"""From positions in the unit of a file to pixels of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...config import UserError
from ...gaze import Fixations
from .options import GazeSetting

NEAR_ONE = 1.5  # pixels; a rectangle within them is one of fractions


@dataclass(frozen=True, eq=False)
class Placement:
    """Turns the fixations of a file into pixels of the image; it may be pickled.

    Degrees have their origin at the centre of the screen, x to the right, y down. `rectangles`
    (N, 4) and `offsets` (N, 2; added, in the unit of the file) belong to the fixations one by one.
    What was shown of the image (`Fixations.shown`, in pixels of the image) filled the rectangle.
    """

    unit: str
    screen: tuple[float, float] | None = None
    screen_cm: tuple[float, float] | None = None
    distance_cm: float | None = None
    placement: str | None = None
    rectangle: tuple[float, ...] | None = None
    rectangles: np.ndarray | None = None
    offsets: np.ndarray | None = None

    def __call__(self, fixations: Fixations, image_size: tuple[int, int]) -> Fixations:
        height, width = image_size
        xy = np.stack([fixations.x, fixations.y], axis=1)
        if self.offsets is not None:
            xy = xy + self.offsets
        if self.unit == "image-pixels":
            return replace(fixations, x=xy[:, 0], y=xy[:, 1])
        if self.unit == "image-fractions":
            return replace(fixations, x=xy[:, 0] * width, y=xy[:, 1] * height)
        whole = np.tile([0.0, 0.0, width, height], (len(fixations), 1))
        shown = whole if fixations.shown is None else fixations.shown
        sides = shown[:, 2:] - shown[:, :2]
        left_top, right_bottom = self._rectangle(sides)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = sides / (right_bottom - left_top)  # pixels of the image per pixel of the screen
            placed = shown[:, :2] + (self.on_screen(xy) - left_top) * scale
        ppd = self._pixels_per_degree()
        if ppd is None or fixations.ppd_x is not None:
            return replace(fixations, x=placed[:, 0], y=placed[:, 1])
        return replace(
            fixations,
            x=placed[:, 0],
            y=placed[:, 1],
            ppd_x=ppd[0] * scale[:, 0],
            ppd_y=ppd[1] * scale[:, 1],
        )

    def __str__(self) -> str:
        """Such as "screen-pixels, screen of 1920 x 1080, fit": for the summary and the manifest."""
        parts = [self.unit]
        if self.screen is not None:
            parts.append(f"screen of {self.screen[0]:g} x {self.screen[1]:g}")
        if self.screen_cm is not None:
            parts.append(f"{self.screen_cm[0]:g} x {self.screen_cm[1]:g} cm")
        if self.distance_cm is not None:
            parts.append(f"at {self.distance_cm:g} cm")
        if not self.unit.startswith("image"):
            if self.rectangles is not None:
                parts.append("the image's rectangle by row")
            elif self.rectangle is not None:
                parts.append(f"image at {', '.join(f'{side:g}' for side in self.rectangle)}")
            elif self.placement is not None:
                parts.append(self.placement)
        if self.offsets is not None:
            parts.append("offsets by row")
        return ", ".join(parts)

    def on_screen(self, xy: np.ndarray) -> np.ndarray:
        """Pixels of the screen of positions (N, 2) in the unit of the file, one of the screen."""
        if self.unit == "screen-pixels":
            return xy
        assert self.screen is not None  # checked by `make_placement`
        screen = np.array(self.screen)
        if self.unit == "screen-fractions":
            return xy * screen
        assert self.screen_cm is not None and self.distance_cm is not None
        per_cm = screen / np.array(self.screen_cm)
        return screen / 2 + np.tan(np.radians(xy)) * self.distance_cm * per_cm

    def to_degrees(self, xy: np.ndarray) -> np.ndarray | None:
        """Degrees from the centre of the screen; None if its size or distance is unknown."""
        if self.unit == "degrees":
            return xy
        if self.unit.startswith("image") or not (
            self.screen and self.screen_cm and self.distance_cm
        ):
            return None
        per_cm = np.array(self.screen) / np.array(self.screen_cm)
        cm = (self.on_screen(xy) - np.array(self.screen) / 2) / per_cm
        return np.degrees(np.arctan2(cm, self.distance_cm))

    def _pixels_per_degree(self) -> np.ndarray | None:
        """(2,) pixels of the screen per degree at its centre, for x and y."""
        if not (self.screen and self.screen_cm and self.distance_cm):
            return None
        per_cm = np.array(self.screen) / np.array(self.screen_cm)
        return per_cm * self.distance_cm * math.tan(math.radians(1))

    def _rectangle(self, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(left and top, right and bottom), each (N, 2) or (2,), in pixels of the screen."""
        if self.rectangles is not None:
            return self.rectangles[:, :2], self.rectangles[:, 2:]
        if self.rectangle is not None:
            return np.array(self.rectangle[:2]), np.array(self.rectangle[2:])
        assert self.screen is not None  # checked by `make_placement`
        screen = np.array(self.screen)
        if self.placement == "stretch":
            return np.zeros(2), screen
        scale = np.ones((len(sides), 1))
        if self.placement == "fit":
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = (screen / sides).min(axis=1, keepdims=True)
        return (screen - sides * scale) / 2, (screen + sides * scale) / 2


def make_placement(
    setting: GazeSetting,
    unit: str,
    where: str,
    rectangles: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
    screen: tuple[float, float] | None = None,
    rectangle: tuple[float, ...] | None = None,
) -> Placement:
    """The placement that the flags give; `screen` and `rectangle`: what the file says itself.

    Raises:
        UserError: positions on a screen of unknown size, or it is unknown how the image lay there.
    """
    screen = setting.screen or screen
    if setting.rectangle is not None or setting.placement is not None:
        rectangles = None  # the user's word counts more
        rectangle = setting.rectangle
    corners = np.array(rectangle or (), float) if rectangles is None else rectangles
    if np.isfinite(corners).any() and not unit.startswith("image"):
        if np.nanmax(np.abs(corners)) <= NEAR_ONE:
            raise UserError(
                f"{where}: the image lies at {corners.reshape(-1, 4)[0].tolist()} on the screen, as"
                " fractions are; expected left, top, right and bottom in pixels of the screen."
            )
    if unit in ("screen-fractions", "degrees") and screen is None:
        raise UserError(f"{where}: positions are {_words(unit)}; expected --screen WxH in pixels.")
    if unit == "degrees" and not (setting.screen_cm and setting.distance_cm):
        raise UserError(
            f"{where}: positions are degrees; expected --screen-cm WxH and --distance-cm too."
        )
    if not unit.startswith("image") and rectangles is None and rectangle is None:
        if setting.placement is None:
            raise UserError(
                f"{where}: positions are {_words(unit)}, and it is unknown how the image lay on it;"
                " expected --image-rectangle L,T,R,B or --placement fit, centre or stretch. If they"
                " are positions in the image, --gaze-unit image-pixels or image-fractions."
            )
        if screen is None:
            raise UserError(f"{where}: --placement {setting.placement}: expected --screen WxH too.")
    return Placement(
        unit,
        screen,
        setting.screen_cm,
        setting.distance_cm,
        setting.placement,
        rectangle,
        rectangles,
        offsets,
    )


def _words(unit: str) -> str:
    kind, _, of = unit.rpartition("-")
    return f"{of} of the {kind}" if kind else unit
