"""Reads NRRD by pynrrd and NIfTI by nibabel: values, orientation, names of segments."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError

# signs that turn a named space into left, posterior (back), superior (head)
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
DAMAGED = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zlib.error, MemoryError)


@dataclass(frozen=True, eq=False)
class Volume:
    values: np.ndarray  # (layers, axes of the file, two or three)
    directions: np.ndarray | None  # (3, axes) to the left, back and head; None: not stated
    names: dict[tuple[int, int], str] = field(default_factory=dict)  # by (layer, value)


def read_nifti(path: Path, most: int) -> Volume:
    """A NIfTI file. UserError: nibabel is missing, a broken file, more than `most` bytes."""
    try:
        import nibabel
    except ImportError as error:
        raise _missing(path, "nibabel") from error
    try:
        image: Any = nibabel.load(path)
        shape = image.shape
        _check_bytes(path, shape, 8, most)
        stated = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
        values = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    except (nibabel.filebasedimages.ImageFileError, *DAMAGED) as error:
        raise UserError(f"{path}: not a readable NIfTI file ({error}).") from error
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    directions = affine * np.array([[-1.0], [-1], [1]])  # NIfTI has right, front, head
    return Volume(values[None], directions[:, : max(2, values.ndim)] if stated else None)


def read_nrrd(path: Path, most: int) -> Volume:
    """A NRRD file, with segments as 3D Slicer stores them.

    UserError: pynrrd is missing, a broken file, data in another file, more than `most` bytes.
    """
    try:
        import nrrd
    except ImportError as error:
        raise _missing(path, "pynrrd") from error
    try:
        with path.open("rb") as file:
            header = nrrd.read_header(file)
            if {"data file", "datafile"} & set(header):
                raise UserError(
                    f"{path}: its data are in another file; expected one file. Save it as .nrrd."
                )
            _check_bytes(path, header["sizes"], 8, most)
            values = nrrd.read_data(header, file, str(path), index_order="F")
    except UserError:
        raise
    except (nrrd.NRRDError, *DAMAGED) as error:
        raise UserError(f"{path}: not a readable NRRD file ({error}).") from error
    kinds = list(header.get("kinds", []))
    vectors = np.atleast_2d(np.asarray(header.get("space directions", np.nan), dtype=np.float64))
    spatial = _spatial_axes(vectors, kinds, values.ndim)
    layers = [axis for axis in range(values.ndim) if axis not in spatial]
    if len(layers) > 1:
        raise UserError(f"{path}: {values.ndim} axes; expected a picture, a volume, or its layers.")
    values = np.moveaxis(values, layers[0], 0) if layers else values[None]
    signs = SPACES.get(str(header.get("space", "")).lower())
    directions = None
    if signs is not None and len(vectors) > 1 and vectors.shape[1] == 3:
        directions = vectors[spatial].T * np.array(signs, dtype=np.float64)[:, None]
    return Volume(values, directions, _segments(path, header))


def _spatial_axes(vectors: np.ndarray, kinds: list[str], axes: int) -> list[int]:
    """The axes that are directions in space; the others are layers."""
    if len(vectors) == axes:
        return [axis for axis in range(axes) if np.isfinite(vectors[axis]).all()]
    if len(kinds) == axes:
        return [axis for axis in range(axes) if kinds[axis] in ("domain", "space")]
    return list(range(axes))


def _segments(path: Path, header: dict[str, Any]) -> dict[tuple[int, int], str]:
    """Slicer's names of segments by (layer, value)."""
    names = {}
    for key, name in header.items():
        if key.startswith("Segment") and key.endswith("_Name"):
            start = key.removesuffix("_Name")
            numbers = [header.get(f"{start}_{end}", "") for end in ("Layer", "LabelValue")]
            numbers = ["0" if not numbers[0] else numbers[0], numbers[1] or "1"]
            try:
                names[int(numbers[0]), int(numbers[1])] = str(name).strip()
            except ValueError as error:
                raise UserError(
                    f"{path}, {start}: {error}; expected whole numbers of Layer and LabelValue."
                ) from error
    return names


def _check_bytes(path: Path, shape: Any, each: int, most: int) -> None:
    sides = [int(one) for one in shape]
    if len(sides) < 2 or min(sides) < 1:
        raise UserError(f"{path}: sides {sides}; expected two or more, each at least 1.")
    count = 1
    for one in sides:
        count *= one
    if count * each > most:
        raise UserError(
            f"{path}: {' x '.join(map(str, sides))} values; expected at most {most // each}."
        )


def _missing(path: Path, package: str) -> UserError:
    return UserError(
        f"{path}: reading it needs {package}: pip install 'openclip_eclip[annotations]'"
    )
