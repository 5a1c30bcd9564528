"""LabelMe JSON: every kind of shape, masks that are decoded when drawn, and broken files."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_files import (
    SIZES,
    assert_same,
    drawn,
    ellipse_pixels,
    random_boxes,
    random_mask,
    random_outlines,
    read_all,
    set_in,
    written,
)
from PIL import Image

from openclip_eclip.annotations.drawn.labelme import PartMask
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Ellipses, GazeError, Points, Polygons


def shape(kind: str, points: Any, **more: Any) -> dict[str, Any]:
    base = {"label": "nodule", "group_id": None, "description": "", "flags": {}, "mask": None}
    return {**base, "points": points, "shape_type": kind, **more}


def content(*shapes: dict[str, Any], size: tuple[int, int] = (60, 90)) -> dict[str, Any]:
    """A file with the keys and the order of LabelMe 5 and 6."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "..\\set\\one.png",
        "imageData": "A" * 100_000,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_random_shapes_come_back(tmp_path: Path) -> None:
    cases = []
    for i, (size, box, mask) in enumerate(random_boxes(1)):
        corners = box.reshape(2, 2)[:: -1 if i % 2 else 1].tolist()  # drawn from either corner
        cases.append((size, shape("rectangle", corners), mask))
    for size, line, mask in random_outlines(2):
        cases.append((size, shape("polygon", line.tolist()), mask))
        middle, reach = np.array(size[::-1]) / 2, min(size) / 3
        edge = middle + reach * np.array([0.6, -0.8])
        round_box = np.concatenate([middle - reach, middle + reach])
        circle = shape("circle", [middle.tolist(), edge.tolist()])
        cases.append((size, circle, ellipse_pixels(round_box, size)))
    for i, (size, one, _) in enumerate(cases):
        written(tmp_path / f"{i:03}.json", content(one, size=size))
    records, left_out = read_all(tmp_path)
    assert len(records) == len(cases) > 30 and not left_out
    for record, (size, _, mask) in zip(records, cases):
        assert (record.image, record.label, record.size) == ("../set/one.png", "nodule", size)
        assert_same(drawn(record.shape, size), mask)


@pytest.mark.parametrize("size", SIZES)
def test_masks_come_back_exactly(size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    whole = np.zeros(size, dtype=bool)
    height, width = size[0] // 2, size[1] // 3
    whole[5 : 5 + height, 7 : 7 + width] = random_mask(rng, (height, width))
    corners = [[7.0, 5.0], [6.0 + width, 4.0 + height]]  # the last row and column count
    one = shape("mask", corners, mask=png(whole[5 : 5 + height, 7 : 7 + width]))
    ((record,), _) = read_all(written(tmp_path / "m.json", content(one, size=size)))
    assert isinstance(record.shape, PartMask)
    np.testing.assert_array_equal(drawn(record.shape, size), whole)


def test_points_lines_and_small_outlines(tmp_path: Path) -> None:
    shapes = [
        shape("point", [[3, 4]]),
        shape("points", [[3, 4], [5, 6]]),
        shape("oriented_rectangle", [[10, 10], [20, 20], [10, 30], [0, 20]]),
        shape("line", [[3, 4], [5, 6]]),
        shape("linestrip", [[3, 4], [5, 6]]),
        shape("polygon", [[3, 4], [5, 6]]),
    ]
    records, left_out = read_all(written(tmp_path / "m.json", content(*shapes)))
    assert [type(one.shape) for one in records] == [Points, Points, Polygons]
    assert [reason for reason, _ in left_out] == [
        "a line, which has no area", "a line, which has no area", "outline of fewer than 3 points",
    ]  # fmt: skip
    assert left_out[0][1].endswith("m.json, shape 4")


def test_early_files_without_kinds_and_sizes(tmp_path: Path) -> None:
    early = {
        "shapes": [{"label": "a", "line_color": None, "points": [[0, 0], [9, 0], [9, 9]]}],
        "lineColor": [0, 255, 0, 128],
        "imagePath": "one.jpg",
        "imageData": None,
    }
    ((record,), _) = read_all(written(tmp_path / "m.json", early))
    assert isinstance(record.shape, Polygons) and record.size is None


def test_circle_is_an_ellipse(tmp_path: Path) -> None:
    one = shape("circle", [[30, 20], [33, 24]])
    ((record,), _) = read_all(written(tmp_path / "m.json", content(one)))
    assert isinstance(record.shape, Ellipses)
    np.testing.assert_allclose(record.shape.xyxy, [[25, 15, 35, 25]])


MASK = shape("mask", [[0, 0], [2, 1]], mask=png(np.ones((2, 3), dtype=bool)))


@pytest.mark.parametrize(
    ("one", "key", "value", "message"),
    [
        (MASK, "imagePath", KeyError, "no key 'imagePath'"),
        (MASK, "shapes", {}, "key 'shapes': {}; expected a list"),
        (MASK, "shapes.0", [], r"shape 1: \[\]; expected an object"),
        (MASK, "shapes.0.label", KeyError, "shape 1: no key 'label'"),
        (MASK, "shapes.0.label", 3, "key 'label': 3; expected a text"),
        (MASK, "imageHeight", -1, "key 'imageHeight': -1; expected a whole number of pixels"),
        (MASK, "imageHeight", None, "a mask, but no imageHeight and imageWidth"),
        (MASK, "shapes.0.points", [[0, 0], [3, 1]], "a picture of 2 x 3; expected 2 x 4"),
        (MASK, "shapes.0.points", [[88, 0], [90, 1]], "to x 90, y 1 on an image of 60 x 90"),
        (MASK, "shapes.0.points", [[0, 0]], "1 points; expected 2 for a mask"),
        (MASK, "shapes.0.mask", None, "key 'mask': None; expected a text"),
        (MASK, "shapes.0.mask", "ä", "expected a PNG in base64"),
        (MASK, "shapes.0.mask", "AAAA", "not a readable PNG"),
        (MASK, "shapes.0.shape_type", "cube", "'cube'; expected one of polygon"),
        (MASK, "shapes.0.points", [], "expected at least one pair of x and y"),
        (MASK, "shapes.0.points", [[1, 2, 3]], "expected at least one pair of x and y"),
        (
            MASK,
            "shapes.0.points",
            [["1", 2]],
            "key 'points': .*; expected a list of finite numbers",
        ),
        (shape("rectangle", [[1, 1], [1, 9]]), "flags", {}, "width 0 and height 8"),
        (shape("circle", [[1, 1], [1, 1]]), "flags", {}, "half-axes 0 and 0"),
        (shape("rectangle", [[100, 1], [120, 9]]), "flags", {}, "x 100 to 120, .* 60 x 90"),
    ],
)
def test_broken_files_are_errors(
    one: dict[str, Any], key: str, value: Any, message: str, tmp_path: Path
) -> None:
    everything = content({**one})
    set_in(everything, key, value)
    path = written(tmp_path / "m.json", everything)
    with pytest.raises(UserError, match=message) as error:
        read_all(path, name="labelme")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_broken_json_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "m.json", content(MASK))
    path.write_text(path.read_text()[:-1000])
    with pytest.raises(UserError, match=r"m\.json: not JSON"):
        read_all(path)


def test_a_picture_that_is_cut_off_is_an_error_when_drawn() -> None:
    code = base64.b64decode(png(np.random.default_rng(0).random((50, 50)) < 0.5))
    with pytest.raises(GazeError, match="not a readable PNG"):
        PartMask(code[: len(code) // 2], (0, 0, 50, 50), (60, 90)).load()


def test_a_large_picture_is_not_decoded() -> None:
    """Its size is compared before a pixel is unpacked, and an image may not be of any size."""
    code = base64.b64decode(png(np.zeros((3000, 3000), dtype=bool)))
    with pytest.raises(GazeError, match="a picture of 3000 x 3000; expected 2 x 3"):
        PartMask(code, (0, 0, 3, 2), (60, 90)).load()
    with pytest.raises(GazeError, match="at most"):
        PartMask(code, (0, 0, 3, 2), (60_000, 90_000)).load()
