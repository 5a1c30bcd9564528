"""Positions in another unit, or off their image, are errors for every shape.

Absurd sizes are errors, too, and allocate no memory.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest

from openclip_eclip.gaze import (
    Boxes,
    Ellipses,
    Fixations,
    GazeError,
    Points,
    Polygons,
    RenderConfig,
    decode_rle,
    render,
)
from openclip_eclip.gaze.plausible import refuse_box_units, refuse_pixels, refuse_units

SIZE = (400, 300)  # height, width
XYXY = np.array([[60, 80, 150, 200], [150, 200, 290, 390.0]])
TRIANGLES = [
    np.array([[60, 80], [150, 200], [30, 390.0]]),
    np.array([[200, 20], [150, 200], [30, 39.0]]),
]


def shapes(change) -> dict[str, object]:
    """Annotations of all shapes, with `change` (N, 2) -> (N, 2) applied to their positions."""
    boxes = change(XYXY.reshape(-1, 2)).reshape(-1, 4)
    x, y = change(XYXY.reshape(-1, 2)).T
    return {
        "points": Points(x, y),
        "boxes": Boxes(boxes),
        "ellipses": Ellipses(boxes),
        "polygons": Polygons([change(line) for line in TRIANGLES]),
        "fixations": Fixations(x, y, np.ones(4)),
    }


@pytest.mark.parametrize("kind", ["points", "boxes", "ellipses", "polygons", "fixations"])
def test_fractions_are_an_error_and_pixels_are_drawn(kind: str) -> None:
    assert render(shapes(lambda xy: xy)[kind], SIZE) is not None
    message = f"^{kind}: all .* on an image of 400 x 300 .* as fractions do; expected pixels"
    with pytest.raises(GazeError, match=message):
        render(shapes(lambda xy: xy / [300, 400])[kind], SIZE)


@pytest.mark.parametrize("kind", ["points", "boxes", "ellipses", "polygons"])
def test_annotations_that_are_all_off_the_image_are_an_error(kind: str) -> None:
    message = f"^{kind}: all of them lie off the image of 400 x 300 .*of a screen"
    with pytest.raises(GazeError, match=message):
        render(shapes(lambda xy: xy + 1000)[kind], SIZE)
    with pytest.raises(GazeError, match="They fit with x and y swapped"):
        render(Points([350, 360], [20, 30]), SIZE)
    some = render(Points([1350, 60], [20, 30]), SIZE)
    assert some.used == 1 and some.dropped == {"off image": 1}


def test_only_many_fixations_off_the_image_cause_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A short sentence has one or two fixations, and a reader looks off the image, too."""
    assert render(Fixations([0.2, 0.7], [0.5, 0.1], [1, 1]), SIZE).used == 2
    # whole numbers give no evidence of fractions: they may be a corner
    assert render(Fixations([0, 0, 0], [0, 0, 0], [1, 1, 1]), SIZE).used == 3
    assert render(Fixations([900], [20], [1]), SIZE) is None and not caplog.records
    with caplog.at_level(logging.WARNING):
        assert render(Fixations([900] * 12, [20] * 12, [1] * 12), SIZE) is None
    assert "all 12 valid positions lie off the image of 400 x 300" in caplog.text


@pytest.mark.parametrize(
    "kind",
    [lambda xy: Points(*xy.T), lambda xy: Fixations(*xy.T, np.ones(len(xy)))],
    ids=["points", "fixations"],
)
def test_percentages_are_an_error_and_most_off_the_image_is_a_warning(
    kind, caplog: pytest.LogCaptureFixture
) -> None:
    xy = np.random.default_rng(0).random((40, 2))
    message = "all 40 positions lie within .* as percentages do; expected pixels"
    with pytest.raises(GazeError, match=message):
        render(kind(xy * 100), SIZE)
    # few positions, or a small image, are no evidence
    assert render(kind(xy[:15] * 100), SIZE).used == 15
    assert render(kind(xy * 100), (150, 150)).used == 40
    render(kind(xy * [300, 400]), SIZE)
    # a minority off the image is normal
    render(kind(np.concatenate([xy * [300, 400], xy[:30] + 1000])), SIZE)
    assert not caplog.records
    render(kind(xy * [300, 400] * 2.5), SIZE)
    assert "positions lie off the image of 400 x 300" in caplog.text
    assert "Pixels of a screen" in caplog.text
    render(kind(np.concatenate([xy * [100, 300] + [300, 0], [[9, 9]]])), SIZE)
    assert "They fit with x and y swapped" in caplog.text


@pytest.mark.parametrize("make", [Boxes, Ellipses])
def test_rectangles_that_end_before_they_begin_are_an_error(make: type) -> None:
    for rows in (
        [[200, 220, 40, 50], [150, 300, 90, 40]],  # x, y, width, height
        [[100, 140, 50, 90]],  # x1, x2, y1, y2
    ):
        message = "end before they begin, .* expected xmin, ymin, xmax, ymax"
        with pytest.raises(GazeError, match=message):
            render(make(rows), SIZE)
    assert render(make([[200, 220, 40, 50], [40, 50, 90, 90]]), SIZE).dropped == {"empty": 1}
    assert render(make([[40, 50, 40, 90]]), SIZE) is None  # no width


def data_set(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """(xy, sides) of positions spread over images of 600 x 1000 and 500 x 900, width x height."""
    rng = np.random.default_rng(0)
    sides = np.where(np.arange(count)[:, None] % 2, [600.0, 1000], [500.0, 900])
    return rng.random((count, 2)) * sides, sides


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda xy, sides: xy / sides, "fractions of the image"),
        (lambda xy, sides: xy / sides * 100, "percentages of the image"),
        (lambda xy, sides: xy[:, ::-1], "with x and y swapped"),
        (lambda xy, sides: xy * 3.2, "lie off their image; expected pixels of the original"),
        (lambda xy, sides: xy - 600, "lie off their image"),
    ],
)
def test_data_sets_in_another_unit_are_an_error(change, message: str) -> None:
    xy, sides = data_set()
    refuse_units("t.csv", xy, sides)
    some_off = xy.copy()
    some_off[:8] += 2000  # a minority off the image is normal
    some_off[8:12] = np.nan
    refuse_units("t.csv", some_off, sides)
    refuse_units("t.csv", xy * np.nan, sides)
    with pytest.raises(GazeError, match=f"^t.csv: .*{message}"):
        refuse_units("t.csv", change(xy, sides), sides)


def test_boxes_and_screen_positions_in_another_unit_are_an_error() -> None:
    boxes = np.array([[100, 200, 300, 300], [400, 100, 50, 80.0]])
    refuse_box_units("t.csv", boxes, 1024)
    with pytest.raises(GazeError, match="fractions of the image"):
        refuse_box_units("t.csv", boxes / 1024, 1024)
    refuse_pixels("t.csv", np.array([[0.2, 0.9], [1.1, -0.1], [np.nan, 3]]))
    for scale in (100, 1920):
        with pytest.raises(GazeError, match="expected fractions of the screen"):
            refuse_pixels("t.csv", np.array([[0.2, 0.9], [0.5, 0.4]]) * scale)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: decode_rle("1 2", (10**9, 10**9), "kaggle"), "at most 100000000 pixels"),
        (lambda: decode_rle("1 2", (0, 5), "kaggle"), "at least 1"),
        (lambda: decode_rle("1 99999999999999999999999", (4, 4), "kaggle"), "expected integers"),
        (lambda: decode_rle("1 9223372036854775807 9 9", (4, 4), "siim"), "a run outside"),
        (lambda: decode_rle([3, None], (4, 4), "coco"), "expected integers"),
        (lambda: decode_rle("o" * 5000, (4, 4), "coco"), "more than 40 bits"),
        (lambda: decode_rle([-9223372036854775808, 1], (4, 4), "coco"), "a run outside"),
        (lambda: render(Points([5], [5]), SIZE, 10**6), "a map of .* at most"),
        (
            lambda: render(Points([5], [5]), SIZE, 20, RenderConfig(sigma=1e9)),
            "a sigma of 1e\\+09 pixels",
        ),
        (
            lambda: render(
                Fixations([5.0], [5], [1], ppd_x=[1e8], ppd_y=[1e8]),
                SIZE,
                20,
                RenderConfig(sigma=1, unit="degrees"),
            ),
            "a sigma of 1e\\+08 pixels",
        ),
        (
            lambda: render(Boxes([[1, 2, 30, 40]]), SIZE, 20, RenderConfig(sigma=50, unit="width")),
            "a sigma of 1.5e\\+04 pixels",
        ),
    ],
)
def test_absurd_sizes_are_an_error(call, message: str) -> None:
    with pytest.raises(GazeError, match=message):
        call()


def test_overlapping_runs_are_decoded_on_large_images() -> None:
    mask = decode_rle("1 5 3 4 99999999 2", (10_000, 10_000), "kaggle")
    assert mask.sum() == 8 and mask.T.ravel()[:7].tolist() == [True] * 6 + [False]
