"""The package's error, and the two checks on arrays that every annotation makes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..config import UserError


class GazeError(UserError):
    """A bad annotation or setting; the message says what was found, what was expected and what to
    do.
    """


def as_rows(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> np.ndarray:
    """`values` as float64 of `shape`, where None stands for any length.

    Raises:
        GazeError: not numbers, or another shape.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GazeError(
            f"{name}: {error}; expected numbers, NaN for blank cells. See pandas.to_numeric."
        ) from error
    if array.size == 0 and shape[0] in (None, 0):
        array = array.reshape(tuple(side or 0 for side in shape))
    if array.ndim != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, array.shape)
    ):
        wanted = " x ".join("N" if side is None else str(side) for side in shape)
        raise GazeError(
            f"{name}: shape {array.shape}; expected {wanted}, one row an annotation, the same N for"
            " all fields."
        )
    return array


def sieve(tests: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the rows that fail no test, int (M,), and how many fell to each; a row counts
    under its first failure.

    `tests` maps a reason to bool (count,), True where the row fails.
    """
    left = np.ones(count, dtype=bool)
    dropped = {}
    for reason, fails in tests.items():
        hit = left & fails
        if hit.any():
            dropped[reason] = int(hit.sum())
        left &= ~fails
    return np.flatnonzero(left), dropped
