"""The run-length code of Label Studio's brush: a bit stream over the RGBA values of a picture.

It is that of @thi.ng/rle-pack: 32 bits with the number of values, 5 bits with the bits of a value
less 1, four times 4 bits with the bits of a length less 1; then blocks. A block is 1 bit (1: one
value that repeats, 0: as many values), 2 bits that choose one of the four widths, the length less
1 in this width, and the value or values. The opacity, every fourth value, says what is painted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...gaze import GazeError, Mask
from .values import check_area

CHANNELS = 4
WIDTHS = (3, 4, 8, 16)  # bits of lengths that `encode_brush` writes, as Label Studio does
LONGEST = 1 << WIDTHS[-1]
OPAQUE = 255


@dataclass(frozen=True, eq=False)
class BrushMask:
    """A brush stroke that is decoded when it is drawn."""

    code: bytes
    size: tuple[int, int]  # (height, width)

    def load(self) -> Mask:
        return Mask(decode_brush(self.code, self.size))


class _Bits:
    """Reads whole numbers from a bit stream, the highest bit first."""

    def __init__(self, code: bytes) -> None:
        self.code, self.at, self.end = code, 0, 8 * len(code)

    def read(self, bits: int) -> int:
        first, behind = self.at >> 3, (self.at + bits + 7) >> 3
        self.at += bits
        if self.at > self.end:
            raise GazeError(
                f"brush: the code ends after {len(self.code)} bytes, within a run; expected more."
                " It may have been cut off."
            )
        number = int.from_bytes(self.code[first:behind], "big")
        return (number >> (8 * behind - self.at)) & ((1 << bits) - 1)


def decode_brush(code: bytes, image_size: tuple[int, int]) -> np.ndarray:
    """What is painted, bool (height, width): where the opacity is not 0.

    Raises:
        GazeError: a code that is cut off, of another image size, or of too many pixels.
    """
    check_area(image_size)
    height, width = image_size
    bits = _Bits(code)
    count = bits.read(32)
    if count != CHANNELS * height * width:
        raise GazeError(
            f"brush: a code of {count} values; expected 4 for each of {height} x {width} pixels."
            " Are original_height and original_width those of the image?"
        )
    value_bits = bits.read(5) + 1
    widths = [bits.read(4) + 1 for _ in range(4)]
    painted = np.zeros(height * width, dtype=bool)
    start = 0
    while start < count:
        repeats = bits.read(1)
        end = start + bits.read(widths[bits.read(2)]) + 1
        if end > count:
            raise GazeError(
                f"brush: a run up to value {end} of {count}; expected runs within the image."
            )
        if repeats:
            # pixel p is within the run if its opacity, value 4 p + 3, is
            painted[start // CHANNELS : end // CHANNELS] = bits.read(value_bits) > 0
        else:
            for i in range(start, end):
                value = bits.read(value_bits)
                if i % CHANNELS == CHANNELS - 1:
                    painted[i // CHANNELS] = value > 0
        start = end
    return painted.reshape(height, width)


def encode_brush(mask: np.ndarray) -> list[int]:
    """The code of a mask, bool (height, width), as the bytes that Label Studio's JSON lists."""
    flat = np.asarray(mask, dtype=bool).ravel()
    parts = [f"{CHANNELS * len(flat):032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in WIDTHS)]
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], edges, [len(flat)]]).tolist()
    for start, end in zip(starts, starts[1:]):
        value = f"{OPAQUE if flat[start] else 0:08b}"
        length = CHANNELS * (end - start)
        while length:
            run = min(length, LONGEST)
            which = next(i for i, bits in enumerate(WIDTHS) if run <= 1 << bits)
            parts.append(f"1{which:02b}{run - 1:0{WIDTHS[which]}b}{value}")
            length -= run
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
