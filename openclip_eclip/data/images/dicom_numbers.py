"""Numbers of DICOM elements, which hold one or several values, as numbers or as text."""

from __future__ import annotations

import math
from typing import Any


def read_number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_numbers(value: Any) -> list[float | None]:
    """Of an element of one or several values."""
    if value is None or isinstance(value, str):
        return [read_number(value)]
    return (
        [read_number(one) for one in value] if hasattr(value, "__iter__") else [read_number(value)]
    )


def read_whole(dataset: Any, key: str, default: int) -> int:
    """The whole number of an element, `default` where there is none."""
    number = read_number(dataset.get(key))
    return default if number is None else int(number)
