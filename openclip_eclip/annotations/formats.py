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
)


class Recognised(NamedTuple):
    format: Format
    files: list[Path]
    others: list[Path]  # of no known format, such as images beside the annotations


def module_of(form: Format) -> ModuleType:
    return import_module(f"{__package__}.{form.module}")


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --annotation-format and the flags of all formats."""
    parser.add_argument(
        "--annotation-format",
        choices=[form.name for form in FORMATS],
        help="format of SRC (default: recognised from the files)",
    )
    for form in FORMATS:
        module = module_of(form)
        if hasattr(module, "add_arguments"):
            module.add_arguments(parser)


def recognise(sources: Sequence[Path], name: str | None = None) -> Recognised:
    """The format of files or folders, and its files.

    `name`: the format that the user named; its module need not claim a file that was given itself.

    Raises:
        UserError: no such file, no file of a known format, or files of two formats.
    """
    files = [path for source in sources for path in _files(source)]
    if name is not None:
        (form,) = [form for form in FORMATS if form.name == name]
        module = module_of(form)
        claimed = [path for path in files if path in sources or module.claims(path, _head(path))]
        if not claimed:
            raise UserError(
                f"{_names(sources)}: no file of the format {name}; found {_names(files)}."
            )
        return Recognised(form, claimed, [path for path in files if path not in set(claimed)])
    by_format: dict[Format, list[Path]] = {}
    others = []
    for path in files:
        form = _format_of(path)
        if form is None:
            others.append(path)
        else:
            by_format.setdefault(form, []).append(path)
    if not by_format:
        raise UserError(
            f"{_names(sources)}: the format was not recognised; found {_names(files)}. Name it with"
            f" --annotation-format, one of {', '.join(form.name for form in FORMATS)}."
        )
    if len(by_format) > 1:
        found = "; ".join(f"{form.name}: {_names(paths)}" for form, paths in by_format.items())
        raise UserError(
            f"{_names(sources)}: files of {len(by_format)} formats ({found}); expected one. Name"
            " the files of one format, or the format with --annotation-format."
        )
    ((form, claimed),) = by_format.items()
    return Recognised(form, claimed, others)


def read_records(
    found: Recognised, root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """All records of the files, in their order. UserError: a broken record."""
    return module_of(found.format).read(found.files, root, args, leave_out)


def _format_of(path: Path) -> Format | None:
    head = _head(path)
    return next((form for form in FORMATS if module_of(form).claims(path, head)), None)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _files(source: Path) -> list[Path]:
    """The file itself, or all files of a folder and its folders, without hidden ones."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder; expected annotations.")
    return sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    )


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return (", ".join(map(str, paths[:SHOWN])) or "no files") + more
