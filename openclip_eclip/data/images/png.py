"""What Pillow does not tell of a PNG, from its chunks (decision 0039)."""

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
    """(kind, where its data begins, their length) of a PNG's chunks, as far as they are whole."""
    end, place = file.seek(0, io.SEEK_END), 8
    while place + 12 <= end:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        yield kind, place + 8, length
        place += length + 12


def tells_late(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or text, which may hold an orientation, after its pixels."""
    place, pixels = file.tell(), False
    for kind, _, _ in _png_chunks(file):
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            file.seek(place)
            return True
    file.seek(place)
    return False


def check_png(file: BinaryIO, name: str) -> None:
    """DataError for pixel data that are damaged: Pillow does not look at their checksums."""
    for kind, place, length in _png_chunks(file):
        if kind == b"IDAT":
            file.seek(place)
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
    """(H, W, 2) uint16 of a PNG of grey and alpha, read as 4 channels of 8 bits: the same bytes."""
    file.seek(0)
    data = bytearray(file.read())
    if data[:8] != PNG_MAGIC or data[12:16] != b"IHDR":
        raise DataError(f"{name}: unreadable image (no PNG header).")
    data[24:26] = 8, 6
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    image = Image.open(io.BytesIO(bytes(data)), formats=["PNG"])
    image.load()
    found = np.asarray(image).astype(np.uint16)
    return found[..., 0::2] << 8 | found[..., 1::2]
