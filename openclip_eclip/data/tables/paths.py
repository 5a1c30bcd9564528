"""The files that the cells of a table mean: one look at the disk for each, and no object for each
until it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import DataError
from .missing_text import file_cell


class PathColumn(Sequence["Path | None"]):
    """A column of files: `column[i]` is a Path, None for a blank cell or a word for none ("NA").

    A path is as written, or relative to the table's folder where `beside[i]`; `found[i]`, where it
    was looked for, says whether the file is there.
    """

    def __init__(
        self, cells: list[str], folder: Path, beside: np.ndarray, found: np.ndarray | None = None
    ) -> None:
        self.cells, self.folder, self.beside, self.found = cells, folder, beside, found

    @classmethod
    def locate(cls, cells: Sequence[str], folder: Path) -> PathColumn:
        """Look for every file once. DataError for a cell that may mean two files."""
        stripped = [file_cell(cell) for cell in cells]
        return cls(stripped, folder, *locate_cells(stripped, folder))

    @classmethod
    def located(cls, cells: Sequence[str], folder: Path, packed: np.ndarray) -> PathColumn:
        """The same from what another rank found (`packed` below), without a look at the disk."""
        beside = np.unpackbits(packed, count=len(cells)).astype(bool)
        return cls([file_cell(cell) for cell in cells], folder, beside)

    @property
    def packed(self) -> np.ndarray:
        """`beside` as bits, uint8 (ceil(N / 8),)."""
        return np.packbits(self.beside)

    def __len__(self) -> int:
        return len(self.cells)

    # no slices: `keep` takes several rows
    def __getitem__(self, index: int) -> Path | None:  # type: ignore[override]
        cell = self.cells[index]
        if not cell:
            return None
        return self.folder / cell if self.beside[index] else Path(cell)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def count(self, value: Path | None) -> int:
        return self.cells.count("") if value is None else super().count(value)

    def filled(self) -> list[int]:
        """The rows that are not blank."""
        return [i for i, cell in enumerate(self.cells) if cell]

    def exists(self, index: int) -> bool:
        """Whether the file of a filled cell is there."""
        if self.found is not None:
            return bool(self.found[index])
        path = self[index]
        return path is not None and path.is_file()

    def keep(self, indices: Sequence[int]) -> PathColumn:
        """The column with these rows only."""
        chosen = np.asarray(indices, dtype=np.int64)
        found = None if self.found is None else self.found[chosen]
        return PathColumn([self.cells[i] for i in indices], self.folder, self.beside[chosen], found)


def locate_cells(cells: Sequence[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(relative to `folder`, found), bool (N,) each; blank cells are neither.

    One stat for an absolute path. A relative one may be as written or relative to the table: two
    folders are looked at once, then one stat a path, and a second only where both folders exist.
    DataError where these are two files.
    """
    beside, found = np.zeros(len(cells), dtype=bool), np.zeros(len(cells), dtype=bool)
    folders: dict[str, tuple[bool, bool]] = {}
    for i, cell in enumerate(cells):
        if not cell:
            continue
        if os.path.isabs(cell):
            found[i] = os.path.isfile(cell)
            continue
        parent = cell.rpartition("/")[0]
        if parent not in folders:
            folders[parent] = _where(parent, folder)
        here, there = folders[parent]
        other = os.path.join(folder, cell)
        as_written = here and os.path.isfile(cell)
        if as_written and there and os.path.isfile(other) and not os.path.samefile(cell, other):
            raise DataError(
                f"{cell!r} in a table of {folder} may be {Path(cell).absolute()} or "
                f"{Path(other).absolute()}; expected one file. Start from another folder, or "
                "write absolute paths."
            )
        beside[i] = not as_written
        found[i] = as_written or (there and os.path.isfile(other))
    return beside, found


def _where(parent: str, folder: Path) -> tuple[bool, bool]:
    """Whether the folder of a cell exists as written, and as another one relative to the table."""
    here, there = parent or ".", os.path.join(folder, parent)
    exists = os.path.isdir(here), os.path.isdir(there)
    return (True, False) if all(exists) and os.path.samefile(here, there) else exists
