"""Properties of a PNG that Pillow does not give, read from its chunks (decision 0039)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from ...config import DataError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, offset of its data, length of its data) of the complete chunks of a PNG."""
    end, position = file.seek(0, io.SEEK_END), 8
    while position + 12 <= end:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        yield kind, position + 8, length
        position += length + 12


def tells_late(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or text, which may hold an orientation, after its pixels."""
    start, after_pixels = file.tell(), False
    for kind, _, _ in _png_chunks(file):
        after_pixels = after_pixels or kind == b"IDAT"
        if after_pixels and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            file.seek(start)
            return True
    file.seek(start)
    return False


def check_png(file: BinaryIO, name: str) -> None:
    """Raise a DataError for damaged pixel data: Pillow does not verify their checksums."""
    for kind, offset, length in _png_chunks(file):
        if kind == b"IDAT":
            file.seek(offset)
            data, check = file.read(length), file.read(4)
            sum_of_data = zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")
            if len(check) == 4 and check != sum_of_data:
                raise DataError(
                    f"{name}: unreadable image (damaged: the checksum of its pixel "
                    "data does not match). Copy it again."
                )
        if kind == b"IEND":
            break


def read_grey_alpha(file: BinaryIO, name: str) -> np.ndarray:
    """Read a 16-bit PNG of grey and alpha, uint16 (H, W, 2).

    Pillow reads such a file with 8 bits. The header is rewritten to 4 channels of 8 bits, which
    have the same bytes.
    """
    file.seek(0)
    data = bytearray(file.read())
    if data[:8] != PNG_MAGIC or data[12:16] != b"IHDR":
        raise DataError(f"{name}: unreadable image (no PNG header).")
    data[24:26] = 8, 6  # bit depth 8, colour type RGBA
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    image = Image.open(io.BytesIO(bytes(data)), formats=["PNG"])
    image.load()
    channels = np.asarray(image).astype(np.uint16)
    return channels[..., 0::2] << 8 | channels[..., 1::2]
