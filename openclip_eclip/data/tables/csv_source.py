"""Read CSV and TSV tables: one row per sample, `filepath, title[, heatmap]`.

open_clip's column flags name other columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import Dataset, get_worker_info

from ...config import DataError
from ..heatmap import read_bounded
from ..images.options import ReadOptions
from ..images.picture import Frame
from ..images.read import read_picture
from ..joint_transform import JointTransform
from ..sample import Placebo, Sample, Tokenize, make_sample, read_levels, read_windows
from ..sentence_windows import Windows, file_windows
from .near_names import did_you_mean, other_separator
from .paths import PathColumn
from .text import line_of, read_table_text


@dataclass(frozen=True)
class CsvColumns:
    """Column names and the separator, as in open_clip's --csv-* flags."""

    image: str = "filepath"
    caption: str = "title"
    heatmap: str = "heatmap"
    separator: str | None = None  # None: tab or comma, whichever the header has
    windows: str = "windows"  # sentence windows (data/sentence_windows.py)
    label: str | None = None  # the class, for same-class-shuffled heatmaps
    heatmap_named: bool = False  # the user named the heatmap column: its absence is an error
    group: str | None = None  # rows of one value have one text, whatever their captions


def add_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Add open_clip's --csv-* flags and --csv-heatmap-key, for commands that read training data."""
    parser.add_argument(
        "--csv-img-key",
        default="filepath",
        metavar="COLUMN",
        help="column of the image files (default: %(default)s)",
    )
    parser.add_argument(
        "--csv-caption-key",
        default="title",
        metavar="COLUMN",
        help="column of the captions (default: %(default)s)",
    )
    parser.add_argument(
        "--csv-heatmap-key",
        metavar="COLUMN",
        help="column of the heatmap files (default: heatmap, if the table has this column)",
    )
    parser.add_argument(
        "--csv-separator",
        metavar="CHARACTER",
        help="separator of the columns (default: tab or comma, whichever the header has)",
    )


def read_column_names(args: argparse.Namespace) -> CsvColumns:
    """The `CsvColumns` of parsed flags."""
    return CsvColumns(
        args.csv_img_key,
        args.csv_caption_key,
        args.csv_heatmap_key or "heatmap",
        args.csv_separator,
        heatmap_named=args.csv_heatmap_key is not None,
    )


@dataclass
class CsvTable:
    """The rows of a table, in file order."""

    path: Path
    columns: CsvColumns
    images: Sequence[Path | None]  # None: a blank cell, a fault of the row
    captions: list[str]
    heatmaps: Sequence[Path | None]  # None: not annotated
    rows: Sequence[int]  # their numbers in the file; the first row after the header is 1
    windows: Sequence[Path | None] = field(default_factory=list)  # empty: no such column
    labels: list[str] = field(default_factory=list)  # empty: no such column
    groups: list[str] = field(default_factory=list)  # empty: no column is named
    header: list[str] = field(default_factory=list)  # names of all columns
    lines: np.ndarray | None = None  # of all rows of the file, as in `text.TableText`

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """File, row and, if needed, line of a row, for messages."""
        return f"{self.path}, row {self.rows[index]}{line_of(self.lines, self.rows[index])}"

    def image(self, index: int) -> Path:
        """The image file of a row. Raises a DataError if its cell is blank."""
        path = self.images[index]
        if path is None:
            raise DataError(
                f"{self.name(index)}, column {self.columns.image!r}: blank; expected an image file."
            )
        return path

    @property
    def annotated(self) -> list[int]:
        """The indices of the rows with a heatmap."""
        if isinstance(self.heatmaps, PathColumn):
            return self.heatmaps.filled()
        return [i for i, heatmap in enumerate(self.heatmaps) if heatmap is not None]

    @property
    def locations(self) -> dict[str, np.ndarray]:
        """How the paths of each column were resolved, small enough to send to other ranks.

        With it, `read_csv_table` on another rank need not search for the files.
        """
        columns = {"images": self.images, "heatmaps": self.heatmaps, "windows": self.windows}
        return {
            name: column.packed
            for name, column in columns.items()
            if isinstance(column, PathColumn)
        }

    @property
    def near_heatmap(self) -> str:
        """A hint at columns that may hold the heatmaps under another name, or ""."""
        if self.columns.heatmap in self.header:
            return ""
        return did_you_mean(self.columns.heatmap, self.header)

    @property
    def with_windows(self) -> int:
        """The number of rows with sentence windows."""
        return len(self.windows) - self.windows.count(None)

    def without_heatmaps(self) -> CsvTable:
        """A copy of the table without heatmaps; sentence windows stay."""
        return replace(self, heatmaps=[None] * len(self))

    def without_windows(self) -> CsvTable:
        """A copy of the table without the column of sentence windows."""
        return replace(self, windows=[])

    def keep(self, indices: list[int]) -> CsvTable:
        """A copy of the table with these rows only."""
        return CsvTable(
            self.path,
            self.columns,
            _select(self.images, indices),
            [self.captions[i] for i in indices],
            _select(self.heatmaps, indices),
            [self.rows[i] for i in indices],
            _select(self.windows, indices) if self.windows else [],
            [self.labels[i] for i in indices] if self.labels else [],
            [self.groups[i] for i in indices] if self.groups else [],
            self.header,
            self.lines,
        )


def _select(column: Sequence[Path | None], indices: list[int]) -> Sequence[Path | None]:
    return column.keep(indices) if isinstance(column, PathColumn) else [column[i] for i in indices]


def read_columns(path: Path, separator: str | None = None) -> pd.DataFrame:
    """Read all columns of a table as text, blank cells as "".

    `separator` None: tab or comma, whichever the header has. Raises DataError as `read_table_text`
    does.
    """
    return read_table_text(path, separator).frame


def read_csv_table(
    path: str | Path, columns: CsvColumns, locations: dict[str, np.ndarray] | None = None
) -> CsvTable:
    """Read a table of training data.

    A blank heatmap cell means not annotated; without the column, no sample is annotated. Paths are
    used as written if the file exists, else relative to the folder of the table. With `locations`
    of another rank's table, they are not searched again.

    Raises:
        DataError: a missing file or column, no rows, or a path that may mean two files.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected a table with the columns {columns.image!r} and"
            f" {columns.caption!r}."
        )
    frame, _, lines = read_table_text(path, columns.separator)
    needed = [("--csv-img-key", columns.image), ("--csv-caption-key", columns.caption)]
    needed += [("--csv-heatmap-key", columns.heatmap)] * columns.heatmap_named
    needed += [("--same-text-by", columns.group)] if columns.group else []
    missing = [(flag, column) for flag, column in needed if column not in frame]
    if missing and (mark := other_separator(frame.columns)):
        raise DataError(
            f"{path}: the separator of the header seems to be {mark!r}: give --csv-separator"
            f" {mark!r}, or save the table with commas or tabs."
        )
    for flag, column in missing:
        raise DataError(
            f"{path}: no column {column!r}; found"
            f" {list(frame.columns)}.{did_you_mean(column, frame.columns)} Name yours with {flag}."
        )
    if frame.empty:
        raise DataError(f"{path}: no rows.")
    maps = frame[columns.heatmap] if columns.heatmap in frame else [""] * len(frame)
    windows = frame[columns.windows] if columns.windows in frame else []

    def files(name: str, cells: Iterable[str]) -> PathColumn:
        if locations is not None and name in locations:
            return PathColumn.located(list(cells), path.parent, locations[name])
        return PathColumn.locate(list(cells), path.parent)

    return CsvTable(
        path,
        columns,
        files("images", frame[columns.image]),
        frame[columns.caption].tolist(),
        files("heatmaps", maps),
        range(1, len(frame) + 1),
        files("windows", windows),
        frame[columns.label].tolist() if columns.label in frame else [],
        frame[columns.group].str.strip().tolist() if columns.group else [],
        list(frame.columns),
        lines,
    )


def locate(cell: str, folder: Path) -> Path:
    """The file that a cell of a table in `folder` means: as written, else relative to `folder`.

    Raises a DataError if these are two files.
    """
    return PathColumn.locate([cell], folder)[0] or folder


KEPT = 2 << 30  # bytes of samples in memory


class CsvSamples(Dataset):
    """Map-style data set over a `CsvTable`.

    Args:
        skip_bad: replace an unreadable sample by the next row, and name it in the log. Otherwise it
            is a DataError.
        placebo: replaces every heatmap.
        windows: read the sentence windows too.
    """

    def __init__(
        self,
        table: CsvTable,
        transform: JointTransform,
        tokenize: Tokenize,
        first_id: int = 0,
        skip_bad: bool = False,
        placebo: Placebo | None = None,
        windows: bool = False,
        options: ReadOptions = ReadOptions(),
    ) -> None:
        self.options = options
        self.kept: dict[tuple[int, int], Sample] = {}  # by row and number of the view
        self.kept_bytes = 0
        self.table, self.transform, self.tokenize = table, transform, tokenize
        self.first_id, self.skip_bad, self.placebo, self.windows = (
            first_id,
            skip_bad,
            placebo,
            windows,
        )

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        skipped: list[str] = []
        for attempt in range(len(self)):
            try:
                sample = self._read((index + attempt) % len(self))
            except DataError as error:
                if not self.skip_bad:
                    raise
                skipped.append(str(error))
                continue
            sample.skipped = skipped
            return sample
        raise DataError(f"{self.table.path}: no readable sample.")

    def _read(self, index: int) -> Sample:
        """A view of a sample. Views with a number are kept in memory, up to KEPT bytes.

        A worker would lose them at the end of the epoch, so it keeps none.
        """
        view = self.transform.draw_view()
        if view is None or get_worker_info() is not None:
            return self._make(index, view)
        key = (index, view)
        if key not in self.kept:
            sample = self._make(index, view)
            if self.kept_bytes >= KEPT:
                return sample
            self.kept[key] = sample
            self.kept_bytes += sample.size
        return replace(self.kept[key])

    def _make(self, index: int, view: int | None) -> Sample:
        where, columns = self.table.name(index), self.table.columns
        image = self.table.image(index)
        draft = self.transform.draft()
        picture = read_picture(
            image, f"{where}, column {columns.image!r}: {image}", self.options, draft
        )
        heatmap = None
        path = self.table.heatmaps[index]
        if path is not None:
            try:
                heatmap = read_levels(
                    read_bounded(path, self.options), path.name, picture.frame, self.options
                )
            except (OSError, DataError) as error:
                raise DataError(f"{where}, column {columns.heatmap!r}: {error}") from error
        sample = make_sample(
            self.transform,
            self.tokenize,
            picture.image,
            self.table.captions[index],
            self.first_id + self.table.rows[index],
            heatmap,
            self.placebo,
            self._read_windows(index, picture.frame),
            view,
            draft.crop if draft else None,
        )
        sample.group = self.table.groups[index] if self.table.groups else ""
        return sample

    def _read_windows(self, index: int, frame: Frame) -> Windows | None:
        path = self.table.windows[index] if self.windows and self.table.windows else None
        if path is None:
            return None
        try:
            return read_windows(*file_windows(path, self.options), path.name, frame, self.options)
        except (OSError, DataError) as error:
            raise DataError(
                f"{self.table.name(index)}, column {self.table.columns.windows!r}: {error}"
            ) from error
