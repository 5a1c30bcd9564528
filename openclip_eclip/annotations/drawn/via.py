"""VGG Image Annotator: projects, annotations and CSV of VIA 1 and 2, and projects of VIA 3.

The label is the attribute of a region that --via-attribute names, or the only one. VIA states no
image sizes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...config import UserError
from ...data.tables.text import read_table_text
from ...gaze import Points, Polygons
from ...json_text import parse_json, show
from ..record import NOTHING_DRAWN, Drawing, LeaveOut
from .json_files import json_head
from .values import Shape, box_of, ellipse_of, member, name_of, number, numbers, read_small_json

PROJECT = "_via_img_metadata"
COLUMNS = ("region_shape_attributes", "region_attributes")
LINES = ("polyline", "line")
# the parts of a shape of VIA 3, xy = [number of the shape, ...], in terms of VIA 2
SHAPES_3: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
}


class Region(NamedTuple):
    image: str
    shape: Mapping[str, Any]  # shape_attributes of VIA 2
    attributes: Mapping[str, Any]
    where: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--via-attribute",
        metavar="NAME",
        help="attribute of VIA's regions that is their label (default: the only one)",
    )


def claims(path: Path, head: bytes) -> bool:
    if b"region_shape_attributes" in head.split(b"\n", 1)[0]:
        return True
    found = json_head(head)
    if found is None or found.is_list:
        return False
    if (PROJECT,) in found.keys or {("project",), ("config",)} <= found.keys:
        return True
    of_files = {keys[:1] for keys in found.keys if keys[1:] == ("filename",)}
    return any((*first, "regions") in found.keys for first in of_files)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Drawing]:
    """All regions of all files. UserError: a broken one, or no clear attribute for the label."""
    known: set[str] = set()
    for path in files:
        regions = list(_regions(path, leave_out))
        known |= {name for region in regions for name in region.attributes}
        attribute = args.via_attribute or _only_attribute(regions, path)
        for region in regions:
            shape = _shape(region.shape, region.where, leave_out)
            if shape is not None:
                for label in _labels(region, attribute):
                    yield Drawing(region.image, shape, region.where, label, file=path)
    if args.via_attribute and args.via_attribute not in known:
        raise UserError(
            f"--via-attribute {args.via_attribute}: no region has it; expected one of"
            f" {', '.join(sorted(known)) or 'none'}."
        )


def _regions(path: Path, leave_out: LeaveOut) -> Iterator[Region]:
    with path.open("rb") as file:
        start = file.read(4).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith((b"{", b"[")):
        yield from _csv_regions(path, leave_out)
        return
    content = read_small_json(path)
    if "metadata" in content and "file" in content:
        yield from _via_3_regions(content, path, leave_out)
        return
    entries = member(content, PROJECT, dict, str(path)) if PROJECT in content else content
    for key, entry in entries.items():
        where = f"{path}, {key}"
        name = member(entry, "filename", str, where)
        regions = member(entry, "regions", object, where)
        if isinstance(regions, dict):  # VIA 1
            regions = list(regions.values())
        elif not isinstance(regions, list):
            raise UserError(f"{where}, key 'regions': {show(regions)}; expected a list.")
        if not regions:
            leave_out(NOTHING_DRAWN, where)
        for i, region in enumerate(regions, 1):
            place = f"{path}, image {name}, region {i}"
            shape = member(region, "shape_attributes", dict, place)
            yield Region(name, shape, member(region, "region_attributes", dict, place), place)


def _csv_regions(path: Path, leave_out: LeaveOut) -> Iterator[Region]:
    frame = read_table_text(path, ",").frame
    name = "#filename" if "#filename" in frame else "filename"  # VIA 1 begins with #
    missing = [column for column in (name, *COLUMNS) if column not in frame]
    if missing:
        raise UserError(
            f"{path}: no column {missing[0]!r}; found {show(list(frame.columns))}. Expected VIA's"
            " CSV."
        )
    for i, (image, *cells) in enumerate(frame[[name, *COLUMNS]].itertuples(index=False), 1):
        where = f"{path}, row {i}"
        shape, attributes = (
            parse_json(cell or "{}", f"{where}, column {column!r}")
            for cell, column in zip(cells, COLUMNS)
        )
        if shape:
            yield Region(image, shape, attributes, where)
        else:  # an image without regions has a row of its own
            leave_out(NOTHING_DRAWN, f"{where} ({image})")


def _via_3_regions(content: dict[str, Any], path: Path, leave_out: LeaveOut) -> Iterator[Region]:
    names = {
        key: member(entry, "fname", str, f"{path}, file {key}")
        for key, entry in member(content, "file", dict, str(path)).items()
    }
    views = {
        key: member(entry, "fid_list", list, f"{path}, view {key}")
        for key, entry in member(content, "view", dict, str(path)).items()
    }
    known = member(content, "attribute", dict, str(path)) if content.get("attribute") else {}
    drawn = set()
    for key, entry in member(content, "metadata", dict, str(path)).items():
        where = f"{path}, metadata {key}"
        xy = numbers(member(entry, "xy", list, where), "xy", where).tolist()
        if not xy:  # it describes the whole image
            continue
        view = name_of(member(entry, "vid", object, where), "vid", where)
        file = name_of(next(iter(views.get(view, ())), None), "fid_list", f"{path}, view {view}")
        if file not in names:
            raise UserError(
                f"{where}, key 'vid': {show(view)}; expected one of the {len(views)} views of the"
                " file, with an image."
            )
        attributes = {
            member(known.get(key), "aname", str, f"{where}, attribute {key}"): _option(
                known[key], value, f"{path}, attribute {key}"
            )
            for key, value in member(entry, "av", dict, where).items()
        }
        drawn.add(names[file])
        yield Region(names[file], _via_3_shape(xy, where), attributes, where)
    for image in names.values():
        if image not in drawn:
            leave_out(NOTHING_DRAWN, f"{path}, file {image}")


def _option(attribute: Mapping[str, Any], value: Any, where: str) -> Any:
    """The name of the option that was chosen, or the text that was typed."""
    if not attribute.get("options") or not isinstance(value, str):
        return value
    return member(attribute, "options", dict, where).get(value, value)


def _via_3_shape(xy: list[float], where: str) -> dict[str, Any]:
    name, keys = SHAPES_3.get(int(xy[0]), ("", ()))
    values = xy[1:]
    if name == "polygon":
        return {"name": name, "all_points_x": values[0::2], "all_points_y": values[1::2]}
    if not name or (keys and len(values) != len(keys)):
        raise UserError(
            f"{where}, key 'xy': {xy[:6]}; expected the number of a shape of VIA 3, 1 to 7, and its"
            " numbers."
        )
    return {"name": name, **dict(zip(keys, values))}


def _only_attribute(regions: Sequence[Region], path: Path) -> str | None:
    names = sorted({name for region in regions for name in region.attributes})
    if len(names) > 1:
        raise UserError(
            f"{path}: regions have {len(names)} attributes ({', '.join(names[:6])}); expected one."
            " Name that of the label with --via-attribute."
        )
    return names[0] if names else None


def _labels(region: Region, attribute: str | None) -> list[str]:
    """The labels of a region; several if the attribute is a check box, "" if it is not set."""
    value = region.attributes.get(attribute) if attribute is not None else None
    if isinstance(value, Mapping):
        return [name for name, chosen in value.items() if chosen] or [""]
    if value is None:
        return [""]
    if not isinstance(value, str | int | float):
        raise UserError(
            f"{region.where}, attribute {attribute!r}: {show(value)}; expected a text or"
            " the options of a check box."
        )
    return [str(value)]


def _shape(record: Mapping[str, Any], where: str, leave_out: LeaveOut) -> Shape | None:
    kind = member(record, "name", str, where)

    def get(key: str) -> float:
        return number(record.get(key), key, where)

    if kind in LINES:
        leave_out("a line, which has no area", where)
        return None
    if kind == "rect":
        left, top, width, height = map(get, ("x", "y", "width", "height"))
        return box_of((left, top, left + width, top + height), where)
    if kind == "point":
        return Points([get("cx")], [get("cy")])
    if kind in ("circle", "ellipse"):
        along = ("r", "r") if kind == "circle" else ("rx", "ry")
        turned = number(record.get("theta") or 0, "theta", where) % (2 * math.pi)
        return ellipse_of(map(get, ("cx", "cy", *along)), turned, where)
    if kind != "polygon":
        raise UserError(
            f"{where}: a shape {show(kind)}; expected rect, circle, ellipse, polygon, polyline or"
            " point."
        )
    x, y = (numbers(record.get(key), key, where) for key in ("all_points_x", "all_points_y"))
    if len(x) != len(y):
        raise UserError(f"{where}: {len(x)} x and {len(y)} y of an outline; expected as many.")
    if len(x) < 3:
        leave_out("outline of fewer than 3 points", where)
        return None
    return Polygons([np.stack([x, y], axis=1)])
