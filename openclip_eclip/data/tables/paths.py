"""Resolve the file paths in the columns of a table.

The disk is asked once per file, and a Path object is created only when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import DataError
from .missing_text import file_cell


class PathColumn(Sequence["Path | None"]):
    """A column of files: `column[i]` is a Path, or None for a blank cell or a word such as "NA".

    Attributes:
        relative: bool (N,), whether the path is relative to the folder of the table; otherwise it
            is used as written.
        on_disk: bool (N,), whether the file exists; None if the disk was not asked.
    """

    def __init__(
        self,
        cells: list[str],
        folder: Path,
        relative: np.ndarray,
        on_disk: np.ndarray | None = None,
    ) -> None:
        self.cells, self.folder, self.relative, self.on_disk = cells, folder, relative, on_disk

    @classmethod
    def locate(cls, cells: Sequence[str], folder: Path) -> PathColumn:
        """Search every file once. Raises a DataError for a cell that may mean two files."""
        stripped = [file_cell(cell) for cell in cells]
        return cls(stripped, folder, *locate_cells(stripped, folder))

    @classmethod
    def located(cls, cells: Sequence[str], folder: Path, packed: np.ndarray) -> PathColumn:
        """Make the column from `packed` of another rank, without access to the disk."""
        relative = np.unpackbits(packed, count=len(cells)).astype(bool)
        return cls([file_cell(cell) for cell in cells], folder, relative)

    @property
    def packed(self) -> np.ndarray:
        """`relative` as bits, uint8 (ceil(N / 8),)."""
        return np.packbits(self.relative)

    def __len__(self) -> int:
        return len(self.cells)

    # no slices: `keep` selects several rows
    def __getitem__(self, index: int) -> Path | None:  # type: ignore[override]
        cell = self.cells[index]
        if not cell:
            return None
        return self.folder / cell if self.relative[index] else Path(cell)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def count(self, value: Path | None) -> int:
        return self.cells.count("") if value is None else super().count(value)

    def filled(self) -> list[int]:
        """The rows that are not blank."""
        return [i for i, cell in enumerate(self.cells) if cell]

    def exists(self, index: int) -> bool:
        """Whether the file of a filled cell exists."""
        if self.on_disk is not None:
            return bool(self.on_disk[index])
        path = self[index]
        return path is not None and path.is_file()

    def keep(self, indices: Sequence[int]) -> PathColumn:
        """A copy of the column with these rows only."""
        chosen = np.asarray(indices, dtype=np.int64)
        cells = [self.cells[i] for i in indices]
        on_disk = None if self.on_disk is None else self.on_disk[chosen]
        return PathColumn(cells, self.folder, self.relative[chosen], on_disk)


def locate_cells(cells: Sequence[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Search the files of N cells; blank cells are skipped.

    Returns (relative to `folder`, on disk), both bool (N,). An absolute path costs one stat. A
    relative path may be meant as written or relative to `folder`: it costs one stat, and a second
    one only if both parent folders exist. Every parent folder is asked for once.

    Raises:
        DataError: a cell may mean two files.
    """
    relative, on_disk = np.zeros(len(cells), dtype=bool), np.zeros(len(cells), dtype=bool)
    folders: dict[str, tuple[bool, bool]] = {}
    for i, cell in enumerate(cells):
        if not cell:
            continue
        if os.path.isabs(cell):
            on_disk[i] = os.path.isfile(cell)
            continue
        parent = cell.rpartition("/")[0]
        if parent not in folders:
            folders[parent] = _existing_folders(parent, folder)
        parent_as_written, parent_in_folder = folders[parent]
        in_folder = os.path.join(folder, cell)
        as_written = parent_as_written and os.path.isfile(cell)
        two = as_written and parent_in_folder and os.path.isfile(in_folder)
        if two and not os.path.samefile(cell, in_folder):
            raise DataError(
                f"{cell!r} in a table of {folder} may be {Path(cell).absolute()} or "
                f"{Path(in_folder).absolute()}; expected one file. Start from another folder, or "
                "write absolute paths."
            )
        relative[i] = not as_written
        on_disk[i] = as_written or (parent_in_folder and os.path.isfile(in_folder))
    return relative, on_disk


def _existing_folders(parent: str, folder: Path) -> tuple[bool, bool]:
    """Whether `parent` exists as written, and whether it is another folder within `folder`."""
    as_written, in_folder = parent or ".", os.path.join(folder, parent)
    exists = os.path.isdir(as_written), os.path.isdir(in_folder)
    return (True, False) if all(exists) and os.path.samefile(as_written, in_folder) else exists
