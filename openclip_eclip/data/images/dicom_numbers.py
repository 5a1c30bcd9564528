"""Read numbers of DICOM elements, which hold one or several values, as numbers or as text."""

from __future__ import annotations

import math
from typing import Any


def read_number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_numbers(value: Any) -> list[float | None]:
    """The numbers of an element of one or several values."""
    if value is None or isinstance(value, str) or not hasattr(value, "__iter__"):
        return [read_number(value)]
    return [read_number(item) for item in value]


def read_whole(dataset: Any, key: str, default: int) -> int:
    """The number of an element as an integer, `default` if there is none."""
    number = read_number(dataset.get(key))
    return default if number is None else int(number)
