"""The error of this package, and the two checks on arrays that all annotations use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..config import UserError


class GazeError(UserError):
    """A bad annotation or setting; says what was found, what was expected and what to do."""


def as_rows(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> np.ndarray:
    """Convert `values` to float64 of `shape`, in which None means any length.

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
    fits = all(expected in (None, side) for expected, side in zip(shape, array.shape))
    if array.ndim != len(shape) or not fits:
        expected_shape = " x ".join("N" if side is None else str(side) for side in shape)
        raise GazeError(
            f"{name}: shape {array.shape}; expected {expected_shape}, one row per annotation, the"
            " same N for all fields."
        )
    return array


def sieve(tests: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the rows that fail no test, int (M,), and the number that failed by reason.

    `tests` maps a reason to bool (count,), True where the row fails. A row counts under the first
    test that it fails.
    """
    passed = np.ones(count, dtype=bool)
    dropped = {}
    for reason, fails in tests.items():
        newly_failed = passed & fails
        if newly_failed.any():
            dropped[reason] = int(newly_failed.sum())
        passed &= ~fails
    return np.flatnonzero(passed), dropped
