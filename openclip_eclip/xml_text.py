"""XML from a user's files, without document types; anything wrong is an error of one sentence.

A document type is an error, because its entities can expand without end or name other files.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .config import DataError

BLOCK = 1 << 20  # bytes at a time
DEEPEST = 200  # levels of elements


def parse_xml(content: bytes, where: str) -> Element:
    """The root element of `content`, in UTF-8.

    DataError begins with `where`: not UTF-8, a document type, nested too deeply, or broken XML.
    """
    reading = _Reading(where, None)
    reading.feed(content, final=True)
    return reading.builder.close()


def stream_xml(path: Path) -> Iterator[Element]:
    """The children of the root element, each as soon as it is complete; none is kept.

    DataError as for `parse_xml`, or for a file that cannot be read; all begin with `path`.
    """
    complete: list[Element] = []
    reading = _Reading(str(path), complete.append)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                reading.feed(block)
                yield from complete
                complete.clear()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    reading.feed(b"", final=True)


class _Reading:
    """The state of one file: its elements are built, and refused where they are no plain XML."""

    def __init__(self, where: str, take: Callable[[Element], None] | None) -> None:
        self.where, self.take = where, take
        self.builder, self.depth = TreeBuilder(), 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self.refuse_doctype
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.data

    def feed(self, block: bytes, final: bool = False) -> None:
        try:
            # decoded first: the declaration of another encoding has no effect
            text = self.decoder.decode(block, final)
            self.parser.Parse(text.encode(), final)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where}: not UTF-8 ({error}).") from error
        except expat.ExpatError as error:
            raise DataError(f"{self.where}: broken XML ({error}).") from error

    def refuse_doctype(self, *_: object) -> None:
        raise DataError(
            f"{self.where}: a document type or entity declaration; expected plain XML. Not read."
        )

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise DataError(
                f"{self.where}: elements nested {self.depth} deep; expected at most {DEEPEST}."
            )
        if self.take is not None and self.depth == 2:
            self.builder = TreeBuilder()
        self.builder.start(tag, attributes)

    def end(self, tag: str) -> None:
        self.depth -= 1
        if self.take is None:
            self.builder.end(tag)
        elif self.depth == 1:
            self.builder.end(tag)
            self.take(self.builder.close())
        elif self.depth > 1:
            self.builder.end(tag)

    def data(self, text: str) -> None:
        if self.take is None or self.depth > 1:
            self.builder.data(text)
