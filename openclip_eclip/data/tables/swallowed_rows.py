"""Decide whether a quoted cell of several lines is a text, or rows that a quotation swallowed.

Reports of several lines in one cell are common and correct. Swallowed rows have two properties.
Split at the separator, the lines of the cell have as many fields as rows have. And where the table
has file names or ids, these lines have file names or ids too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SAMPLE = 1000  # cells of a column, evenly spaced
MOST = 0.9  # minimum share of a column's cells that are file names, or ids
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
TOKEN = re.compile(r"\S*[\d._/\\-]\S*")
LONG = 8  # characters; ids of this length or more are recognised by their form alone


def stands_like_rows(lines: Sequence[str], column: int, count: int, separator: str) -> bool:
    """Whether the `lines` of a cell of `column` have as many fields as rows of `count` columns."""
    inner = [line for line in lines[1:-1] if line.strip()]
    first, last = lines[0].count(separator) + 1, lines[-1].count(separator) + 1
    fits = first == count - column and last == column + 1
    return count > 1 and fits and all(line.count(separator) + 1 == count for line in inner)


class RowKinds:
    """The form of file names and ids in the columns of a table."""

    def __init__(self, columns: Sequence[Sequence[str]]) -> None:
        self.kinds = [_kind(column) for column in columns]

    def match(self, lines: Sequence[str], column: int, separator: str) -> bool:
        """Whether the `lines` of a cell of `column` have the file names and ids of the table.

        `stands_like_rows` must hold for `lines`. One field of another form is enough for False.
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
    """(suffixes of file names, forms of ids) of a column; None if most cells are neither."""
    step = max(1, len(column) // SAMPLE)
    cells = [cell.strip() for cell in column[::step] if cell.strip()]
    suffixes = [
        match[0].lower() for cell in cells if (match := SUFFIX.search(cell)) and "\n" not in cell
    ]
    if cells and len(suffixes) >= MOST * len(cells):
        return set(suffixes), set()
    tokens = [cell for cell in cells if TOKEN.fullmatch(cell)]
    if cells and len(tokens) >= MOST * len(cells):
        return set(), {form for cell in tokens for form in _forms(cell)}
    return None


def _fits(field: str, kind: tuple[set[str], set[str]]) -> bool:
    suffixes, forms = kind
    if suffixes:
        match = SUFFIX.search(field)
        return match is not None and match[0].lower() in suffixes
    return bool(forms & set(_forms(field)))


def _forms(cell: str) -> list[str]:
    """The forms of an id: p10/s4 has that of p7/s123, and long ids one without letters, too."""
    forms = [re.sub(r"\d+", "0", cell.lower())]
    return [*forms, re.sub(r"[^\W_]", "x", cell)] if len(cell) >= LONG else forms
