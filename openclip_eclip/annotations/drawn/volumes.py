"""Masks in NRRD and NIfTI files: one slice, or the slices of a volume.

Rows and columns are as a viewer of images shows them. Columns go to the patient's left (in a
sagittal slice to the back), rows to the back in an axial slice, and to the feet otherwise. So a
picture that SimpleITK or 3D Slicer turned into NRRD or NIfTI has its own rows and columns again. A
file without an orientation, or with --volume-axes stored, has columns along its first axis and rows
along its second, as stored. Slices go along the axis of one element, or else along the third; they
are counted from 0 as stored, and the image of slice 7 of scan.nii.gz is scan_7.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...data.images.options import MAX_BYTES, MAX_PIXELS
from ..record import Drawing, LeaveOut, Record
from .class_names import find_class_names
from .mask_names import strip_general
from .mask_runs import encode_mask
from .volume_files import Volume, read_nifti, read_nrrd

NRRD, NIFTI = (".nrrd",), (".nii", ".nii.gz")
MANY = 256  # values; more are those of an image
HEAD = 2  # of the axes left, back, head of the patient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--volume-axes",
        choices=("patient", "stored"),
        default="patient",
        help=(
            "rows and columns of NRRD and NIfTI: patient, by the orientation in the file as viewers"
            " show it; stored, columns along the first axis of the file and rows along the second"
            " (default: %(default)s)"
        ),
    )


def claims(path: Path, head: bytes) -> bool:
    name = path.name.lower()
    return (name.endswith(NRRD) and head.startswith(b"NRRD")) or name.endswith(NIFTI)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """One drawing for each class of each slice that has marks.

    Raises:
        UserError: the extra is not installed, a broken file, values that are no mask, or too many
            of them.
    """
    for path in files:
        stem = path.name
        for suffix in (*NIFTI[::-1], ".seg.nrrd", *NRRD):
            if stem.lower().endswith(suffix):
                stem = stem[: -len(suffix)]
                break
        stem = strip_general(stem)
        reader = read_nrrd if path.name.lower().endswith(NRRD) else read_nifti
        volume = reader(path, MAX_BYTES)
        yield from _drawings(path, root, stem, volume, args.volume_axes == "stored", leave_out)


def _drawings(
    path: Path, root: Path, stem: str, volume: Volume, stored: bool, leave_out: LeaveOut
) -> Iterator[Drawing]:
    shown, along = arrange(volume.values, None if stored else volume.directions, str(path))
    if shown.shape[-2] * shown.shape[-1] > MAX_PIXELS:
        raise UserError(f"{path}: slices of {shown.shape[-2:]}; expected {MAX_PIXELS} pixels.")
    names = find_class_names(path.parent, root)
    used = False
    for layer in range(shown.shape[0]):
        values = _marks(shown[layer], str(path))
        found = np.unique(values)
        found = found[found != 0].tolist()
        for value in found:
            label = volume.names.get((layer, value)) or (names.names.get(value) if names else "")
            if not label and (len(found) > 1 or shown.shape[0] > 1):
                label = f"class {value}"
            for k in np.flatnonzero((values == value).any(axis=(1, 2))):
                image = stem if values.shape[0] == 1 else f"{stem}_{k}"
                where = f"{path}, slice {k} of axis {along + 1}"
                inside = values[k] == value
                size = inside.shape[0], inside.shape[1]
                used = True
                yield Drawing(image, encode_mask(inside), where, label or "", size=size, file=path)
    if not used:
        leave_out("empty mask", str(path))


def _marks(values: np.ndarray, where: str) -> np.ndarray:
    """Whole numbers of few values. UserError: this is an image."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values % 1 != 0).any():
            raise UserError(f"{where}: values that are no whole numbers; expected a mask.")
        values = values.astype(np.int64)
    if values.dtype.kind not in "biu" or len(np.unique(values)) > MANY:
        raise UserError(
            f"{where}: more than {MANY} different values, or no numbers; expected a mask. Is it the"
            " image?"
        )
    return values.astype(np.int64)


def arrange(
    values: np.ndarray, directions: np.ndarray | None, where: str
) -> tuple[np.ndarray, int]:
    """(layers, slices, rows, columns) as shown, and the axis of the file that the slices go along.

    Args:
        values: (layers, first, second[, third axis of the file]).
        directions: (3, axes): the vector of each axis to the left, back and head; None: unknown.

    Raises:
        UserError: other numbers of axes.
    """
    if values.ndim == 3:
        values = values[..., None]
        if directions is not None and directions.shape[1] == 2:
            normal = np.cross(directions[:, 0], directions[:, 1])
            directions = np.concatenate([directions, normal[:, None]], axis=1)
    if values.ndim != 4 or (directions is not None and directions.shape != (3, 3)):
        raise UserError(f"{where}: {values.ndim - 1} axes; expected a picture or a volume.")
    single = [axis for axis in range(3) if values.shape[axis + 1] == 1]
    along = single[0] if len(single) == 1 else 2
    first, second = (axis for axis in range(3) if axis != along)
    if directions is None:
        return values.transpose(0, along + 1, second + 1, first + 1), along
    body = _body_axes(directions)
    # columns: along the earlier of left, back, head; rows: along the later
    across, down = (first, second) if body[first] < body[second] else (second, first)
    shown = values.transpose(0, along + 1, down + 1, across + 1)
    if directions[body[across], across] < 0:
        shown = shown[..., ::-1]
    to_head = body[down] == HEAD
    if (directions[body[down], down] > 0) == to_head:
        shown = shown[..., ::-1, :]
    return shown, along


def _body_axes(directions: np.ndarray) -> tuple[int, ...]:
    """For each axis of the file, the axis of the patient that it mainly follows, all different."""
    lengths = np.linalg.norm(directions, axis=0)
    cosines = np.abs(directions / np.where(lengths > 0, lengths, 1))
    return max(
        itertools.permutations(range(3)),
        key=lambda order: sum(cosines[body, axis] for axis, body in enumerate(order)),
    )
