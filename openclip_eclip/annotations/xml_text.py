"""XML from a user's files, without entities: they can expand without end or name other files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from ..config import UserError

LARGEST = 1 << 28  # bytes


def read_xml(path: Path, largest: int = LARGEST) -> ElementTree.Element:
    """The root of an XML file. UserError: too large, or as for `parse_xml`."""
    size = path.stat().st_size
    if size > largest:
        raise UserError(f"{path}: {size} bytes of XML; expected at most {largest}.")
    return parse_xml(path.read_bytes(), str(path))


def parse_xml(content: bytes, where: str) -> ElementTree.Element:
    """The root of `content`. UserError: not UTF-8, a document type or an entity, broken XML."""
    try:
        # decode first: UTF-16 would hide the declarations that are rejected below
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error}).") from error
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise UserError(
            f"{where}: a document type or entity declaration; expected plain XML. Not read."
        )
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{where}: broken XML ({error}).") from error
