"""Small files that unpack to gigabytes, written without holding the gigabytes in memory."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np

BLOCK = 1 << 20


def deflated(beginning: bytes, zeros: int, wrapped: bool = False) -> bytes:
    """A deflate stream of `beginning` and that many zero bytes; a megabyte takes a kilobyte.

    With `wrapped` the stream has zlib's header and checksum.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, 15 if wrapped else -15)
    head = packer.compress(beginning) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    # after a full flush, equal blocks give equal bytes
    return head + block * -(-zeros // BLOCK) + packer.flush()


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def zipped(name: str, stream: bytes, size: int, *, flags: int = 0, method: int = 8) -> bytes:
    """A zip archive of one member with these header fields, true or not."""
    sizes = struct.pack("<III", 0, len(stream), min(size, 0xFFFFFFFE))
    local = (
        struct.pack("<4sHHHHH", b"PK\3\4", 20, flags, method, 0, 33)
        + sizes
        + struct.pack("<HH", len(name), 0)
        + name.encode()
    )
    central = struct.pack("<4sHHHHHH", b"PK\1\2", 20, 20, flags, method, 0, 33) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name.encode()
    end = struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(stream), 0
    )
    return local + stream + central + end


def npz_bomb(shape: tuple[int, ...], name: str = "a.npy", dtype: str = "<f4") -> bytes:
    """An npz file with one array, which really unpacks to `shape`."""
    header, size = npy_header(shape, dtype), int(np.prod(shape)) * np.dtype(dtype).itemsize
    return zipped(name, deflated(header, size), size + len(header))


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_bomb(
    width: int, height: int, *, bits: int = 8, colour: int = 0, written: int | None = None
) -> bytes:
    """A PNG of zeros; `written` is the number of bytes of pixels it holds (default: all)."""
    size = (width * bits // 8 + 1) * height if written is None else written
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", deflated(b"", size, wrapped=True))
        + chunk(b"IEND", b"")
    )


def tiff_header(width: int, height: int) -> bytes:
    """A little-endian grey TIFF whose header promises pixels, without any."""
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, width),
    ]
    body = (
        struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        + struct.pack("<I", 0)
    )
    return b"II*\0" + struct.pack("<I", 8) + body
