"""Journal of written reports, one JSON line for each, so that an interrupted run can resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from ...config import DataError, UserError
from ...files import write_whole
from ...json_text import read_json, shorten
from ..output.result import plain

LINES, SETTINGS = "reports.jsonl", "reports.settings.json"
LONGEST_SETTING = 200  # characters of a setting in a message


class Journal:
    """The records in `out`/reports.jsonl, by their `key`, and the settings of their run.

        with Journal(out, settings) as journal:
            for key in set(keys) - set(journal.records):
                journal.append({"key": key, ...})

    UserError: the records in `out` come from other settings (another machine may resume), or a
    line before the last is damaged.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.path = out / LINES
        settings = plain(settings)
        out.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and self.path.stat().st_size:
            _refuse_other_settings(out, settings)
        else:
            write_whole(out / SETTINGS, json.dumps(settings, indent=2).encode())
        self.records, complete = _read(self.path)
        self._file = self.path.open("ab")
        self._file.truncate(complete)  # removes a line that an interruption cut short

    def append(self, record: dict[str, Any]) -> None:
        """Add a record. It is on disk when this returns."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records[record["key"]] = record

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _read(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """(records by key, number of bytes of complete lines)."""
    content = path.read_bytes() if path.is_file() else b""
    complete = content.rfind(b"\n") + 1
    records = {}
    for number, line in enumerate(content[:complete].splitlines(), 1):
        try:
            record = json.loads(line)
            records[record["key"]] = record
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: not a record of a report ({error}); remove that line, or"
                " remove the file to start again."
            ) from error
    return records, complete


def _refuse_other_settings(out: Path, settings: dict[str, Any]) -> None:
    try:
        before = read_json(out / SETTINGS)
    except DataError as error:
        raise UserError(
            f"{out}: {LINES} without a readable {SETTINGS} ({error}); expected a new folder, or a"
            " folder that this command wrote."
        ) from error
    changed = [
        f"{name} was {_shown(before.get(name))}, is {_shown(settings.get(name))}"
        for name in sorted({*before, *settings} - {"machine"})
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise UserError(
            f"{out} holds reports of another run: {'; '.join(changed)}. Give another --out, or"
            f" remove {out / LINES} to start again."
        )


def _shown(value: Any) -> str:
    """A setting as JSON, for a message."""
    return shorten(json.dumps(value), LONGEST_SETTING)
