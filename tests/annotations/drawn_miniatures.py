"""The smallest file of each format of JSON, XML and tables, with every kind of shape it has."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openclip_eclip.annotations.drawn.brush import encode_brush
from openclip_eclip.annotations.drawn.write_coco import pack_rle

IMAGE = "a.png"
SIZE = (40, 60)  # (height, width)
MARKED = np.zeros(SIZE, bool)
MARKED[10:30, 20:45] = True
LINE = [[5, 5], [50, 8], [30, 35]]
FLAT = [value for point in LINE for value in point]


def _png(values: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def coco() -> Any:
    shapes: list[dict[str, Any]] = [
        {"bbox": [4, 5, 20, 25]},
        {"segmentation": [FLAT]},
        {"segmentation": {"size": list(SIZE), "counts": pack_rle(MARKED)}},
        {"segmentation": {"size": list(SIZE), "counts": [400, 40, 1960]}},
        {"keypoints": [5, 6, 2, 0, 0, 0], "num_keypoints": 1},
    ]
    return {
        "images": [{"id": 1, "file_name": IMAGE, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "nodule", "supercategory": ""}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 9.5, **shape}
            for i, shape in enumerate(shapes)
        ],
    }


def label_studio() -> Any:
    values: dict[str, dict[str, Any]] = {
        "rectangle": {"x": 5, "y": 6.5, "width": 20, "height": 30, "rotation": 10},
        "polygon": {"points": LINE},
        "ellipse": {"x": 50, "y": 50, "radiusX": 9, "radiusY": 8, "rotation": 0},
        "keypoint": {"x": 50, "y": 50, "width": 1},
        "brush": {"format": "rle", "rle": encode_brush(MARKED)},
    }
    results = [
        {
            "id": f"r{tool}",
            "type": f"{tool}labels",
            "original_height": SIZE[0],
            "original_width": SIZE[1],
            "image_rotation": 0,
            "value": {**value, f"{tool}labels": ["nodule"]},
        }
        for tool, value in values.items()
    ]
    annotation = {"id": 4, "completed_by": 1, "was_cancelled": False, "result": results}
    return [{"id": 9, "data": {"image": IMAGE}, "annotations": [annotation]}]


def labelme() -> Any:
    shapes: list[dict[str, Any]] = [
        {"shape_type": "polygon", "points": LINE},
        {"shape_type": "rectangle", "points": LINE[:2]},
        {"shape_type": "circle", "points": [[20, 20], [25, 20]]},
        {"shape_type": "point", "points": LINE[:1]},
        {"shape_type": "mask", "points": [[20, 10], [44, 29]], "mask": _png(MARKED[10:30, 20:45])},
    ]
    return {
        "version": "5.0",
        "imagePath": IMAGE,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        "shapes": [{"label": "nodule", "flags": {}, **shape} for shape in shapes],
    }


def via() -> Any:
    shapes: list[dict[str, Any]] = [
        {"name": "rect", "x": 5, "y": 6, "width": 20, "height": 10},
        {"name": "circle", "cx": 20, "cy": 20, "r": 5},
        {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 6, "theta": 0.5},
        {"name": "point", "cx": 20, "cy": 20},
        {
            "name": "polygon",
            "all_points_x": [x for x, _ in LINE],
            "all_points_y": [y for _, y in LINE],
        },
    ]
    regions = [
        {"shape_attributes": shape, "region_attributes": {"class": "nodule"}} for shape in shapes
    ]
    entry = {"filename": IMAGE, "size": 9, "regions": regions, "file_attributes": {}}
    return {"_via_settings": {}, "_via_img_metadata": {"a.png9": entry}, "_via_attributes": {}}


def via_3() -> Any:
    return {
        "project": {"pid": "x"},
        "config": {},
        "attribute": {"1": {"aname": "class", "options": {"0": "nodule"}}},
        "file": {"1": {"fid": "1", "fname": IMAGE}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "m1": {"vid": "1", "xy": [2, 5, 6, 20, 10], "av": {"1": "0"}},
            "m2": {"vid": "1", "xy": [7, *FLAT], "av": {"1": "0"}},
        },
    }


CVAT = f"""<annotations><version>1.1</version><meta><task><id>3</id></task></meta>
<image id="0" name="{IMAGE}" width="{SIZE[1]}" height="{SIZE[0]}">
<box label="nodule" xtl="4" ytl="5" xbr="24" ybr="30" rotation="5"><attribute name="b">x</attribute></box>
<ellipse label="nodule" cx="20" cy="20" rx="5" ry="6"></ellipse>
<polygon label="nodule" points="5,5;50,8;30,35"></polygon>
<points label="nodule" points="5,5;50,8"></points>
<skeleton label="nodule"><attribute name="s">y</attribute>
<points label="l" outside="0" points="5,6"><attribute name="p">z</attribute></points></skeleton>
<mask label="nodule" rle="1, 3" left="3" top="4" width="2" height="2"></mask>
</image></annotations>"""  # noqa: E501
VOC = f"""<annotation><filename>{IMAGE}</filename>
<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>1</depth></size>
<object><name>nodule</name><bndbox><xmin>4</xmin><ymin>5</ymin><xmax>24</xmax><ymax>30</ymax></bndbox>
</object></annotation>"""
BOXES = f"""image,width,height,xmin,ymin,xmax,ymax,label,annotator
{IMAGE},{SIZE[1]},{SIZE[0]},4,5,24,30,nodule,"""
YOLO = "0 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.5 0.1 0.4 0.6\n"
VIA_CSV = f"""filename,region_shape_attributes,region_attributes
{IMAGE},"{{""name"":""rect"",""x"":5,""y"":6,""width"":20,""height"":10}}","{{""class"":""nodule""}}"
"""

# by name: (format, file name, content: text or what makes the JSON)
MINIATURES: dict[str, tuple[str, str, str | Callable[[], Any]]] = {
    "coco": ("coco", "a.json", coco),
    "label-studio": ("label-studio", "a.json", label_studio),
    "labelme": ("labelme", "a.json", labelme),
    "via": ("via", "a.json", via),
    "via-3": ("via", "a.json", via_3),
    "via-csv": ("via", "a.csv", VIA_CSV),
    "cvat": ("cvat", "a.xml", CVAT),
    "voc": ("voc", "a.xml", VOC),
    "boxes": ("boxes", "a.csv", BOXES),
    "yolo": ("yolo", "a.txt", YOLO),
}


def text_of(name: str) -> str:
    content = MINIATURES[name][2]
    return content if isinstance(content, str) else json.dumps(content())


def write(folder: Path, name: str, text: str | None = None, file: str | None = None) -> Path:
    path = folder / (file or MINIATURES[name][1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(name) if text is None else text, encoding="utf-8")
    return path


def replaced(content: Any, value: Any) -> Any:
    """Every copy of nested JSON in which one value, of any depth, is `value`.

    Of a list of many numbers, the first and the last one.
    """
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        for key in keys if len(keys) < 10 else (keys[0], keys[-1]):
            for inner in (value, *replaced(content[key], value)):
                changed = copy.copy(content)
                changed[key] = inner
                yield changed
