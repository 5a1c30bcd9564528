"""Cells and captions that stand for no text: one list for all that reads tables or captions."""

from __future__ import annotations

import unicodedata

# What pandas, numpy, R, SQL, Excel and JavaScript write where there was no text; case aside
MISSING = frozenset(
    "nan none null <na> n/a #n/a #na nat -nan +nan nan.0 1.#ind -1.#ind 1.#qnan -1.#qnan "
    "undefined #value! #ref! #name? (null) [null] <null> \\n".split()
)
DOUBTFUL = frozenset(["na"])  # R's word, but also a class or an abbreviation


def is_missing(text: str) -> bool:
    """Whether a cell is blank, a word for nothing ("nan", "nan nan."), or punctuation alone."""
    words = text.lower().split()
    if not words or all(word in MISSING or word.rstrip(".,;:|") in MISSING for word in words):
        return True
    return all(unicodedata.category(character)[0] in "PZC" for character in text)


def is_doubtful(text: str) -> bool:
    """Whether a text may be meant as a word for nothing, too: worth a warning."""
    return text.strip().lower() in DOUBTFUL
