"""CVAT XML 1.1 "for images": boxes, polygons, ellipses, points, skeletons and masks.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. An image is read when its element
ends, so a large file is never in memory as a whole. The annotator is the assignee of the task or
job.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ...config import UserError
from ...gaze import Annotation, GazeError, Mask, Points, Polygons, decode_rle
from ...json_text import show
from ...xml_text import stream_xml
from ..record import NOTHING_DRAWN, Drawing, LeaveOut, Record
from .values import box_of, check_area, check_on_image, ellipse_of, parse_number, parse_side

ROOT = re.compile(rb"\A(\xef\xbb\xbf)?\s*(<\?.*?\?>\s*|<!--.*?-->\s*)*<annotations[\s>]", re.DOTALL)
UNUSED = ("polyline", "tag", "cuboid")  # without an area, or without a position


def claims(path: Path, head: bytes) -> bool:
    """Whether the root element is `annotations`; that of Pascal VOC is `annotation`."""
    return path.suffix.lower() == ".xml" and ROOT.match(head) is not None


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """All shapes, in the order of the files.

    Raises:
        UserError: not XML, tracks of a video, an image twice, a missing or impossible value.
    """
    for path in files:
        known: set[tuple[str, str]] = set()
        annotators: dict[str, str] = {}
        for child in stream_xml(path):
            if child.tag == "meta":
                annotators = _annotators(child)
            elif child.tag == "track":
                raise UserError(
                    f"{path}: tracks of a video; expected images. Export as 'CVAT for images 1.1'."
                )
            elif child.tag == "image":
                annotator = annotators.get(child.get("task_id", ""), annotators.get("", ""))
                yield from _image(child, path, annotator, known, leave_out)


def _annotators(meta: Element) -> dict[str, str]:
    """Names of the assignees by the id of the task; "" is that of the whole file."""
    result = {}
    for tag in ("task", "job"):
        name = _assignee(meta.find(tag))
        if name:
            result[""] = name
    for task in meta.iterfind("project/tasks/task"):
        name = _assignee(task)
        if name:
            result[task.findtext("id") or ""] = name
    return result


def _assignee(task: Element | None) -> str:
    """The user name in `assignee`, which is an element or the text itself; "" if there is none."""
    if task is None:
        return ""
    return (task.findtext("assignee/username") or task.findtext("assignee") or "").strip()


def _image(
    image: Element,
    path: Path,
    annotator: str,
    known: set[tuple[str, str]],
    leave_out: LeaveOut,
) -> Iterator[Drawing]:
    name = image.get("name", "")
    where = f"{path}, image {image.get('id', '')} {name!r}"
    if not name:
        raise UserError(f"{where}: no name; expected that of the image file.")
    height, width = (parse_side(image.get(key), key, where) for key in ("height", "width"))
    size = height, width
    if (name, annotator) in known:
        raise UserError(
            f"{where}: this image is there twice; expected it once for each annotator. For several"
            " annotators, assign their tasks in CVAT before the export."
        )
    known.add((name, annotator))
    if len(image) == 0:
        leave_out(NOTHING_DRAWN, where)
    for i, element in enumerate(image, 1):
        label = element.get("label", "")
        place = f"{where}, shape {i} ({element.tag} {label!r})"
        if element.tag in UNUSED:
            leave_out(element.tag, place)
            continue
        if element.tag not in SHAPES:
            raise UserError(
                f"{place}: an unknown element; expected one of {', '.join((*SHAPES, *UNUSED))}."
                " Export as 'CVAT for images 1.1'."
            )
        if not label:
            raise UserError(f"{place}: no label; expected the name of a class.")
        shape = SHAPES[element.tag](element, place, size)
        if shape is None:
            leave_out("empty shape", place)
        else:
            yield Drawing(name, shape, place, label, annotator, size, file=path)


def _box(element: Element, where: str, size: tuple[int, int]) -> Annotation:
    shape = box_of(
        _values(element, where, "xtl", "ytl", "xbr", "ybr"), where, _turned(element, where)
    )
    check_on_image(shape, size, where)
    return shape


def _ellipse(element: Element, where: str, size: tuple[int, int]) -> Annotation:
    values = _values(element, where, "cx", "cy", "rx", "ry")
    shape = ellipse_of(values, _turned(element, where), where)
    check_on_image(shape, size, where)
    return shape


def _polygon(element: Element, where: str, size: tuple[int, int]) -> Annotation | None:
    xy = _positions(element, where)
    if len(xy) < 3 or (np.ptp(xy, axis=0) == 0).any():
        return None
    shape = Polygons([xy])
    check_on_image(shape, size, where)
    return shape


def _points(element: Element, where: str, size: tuple[int, int]) -> Annotation | None:
    return _on_image(_positions(element, where), size, where)


def _skeleton(element: Element, where: str, size: tuple[int, int]) -> Annotation | None:
    """The joints of a skeleton that are on the image."""
    joints = [
        _positions(joint, where)
        for joint in element.iterfind("points")  # beside attributes
        if joint.get("outside", "0") != "1"
    ]
    return _on_image(np.concatenate([np.zeros((0, 2)), *joints]), size, where)


def _on_image(xy: np.ndarray, size: tuple[int, int], where: str) -> Points | None:
    if not len(xy):
        return None
    shape = Points(xy[:, 0], xy[:, 1])
    check_on_image(shape, size, where)
    return shape


def _values(element: Element, where: str, *keys: str) -> list[float]:
    return [parse_number(element.get(key), key, where) for key in keys]


def _turned(element: Element, where: str) -> float:
    """How far a shape is turned clockwise, in radians."""
    return math.radians(parse_number(element.get("rotation", "0"), "rotation", where))


def _positions(element: Element, where: str) -> np.ndarray:
    """(N, 2) of the attribute `points`, such as "1.5,2;3,4"."""
    text = element.get("points")
    if text is None:
        raise UserError(f"{where}, points: missing; expected x,y;x,y;...")
    pairs = [pair.split(",") for pair in text.split(";") if pair.strip()]
    for pair in pairs:
        if len(pair) != 2:
            raise UserError(f"{where}, points: {show(','.join(pair))}; expected x,y;x,y;...")
    values = [[parse_number(value, "points", where) for value in pair] for pair in pairs]
    return np.array(values).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class PlacedRle:
    """Runs of 0s and 1s along the rows of a rectangle on the image, decoded when it is drawn."""

    rle: str  # "3, 4, ..."
    rectangle: tuple[int, int, int, int]  # left, top, width, height
    size: tuple[int, int]  # (height, width) of the image

    def load(self) -> Mask:
        check_area(self.size)
        left, top, width, height = self.rectangle
        values = np.zeros(self.size, dtype=bool)
        try:
            counts = [int(count) for count in self.rle.split(",")]
        except ValueError as error:
            raise GazeError(f"{error}; expected whole numbers with commas between.") from error
        part = decode_rle(counts, (height, width), "coco", row_major=True)
        values[top : top + height, left : left + width] = part
        return Mask(values)


def _mask(element: Element, where: str, size: tuple[int, int]) -> Annotation | None:
    left, top = _values(element, where, "left", "top")
    width, height = (parse_side(element.get(key), key, where) for key in ("width", "height"))
    within = min(left, top) >= 0 and left + width <= size[1] and top + height <= size[0]
    if not within or left % 1 or top % 1:
        raise UserError(
            f"{where}: a mask of {height} x {width} at x {left:g}, y {top:g} on an image of"
            f" {size[0]} x {size[1]} (height x width); expected it within the image."
        )
    stored = PlacedRle(element.get("rle", ""), (int(left), int(top), width, height), size)
    try:
        return stored if stored.load().values.any() else None
    except GazeError as error:
        raise UserError(f"{where}, rle: {error}") from error


SHAPES: dict[str, Callable[[Element, str, tuple[int, int]], Annotation | None]] = {
    "box": _box,
    "ellipse": _ellipse,
    "polygon": _polygon,
    "points": _points,
    "skeleton": _skeleton,
    "mask": _mask,
}
