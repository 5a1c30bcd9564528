"""Check the unit of positions: pixels of the original image, not anything that looks similar.

Fractions, percentages, swapped axes and pixels of a screen are errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import GazeError

SWAPPED = "They fit with x and y swapped."
OTHER_PIXELS = "Pixels of a screen, or of the image at another size?"
SMALL = 32  # pixels; on a smaller image a position near 1 is plausible
NEAR_ONE = -0.5, 1.5  # fractions of an image, a little beyond its edge included
PERCENT = 100.0
FEW = 20  # minimum number of positions for a statement on a whole data set
MOSTLY = 0.5  # share of positions off their images above which the unit is in doubt
SOME = 0.2  # the same, if swapped axes would bring nearly all positions onto their images


def refuse_fractions(
    kind: str, xy: np.ndarray, image_size: tuple[int, int], least: int = 1
) -> None:
    """Raise a GazeError if all positions (N, 2) of an image seem to be fractions of it.

    So they do if all lie in the first pixel, and there are at least `least`. Whole numbers and NaN
    give no evidence of a unit. `image_size`: (height, width).
    """
    known = xy[np.isfinite(xy).all(axis=1)]
    if len(known) < least or min(image_size) < SMALL or not _are_fractions(known):
        return
    raise GazeError(
        f"{kind}: all {len(known)} positions lie within x {_span(known[:, 0])} and y "
        f"{_span(known[:, 1])} on an image of {image_size[0]} x {image_size[1]} pixels (height x "
        "width), as fractions do; expected pixels. Multiply x by the width and y by the height."
    )


def refuse_percentages(kind: str, xy: np.ndarray, image_size: tuple[int, int]) -> None:
    """Raise a GazeError if all positions (N, 2) of an image seem to be percentages of it.

    So they do if there are at least FEW, all within the first 100 pixels, and some beyond pixel 50.
    """
    known = xy[np.isfinite(xy).all(axis=1)]
    if len(known) >= FEW and _are_percentages(known, min(image_size)):
        raise GazeError(
            f"{kind}: all {len(known)} positions lie within x {_span(known[:, 0])} and y"
            f" {_span(known[:, 1])} on an image of {image_size[0]} x {image_size[1]} pixels (height"
            " x width), as percentages do; expected pixels. Multiply x by the width / 100 and y by"
            " the height / 100."
        )


def refuse_reversed(kind: str, xyxy: np.ndarray) -> None:
    """Raise a GazeError if every rectangle (N, 4) of an image ends before it begins."""
    known = xyxy[np.isfinite(xyxy).all(axis=1)]
    if len(known) and ((known[:, 2] < known[:, 0]) | (known[:, 3] < known[:, 1])).all():
        raise GazeError(
            f"{kind}: all {len(known)} end before they begin, the first is {known[0].tolist()};"
            " expected xmin, ymin, xmax, ymax. Is it x, y, width, height (Boxes.from_xywh), or x1,"
            " x2, y1, y2?"
        )


def describe_off_image(off: int, xy: np.ndarray, image_size: tuple[int, int]) -> str:
    """A warning if most of the positions (N, 2), namely `off` of them, lie off the image.

    "" otherwise, and for fewer than FEW positions.
    """
    known = xy[np.isfinite(xy).all(axis=1)]
    if len(known) < FEW or off <= MOSTLY * len(known):
        return ""
    sides = np.full(known.shape, image_size[::-1], dtype=np.float64)
    swapped = _share_off(known[:, ::-1], sides) < off / len(known) / 10
    hint = SWAPPED if swapped else OTHER_PIXELS
    return (
        f"{off} of {len(known)} positions lie off the image of {image_size[0]} x {image_size[1]}"
        f" (height x width), x {_span(known[:, 0])}, y {_span(known[:, 1])}; expected most on it."
        f" {hint}"
    )


def refuse_off_image(
    kind: str, dropped: dict[str, int], xy: np.ndarray, image_size: tuple[int, int]
) -> None:
    """Raise a GazeError if all annotations of an image were dropped as "off image".

    `xy` (N, 2) are their positions, for the message.
    """
    known = xy[np.isfinite(xy).all(axis=1)]
    if set(dropped) != {"off image"} or min(image_size) < SMALL or not len(known):
        return
    height, width = image_size
    swapped = ((known >= 0) & (known < [height, width])).all()
    hint = SWAPPED if swapped else OTHER_PIXELS
    raise GazeError(
        f"{kind}: all of them lie off the image of {height} x {width} pixels (height x width), x "
        f"{_span(known[:, 0])}, y {_span(known[:, 1])}; expected positions on it. {hint}"
    )


def refuse_units(where: str, xy: np.ndarray, sides: np.ndarray) -> None:
    """Raise a GazeError if the positions of a whole data set are not pixels of their images.

    The message begins with `where`. `xy` is (N, 2) of x, y; `sides` is (N, 2), the width and height
    of each position's image. Rows with a NaN do not count.
    """
    known = np.isfinite(xy).all(axis=1) & np.isfinite(sides).all(axis=1)
    xy, sides = xy[known], sides[known]
    if len(xy) < 2 or sides.min() < SMALL:
        return
    spans = (
        f"x {_span(xy[:, 0])}, y {_span(xy[:, 1])}, images of {_span(sides[:, 0])} x "
        f"{_span(sides[:, 1])} (width x height)"
    )
    if _are_fractions(xy):
        raise GazeError(
            f"{where}: {spans}: these seem to be fractions of the image; expected pixels. Multiply "
            "by width and height."
        )
    if len(xy) < FEW:
        return
    if _are_percentages(xy, sides.min()):
        raise GazeError(
            f"{where}: {spans}: these seem to be percentages of the image; expected pixels. "
            "Multiply by width / 100 and height / 100."
        )
    off, swapped = _share_off(xy, sides), _share_off(xy[:, ::-1], sides)
    if off > SOME and swapped < off / 10:
        raise GazeError(
            f"{where}: {spans}: {off:.0%} lie off their image, {swapped:.0%} with x and y "
            "swapped; expected x to the right, y down."
        )
    if off > MOSTLY:
        raise GazeError(
            f"{where}: {spans}: {off:.0%} of the positions lie off their image; expected pixels "
            "of the original image, not of a screen or of a reduced one."
        )


def refuse_box_units(where: str, xywh: np.ndarray, side: int) -> None:
    """Apply `refuse_units` to boxes (N, 4) of x, y, width, height on square images of `side`."""
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    refuse_units(where, corners, np.full(corners.shape, side, dtype=np.float64))


def refuse_pixels(where: str, fractions: np.ndarray) -> None:
    """Raise a GazeError if positions (N, 2) should be fractions of the screen, but are not.

    The message begins with `where`.
    """
    known = fractions[np.isfinite(fractions).all(axis=1)]
    if len(known) and np.median(np.abs(known), axis=0).max() > NEAR_ONE[1]:
        raise GazeError(
            f"{where}: x {_span(known[:, 0])}, y {_span(known[:, 1])}; expected fractions of the "
            "screen, 0 to 1, not pixels or percentages."
        )


def _are_fractions(xy: np.ndarray) -> bool:
    return bool(((xy >= NEAR_ONE[0]) & (xy <= NEAR_ONE[1])).all() and (xy % 1 != 0).any())


def _are_percentages(xy: np.ndarray, shortest: float) -> bool:
    return bool((xy >= 0).all() and PERCENT / 2 < xy.max() <= PERCENT and shortest > 2 * PERCENT)


def _share_off(xy: np.ndarray, sides: np.ndarray) -> float:
    return float(1 - ((xy >= 0) & (xy <= sides)).all(axis=1).mean())


def _span(values: np.ndarray) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def find_fractions(xyxy: np.ndarray, where: Sequence[str]) -> bool:
    """Whether the boxes (N, 4) of a whole table are fractions of their images, not pixels.

    Raises:
        GazeError: some rows are fractions and others are not; `where` names each row.
    """
    near = ((xyxy >= NEAR_ONE[0]) & (xyxy <= NEAR_ONE[1])).all(axis=1)
    small = near & (xyxy % 1 != 0).any(axis=1)
    large = (np.abs(xyxy) > NEAR_ONE[1]).any(axis=1)
    if small.any() and large.any():
        first, other = int(np.argmax(small)), int(np.argmax(large))
        raise GazeError(
            f"{where[first]}: x and y {_span(xyxy[first])}, as fractions of the image; but"
            f" {where[other]}: {_span(xyxy[other])}, as pixels; expected one unit in the whole"
            " table. Convert one of them."
        )
    return bool(small.any())
