"""Read the text of a table strictly: all rows as in the file, or an error that names the line.

All tables are read by `read_table_text`: those of training, validation, evaluation, overlap and
`prepare`. Nothing is corrected silently. A quotation that swallows rows, a row with too few or too
many fields, and bytes that are not UTF-8 are errors.
"""

from __future__ import annotations

import bz2
import csv
import gc
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import pandas as pd

from ...config import DataError
from .swallowed_rows import RowKinds, stands_like_rows

if TYPE_CHECKING:
    from _csv import Reader  # the standard library has no public name for it

LINE_END = re.compile("\r\n|\r|\n")
QUOTED = re.compile('"(?:[^"]|"")*"')
SEPARATORS = {"\t": "tab", ",": "comma"}  # their names in messages
CHUNK = 1 << 16  # rows at a time
LARGEST_CELL = 1 << 24  # characters
LARGEST_PACKED = 1 << 30  # unpacked bytes of a compressed table
PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)
MARKS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"PK\x03\x04": "an Excel workbook or a zip",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
}
HINT = (
    "A text that contains the separator, a line end or a quotation mark must be in quotation "
    'marks, and each quotation mark within it must be doubled: "a ""b"" c".'
)


class TableText(NamedTuple):
    """The text of a table."""

    frame: pd.DataFrame  # all cells as text, blank ones ""
    separator: str
    # (rows,) int64, the line of the file in which each row begins, from 1; None if row r (from 1,
    # after the header) is line r + 1 throughout
    lines: np.ndarray | None


def line_of(lines: np.ndarray | None, row: int) -> str:
    """The line of `row` (from 1, after the header) for a message, or "" if it is row + 1."""
    return "" if lines is None or lines[row - 1] == row + 1 else f" (line {lines[row - 1]})"


def sniff_separator(path: str | Path) -> str:
    """Find the separator: tab or comma, whichever the header has (open_clip's default is tab)."""
    path = Path(path)
    try:
        with _open_text(path) as file:
            header = next((line for line in file if line.strip()), "")
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable table ({error}).") from error
    return "\t" if "\t" in header or "," not in header else ","


def read_table_text(
    path: Path, separator: str | None = None, used: Collection[str] | None = None
) -> TableText:
    """Read a table, plain or compressed (.gz, .bz2, .xz, .zip). Blank lines are skipped.

    Args:
        separator: None finds it by `sniff_separator`.
        used: the columns that are used of a published table; other column names may be repeated,
            and blank fields beyond those of the header are dropped. None: all columns are used.

    Raises:
        DataError: with file and line: bytes that are not UTF-8, NUL bytes, an open quotation, text
            after a closed one, a quotation over whole rows, too few or too many fields, a second
            header, or a used column twice in the header.
    """
    separator = _checked_separator(separator, path)
    before, collecting = csv.field_size_limit(LARGEST_CELL), gc.isenabled()
    # Each garbage collection would visit millions of small lists, none of them garbage
    gc.disable()
    try:
        _refuse_bomb(path)
        _refuse_binary(path)
        separator = separator or sniff_separator(path)
        with _open_text(path) as file:
            return _Reading(path, separator, used).read(
                csv.reader(file, delimiter=separator, strict=True)
            )
    except csv.Error as error:
        assert separator is not None  # only the reader raises csv.Error, and it has a separator
        raise _broken_quotation(path, separator, error) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable table ({error}).") from error
    finally:
        csv.field_size_limit(before)
        if collecting:
            gc.enable()


class _Reading:
    """The state of one table while it is read: the columns so far, and where their rows begin."""

    def __init__(self, path: Path, separator: str, used: Collection[str] | None) -> None:
        self.path, self.separator, self.used = path, separator, used
        self.columns: list[list[str]] = []
        self.header: list[str] = []
        self.lines: list[np.ndarray] = []
        self.suspects: list[tuple[int, int, list[str]]] = []  # (line, column, lines in the cell)

    def read(self, reader: Reader) -> TableText:
        end = 0
        while chunk := list(islice(reader, CHUNK)):
            first, end = end + 1, reader.line_num
            lines = np.arange(first, first + len(chunk))
            if end - first + 1 != len(chunk):  # some cells have several lines
                heights = [1 + sum(_line_ends(cell) for cell in row) for row in chunk]
                lines = first + np.cumsum([0, *heights[:-1]])
            self._take(chunk, lines)
        if not self.header:
            raise DataError(
                f"{self.path}: empty; expected a table with the names of its columns in the first"
                " line."
            )
        lines = np.concatenate(self.lines) if self.lines else np.zeros(0, np.int64)
        simple = (lines == np.arange(2, len(lines) + 2)).all()
        self._refuse_swallowed()
        frame = pd.DataFrame(dict(zip(self._names(), self.columns)), dtype=object)
        return TableText(frame, self.separator, None if simple else lines)

    def _take(self, chunk: list[list[str]], lines: np.ndarray) -> None:
        if not self.header:
            blank = next((i for i, row in enumerate(chunk) if any(map(str.strip, row))), len(chunk))
            if blank == len(chunk):
                return
            self._take_header(chunk[blank], int(lines[blank]))
            chunk, lines = chunk[blank + 1 :], lines[blank + 1 :]
        count = len(self.header)
        if set(map(len, chunk)) - {count}:
            chunk, lines = self._cut(chunk, lines)
        if self.header in chunk:
            line = lines[chunk.index(self.header)]
            raise DataError(
                f"{self.path}, line {line}: the header once more; expected it in the first line "
                "only. If two tables were joined, remove that line."
            )
        if len(chunk) and lines[-1] - lines[0] + 1 != len(chunk):
            self._collect_suspects(chunk, lines)
        for column, cells in zip(self.columns, zip(*chunk)):
            column.extend(cells)
        self.lines.append(lines)

    def _take_header(self, names: list[str], line: int) -> None:
        if names[0].lower().startswith("sep="):
            raise DataError(
                f"{self.path}, line {line}: {names[0]!r}, a mark for Excel; expected the header. "
                "Remove that line, and give the separator with --csv-separator."
            )
        self.header, self.columns = names, [[] for _ in names]
        known: set[str] = set()
        for name in names:
            if name in known and name.strip() and (self.used is None or name in self.used):
                raise DataError(
                    f"{self.path}, line {line}: the header has a column {name!r} twice; expected "
                    "each name once. Rename one of them."
                )
            known.add(name)

    def _names(self) -> list[str]:
        """The names of the columns; blank and repeated ones are renamed, as pandas does."""
        names: list[str] = []
        for i, name in enumerate(self.header):
            name = name if name.strip() else f"Unnamed: {i}"
            names.append(name if name not in names else f"{name}.{i}")
        return names

    def _cut(self, chunk: list[list[str]], lines: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """Drop blank lines and, with `used`, blank fields beyond those of the header."""
        count, kept = len(self.header), []
        for i, row in enumerate(chunk):
            if len(row) < 2 and not any(map(str.strip, row)):
                continue
            extra = row[count:]
            if len(row) < count or any(map(str.strip, extra)) or (extra and self.used is None):
                separator = SEPARATORS.get(self.separator, self.separator)
                raise DataError(
                    f"{self.path}, line {lines[i]}: {len(row)} fields, the header has {count} "
                    f"(separator: {separator}); expected as many. {HINT}"
                )
            kept.append(i)
        return [chunk[i][:count] for i in kept], lines[kept]

    def _collect_suspects(self, chunk: list[list[str]], lines: np.ndarray) -> None:
        for row, line in zip(chunk, lines):
            for column, cell in enumerate(row):
                if self.separator in cell and ("\n" in cell or "\r" in cell):
                    inner = LINE_END.split(cell)
                    if stands_like_rows(inner, column, len(self.header), self.separator):
                        self.suspects.append((int(line), column, inner))

    def _refuse_swallowed(self) -> None:
        if not self.suspects:
            return
        kinds = RowKinds(self.columns)
        for line, column, inner in self.suspects:
            if kinds.match(inner, column, self.separator):
                raise DataError(
                    f"{self.path}, line {line}, column {self.header[column]!r}: the quotation "
                    f"that opens there swallows what seems to be another row ({inner[1][:60]!r}); "
                    f"expected it to end in its own row. {HINT}"
                )


def _line_ends(cell: str) -> int:
    return len(LINE_END.findall(cell)) if "\n" in cell or "\r" in cell else 0


def _checked_separator(separator: str | None, path: Path) -> str | None:
    separator = "\t" if separator == "\\t" else separator  # a shell passes \t as two characters
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise DataError(
            f"{path}: --csv-separator {separator!r}; expected one character, such as ',' or ';'."
        )
    return separator


@contextmanager
def _open_bytes(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise DataError(f"{path}: {len(names)} files in the archive; expected one table.")
            with archive.open(names[0]) as file:
                yield file
    else:
        opener: Callable[..., Any] = PACKED.get(path.suffix, open)
        with opener(path, "rb") as file:
            yield file


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    with _open_bytes(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _refuse_bomb(path: Path) -> None:
    """Raise a DataError for a compressed table that unpacks to too many bytes.

    The unpacked bytes are counted, not kept.
    """
    size = 0
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            # zipfile unpacks no more than the index states
            size = sum(member.file_size for member in archive.infolist())
    elif path.suffix in PACKED:
        with PACKED[path.suffix](path) as stream:
            while size <= LARGEST_PACKED and (block := stream.read(1 << 22)):
                size += len(block)
    if size > LARGEST_PACKED:
        raise DataError(
            f"{path}: unpacks to more than {LARGEST_PACKED >> 20} MiB; expected a table. If it is "
            "one, unpack it first."
        )


def _refuse_binary(path: Path) -> None:
    """Raise a DataError, with the line, for UTF-16, UTF-32 or NUL bytes."""
    line = 1
    with _open_bytes(path) as file:
        block = file.read(1 << 20)
        for mark, name in MARKS.items():
            if block.startswith(mark):
                raise DataError(
                    f"{path}, line 1: begins as {name}; expected UTF-8. Save the table as CSV in "
                    "UTF-8."
                )
        while block:
            at = block.find(b"\0")
            if at >= 0:
                line += _line_ends(block[:at].decode("latin-1"))
                raise DataError(
                    f"{path}, line {line}: a NUL byte; expected a table of text in UTF-8."
                )
            line += block.count(b"\n")
            block = file.read(1 << 20)


def _not_utf8(path: Path) -> DataError:
    with _open_bytes(path) as file:
        content = file.read()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + _line_ends(content[: error.start].decode("latin-1"))
        return DataError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; expected "
            "UTF-8. Save the table so, or convert it (from Latin-1: iconv -f latin1 -t utf-8)."
        )
    return DataError(f"{path}: not UTF-8.")


def _broken_quotation(path: Path, separator: str, error: csv.Error) -> DataError:
    """The DataError that says where the quotation opens which caused `error`."""
    # csv.Error names no position: find the lines of the row, then the quotation within them
    with _open_text(path) as file:
        reader, start = csv.reader(file, delimiter=separator, strict=True), 0
        try:
            for _ in reader:
                start = reader.line_num
        except csv.Error:
            end = reader.line_num
    with _open_text(path) as file:
        text = "".join(islice(file, start, max(end, start + 1)))
    at, behind = _opening(text, separator)
    line = start + 1 + _line_ends(text[:at])
    if "larger than" in str(error):
        what = f"has more than {LARGEST_CELL} characters; expected it to end in its own row"
    elif behind is None:
        what = "never closes; expected it to end in its own row"
    else:
        closes = line + _line_ends(text[at:behind])
        following = LINE_END.split(text[behind : behind + 20])[0]
        what = (
            f"closes in line {closes}, followed by {following!r}; expected the separator or the "
            "end of the line there"
        )
    return DataError(f"{path}, line {line}: the quotation that opens there {what}. {HINT}")


def _opening(text: str, separator: str) -> tuple[int, int | None]:
    """Find the broken quotation of a row.

    Returns (where it opens, the end of its closing mark, or None if it never closes).
    """
    field_end = re.compile(f"{re.escape(separator)}|\r\n|\r|\n")
    at = 0
    while at < len(text):
        if text[at] == '"':
            quoted = QUOTED.match(text, at)
            if quoted is None:
                return at, None
            end = quoted.end()
            if end < len(text) and not field_end.match(text, end):
                return at, end
        else:
            end = at
        next_field = field_end.search(text, end)
        at = next_field.end() if next_field else len(text)
    return 0, None
