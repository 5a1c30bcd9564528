"""JSON of any size: the keys in the first bytes of a file, and lists read one item at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...config import UserError
from ...json_text import read_json, show

AT_ONCE = 64 << 20  # bytes of a file that the standard library reads
SCANNED = 1 << 14  # first bytes in which keys are looked for
TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}]')


class Head(NamedTuple):
    """What the first bytes of a JSON file show.

    `keys`: the keys from the top to each key, such as ("images", "file_name"); lists do not count.
    """

    is_list: bool
    keys: frozenset[tuple[str, ...]]


@lru_cache(maxsize=2)  # every format asks about the same file
def json_head(head: bytes) -> Head | None:
    """The keys in the first bytes of a file; None if it is not a JSON object or list."""
    text = head[:SCANNED].removeprefix(b"\xef\xbb\xbf").lstrip().decode("utf-8", "replace")
    if not text.startswith(("{", "[")):
        return None
    keys, path = set(), []
    for token in TOKEN.finditer(text):
        if token[0] == "{":
            path.append("")
        elif token[0] == "}":
            if path:
                path.pop()
        elif token[2] and path:
            path[-1] = token[1]
            keys.add(tuple(path))
    return Head(text.startswith("["), frozenset(keys))


class JsonFile:
    """The lists in one file. A file above AT_ONCE is streamed, which needs ijson."""

    def __init__(self, path: Path, kind: type) -> None:
        """`kind`: dict or list, what the file must hold.

        Raises:
            UserError: not JSON, another kind, or a large file and ijson is not installed.
        """
        self.path, self.value = path, None
        if path.stat().st_size <= AT_ONCE:
            self.value = read_json(path, kind)
            return
        try:
            import ijson
        except ImportError as error:
            raise UserError(
                f"{path}: {path.stat().st_size >> 20} MiB; JSON above {AT_ONCE >> 20} MiB is"
                " streamed, which needs the package ijson: pip install"
                " 'openclip_eclip[annotations]'."
            ) from error
        self.ijson = ijson

    def items(self, key: str | None) -> Iterator[Any]:
        """The items of the list under `key`, or of the file itself; none if the key is absent.

        Raises:
            UserError: not JSON (a streamed file: when the error is reached), or not a list.
        """
        if self.value is None:
            yield from self._stream("item" if key is None else f"{key}.item")
            return
        values = self.value if key is None else self.value.get(key, [])
        if not isinstance(values, list):
            raise UserError(f"{self.path}, key {key!r}: {show(values)}; expected a list.")
        yield from values

    def _stream(self, prefix: str) -> Iterator[Any]:
        with self.path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            try:
                yield from self.ijson.items(file, prefix, use_float=True)
            except (self.ijson.JSONError, OverflowError, UnicodeDecodeError) as error:
                raise UserError(
                    f"{self.path}: not JSON ({' '.join(str(error).split())[:200]}), near byte"
                    f" {file.tell()}; expected one object or list. Was it copied completely?"
                ) from error
