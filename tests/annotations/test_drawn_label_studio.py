"""Label Studio JSON: regions of all tools, authors, addresses of images, and the brush's code."""

from __future__ import annotations

import json
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

from openclip_eclip.annotations.drawn import json_files
from openclip_eclip.annotations.drawn.brush import BrushMask, decode_brush, encode_brush
from openclip_eclip.annotations.drawn.label_studio_image import image_name
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Ellipses, GazeError, Points, Polygons

FIXTURE = Path(__file__).parents[1] / "fixtures" / "annotations" / "label_studio_brush.json"
SIZE = (60, 90)


def result(
    tool: str, size: tuple[int, int] = SIZE, labels: tuple[str, ...] = ("nodule",), **value: Any
) -> dict[str, Any]:
    """One result, as Label Studio exports it."""
    kind = f"{tool}labels"
    return {
        "id": f"r{tool}",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {**value, kind: list(labels)},
    }


def task(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 1, "completed_by": 5, "was_cancelled": False, "result": list(results)}
    image = "/data/upload/12/1a2b3c4d-one.png"
    return {"id": 1, "annotations": [annotation], "data": {"image": image}, **more}


def percent(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return xy / np.array(size[::-1]) * 100


def rectangle(box: np.ndarray, size: tuple[int, int]) -> dict[str, float]:
    low, high = percent(box.reshape(2, 2), size)
    return dict(zip(("x", "y", "width", "height"), [*low, *(high - low)]))


def test_random_shapes_of_all_tools_come_back(tmp_path: Path) -> None:
    tasks, expected = [], []
    for size, box, mask in random_boxes(1):
        tasks.append(task(result("rectangle", size, rotation=0, **rectangle(box, size))))
        expected.append((size, mask))
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        values = dict(zip(("x", "y"), percent(middle, size)))
        values |= dict(zip(("radiusX", "radiusY"), percent(half, size)))
        tasks.append(task(result("ellipse", size, rotation=0, **values)))
        expected.append((size, ellipse_pixels(box, size)))
    for size, line, mask in random_outlines(2):
        tasks.append(task(result("polygon", size, points=percent(line, size).tolist())))
        expected.append((size, mask))
    rng = np.random.default_rng(3)
    for size in SIZES:
        mask = random_mask(rng, size)
        tasks.append(task(result("brush", size, format="rle", rle=encode_brush(mask))))
        expected.append((size, mask))
    for i, one in enumerate(tasks):
        one["id"], one["data"] = i, {"image": f"/data/upload/3/0123abcd-{i}.png"}
    records, left_out = read_all(written(tmp_path / "l.json", tasks))
    assert len(records) == len(expected) > 30 and not left_out
    for i, (record, (size, mask)) in enumerate(zip(records, expected)):
        assert (record.image, record.label, record.annotator) == (f"{i}.png", "nodule", "5")
        assert record.size == size and not record.fractions
        assert_same(drawn(record.shape, size), mask)
    for record, (size, mask) in zip(records[-4:], expected[-4:]):
        assert isinstance(record.shape, BrushMask)  # encoded until it is drawn
        np.testing.assert_array_equal(drawn(record.shape, size), mask)


def test_rotated_rectangle_turns_clockwise_around_its_corner(tmp_path: Path) -> None:
    # 90 degrees clockwise, y down: the width goes down from (45, 12), the height to the left
    turned = result("rectangle", x=50, y=20, width=20, height=50, rotation=90)
    ((record,), _) = read_all(written(tmp_path / "l.json", [task(turned)]))
    assert isinstance(record.shape, Polygons)
    np.testing.assert_allclose(
        record.shape.outlines[0], [[45, 12], [45, 30], [15, 30], [15, 12]], atol=1e-9
    )


def test_rotated_ellipse_is_an_outline_around_its_centre(tmp_path: Path) -> None:
    values = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 20}
    upright, quarter, slanted = (
        read_all(written(tmp_path / "l.json", [task(result("ellipse", rotation=r, **values))]))[0][
            0
        ]
        for r in (0, 90, 30)
    )
    assert isinstance(upright.shape, Ellipses) and isinstance(quarter.shape, Polygons)
    assert_same(drawn(quarter.shape, SIZE), ellipse_pixels(np.array([33, 3, 57, 57]), SIZE))
    y, x = np.nonzero(drawn(slanted.shape, SIZE))
    assert np.polyfit(x, y, 1)[0] > 0.2  # clockwise: down to the right


def test_key_points(tmp_path: Path) -> None:
    records, _ = read_all(
        written(tmp_path / "l.json", [task(result("keypoint", x=50, y=25, width=1))])
    )
    assert isinstance(records[0].shape, Points)
    assert (records[0].shape.x[0], records[0].shape.y[0]) == (45, 15)


def test_authors_labels_and_cancelled_annotations(tmp_path: Path) -> None:
    box = result("rectangle", labels=("nodule", "mass"), x=1, y=2, width=30, height=40)
    authors = [5, {"id": 9, "email": "a@b.org"}, {"id": 9}, None]
    everything = task()
    everything["annotations"] = [{"completed_by": one, "result": [box]} for one in authors]
    everything["annotations"].append({"completed_by": 6, "was_cancelled": True, "result": [box]})
    records, left_out = read_all(written(tmp_path / "l.json", [everything]))
    assert [(one.annotator, one.label) for one in records] == [
        (author, label) for author in ("5", "a@b.org", "9", "") for label in ("nodule", "mass")
    ]
    assert [reason for reason, _ in left_out] == ["cancelled annotation"]


def test_separate_tags_for_shape_and_label(tmp_path: Path) -> None:
    box = {"x": 1, "y": 2, "width": 30, "height": 40}
    parts = [
        {**result("rectangle", **box), "id": "a", "type": "rectangle", "value": box},
        {**result("", **box), "id": "a", "value": {**box, "labels": ["mass"]}},
        {"id": "a", "type": "choices", "value": {"choices": ["x"]}},
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    for regions in (parts, [parts[1], parts[0], *parts[2:]]):
        records, left_out = read_all(written(tmp_path / "l.json", [task(*regions)]))
        assert [one.label for one in records] == ["mass"]
    assert [reason for reason, _ in left_out] == [
        "result of the type choices", "result of the type relation",
    ]  # fmt: skip


def test_predictions_are_read_only_of_tasks_without_annotations(tmp_path: Path) -> None:
    box = result("rectangle", x=1, y=2, width=30, height=40)
    predictions = [{"model_version": "m 1", "score": 0.5, "result": [box]}]
    before = {"data": {"image": "one.png"}, "predictions": predictions}
    after = task(id=2, annotations=[], predictions=predictions)
    records, left_out = read_all(written(tmp_path / "l.json", [before, after]))
    assert [(one.image, one.annotator) for one in records] == [("one.png", "m 1")]
    assert [reason for reason, _ in left_out] == ["task without an annotation"]


def test_without_sizes_positions_are_fractions(tmp_path: Path) -> None:
    box = result("rectangle", x=10, y=20, width=30, height=40)
    del box["original_width"], box["original_height"]
    ((record,), _) = read_all(written(tmp_path / "l.json", [task(box)]))
    assert record.fractions and record.size is None
    np.testing.assert_allclose(record.shape.xyxy, [[0.1, 0.2, 0.4, 0.6]])


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/12/1a2b3c4d-name%20x.png", "name x.png"),
        ("/data/upload/1a2b3c4d-name.png", "name.png"),
        ("http://localhost:8080/data/upload/12/1a2b3c4d-name.png", "name.png"),
        ("/data/upload/12/plain-name.png", "plain-name.png"),
        ("/data/local-files/?d=set/a%20b/name.png", "set/a b/name.png"),
        ("s3://bucket/set/name.png", "set/name.png"),
        ("gs://bucket/name.png", "name.png"),
        ("https://host/set/na%20me.png?token=1", "set/na me.png"),
        ("/tasks/4/presign/?fileuri=czM6Ly9iL3NldC9uYW1lLnBuZw==", "set/name.png"),
        ("/presign/?fileuri=aHR0cDovL1t4", "/presign/?fileuri=aHR0cDovL1t4"),  # no address
        ("set/na%20me#1.png", "set/na%20me#1.png"),
    ],
)
def test_names_of_images(address: str, name: str) -> None:
    assert image_name(address) == name


def test_field_of_the_image(tmp_path: Path) -> None:
    box = result("rectangle", x=1, y=2, width=30, height=40)
    path = tmp_path / "l.json"
    for data, flags, name in (
        ({"xray": "a.png", "text": "No nodule."}, (), "a.png"),
        ({"xray": "a.png", "other": "b.png"}, ("--label-studio-image", "other"), "b.png"),
        ({"other": "b.png", "image": "c"}, (), "c"),
    ):
        records, _ = read_all(written(path, [task(box, data=data)]), *flags)
        assert records[0].image == name
    for data, flags, message in (
        ({"xray": "a.png", "other": "b.png"}, (), "2 images among .*; expected one"),
        ({"text": "x"}, (), "0 images among"),
        ({"image": "a.png"}, ("--label-studio-image", "x"), "no text 'x' among"),
        ({"image": "data:image/png;base64,AA"}, (), "holds the image itself"),
    ):
        with pytest.raises(UserError, match=f"task 1, key 'data': .*{message}"):
            read_all(written(path, [task(box, data=data)]), *flags)


def test_brush_code_of_the_converter() -> None:
    """Codes that label-studio-converter 0.0.59 wrote: see make_drawn.py beside the file."""
    cases = json.loads(FIXTURE.read_text())
    for case in cases:
        expected = np.array([[int(digit) for digit in row] for row in case["mask"]], dtype=bool)
        found = decode_brush(bytes(case["rle"]), expected.shape)
        np.testing.assert_array_equal(found, expected)
    assert len(cases) > 5


def test_converter_reads_our_brush_code() -> None:
    brush = pytest.importorskip("label_studio_converter.brush")
    rng = np.random.default_rng(4)
    for size in (*SIZES, (300, 310)):
        mask = random_mask(rng, size)
        values = brush.decode_rle(encode_brush(mask)).reshape(*size, 4)
        np.testing.assert_array_equal(values, np.repeat(mask[..., None] * 255, 4, axis=2))


def test_long_runs_and_full_masks_of_the_brush() -> None:
    for mask in (np.ones((400, 401), bool), np.zeros((300, 2), bool), np.ones((1, 1), bool)):
        np.testing.assert_array_equal(decode_brush(bytes(encode_brush(mask)), mask.shape), mask)


def test_broken_brush_codes_are_errors() -> None:
    code = bytes(encode_brush(np.eye(20, dtype=bool)))
    with pytest.raises(GazeError, match="within a run; expected more"):
        decode_brush(code[:-4], (20, 20))
    with pytest.raises(GazeError, match="a code of 1600 values; expected 4 for each of 20 x 21"):
        decode_brush(code, (20, 21))
    with pytest.raises(GazeError, match="ends after 2 bytes"):
        decode_brush(code[:2], (20, 20))
    with pytest.raises(GazeError, match="at most"):
        decode_brush(code, (20_000, 20_000))
    beyond = bytearray(encode_brush(np.zeros((20, 20), dtype=bool)))
    beyond[2:4] = (4 * 20 * 19).to_bytes(2, "big")  # fewer values in the head than in the run
    with pytest.raises(GazeError, match="a run up to value 1600 of 1520"):
        decode_brush(bytes(beyond), (19, 20))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("0", [], r"task 1: \[\]; expected an object"),
        ("0.data", KeyError, "task 1: no key 'data'"),
        ("0.annotations", {}, "key 'annotations': {}; expected a list"),
        ("0.annotations.0.result", KeyError, "annotation 1: no key 'result'"),
        ("0.annotations.0.result.0.type", KeyError, "result 1: no key 'type'"),
        ("0.annotations.0.result.0.value", [], "result 1, key 'value': .*; expected an object"),
        ("0.annotations.0.result.0.value.width", KeyError, "rrectangle, key 'width': missing"),
        ("0.annotations.0.result.0.value.width", -3, "'width': -3; expected a positive number"),
        ("0.annotations.0.result.0.value.width", 0, "'width': 0; expected a positive number"),
        ("0.annotations.0.result.0.value.x", "3", "'x': '3'; expected a finite number"),
        ("0.annotations.0.result.0.value.x", float("nan"), "'x': nan; expected a finite number"),
        ("0.annotations.0.result.0.value.x", 120, "x 108 to .* on an image of 60 x 90"),
        ("0.annotations.0.result.0.value.rectanglelabels", "a", "'a'; expected a list of names"),
        (
            "0.annotations.0.result.0.original_width",
            0,
            "'original_width': 0; expected a whole number",
        ),
        ("0.annotations.0.result.1.value.rle", "ab", "key 'rle': 'ab'; expected a list"),
        ("0.annotations.0.result.1.value.rle", [1, 256], "expected a list of bytes"),
        ("0.annotations.0.result.1.value.rle", [0, 0, 0, 9], "a code of 9 values; expected 4 for"),
        ("0.annotations.0.result.1.original_width", 80, "a code of 21600 values; expected 4 for"),
        ("0.annotations.0.result.1.original_width", KeyError, "a brush without original_width"),
        ("0.annotations.0.result.1.id", "rrectangle", "the id 'rrectangle' is there twice"),
        (
            "1",
            {"id": 1, "annotations": [], "data": {"image": "a"}},
            "task 1: the id is there twice",
        ),
    ],
)
def test_broken_files_are_errors(key: str, value: Any, message: str, tmp_path: Path) -> None:
    box = result("rectangle", x=1, y=2, width=30, height=40)
    brush = result("brush", rle=encode_brush(np.eye(60, 90, dtype=bool)))
    everything = [task(box, brush)]
    set_in(everything, key, value)
    path = written(tmp_path / "l.json", everything)
    with pytest.raises(UserError, match=message) as error:
        read_all(path, name="label-studio")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_rotation_without_sizes_and_turned_images(tmp_path: Path) -> None:
    box = result("rectangle", x=1, y=2, width=30, height=40, rotation=10)
    turned = {**box, "id": "t", "image_rotation": 90}
    _, left_out = read_all(written(tmp_path / "l.json", [task(turned)]))
    assert [reason for reason, _ in left_out] == ["region on a turned image (image_rotation)"]
    del box["original_width"]
    with pytest.raises(UserError, match="a rotation without original_width and original_height"):
        read_all(written(tmp_path / "l.json", [task(box)]))


def test_streamed_files_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ijson")
    box = result("rectangle", x=1.5, y=2, width=30, height=40)
    path = written(tmp_path / "l.json", [task(box), task(box, id=2)])
    whole, _ = read_all(path)
    monkeypatch.setattr(json_files, "AT_ONCE", 10)
    streamed, _ = read_all(path)
    assert [(one.where, one.shape.xyxy.tolist()) for one in whole] == [
        (one.where, one.shape.xyxy.tolist()) for one in streamed
    ]
