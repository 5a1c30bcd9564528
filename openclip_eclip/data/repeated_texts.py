"""Texts that stand in several rows: how many of their pairs a random batch holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

MUCH = 0.05  # share of the images of a batch from which the user is told


class Repeats(NamedTuple):
    """Expected numbers of a batch drawn without replacement."""

    pairs: float  # unordered pairs of rows with one text
    share: float  # of the rows, those whose text another row of the batch has too


def expected_repeats(texts: Iterable[Hashable], batch: int) -> Repeats:
    """The expectation for batches of `batch` of these rows, or for all rows if they are fewer."""
    return _expected(_sizes(texts), batch)


def _sizes(texts: Iterable[Hashable]) -> Counter[int]:
    """Number of rows with one text -> number of such texts.

    Of ten million texts, a Counter takes more than a gigabyte, sorted hashes a tenth of it. Of as
    many, two share a hash of 64 bits with a probability of 3e-6.
    """
    hashes = np.fromiter(map(hash, texts), np.int64)
    hashes.sort()
    first = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] - 1))
    return Counter(np.diff(first, append=len(hashes)).tolist())


def _expected(sizes: Mapping[int, int], batch: int) -> Repeats:
    rows = sum(size * number for size, number in sizes.items())
    batch = min(batch, rows)
    if batch < 2:
        return Repeats(0.0, 0.0)
    equal = sum(n * (n - 1) * number for n, number in sizes.items()) / (rows * (rows - 1))
    # the other B - 1 rows are drawn from the M - 1 others, n - 1 of them with the same text
    alone = sum(
        number * n / rows * math.exp(_choose(rows - n, batch - 1) - _choose(rows - 1, batch - 1))
        for n, number in sizes.items()
        if rows - n >= batch - 1
    )
    return Repeats(math.comb(batch, 2) * equal, 1 - alone)


def _choose(n: int, k: int) -> float:
    """log of the binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def describe_repeats(texts: Iterable[Hashable], batch: int) -> str | None:
    """One line of advice where texts repeat much, else None."""
    sizes = _sizes(texts)
    found = _expected(sizes, batch)
    if found.share < MUCH:
        return None
    rows = sum(size * number for size, number in sizes.items())
    repeated = rows - sizes[1]
    return (
        f"{repeated} of {rows} rows have a text that another row has too; a batch of"
        f" {min(batch, rows)} holds about {found.pairs:.3g} pairs of images with one text, which"
        " count as negatives: --same-text says what else they may be"
    )
