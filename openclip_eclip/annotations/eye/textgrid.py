"""Praat TextGrid, in its long and its short form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...config import UserError
from ..record import Word

# quoted texts (a doubled mark is one mark), free numbers and flags; other words are comments
TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|(?<![^\s=])(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?=\s|$)|(<\w+>)'
)
CLASSES = ("IntervalTier", "TextTier")
MOST = 10_000_000  # intervals
NO_WORDS = {"", "sil", "sp", "<p:>", "<sil>", "#"}  # pauses of forced aligners


def read_textgrid(path: Path, tier: str | None, usual: Sequence[str]) -> list[Word]:
    """The words of one interval tier: `tier`, or one with a `usual` name, or the longest one.

    Raises:
        UserError: no TextGrid, cut off, or no such tier.
    """
    tokens = _Tokens(path)
    if tokens.text() != "ooTextFile" or tokens.text() != "TextGrid":
        raise tokens.error("the header is not that of a TextGrid (File type, Object class)")
    tokens.number(), tokens.number()
    tiers: dict[str, list[Word]] = {}
    if tokens.flag() != "<exists>":
        raise tokens.error("no tier exists")
    for _ in range(int(tokens.number())):
        kind, name = tokens.text(), tokens.text()
        if kind not in CLASSES:
            raise tokens.error(f"a tier of class {kind!r}; expected one of {', '.join(CLASSES)}")
        tokens.number(), tokens.number()
        count = tokens.number()
        if not 0 <= count <= MOST:
            raise tokens.error(f"tier {name!r} has {count:g} intervals")
        words = []
        for _ in range(int(count)):
            start = tokens.number()
            end = tokens.number() if kind == "IntervalTier" else start
            text = tokens.text().strip()
            if text.lower() not in NO_WORDS and kind == "IntervalTier":
                words.append(Word(text, start, end))
        if kind == "IntervalTier":
            tiers[name] = words
    if tier is not None and tier not in tiers:
        raise tokens.error(f"no interval tier {tier!r}; found {', '.join(tiers) or 'none'}")
    known = [name for one in usual for name in tiers if name.lower() == one and tiers[name]]
    best = tier or (known or [max(tiers, key=lambda name: len(tiers[name]), default="")])[0]
    if not tiers.get(best):
        raise tokens.error("no interval tier with words")
    return tiers[best]


class _Tokens:
    """The values of a TextGrid one by one; both forms have them in the same order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        try:
            self.content = content.decode(encoding)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 or UTF-16 ({error}).") from error
        self.line = 1
        self.tokens = self._find()

    def _find(self) -> Iterator[tuple[str | None, str | None, str | None]]:
        at = 0
        # without "item [1]:" and "intervals [2]:" no number of the long form is a comment
        for match in TOKEN.finditer(self.content):
            self.line += self.content.count("\n", at, match.start())
            at = match.start()
            yield match.group(1), match.group(2), match.group(3)
        self.line += self.content.count("\n", at)

    def error(self, what: str) -> UserError:
        return UserError(f"{self.path}, line {self.line}: {what}; expected a TextGrid of Praat.")

    def _next(self, group: int, kind: str) -> str:
        token = next(self.tokens, None)
        value = None if token is None else token[group]
        if value is None:
            found = "the end of the file" if token is None else next(filter(None, token), '""')
            raise self.error(f"{found!r} where {kind} should be")
        return value

    def text(self) -> str:
        return self._next(0, "a text in quotation marks").replace('""', '"')

    def number(self) -> float:
        return float(self._next(1, "a number"))

    def flag(self) -> str:
        return self._next(2, "<exists>")
