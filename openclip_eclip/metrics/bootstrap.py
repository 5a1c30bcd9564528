"""Percentile bootstrap over samples, or over groups of samples such as patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def group_rows(groups: Sequence[object]) -> list[np.ndarray]:
    """Ascending row numbers of each group, the groups in the order of their names."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])


def resamples(
    count: int, draws: int, seed: int, groups: Sequence[object] | None = None
) -> list[np.ndarray]:
    """`draws` arrays of row numbers, drawn with replacement.

    `groups` (N,): whole groups are drawn instead of rows.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return [rng.integers(0, count, count) for _ in range(draws)]
    rows = group_rows(groups)
    return [
        np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        for _ in range(draws)
    ]


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float | np.ndarray],
    count: int,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of `statistic(rows)`, which is a scalar or an array.

    Draws in which an entry is NaN are left out for that entry.
    """
    values = np.array(
        [statistic(rows) for rows in resamples(count, draws, seed, groups)], dtype=np.float64
    )
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail], axis=0)
    return low, high
