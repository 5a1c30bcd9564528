"""VGG Image Annotator: projects, annotations and CSV come back; labels from attributes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_files import (
    assert_same,
    drawn,
    ellipse_pixels,
    random_boxes,
    random_outlines,
    read_all,
    set_in,
    written,
)

from openclip_eclip.annotations.record import NOTHING_DRAWN
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Points, Polygons

FORMS = ("project", "annotations", "via 1", "csv")
BOX = {"name": "rect", "x": 1, "y": 2, "width": 30, "height": 20}


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def save(path: Path, images: dict[str, list[dict[str, Any]]], form: str = "annotations") -> Path:
    """Images and their regions in one of FORMS."""
    if form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(
                ["filename", "file_size", "file_attributes", "region_count", "region_id",
                 "region_shape_attributes", "region_attributes"]
            )  # fmt: skip
            for name, regions in images.items():
                for i, one in enumerate(regions):
                    cells = [json.dumps(one[f"{part}_attributes"]) for part in ("shape", "region")]
                    rows.writerow([name, 123, "{}", len(regions), i, *cells])
                if not regions:
                    rows.writerow([name, 123, "{}", 0, 0, "{}", "{}"])
        return path
    entries: dict[str, Any] = {
        f"{name}123": {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}
        for name, regions in images.items()
    }
    if form == "via 1":
        for entry in entries.values():
            entry["regions"] = {str(i): one for i, one in enumerate(entry["regions"])}
    if form == "project":
        settings = {"ui": {}, "core": {}, "project": {"name": "a"}}
        entries = {"_via_settings": settings, "_via_img_metadata": entries, "_via_attributes": {}}
    return written(path, entries)


@pytest.mark.parametrize("form", FORMS)
def test_random_shapes_come_back(form: str, tmp_path: Path) -> None:
    images: dict[str, list[dict[str, Any]]] = {"none.png": []}
    expected = []
    shapes: list[tuple[tuple[int, int], dict[str, Any], np.ndarray]] = []
    for size, box, mask in random_boxes(1):
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        x, y, width, height = *box[:2], *(box[2:] - box[:2])
        rect = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
        shapes.append((size, rect, mask))
        ellipse = {"name": "ellipse", "cx": middle[0], "cy": middle[1]}
        ellipse |= {"rx": half[0], "ry": half[1]}
        shapes.append((size, ellipse, ellipse_pixels(box, size)))
        reach = min(half)
        circle = {"name": "circle", "cx": middle[0], "cy": middle[1], "r": reach}
        around = np.concatenate([middle - reach, middle + reach])
        shapes.append((size, circle, ellipse_pixels(around, size)))
    for size, line, mask in random_outlines(2):
        x, y = line.T.tolist()
        shapes.append((size, {"name": "polygon", "all_points_x": x, "all_points_y": y}, mask))
    for i, (size, shape, mask) in enumerate(shapes):
        images[f"{i}.png"] = [region(shape, finding="nodule")]
        expected.append((f"{i}.png", size, mask))
    name = "v.csv" if form == "csv" else "v.json"
    records, left_out = read_all(save(tmp_path / name, images, form))
    assert len(records) == len(expected) > 40
    assert [reason for reason, _ in left_out] == [NOTHING_DRAWN]  # of none.png
    for record, (image, size, mask) in zip(records, expected):
        assert (record.image, record.label, record.size) == (image, "nodule", None)
        assert_same(drawn(record.shape, size), mask)


def test_turned_ellipse_points_and_lines(tmp_path: Path) -> None:
    ellipse = {"name": "ellipse", "cx": 45, "cy": 30, "rx": 27, "ry": 12, "theta": np.pi / 2}
    shapes = [
        ellipse,
        {"name": "point", "cx": 3, "cy": 4},
        {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]},
        {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]},
    ]
    records, left_out = read_all(save(tmp_path / "v.json", {"a.png": list(map(region, shapes))}))
    assert [type(one.shape) for one in records] == [Polygons, Points]
    upright = np.array([33, 3, 57, 57])
    assert_same(drawn(records[0].shape, (60, 90)), ellipse_pixels(upright, (60, 90)))
    assert [reason for reason, _ in left_out] == [
        "a line, which has no area", "outline of fewer than 3 points",
    ]  # fmt: skip


def test_labels_are_the_only_attribute_or_the_named_one(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    boxes = [region(BOX, kind="nodule"), region(BOX), region(BOX, kind={"a": True, "b": False}),
             region(BOX, kind={"a": True, "b": True}), region(BOX, kind={})]  # fmt: skip
    records, _ = read_all(save(path, {"a.png": boxes}))
    assert [one.label for one in records] == ["nodule", "", "a", "a", "b", ""]
    assert records[0].where.endswith("v.json, image a.png, region 1")
    two = save(path, {"a.png": [region(BOX, kind="nodule", side="left")]})
    with pytest.raises(UserError, match=r"2 attributes \(kind, side\).*--via-attribute"):
        read_all(two)
    with pytest.raises(UserError, match="--via-attribute sode: no region has it; .* kind, side"):
        read_all(two, "--via-attribute", "sode")
    records, _ = read_all(two, "--via-attribute", "side")
    assert [one.label for one in records] == ["left"]


def test_via_3_project(tmp_path: Path) -> None:
    shapes = [
        ([2, 1, 2, 30, 20], {"1": "0"}),
        ([1, 5, 6], {"1": "1"}),
        ([3, 40, 30, 10], {}),
        ([4, 40, 30, 10, 5], {"1": "free text"}),
        ([7, 0, 0, 20, 0, 20, 20], {"1": "0"}),
        ([6, 0, 0, 20, 0], {"1": "0"}),
        ([], {"1": "0"}),
    ]
    everything = {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "a"},
        "config": {"file": {}},
        "attribute": {"1": {"aname": "finding", "options": {"0": "nodule", "1": "mass"}}},
        "file": {"1": {"fid": "1", "fname": "x.png", "type": 2}, "2": {"fname": "y.png"}},
        "metadata": {
            f"1_{i}": {"vid": "7", "flg": 0, "z": [], "xy": xy, "av": av}
            for i, (xy, av) in enumerate(shapes)
        },
        "view": {"7": {"fid_list": ["2"]}},
    }
    path = written(tmp_path / "v.json", everything)
    records, left_out = read_all(path)
    assert [one.label for one in records] == ["nodule", "mass", "", "free text", "nodule"]
    assert {one.image for one in records} == {"y.png"}
    reasons = [
        NOTHING_DRAWN,
        "a line, which has no area",
    ]
    assert [reason for reason, _ in left_out] == reasons
    areas = [drawn(records[i].shape, (60, 90)).sum() for i in (0, 2, 3, 4)]
    np.testing.assert_allclose(areas, [600, np.pi * 100, np.pi * 50, 200], rtol=0.06)
    for key, value, message in (
        ("metadata.1_0.vid", "9", "metadata 1_0, key 'vid': '9'; expected one of the 1 views"),
        ("metadata.1_0.xy", [2, 1, 2], "key 'xy': .*; expected the number of a shape"),
        ("metadata.1_0.xy", [12, 1, 2], "key 'xy': .*; expected the number of a shape"),
        ("file.1.fname", KeyError, "file 1: no key 'fname'"),
        ("view", KeyError, "no key 'view'"),
    ):
        broken = json.loads(path.read_text())
        set_in(broken, key, value)
        with pytest.raises(UserError, match=message):
            read_all(written(tmp_path / "w.json", broken))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("a.filename", KeyError, "v.json, a: no key 'filename'"),
        ("a.regions", "x", "key 'regions': 'x'; expected a list"),
        ("a.regions.0", [], r"region 1: \[\]; expected an object"),
        ("a.regions.0.shape_attributes", KeyError, "region 1: no key 'shape_attributes'"),
        ("a.regions.0.shape_attributes.name", "cube", "a shape 'cube'; expected rect"),
        ("a.regions.0.shape_attributes.x", "1", "key 'x': '1'; expected a finite number"),
        ("a.regions.0.shape_attributes.x", KeyError, "key 'x': missing; expected a finite number"),
        ("a.regions.0.shape_attributes.width", -4, "width -4 and height 20"),
        ("a.regions.0.region_attributes", {"kind": []}, r"attribute 'kind': \[\]; expected a text"),
        ("a.regions.0.shape_attributes", {"name": "circle", "cx": 1, "cy": 1, "r": 0},
         "half-axes 0 and 0"),
        ("a.regions.0.shape_attributes",
         {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, "3 x and 2 y"),
    ],
)  # fmt: skip
def test_broken_files_are_errors(key: str, value: Any, message: str, tmp_path: Path) -> None:
    everything = {"a": {"filename": "a.png", "regions": [region({**BOX}, kind="nodule")]}}
    set_in(everything, key, value)
    path = written(tmp_path / "v.json", everything)
    with pytest.raises(UserError, match=message) as error:
        read_all(path, name="via")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_broken_tables_are_errors(tmp_path: Path) -> None:
    path = save(tmp_path / "v.csv", {"a.png": [region(BOX), region(BOX)]}, "csv")
    good = path.read_text()
    path.write_text(good.replace('""width"": 30', '""width"": }'))
    with pytest.raises(UserError, match="row 1, column 'region_shape_attributes': not JSON"):
        read_all(path)
    path.write_text(good.replace("filename", "name"))
    with pytest.raises(UserError, match="no column 'filename'"):
        read_all(path)
    path.write_text(good.replace("filename", "#filename"))  # VIA 1
    assert len(read_all(path)[0]) == 2
    path.write_text(good[:-20])
    with pytest.raises(UserError, match=r"v\.csv, line"):
        read_all(path)
