"""The formats of annotation files, and how one is recognised.

The module of a format has

* `claims(path, head) -> bool`: whether this file is of the format; `head`: its first bytes;
* `read(files, root, args, leave_out) -> Iterator[Record]`: all its records. `files`: those that it
  claims; `root`: SRC, or its folder; `args`: the flags of the command, among them those that
  `add_arguments(parser)` of the module adds, if it has one. A broken record raises a UserError
  with file and record; what is valid but of no use (an empty outline) goes to `leave_out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ..config import UserError
from .record import LeaveOut, Record

HEAD = 1 << 16  # bytes of a file that are shown to `claims`
SHOWN = 3  # examples in a message


class Format(NamedTuple):
    """`name` is that of --annotation-format; `summary`: a line of help."""

    name: str
    module: str
    summary: str


# asked in this order; a general form comes after the special ones that look like it
FORMATS = (
    Format("coco", "drawn.coco", "COCO JSON: boxes, polygons, RLE masks, keypoints"),
    Format("label-studio", "drawn.label_studio", "Label Studio JSON: all regions of an image"),
    Format("labelme", "drawn.labelme", "LabelMe JSON, one file an image"),
    Format("via", "drawn.via", "VGG Image Annotator: JSON or CSV of VIA 2, JSON of VIA 3"),
