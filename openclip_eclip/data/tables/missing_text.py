"""Cells and captions that stand for no text: one list for all that reads tables or captions."""

from __future__ import annotations

import unicodedata

# What pandas, numpy, R, SQL, Excel and JavaScript write where there was no text; case aside
MISSING = frozenset(
    "nan none null <na> n/a #n/a #na nat -nan +nan nan.0 1.#ind -1.#ind 1.#qnan -1.#qnan "
    "undefined #value! #ref! #name? (null) [null] <null> \\n n.a".split()
)
# R's word, but also a class or an abbreviation; and what people write, but a report may say, too
DOUBTFUL = frozenset(["na", "missing", "unknown", "empty", "not available", "no report", "no text"])
NO_FILE = MISSING | frozenset(["", "na", "-", "n.a."])


def is_missing(text: str) -> bool:
    """Whether a cell is blank, a word for nothing ("nan", "nan nan."), or punctuation alone."""
    words = text.lower().split()
    if not words or all(word in MISSING or word.rstrip(".,;:|") in MISSING for word in words):
        return True
    return all(unicodedata.category(character)[0] in "PZC" for character in text)


def file_cell(cell: str) -> str:
    """A cell that names a file, without blanks around it; "" for a word that stands for none."""
    cell = cell.strip()
    return "" if cell.lower() in NO_FILE else cell


def is_doubtful(text: str) -> bool:
    """Whether a text may be meant as a word for nothing, too: worth a warning."""
    return text.strip().lower().rstrip(".") in DOUBTFUL
