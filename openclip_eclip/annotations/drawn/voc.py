"""Pascal VOC XML: one file an image, with boxes.

Positions are taken as pixels from the top left corner, as labelImg, CVAT and Label Studio write
them. VOC 2007 itself counts pixels from 1, which moves a box by one pixel.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from ...config import UserError
from ...xml_text import parse_xml
from ..record import NOTHING_DRAWN, Drawing, LeaveOut, Record
from .values import box_of, check_on_image, parse_number, parse_side

ROOT = re.compile(rb"\A(\xef\xbb\xbf)?\s*(<\?.*?\?>\s*|<!--.*?-->\s*)*<annotation[\s>]", re.DOTALL)
LARGEST = 1 << 24  # bytes of one file; real ones have thousands
SIDES = ("xmin", "ymin", "xmax", "ymax")


def claims(path: Path, head: bytes) -> bool:
    """Whether the root element is `annotation`; that of CVAT is `annotations`."""
    return path.suffix.lower() == ".xml" and ROOT.match(head) is not None


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """All boxes, in the order of the files.

    Raises:
        UserError: not XML, a missing or impossible value.
    """
    for path in files:
        if path.stat().st_size > LARGEST:
            raise UserError(
                f"{path}: {path.stat().st_size} bytes; expected at most {LARGEST} for one image."
            )
        tree = parse_xml(path.read_bytes(), str(path))
        name = (tree.findtext("filename") or "").strip() or path.stem
        size = _size(tree, str(path))
        objects = tree.findall("object")
        if not objects:
            leave_out(NOTHING_DRAWN, str(path))
        for i, element in enumerate(objects, 1):
            yield _drawing(element, name, size, path, f"{path}, object {i}")


def _size(tree: Element, where: str) -> tuple[int, int] | None:
    """(height, width), or None if the file does not state it."""
    element = tree.find("size")
    if element is None:
        return None
    keys = ("height", "width")
    height, width = (parse_side(element.findtext(key), f"size/{key}", where) for key in keys)
    return height, width


def _drawing(
    element: Element, name: str, size: tuple[int, int] | None, path: Path, where: str
) -> Drawing:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise UserError(f"{where}: no name; expected that of the class.")
    where = f"{where} {label!r}"
    box = element.find("bndbox")
    if box is None:
        raise UserError(f"{where}: no bndbox; expected one with {', '.join(SIDES)}.")
    shape = box_of([parse_number(box.findtext(key), key, where) for key in SIDES], where)
    check_on_image(shape, size, where)
    return Drawing(name, shape, where, label, "", size, file=path)
