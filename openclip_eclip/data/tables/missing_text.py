"""Words that mean "no text" in cells and captions: one list for all readers."""

from __future__ import annotations

import unicodedata

# What pandas, numpy, R, SQL, Excel and JavaScript write for missing text, in lower case
MISSING = frozenset(
    "nan none null <na> n/a #n/a #na nat -nan +nan nan.0 1.#ind -1.#ind 1.#qnan -1.#qnan "
    "undefined #value! #ref! #name? (null) [null] <null> \\n n.a".split()
)
# May mean missing text, but may also be a class, an abbreviation, or part of a report
DOUBTFUL = frozenset(["na", "missing", "unknown", "empty", "not available", "no report", "no text"])
NO_FILE = MISSING | frozenset(["", "na", "-", "n.a."])


def is_missing(text: str) -> bool:
    """Whether a text is blank, a word for missing text ("nan", "nan nan."), or only punctuation."""
    words = text.lower().split()
    if not words or all(word in MISSING or word.rstrip(".,;:|") in MISSING for word in words):
        return True
    return all(unicodedata.category(character)[0] in "PZC" for character in text)


def file_cell(cell: str) -> str:
    """The file that a cell names, without blanks around it; "" for a word that means no file."""
    cell = cell.strip()
    return "" if cell.lower() in NO_FILE else cell


def is_doubtful(text: str) -> bool:
    """Whether a text may mean that there is no text, which is worth a warning."""
    return text.strip().lower().rstrip(".") in DOUBTFUL
