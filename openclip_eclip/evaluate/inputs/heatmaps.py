"""Held-out heatmaps of an evaluation set, with the geometry of the image's transform applied."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ...config import DataError, UserError
from ...data.heatmap import read_bounded
from ...data.images.read import read_frame
from ...data.sample import read_heatmap, read_windows
from ...data.sentence_windows import MAPS_MEMBER, TEXT_MEMBER, Windows, file_windows
from ...data.shards.tar_source import TarEntry
from ...data.suspicious_maps import SharedMaps, is_the_image
from ...data.tables.csv_source import locate, read_columns
from ...data.tables.missing_text import file_cell
from ...data.tables.near_names import did_you_mean
from .eval_set import EvalSet

WINDOWS = "windows"  # the column
GEOMETRIC = ("Resize", "CenterCrop", "ResizeKeepRatio", "ResizeMaxSize", "CenterCropOrPad")


def join_heatmaps(data: EvalSet, column: str, table: Path | None) -> EvalSet:
    """The rows that have a heatmap.

    Heatmaps are files named in `column` of `data`, or of `table` (joined on filepath), or members
    of shards. UserError: no heatmap. DataError: `table` is unreadable, or names an image twice.
    """
    near = "" if column in data.table else did_you_mean(column, data.table.columns)
    if "filepath" not in data.table:
        mask = np.array([isinstance(entry, TarEntry) and entry.annotated for entry in data.images])
    else:
        data.table = data.table.assign(heatmap=_file_column(data, column, table))
        mask = (data.table["heatmap"] != "").to_numpy()
    if not mask.any():
        raise UserError(
            f"{data.path}: no heatmaps; expected a column {column!r} with heatmap files, or a table"
            f" of them with --heatmaps.{near}"
        )
    return data.keep(mask, "no heatmap")


def join_windows(data: EvalSet, table: Path | None) -> EvalSet | None:
    """The rows that have sentence windows; None if no row has them.

    They are files named in the column `windows` of `data`, or of `table` (joined on filepath), or
    members of shards. DataError: as `join_heatmaps`.
    """
    if "filepath" not in data.table:
        mask = np.array([isinstance(e, TarEntry) and e.with_windows for e in data.images])
    else:
        if table is not None and table.is_file() and WINDOWS not in read_columns(table):
            table = None
        data.table = data.table.assign(windows=_file_column(data, WINDOWS, table))
        mask = (data.table[WINDOWS] != "").to_numpy()
    return data.keep(mask, "no sentence windows") if mask.any() else None


def _file_column(data: EvalSet, column: str, table: Path | None) -> list[str]:
    """Absolute paths of the files that a column of `data`, or of `table`, names; "" for none."""
    cells = data.table[column] if column in data.table else pd.Series("", index=data.table.index)
    folder = data.path.parent
    if table is not None:
        cells = data.table["filepath"].map(heatmap_cells(table, column)).fillna("")
        folder = table.parent
    return [str(locate(cell, folder).absolute()) if file_cell(cell) else "" for cell in cells]


def read_phrases(data: EvalSet, row: int) -> Windows:
    """The sentence windows of a row; maps of phrases without a region are all zero.

    DataError: missing, unreadable, or of another aspect ratio than the image; names the row.
    """
    frame = read_frame(data.read(row), data.name(row), data.reading)
    entry = data.images[row]
    try:
        if isinstance(entry, Path):
            path = Path(data.table[WINDOWS].iloc[row])
            files, name = file_windows(path, data.reading), path.name
        else:
            content = entry.read(TEXT_MEMBER, MAPS_MEMBER)
            files, name = (content[TEXT_MEMBER], content[MAPS_MEMBER]), f"{entry.key}.windows"
        return read_windows(*files, name, frame, data.reading)
    except (OSError, DataError) as error:
        raise DataError(f"{data.name(row)}, column {WINDOWS!r}: {error}") from error


def heatmap_cells(table: Path, column: str) -> dict[str, str]:
    """{filepath: heatmap} of the rows of --heatmaps that have one.

    DataError: no such file or column, or an image twice.
    """
    if not table.is_file():
        raise DataError(f"--heatmaps {table}: no such file.")
    cells = read_columns(table)
    name = column if column in cells else "gaze"
    if "filepath" not in cells or name not in cells:
        absent = [name for name in ("filepath", column) if name not in cells]
        raise DataError(
            f"{table}: columns {list(cells.columns)}; expected filepath and {column!r} (or 'gaze')."
            + "".join(did_you_mean(name, cells.columns) for name in absent)
        )
    cells = cells[cells[name].map(file_cell) != ""]
    repeated = cells["filepath"][cells["filepath"].duplicated()]
    if len(repeated):
        raise DataError(
            f"{table}: {repeated.iloc[0]} has several heatmaps; expected one row for each image."
        )
    return dict(zip(cells["filepath"], cells[name], strict=True))


def suspicious_maps(data: EvalSet) -> list[str]:
    """Warnings of heatmaps that several images share, or that are the image of another sample."""
    shared = SharedMaps()
    for row, identity in enumerate(data.identities()):
        shared.add(hashlib.sha256(_bytes(data, row)[0]).digest(), identity)
    return [f"{sentence}." for sentence in (shared.warning(), shared.swapped()) if sentence]


def read_whole_heatmap(data: EvalSet, row: int, image: Image.Image) -> np.ndarray:
    """A heatmap (h, w) float32 with maximum 1, over the whole upright image.

    DataError: unreadable, or the image itself; names row and file.
    """
    content, name = _bytes(data, row)
    try:
        values = read_heatmap(
            content, name, read_frame(data.read(row), data.name(row), data.reading), data.reading
        )
    except DataError as error:
        raise DataError(f"{data.name(row)}: {error}") from error
    if is_the_image(values, image):
        raise DataError(
            f"{data.name(row)}: heatmap {name!r} shows the image itself; expected a map of expert"
            " gaze, or a blank."
        )
    return values


def read_heatmap_tensor(data: EvalSet, row: int, image: Image.Image, transform: Any) -> Tensor:
    """A heatmap (1, H, W) float32 with maximum 1, after the geometric steps of `transform`.

    DataError: as `read_whole_heatmap`, or empty after the crop.
    """
    values = read_whole_heatmap(data, row, image)
    cropped = crop_map(values, image.size, geometric_steps(transform))
    if cropped.max() <= 0:
        raise DataError(
            f"{data.name(row)}, heatmap {_bytes(data, row)[1]}: is 0 everywhere in the centre crop"
            " of the evaluation transform; expected a positive value there."
        )
    return torch.from_numpy(cropped / cropped.max())[None]


def crop_map(
    values: np.ndarray, size: tuple[int, int], steps: Sequence[Callable[[Image.Image], Image.Image]]
) -> np.ndarray:
    """A map (h, w) over an image of `size` (width, height) after `geometric_steps`, (H, W) >= 0."""
    picture = Image.fromarray(np.float32(values)).resize(size, Image.Resampling.BILINEAR)
    for step in steps:
        picture = step(picture)
    return np.asarray(picture, np.float32).clip(0)


def geometric_steps(transform: Any) -> list[Callable[[Image.Image], Image.Image]]:
    """The steps of an evaluation transform that move pixels."""
    return [step for step in transform.transforms if type(step).__name__ in GEOMETRIC]


def _bytes(data: EvalSet, row: int) -> tuple[bytes, str]:
    entry = data.images[row]
    if not isinstance(entry, Path):
        key = entry.heatmap_key
        assert key is not None  # `join_heatmaps` keeps annotated entries alone
        return next(iter(entry.read(key).values())), f"{entry.key}.{key}"
    path = Path(data.table["heatmap"].iloc[row])
    try:
        return read_bounded(path, data.reading), path.name
    except OSError as error:
        raise DataError(f"{data.name(row)}: heatmap {path} cannot be read ({error}).") from error
