"""Text and JSON from a user's files; anything wrong with them is an error of one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from reprlib import Repr
from typing import Any

from .config import DataError

NAMES = {dict: "an object", list: "a list", object: "a value"}
LONGEST = 80  # characters of a value in a message
# bounded in depth and length: a value may be nested as deep as the parser goes, or be all of a file
BOUNDED = Repr()
BOUNDED.maxlevel, BOUNDED.maxlist, BOUNDED.maxdict = 3, 8, 4
BOUNDED.maxstring = BOUNDED.maxlong = BOUNDED.maxother = 60


def shorten(text: str, longest: int) -> str:
    """`text`, cut to `longest` characters where it has more; an ellipsis is the last of them."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def show(value: Any) -> str:
    """A value of a file as it is named in a message: the beginning of its `repr`."""
    return shorten(BOUNDED.repr(value), LONGEST)


def counted(count: int, one: str, more: str | None = None) -> str:
    """`1 image`, `2 images`: a number with its noun; `more`: another plural than with an s."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def beginning(text: str, count: int) -> str:
    """`text`, or its first `count` characters and three dots where it has more."""
    return text if len(text) <= count else f"{text[:count]}..."


def decode_text(content: bytes, where: str) -> str:
    """The text in UTF-8 `content`. DataError, beginning with `where`, for what is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error}).") from error


def parse_json(content: bytes | str, where: str, kind: type = dict) -> Any:
    """The value in `content`, UTF-8 if bytes, which must be a `kind`.

    DataError begins with `where`: not UTF-8, not JSON, nested too deeply, another kind.
    """
    text = content if isinstance(content, str) else decode_text(content, where)
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); expected {NAMES[kind]}.") from error
    if not isinstance(value, kind):
        raise DataError(f"{where}: {show(value)}; expected {NAMES[kind]} as JSON.")
    return value


def read_json(path: Path, kind: type = dict) -> Any:
    """`parse_json` of a file. DataError also for a file that cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    return parse_json(content, str(path), kind)
