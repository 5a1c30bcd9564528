"""Decode run-length encoded masks of SIIM-ACR, Kaggle's usual form, and COCO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.images.options import MAX_PIXELS
from .errors import GazeError

KINDS = ("siim", "kaggle", "coco")


def decode_rle(
    code: str | Sequence[int], image_size: tuple[int, int], kind: str, *, row_major: bool = False
) -> np.ndarray:
    """Decode one mask, bool (height, width).

    Args:
        code: the encoded mask, by `kind`:
            "siim": "gap length gap length ...", each gap counted from the end of the run before
            (SIIM-ACR Pneumothorax); "-1" or "" is an empty mask.
            "kaggle": "start length ...", starts counted from 1; "-1" or "" is an empty mask.
            "coco": the `counts` of {"size": [h, w], "counts": ...}, a list (lengths of 0s, 1s,
            0s, ...) or the packed string.
        image_size: (height, width).
        kind: "siim", "kaggle" or "coco". It is never guessed, because the first two are similar.
        row_major: runs go along rows. By default they go down the columns, as in all three sources.

    Raises:
        GazeError: an unknown kind, no integers, an odd number of them, runs outside the image, or
            an image size below 1 or above the limit.
    """
    if kind not in KINDS:
        raise GazeError(f"rle: kind {kind!r}; expected one of {', '.join(KINDS)}.")
    height, width = image_size
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise GazeError(
            f"rle: an image of {height} x {width} (height x width); expected at least 1 and at most"
            f" {MAX_PIXELS} pixels."
        )
    numbers = _unpack_coco(code) if kind == "coco" and isinstance(code, str) else _integers(code)
    # checked first, because the sums below would overflow
    beyond = numbers[(numbers > height * width) | (numbers < -height * width)]
    if len(beyond):
        raise GazeError(
            f"rle: the number {beyond[0]} on an image of {height * width} pixels, a run outside it;"
            f" expected all within. Check size and kind={kind!r}."
        )
    if kind == "coco":
        numbers = np.append(numbers, 0) if len(numbers) % 2 else numbers
        if numbers.sum() != height * width:
            raise GazeError(
                f"rle: coco counts add up to {numbers.sum()}; expected {height} x {width} ="
                f" {height * width}. Give the size that is stored with the counts."
            )
        gaps, lengths = numbers[0::2], numbers[1::2]
    else:
        if numbers.tolist() in ([], [-1]):
            return np.zeros((height, width), dtype=bool)
        if len(numbers) % 2:
            raise GazeError(
                f"rle: {len(numbers)} numbers; expected pairs of start and length. The string may"
                " have been cut off."
            )
        gaps, lengths = numbers[0::2], numbers[1::2]
    starts = gaps - 1 if kind == "kaggle" else np.cumsum(gaps) + np.cumsum(lengths) - lengths
    if (lengths < 0).any() or (starts < 0).any() or (starts + lengths > height * width).any():
        raise GazeError(
            f"rle: a run outside an image of {height} x {width} (height x width); expected all"
            f" within its {height * width} pixels. Check size and kind={kind!r}: starts are"
            " relative in SIIM-ACR, and absolute in most of Kaggle."
        )
    inside = np.zeros(height * width, dtype=bool)
    for start, length in zip(starts, lengths):  # runs may overlap
        inside[start : start + length] = True
    return inside.reshape(height, width) if row_major else inside.reshape(width, height).T


def _integers(code: str | Sequence[int]) -> np.ndarray:
    try:
        return np.array(code.split() if isinstance(code, str) else list(code), dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise GazeError(f"rle: {error}; expected integers.") from error


def _unpack_coco(code: str) -> np.ndarray:
    """Unpack the counts of a COCO string.

    A character is a group of 5 bits, counted from chr(48), lowest group first. Bit 6 says that
    another group follows; bit 5 of the last group is the sign. From the fourth count on, the
    difference from the count two before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in code:
        bits = ord(character) - 48
        if shift > 40:
            raise GazeError(
                "rle: a number of more than 40 bits in packed coco counts; expected pixels."
            )
        if not 0 <= bits < 64:
            raise GazeError(
                f"rle: character {character!r} in packed coco counts; expected chr(48) to chr(111)."
            )
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise GazeError(
            "rle: packed coco counts end within a number; the string may have been cut off."
        )
    return _integers(counts)
