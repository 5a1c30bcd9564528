"""Are positions in the unit that is expected? Fractions, percentages, swapped axes and pixels of a
screen look like positions, too.
"""

from __future__ import annotations

import numpy as np

from .errors import GazeError

SMALL = 32  # pixels: on a smaller image a position near 1 is a position
NEAR_ONE = -0.5, 1.5  # fractions of an image, a little beyond its edge included
PERCENT = 100.0
FEW = 20  # positions from which a statement on a whole data set is made
MOSTLY = 0.5  # share of positions off their images from which all of them are in doubt
SOME = 0.2  # the same, where swapping the axes would bring nearly all of them back


def refuse_fractions(
    kind: str, xy: np.ndarray, image_size: tuple[int, int], least: int = 1
) -> None:
    """GazeError if all positions (N, 2) of an image lie in its first pixel, at least `least` of
    them: fractions of the image.

    Whole numbers and NaN say nothing of a unit. `image_size`: (height, width).
    """
    found = xy[np.isfinite(xy).all(axis=1)]
    if len(found) < least or min(image_size) < SMALL or not _are_fractions(found):
        return
    raise GazeError(
        f"{kind}: all {len(found)} positions lie within x {_span(found[:, 0])} and y "
        f"{_span(found[:, 1])} on an image of {image_size[0]} x {image_size[1]} pixels (height x "
        "width), as fractions do; expected pixels. Multiply x by the width and y by the height."
    )


def refuse_percentages(kind: str, xy: np.ndarray, image_size: tuple[int, int]) -> None:
    """GazeError if at least FEW positions (N, 2) of an image all lie within its first 100 pixels,
    over more than half of them.
    """
    found = xy[np.isfinite(xy).all(axis=1)]
    if len(found) >= FEW and _are_percentages(found, min(image_size)):
        raise GazeError(
            f"{kind}: all {len(found)} positions lie within x {_span(found[:, 0])} and y"
            f" {_span(found[:, 1])} on an image of {image_size[0]} x {image_size[1]} pixels (height"
            " x width), as percentages do; expected pixels. Multiply x by the width / 100 and y by"
            " the height / 100."
        )


def refuse_reversed(kind: str, xyxy: np.ndarray) -> None:
    """GazeError if every rectangle (N, 4) of an image ends before it begins."""
    found = xyxy[np.isfinite(xyxy).all(axis=1)]
    if len(found) and ((found[:, 2] < found[:, 0]) | (found[:, 3] < found[:, 1])).all():
        raise GazeError(
            f"{kind}: all {len(found)} end before they begin, the first is {found[0].tolist()};"
            " expected xmin, ymin, xmax, ymax. Is it x, y, width, height (Boxes.from_xywh), or x1,"
            " x2, y1, y2?"
        )


def describe_off_image(off: int, xy: np.ndarray, image_size: tuple[int, int]) -> str:
    """A sentence, "" for fewer than FEW positions (N, 2), or where `off` of them, those off the
    image, are not most of them.
    """
    found = xy[np.isfinite(xy).all(axis=1)]
    if len(found) < FEW or off <= MOSTLY * len(found):
        return ""
    sides = np.full(found.shape, image_size[::-1], dtype=np.float64)
    swapped = _share_off(found[:, ::-1], sides) < off / len(found) / 10
    return (
        f"{off} of {len(found)} positions lie off the image of {image_size[0]} x {image_size[1]}"
        f" (height x width), x {_span(found[:, 0])}, y {_span(found[:, 1])}; expected most on it. "
        + (
            "They fit with x and y swapped."
            if swapped
            else "Pixels of a screen, or of the image at another size?"
        )
    )


def refuse_off_image(
    kind: str, dropped: dict[str, int], xy: np.ndarray, image_size: tuple[int, int]
) -> None:
    """GazeError if all annotations of an image fell to "off image"; `xy` (N, 2) are their
    positions, for the message.
    """
    found = xy[np.isfinite(xy).all(axis=1)]
    if set(dropped) != {"off image"} or min(image_size) < SMALL or not len(found):
        return
    height, width = image_size
    swapped = ((found >= 0) & (found < [height, width])).all()
    hint = (
        "They fit with x and y swapped."
        if swapped
        else "Pixels of a screen, or of the image at another size?"
    )
    raise GazeError(
        f"{kind}: all of them lie off the image of {height} x {width} pixels (height x width), x "
        f"{_span(found[:, 0])}, y {_span(found[:, 1])}; expected positions on it. {hint}"
    )


def refuse_units(where: str, xy: np.ndarray, sides: np.ndarray) -> None:
    """GazeError, beginning with `where`, if the positions of a whole data set are not pixels of
    their images.

    `xy` (N, 2) x and y; `sides` (N, 2) width and height of each one's image; rows with a NaN do not
    count.
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
            f"{where}: {spans}: fractions of the image, it seems; expected pixels. Multiply by "
            "width and height."
        )
    if len(xy) < FEW:
        return
    if _are_percentages(xy, sides.min()):
        raise GazeError(
            f"{where}: {spans}: percentages of the image, it seems; expected pixels. Multiply by "
            "width / 100 and height / 100."
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
    """`refuse_units` for boxes (N, 4) of x, y, width, height on square images of `side` pixels."""
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    refuse_units(where, corners, np.full(corners.shape, side, dtype=np.float64))


def refuse_pixels(where: str, fractions: np.ndarray) -> None:
    """GazeError, beginning with `where`, if positions (N, 2) that should be fractions of the screen
    are not.
    """
    found = fractions[np.isfinite(fractions).all(axis=1)]
    if len(found) and np.median(np.abs(found), axis=0).max() > NEAR_ONE[1]:
        raise GazeError(
            f"{where}: x {_span(found[:, 0])}, y {_span(found[:, 1])}; expected fractions of the "
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
