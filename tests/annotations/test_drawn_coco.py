"""COCO JSON: every shape comes back, masks stay encoded, large files are streamed."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_files import (
    SIZES,
    assert_same,
    drawn,
    random_boxes,
    random_mask,
    random_outlines,
    read_all,
    set_in,
    written,
)
from scipy.ndimage import binary_dilation

from openclip_eclip.annotations.drawn import json_files
from openclip_eclip.annotations.drawn.write_coco import pack_rle
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Boxes, Points, Polygons, RleMask
from openclip_eclip.gaze.kernels import fill_polygon


def content(*annotations: dict[str, Any], size: tuple[int, int] = (60, 90)) -> dict[str, Any]:
    """A file of one image; annotations get what they lack."""
    return {
        "info": {"year": 2024},
        "images": [{"id": 7, "file_name": "a/one.png", "height": size[0], "width": size[1]}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 3, "iscrowd": 0, **annotation}
            for i, annotation in enumerate(annotations, 1)
        ],
        "categories": [{"id": 3, "name": "nodule"}],
    }


def test_random_boxes_and_outlines_come_back(tmp_path: Path) -> None:
    images, annotations, expected = [], [], []
    shapes = [
        *((size, {"bbox": [*box[:2], *(box[2:] - box[:2])]}, mask)
          for size, box, mask in random_boxes(1)),
        *((size, {"segmentation": [line.ravel().tolist()], "bbox": [0, 0, 1, 1]}, mask)
          for size, line, mask in random_outlines(2)),
    ]  # fmt: skip
    for i, (size, shape, mask) in enumerate(shapes):
        images.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]})
        annotations.append(
            {"id": i, "image_id": i, "category_id": i % 2, "annotator": "A", **shape}
        )
        expected.append((f"{i}.png", ("nodule", "mass")[i % 2], size, mask))
    names = [{"id": 0, "name": "nodule"}, {"id": 1, "name": "mass"}]
    everything = {"images": images, "annotations": annotations, "categories": names}
    records, left_out = read_all(written(tmp_path / "c.json", everything))
    assert len(records) == len(expected) > 15 and not left_out
    for record, (name, label, size, mask) in zip(records, expected):
        assert (record.image, record.label, record.size) == (name, label, size)
        assert record.annotator == "A" and not record.fractions
        assert_same(drawn(record.shape, size), mask)


@pytest.mark.parametrize("size", SIZES)
def test_both_forms_of_rle_come_back_exactly(size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(size[0])
    masks = [random_mask(rng, size) for _ in range(3)] + [np.ones(size, dtype=bool)]
    codes: list[Any] = []
    for mask in masks:
        flat = mask.ravel(order="F").astype(np.int8)
        edges = np.flatnonzero(np.diff(flat, prepend=0))
        codes += [np.diff([0, *edges, flat.size]).tolist(), pack_rle(mask)]
    annotations = [{"segmentation": {"size": list(size), "counts": code}} for code in codes]
    records, _ = read_all(written(tmp_path / "c.json", content(*annotations, size=size)))
    for i, record in enumerate(records):
        assert isinstance(record.shape, RleMask)
        np.testing.assert_array_equal(drawn(record.shape, size), masks[i // 2])
    assert len(records) == 8


def test_pycocotools_packs_and_draws_the_same(tmp_path: Path) -> None:
    coder = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(5)
    for size in SIZES:
        mask = random_mask(rng, size)
        packed = coder.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
        assert pack_rle(mask) == packed
    for size, line, _ in random_outlines(6):
        code = coder.frPyObjects([line.ravel().tolist()], *size)
        record = {"segmentation": [line.ravel().tolist()]}
        path = written(tmp_path / "c.json", content(record, size=size))
        ((found,), _) = read_all(path)
        theirs = coder.decode(code)[..., 0] > 0
        near = [
            binary_dilation(one, np.ones((3, 3))) for one in (theirs, fill_polygon(line, size) > 0)
        ]
        assert not (drawn(found.shape, size) & ~near[0]).any()
        assert not (theirs & ~near[1]).any()  # tips of less than half a pixel count for it


def test_several_parts_are_one_drawing(tmp_path: Path) -> None:
    parts = [[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 40, 20, 40, 40, 20, 40]]
    ((record,), _) = read_all(written(tmp_path / "c.json", content({"segmentation": parts})))
    assert isinstance(record.shape, Polygons) and len(record.shape.outlines) == 2
    assert drawn(record.shape, (60, 90)).sum() == 100 + 400


def test_segmentation_before_keypoints_before_box(tmp_path: Path) -> None:
    box = {"bbox": [5, 5, 20, 10]}
    points = {"keypoints": [1, 2, 0, 30, 40, 1, 50, 20, 2], "num_keypoints": 2}
    none = {"keypoints": [0, 0, 0], "num_keypoints": 0}
    line = {"segmentation": [[0, 0, 10, 0, 10, 10]]}
    everything = content({**box, **points, **line}, {**box, **points}, {**box, **none},
                         {**box, "segmentation": []})  # fmt: skip
    records, _ = read_all(written(tmp_path / "c.json", everything))
    assert [type(record.shape) for record in records] == [Polygons, Points, Boxes, Boxes]
    np.testing.assert_array_equal(records[1].shape.x, [30, 50])  # not the invisible one
    np.testing.assert_array_equal(records[1].shape.y, [40, 20])
    np.testing.assert_array_equal(records[3].shape.xyxy, [[5, 5, 25, 15]])


def test_useless_annotations_are_counted_and_named(tmp_path: Path) -> None:
    code = {"size": [60, 90], "counts": [0, 5400]}
    everything = content(
        {"segmentation": code, "iscrowd": 1},
        {"caption": "a nodule"},
        {"segmentation": [[1, 1, 2, 2]]},
        {"keypoints": [0, 0, 0]},
    )
    records, left_out = read_all(written(tmp_path / "c.json", everything))
    assert not records
    assert [reason for reason, _ in left_out] == [
        "a crowd (iscrowd 1)",
        "annotation without a shape, such as a caption",
        "outline of fewer than 3 points",
        "keypoints that are all without a position",
    ]
    assert left_out[1][1].endswith("c.json, annotation of id 2")


def test_annotator_label_and_size_may_be_absent(tmp_path: Path) -> None:
    everything = {
        "images": [{"id": "x", "file_name": "one.png"}],
        "annotations": [{"image_id": "x", "bbox": [1, 2, 3, 4], "annotator_id": 12}],
    }
    ((record,), _) = read_all(written(tmp_path / "c.json", everything))
    assert (record.label, record.annotator, record.size) == ("", "12", None)
    assert record.where.endswith("annotation 1 of the list")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("annotations.0.image_id", KeyError, "id 1: no key 'image_id'"),
        ("annotations.0.image_id", 99, "id 1, key 'image_id': 99, which no image"),
        (
            "annotations.0.image_id",
            [7],
            r"key 'image_id': \[7\]; expected a whole number or a text",
        ),
        ("annotations.0.category_id", 4, "key 'category_id': 4; expected the id of one of the 1"),
        ("annotations.0.bbox", [1, 2, 3], "'bbox': 3 numbers; expected x, y, width, height"),
        ("annotations.0.bbox", [1, 2, -3, 4], "width -3 and height 4; expected both above 0"),
        ("annotations.0.bbox", [1, 2, 3, 0], "width 3 and height 0; expected both above 0"),
        ("annotations.0.bbox", [1, 2, "3", 4], "'bbox': .*; expected a list of finite numbers"),
        (
            "annotations.0.bbox",
            [1, 2, float("nan"), 4],
            "'bbox': .*; expected a list of finite numbers",
        ),
        ("annotations.0.bbox", [100, 70, 30, 20], "x 100 to 130, y 70 to 90 on an image of 60 x"),
        ("annotations.0.bbox", [0, 70, 30, 15], "They fit with x and y swapped"),
        ("annotations.0.bbox", [0.1, 0.2, 0.3, 0.1], "as fractions do; expected pixels"),
        ("annotations.0.segmentation", [[1, 2, 3, 4, 5, 6, 7]], "outline of 7 numbers"),
        ("annotations.0.segmentation", "x", "'x'; expected a list of outlines"),
        ("annotations.0.keypoints", [1, 2], "2 numbers; expected triples"),
        ("annotations.0.segmentation", {"size": [9, 9], "counts": "x"}, "a mask of 9 x 9"),
        ("annotations.0.segmentation", {"size": [60, 90], "counts": [1]}, "add up to 1;"),
        ("annotations.0.segmentation", {"size": [60, 90], "counts": "P"}, "cut off"),
        ("annotations.0.segmentation", {"size": [60, 90]}, "no key 'counts'"),
        (
            "annotations",
            [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}] * 2,
            "id 1: the id is there twice",
        ),
        (
            "annotations",
            [{"id": "a", "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}] * 2,
            "id a: the id is there twice",
        ),
        ("images.1", {"id": 7, "file_name": "b"}, "image of id 7: the id is there twice"),
        ("images.0.file_name", KeyError, "image of id 7: no key 'file_name'"),
        ("images.0.height", 0, "key 'height': 0; expected a whole number of pixels from 1"),
        ("images.0.height", 60.5, "key 'height': 60.5; expected a whole number"),
        ("annotations", {}, "key 'annotations': {}; expected a list"),
        ("annotations.0", [], r"annotation 1: \[\]; expected an object"),
    ],
)
def test_broken_files_are_errors(key: str, value: Any, message: str, tmp_path: Path) -> None:
    everything = content({"bbox": [1, 2, 3, 4]})
    set_in(everything, key, value)
    path = written(tmp_path / "c.json", everything)
    with pytest.raises(UserError, match=message) as error:
        read_all(path, name="coco")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['{"images": [', "[]", '{"images": {}}', "{'images': []}"])
def test_broken_json_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.json.*; expected"):
        read_all(path, name="coco")


def test_recognised_by_its_keys_in_any_order(tmp_path: Path) -> None:
    everything = content({"bbox": [1, 2, 3, 4]})
    for order in (list(everything), list(everything)[::-1]):
        path = written(tmp_path / "c.json", {key: everything[key] for key in order})
        assert len(read_all(path)[0]) == 1
    with pytest.raises(UserError, match="not recognised"):
        read_all(written(tmp_path / "c.json", {"image": [{"name": "images"}]}))


def test_keys_in_the_head_of_a_file() -> None:
    text = '\ufeff [{"a": "b", "c\\"": [{"d": "{x", "e": {"f": 1}}, "g"], "h": "cut'
    keys = {("a",), ('c\\"',), ('c\\"', "d"), ('c\\"', "e"), ('c\\"', "e", "f"), ("h",)}
    assert json_files.json_head(text.encode()) == (True, keys)
    assert json_files.json_head(b"name,x\n") is None and json_files.json_head(b"") is None
    assert json_files.json_head(b"\xff\xd8{") is None


def test_streamed_files_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ijson")
    code = {"size": [60, 90], "counts": [400, 5000]}
    shapes = [
        {"bbox": [1.5, 2, 3, 4]},
        {"segmentation": code},
        {"segmentation": [[0, 0, 9, 0, 9, 9]]},
    ]
    path = written(tmp_path / "c.json", content(*shapes))
    whole, _ = read_all(path)
    monkeypatch.setattr(json_files, "AT_ONCE", 10)
    streamed, _ = read_all(path)
    assert len(streamed) == 3
    for one, other in zip(whole, streamed):
        assert (one.image, one.label, one.where, one.size) == (
            other.image, other.label, other.where, other.size,
        )  # fmt: skip
        np.testing.assert_array_equal(drawn(one.shape, (60, 90)), drawn(other.shape, (60, 90)))
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match=r"c\.json: not JSON .*near byte"):
        read_all(path)


def test_streaming_keeps_one_annotation_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ijson")
    monkeypatch.setattr(json_files, "AT_ONCE", 10)
    long = {"bbox": [1, 2, 3, 4], "attributes": {"note": "x" * 2000}}
    path = written(tmp_path / "c.json", content(*[long] * 3000))
    assert path.stat().st_size > 6_000_000
    tracemalloc.start()
    count = sum(1 for _ in json_files.JsonFile(path, dict).items("annotations"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3000 and peak < 1_000_000


def test_large_file_without_ijson_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "AT_ONCE", 10)
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(UserError, match=r"openclip_eclip\[annotations\]"):
        read_all(written(tmp_path / "c.json", content({"bbox": [1, 2, 3, 4]})))
