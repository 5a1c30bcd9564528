"""Convert images of more than 8 bits to 8 bits, the same way for all readers (decision 0039)."""

from __future__ import annotations

import numpy as np

from ...config import DataError

BLOCK = 1 << 22  # values converted at a time, to limit the memory for their float64 form


def stretch(
    values: np.ndarray, shown: np.ndarray | None, grey_range: tuple[float, float] | None, name: str
) -> np.ndarray:
    """Convert (H, W) or (H, W, channels) numbers linearly to uint8 of the same shape.

    The darkest value becomes 0 and the brightest 255, over all channels together; with `grey_range`
    its ends do. `shown`, bool (H, W), selects the pixels that are used. All others, and those that
    are NaN or infinite, become 0, the background.

    Raises:
        DataError: with `name`: no pixel is used, or all used ones are one grey.
    """
    shown = _finite(values, shown)
    part = values if shown is None else values[shown]
    if not part.size:
        raise DataError(
            f"{name}: no pixel to show: all are transparent, padding, NaN or infinite; "
            "expected an image."
        )
    low, high = grey_range or (float(part.min()), float(part.max()))
    if low == high:
        raise DataError(f"{name}: every pixel has the value {low:g}; expected an image.")
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, BLOCK // max(1, values[0].size))
    for first in range(0, len(values), rows):
        block = values[first : first + rows].astype(np.float64)
        block = np.nan_to_num(block, posinf=low, neginf=low)
        grey[first : first + rows] = np.rint(((block - low) * (255 / (high - low))).clip(0, 255))
    if shown is not None:
        grey[~shown] = 0
    if grey_range:
        check_flat(
            grey,
            shown,
            f"under --image-range {low:g} {high:g}, its values being "
            f"{float(part.min()):g} to {float(part.max()):g}",
            name,
        )
    return grey


def check_flat(grey: np.ndarray, shown: np.ndarray | None, why: str, name: str) -> None:
    """Raise a DataError if all pixels shown became one grey. `why` names the cause."""
    part = grey if shown is None else grey[shown]
    if part.size and part.min() == part.max():
        raise DataError(
            f"{name}: becomes one flat grey ({int(part.min())} of 255) {why}. "
            "Give another --image-range LOW HIGH."
        )


def _finite(values: np.ndarray, shown: np.ndarray | None) -> np.ndarray | None:
    if values.dtype.kind != "f":
        return shown
    finite = np.isfinite(values) if values.ndim == 2 else np.isfinite(values).all(axis=-1)
    return finite if shown is None else finite & shown
