"""Cells and captions that stand for no text: one list for training, validation, checks, evaluation and `prepare`."""

from __future__ import annotations

import unicodedata

# What tables have where there was no text: written by pandas, numpy, R, SQL, Excel, JavaScript; case aside
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
