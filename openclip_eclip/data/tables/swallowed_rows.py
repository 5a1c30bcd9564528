"""Is a quoted cell of several lines a text, or rows of the table that an open quotation swallowed?

Reports of several lines in one cell are common and right. Swallowed rows give themselves away:
split at the separator, the cell's lines have just the numbers of fields that rows have, and where
the table has file names or ids, so have they.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SAMPLE = 1000  # cells of a column, evenly spaced
MOST = 0.9  # of a column's cells that are file names or ids
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
TOKEN = re.compile(r"\S*[\d._/\\-]\S*")
LONG = 8  # characters from which ids are known by their form alone


def stands_like_rows(lines: Sequence[str], column: int, count: int, separator: str) -> bool:
    """Whether `lines` of a cell of `column` have the fields of rows of `count` columns."""
    inner = [line for line in lines[1:-1] if line.strip()]
    first, last = lines[0].count(separator) + 1, lines[-1].count(separator) + 1
    fits = first == count - column and last == column + 1
    return count > 1 and fits and all(line.count(separator) + 1 == count for line in inner)


class RowKinds:
    """What the columns of a table hold where they hold file names or ids."""

    def __init__(self, columns: Sequence[Sequence[str]]) -> None:
        self.kinds = [_kind(column) for column in columns]

    def match(self, lines: Sequence[str], column: int, separator: str) -> bool:
        """Whether the file names and ids among the fields of `lines`, from a cell of `column`, are
        the table's.

        `lines` must `stands_like_rows`; a field that is none of the kind speaks against all of
        them.
        """
        kinds, hits = self.kinds, 0
        rows = [(lines[0], column)]
        rows += [(line, 0) for line in lines[1:] if line.strip()]
        for text, first in rows:
            for number, field in enumerate(text.split(separator), first):
                kind = kinds[number] if number != column else None
                if kind is None or not field.strip():
                    continue
                if not _fits(field.strip(), kind):
                    return False
                hits += 1
        return hits > 0


def _kind(column: Sequence[str]) -> tuple[set[str], set[str]] | None:
    """(suffixes of file names, forms of ids) of a column; None where most cells are neither."""
    step = max(1, len(column) // SAMPLE)
    cells = [cell.strip() for cell in column[::step] if cell.strip()]
    files = [
        found[0].lower() for cell in cells if (found := SUFFIX.search(cell)) and "\n" not in cell
    ]
    if cells and len(files) >= MOST * len(cells):
        return set(files), set()
    tokens = [cell for cell in cells if TOKEN.fullmatch(cell)]
    if cells and len(tokens) >= MOST * len(cells):
        return set(), {form for cell in tokens for form in _forms(cell)}
    return None


def _fits(field: str, kind: tuple[set[str], set[str]]) -> bool:
    suffixes, forms = kind
    if suffixes:
        found = SUFFIX.search(field)
        return found is not None and found[0].lower() in suffixes
    return bool(forms & set(_forms(field)))


def _forms(cell: str) -> list[str]:
    """The cell with its numbers levelled: p10/s4 is like p7/s123; in long ones letters, too."""
    levelled = [re.sub(r"\d+", "0", cell.lower())]
    return [*levelled, re.sub(r"[^\W_]", "x", cell)] if len(cell) >= LONG else levelled
