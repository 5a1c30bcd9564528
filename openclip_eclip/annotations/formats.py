"""The formats of annotation files, and how one is recognised.

The module of a format has

* `claims(path, head) -> bool`: whether this file is of the format; `head`: its first bytes;
* `accepts(path) -> bool`, if it has one: whether a file in a folder is read if the user names the
  format: more than `claims` may take;
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

    @property
    def is_gaze(self) -> bool:
        return self.module.startswith("eye.")


# asked in this order; a general form comes after the special ones that look like it
FORMATS = (
    Format("coco", "drawn.coco", "COCO JSON: boxes, polygons, RLE masks, keypoints"),
    Format("label-studio", "drawn.label_studio", "Label Studio JSON: all regions of an image"),
    Format("labelme", "drawn.labelme", "LabelMe JSON, one file an image"),
    Format("via", "drawn.via", "VGG Image Annotator: JSON or CSV of VIA 2, JSON of VIA 3"),
    Format("cvat", "drawn.cvat", "CVAT XML 1.1 for images"),
    Format("voc", "drawn.voc", "Pascal VOC XML, one file an image"),
    Format("dicom", "drawn.dicom", "DICOM segmentations and presentation states"),
    Format("volumes", "drawn.volumes", "NRRD and NIfTI masks: a slice or a volume"),
    Format("yolo", "drawn.yolo", "YOLO txt: boxes and outlines in fractions"),
    Format("phrases", "drawn.phrase_table", "tables of phrases with boxes, outlines or masks"),
    Format("eyelink", "eye.asc", "EyeLink ASC: fixation events or samples, images by messages"),
    Format("tobii", "eye.tobii", "Tobii Pro Lab or Studio: TSV of samples with fixations"),
    Format("gazepoint", "eye.gazepoint", "Gazepoint Analysis: _fixations.csv, _all_gaze.csv"),
    Format("pupil", "eye.pupil", "Pupil Labs: fixations_on_surface_NAME.csv"),
    Format("begaze", "eye.begaze", "SMI BeGaze: table of events"),
    Format("bids-eye", "eye.bids", "BIDS eye tracking: _physio.tsv.gz with sidecar and _events"),
    Format("gaze-matlab", "eye.matlab", "MATLAB structs of fixations, such as those of OSIE"),
    Format("gaze-table", "eye.table", "CSV or TSV of fixations or samples, any column names"),
    Format("boxes", "drawn.boxes", "tables of boxes: VinDr-CXR, NIH, RSNA, or any column names"),
    Format("masks", "drawn.masks", "folders of mask pictures"),
)


class Recognised(NamedTuple):
    format: Format
    files: list[Path]
    others: list[Path]  # of no known format, such as images beside the annotations


def module_of(form: Format) -> ModuleType:
    return import_module(f"{__package__}.{form.module}")


def add_format_arguments(parser: argparse.ArgumentParser, gaze: bool = True) -> None:
    """Add --annotation-format and the flags of all formats; of drawings alone without `gaze`."""
    forms = [form for form in FORMATS if gaze or not form.is_gaze]
    parser.add_argument(
        "--annotation-format",
        choices=[form.name for form in forms],
        help="format of SRC (default: recognised from the files)",
    )
    for form in forms:
        module = module_of(form)
        if hasattr(module, "add_arguments"):
            module.add_arguments(parser)


def recognise(sources: Sequence[Path], name: str | None = None) -> Recognised:
    """The format of files or folders, and its files.

    `name`: the format that the user named; its module need not claim a file that was given itself.

    Raises:
        UserError: no such file, no file of a known format, or files of two formats.
    """
    files = list(dict.fromkeys(path for source in sources for path in _files(source)))
    if name is not None:
        (form,) = [form for form in FORMATS if form.name == name]
        module = module_of(form)
        accepts = getattr(module, "accepts", None) or (lambda path: False)
        claimed = [
            path
            for path in files
            if path in sources or accepts(path) or module.claims(path, _head(path))
        ]
        if not claimed:
            raise UserError(
                f"{_names(sources)}: no file of the format {name}; found {_names(files)}."
            )
        return Recognised(form, claimed, [path for path in files if path not in set(claimed)])
    by_format: dict[Format, list[Path]] = {}
    others: list[Path] = []
    for path in files:
        claimed_by = _format_of(path)
        if claimed_by is None:
            others.append(path)
        else:
            by_format.setdefault(claimed_by, []).append(path)
    if not by_format:
        raise UserError(
            f"{_names(sources)}: the format was not recognised; found {_names(files)}."
            f" {_advice(files)}"
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


def _advice(files: Sequence[Path]) -> str:
    """How to name the format of files that none claims."""
    suffixes = {path.suffix.lower() for path in files}
    if suffixes <= {".png", ".bmp", ".tif", ".tiff", ".gif"}:
        return "If these pictures are masks, add --annotation-format masks."
    if suffixes <= {".csv", ".tsv"}:
        return (
            "Of boxes, add --annotation-format boxes --box-columns image,xmin,ymin,xmax,ymax,label"
            " with your names; of gaze, --annotation-format gaze-table and --gaze-columns."
        )
    return f"Name it with --annotation-format, one of {', '.join(form.name for form in FORMATS)}."


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
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return (", ".join(map(str, paths[:SHOWN])) or "no files") + more
