"""Folders of mask pictures: one an image, one a class, or classes by grey value or palette index.

One a class: in folders of the class (see `name_masks`), or with names that end in _class or -class
(or by --mask-names). Several values in a picture are several classes; classes.txt, CVAT's
labelmap.txt or another file of names tells which. 255 of a palette is void, as in Pascal VOC. A
mask is decoded once to find its values, and again when it is drawn.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...config import UserError
from ...data.images.options import MAX_PIXELS
from ...gaze import GazeError, MaskFile
from ...gaze.stored import read_mask_values
from ..record import Drawing, LeaveOut, Record
from .class_names import BACKGROUND, ClassNames, find_class_names
from .mask_names import name_masks

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
JPEG = (".jpg", ".jpeg")
MARKED = re.compile(r"(?i)(^|[_.-])(mask|seg|label|segmentation)$")
FOLDERS = frozenset(
    "mask masks seg segs segmentation segmentations segmentationclass segmentationobject gt"
    " groundtruth ground_truth manual_masks".split()
)
IMAGE_FOLDERS = ("image", "images", "img", "imgs", "jpegimages")
INSTANCES = "SegmentationObject"  # of CVAT's and VOC's exports: numbers of objects, not of classes
MANY = 64  # values of a picture without names; more are those of a photograph or a heatmap
VOID = 255


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mask-names",
        metavar="PATTERN",
        help=(
            "how mask pictures are called, such as {label}/{image}, {image}_{label} or"
            " {annotator}/{image} (default: guessed from all names)"
        ),
    )


def claims(path: Path, head: bytes) -> bool:
    """Whether a picture is a mask by its palette, its bits, its name or its folder.

    Images beside annotations of another format must not be claimed.
    """
    suffix = path.suffix.lower()
    marked = MARKED.search(path.stem) is not None
    if suffix in JPEG:
        return marked or _in_mask_folder(path)
    if suffix not in SUFFIXES:
        return False
    return marked or _in_mask_folder(path) or _is_flat_png(head)


def accepts(path: Path) -> bool:
    """Whether a file in a folder is read if the user names this format."""
    return path.suffix.lower() in (*SUFFIXES, *JPEG)


def _in_mask_folder(path: Path) -> bool:
    """Whether a folder above is called so, and none below it `images`."""
    names = (name.lower() for name in reversed(path.parts[:-1]))
    nearest = next((name for name in names if name in FOLDERS or name in IMAGE_FOLDERS), "")
    return nearest in FOLDERS


def _is_flat_png(head: bytes) -> bool:
    """Whether a PNG has a palette, or fewer than 8 bits."""
    return (
        head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) > 25 and (head[25] == 3 or head[24] < 8)
    )


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """One drawing for each class of each picture, in the order of the files.

    Raises:
        UserError: a JPEG, a broken picture, too many values, or an unknown class.
    """
    used = [path for path in files if INSTANCES not in path.parts]
    for path in files:
        if INSTANCES in path.parts:
            leave_out("numbers of objects, not of classes", str(path))
    for path in used:
        if path.suffix.lower() in JPEG:
            raise UserError(
                f"{path}: a mask as JPEG; expected PNG. JPEG changes values beside edges, so that"
                " classes cannot be told apart: export the masks again, as PNG."
            )
    folders = {path.parent: find_class_names(path.parent, root) for path in used}
    labels = {name for found in folders.values() if found for name in found.names.values()}
    others = _folders_of_images(getattr(args, "images", None), files)
    named = name_masks(used, root, labels, getattr(args, "mask_names", None), others)
    for path, (image, label, annotator) in zip(used, named):
        values, size = _read_values(path)
        marked = values[values != 0]
        if not len(marked):
            leave_out("empty mask", str(path))
        elif label:
            yield Drawing(image, MaskFile(path), str(path), label, annotator, size, file=path)
        else:
            for value, name in _classes(path, marked, folders[path.parent]):
                yield Drawing(
                    image, MaskFile(path, value), str(path), name, annotator, size, file=path
                )


def _folders_of_images(images: Path | None, masks: Sequence[Path]) -> set[str]:
    """Names of the folders with images: those of patients, say, so not of classes."""
    if images is None or not images.is_dir():
        return set()
    known = {os.path.abspath(path) for path in masks}
    return {
        folder
        for path in images.rglob("*")
        if path.is_file() and os.path.abspath(path) not in known
        for folder in path.relative_to(images).parts[:-1]
    }


def _read_values(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """(the different values of the picture, sorted; its (height, width))."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            frames = getattr(picture, "n_frames", 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable mask picture ({error}).") from error
    if height * width > MAX_PIXELS or frames > 1:
        raise UserError(
            f"{path}: {frames} pictures of {height} x {width} pixels (height x width); expected"
            f" one mask of at most {MAX_PIXELS} pixels."
        )
    try:
        return np.unique(read_mask_values(path)), (height, width)
    except GazeError as error:
        raise UserError(str(error)) from error


def _classes(path: Path, values: np.ndarray, names: ClassNames | None) -> Iterator[tuple[int, str]]:
    """(value, class) of a mask that may have several."""
    mode, palette = _palette(path)
    if mode == "P" and len(values) > 1:
        values = values[values != VOID]
    numbers, found = _numbers(names), []
    for value in values.tolist():
        colour = value if mode == "RGB" else palette.get(value, -1)
        name = names.colours.get(colour) if names else ""
        found.append((value, name or numbers.get(value, "")))
    if len(found) == 1 and not found[0][1]:
        yield found[0]  # a region, whatever its value
    elif names is None:
        if len(found) > MANY:
            raise UserError(
                f"{path}: {len(found)} different values; expected a mask of at most {MANY} classes."
                " A grey map is no mask: name it in the column heatmap of a table."
            )
        yield from ((value, f"class {value}") for value, _ in found)
    else:
        for value, name in found:
            if not name:
                shown = f"#{value:06x}" if mode == "RGB" else str(value)
                raise UserError(
                    f"{path}: the value {shown}; expected 0 or one of the {len(numbers)} classes in"
                    f" {names.path}."
                )
            if name.lower() not in BACKGROUND:
                yield value, name


def _palette(path: Path) -> tuple[str, dict[int, int]]:
    """(mode: "P", "RGB" or "L" for grey; colours 0xRRGGBB of a palette by index)."""
    with Image.open(path) as picture:
        if picture.mode == "P":
            entries = np.array(picture.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
            colours = (entries[:, 0] << 16) | (entries[:, 1] << 8) | entries[:, 2]
            return "P", dict(enumerate(colours.tolist()))
        return ("L" if picture.mode in ("L", "1") or picture.mode[0] == "I" else "RGB"), {}


def _numbers(names: ClassNames | None) -> dict[int, str]:
    """Names by value. A bare list begins at 1, unless its first name is that of the background."""
    if names is None:
        return {}
    if names.plain and names.names.get(0, "").lower() not in BACKGROUND:
        return {number + 1: name for number, name in names.names.items()}
    return names.names
