"""An image on which nothing is drawn was looked at: it is counted and named in every format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drawn_files import read_all
from PIL import Image

SIDES = {"width": 90, "height": 60}
BOX = {"x": 1, "y": 2, "width": 30, "height": 40}
RESULT = {
    "type": "rectanglelabels",
    "original_width": 90,
    "original_height": 60,
    "value": {**BOX, "rectanglelabels": ["a"]},
}
RECT = {"shape_attributes": {"name": "rect", **BOX}, "region_attributes": {"c": "a"}}
SHAPE = {"label": "a", "points": [[1, 2], [31, 42]], "shape_type": "rectangle"}
VOC_BOX = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax>"
FORMATS = {
    "coco": {
        "c.json": {
            "images": [{"id": i, "file_name": f"{i}.png", **SIDES} for i in (1, 2)],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
            "categories": [{"id": 1, "name": "a"}],
        }
    },
    "labelme": {
        f"{i}.json": {"imagePath": f"{i}.png", "imageHeight": 60, "imageWidth": 90, "shapes": found}
        for i, found in ((1, [SHAPE]), (2, []))
    },
    "label-studio": {
        "l.json": [
            {"id": i, "data": {"image": f"{i}.png"}, "annotations": [{"result": found}]}
            for i, found in ((1, [RESULT]), (2, []))
        ]
    },
    "via": {
        "v.json": {
            f"{i}.png9": {"filename": f"{i}.png", "size": 9, "regions": found}
            for i, found in ((1, [RECT]), (2, []))
        }
    },
    "cvat": {
        "c.xml": "<annotations><version>1.1</version>"
        '<image id="1" name="1.png" width="90" height="60">'
        '<box label="a" xtl="1" ytl="2" xbr="9" ybr="9"/></image>'
        '<image id="2" name="2.png" width="90" height="60"></image></annotations>'
    },
    "voc": {
        f"{i}.xml": f"<annotation><filename>{i}.png</filename>{found}</annotation>"
        for i, found in ((1, f"{VOC_BOX}</bndbox></object>"), (2, ""))
    },
    "yolo": {"1.txt": "0 0.5 0.5 0.2 0.2\n", "2.txt": ""},
    "boxes": {"b.csv": "image,xmin,ymin,xmax,ymax\n1.png,1,2,9,9\n2.png,,,,\n"},
}


@pytest.mark.parametrize("name", [*FORMATS, "masks"])
def test_an_image_without_a_shape_is_counted_and_named(name: str, tmp_path: Path) -> None:
    for file, content in FORMATS.get(name, {}).items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / file).write_text(text)
    if name == "masks":
        for i in (1, 2):
            Image.new("L", (90, 60), 255 * (i == 1)).save(tmp_path / f"{i}_mask.png")
    records, left_out = read_all(tmp_path, name=name)
    assert [Path(one.image).stem for one in records] == ["1"]
    ((reason, where),) = left_out
    assert reason.startswith(("nothing is drawn", "empty mask")) and "2" in Path(where).name
