"""JSON from files of the user's: one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .heatmap import DataError

NAMES = {dict: "an object", list: "a list"}


def parse_json(content: bytes | str, where: str, kind: type = dict) -> Any:
    """The value in UTF-8 `content`, which must be a `kind`.

    DataError begins with `where`: not UTF-8, no JSON, nested without end, another kind.
    """
    try:
        found = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except (ValueError, RecursionError) as error:  # broken UTF-8 is a ValueError too
        raise DataError(
            f"{where}: not JSON in UTF-8 ({error}); expected {NAMES.get(kind, kind.__name__)}."
        ) from error
    if not isinstance(found, kind):
        raise DataError(
            f"{where}: {str(found)[:60]}; expected {NAMES.get(kind, kind.__name__)} as JSON."
        )
    return found


def read_json(path: Path, kind: type = dict) -> Any:
    """The same of a file; DataError also where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    return parse_json(content, str(path), kind)
