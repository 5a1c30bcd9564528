"""Small image files of many kinds, each with the pixels that a viewer shows.

Kinds that Pillow does not write are encoded here.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

H, W = 24, 36
Y, X = np.mgrid[0:H, 0:W]
GREY = np.rint((X * 5 + Y * 3) * (255 / 244)).astype(np.uint8)  # 0 to 255, no symmetry
COLOUR = np.stack([GREY, 255 - GREY, np.rint(np.abs(X - 18) * 14).astype(np.uint8)], axis=-1)
DEEP = GREY.astype(np.uint16) * 100 + 7000  # 16 bits, far from both ends
SPOTS = (X + Y) % 5 == 0  # pixels that are made transparent, padding or NaN
PIXEL_TYPES = {"u": 1, "i": 2, "f": 3}


@dataclass(frozen=True)
class Member:
    """One file of the collection."""

    name: str
    data: bytes
    shown: np.ndarray | None  # the pixels shown, uint8 (h, w) or (h, w, 3); None: an error
    tolerance: int = 0
    fault: str = ""  # regular expression of the error


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """The upright pixels, by EXIF's table of the first row and column of the stored image."""
    return {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.swapaxes(0, 1),
        6: values.swapaxes(0, 1)[:, ::-1],
        7: values.swapaxes(0, 1)[::-1, ::-1],
        8: values.swapaxes(0, 1)[::-1],
    }[orientation]


def scaled(
    values: np.ndarray,
    shown: np.ndarray | None = None,
    low: float | None = None,
    high: float | None = None,
) -> np.ndarray:
    """An independent implementation of the conversion to 8 bits of decision 0039."""
    values = values.astype(float)
    part = values if shown is None else values[shown]
    low, high = part.min() if low is None else low, part.max() if high is None else high
    grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
    if shown is not None:
        grey = np.where(shown if values.ndim == 2 else shown[..., None], grey, 0)
    return grey.astype(np.uint8)


# ------------------------------------------------------------------ writers


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    values: np.ndarray, depth: int, kind: int, before: bytes = b"", after: bytes = b""
) -> bytes:
    """`values` (H, W) or (H, W, channels) as numbers of `depth` bits; `kind` the colour type."""
    rows = []
    for row in values.reshape(len(values), -1):
        if depth == 16:
            rows.append(row.astype(">u2").tobytes())
        elif depth == 8:
            rows.append(row.astype(np.uint8).tobytes())
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).ravel()
            rows.append(np.packbits(bits).tobytes())
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", pixels)
        + after
        + chunk(b"IEND", b"")
    )


def tiff(
    values: np.ndarray,
    tags: dict[int, tuple[int, list[int]]] | None = None,
    order: str = "<",
    deflate: bool = False,
    rows: bytes | None = None,
    bits: int | None = None,
) -> bytes:
    """A TIFF of one strip. `rows` are packed pixels.

    `tags` {number: (type, values)} replace the tags made here, or remove them where it is None.
    """
    channels = 1 if values.ndim == 2 else values.shape[2]
    planar = (tags or {}).get(284, (3, [1]))[1][0]
    planes = [values] if planar == 1 else [values[..., i] for i in range(channels)]
    strips = (
        [rows]
        if rows is not None
        else [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    )
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    bits = bits or 8 * values.itemsize
    entries = {
        256: (4, [values.shape[1]]),
        257: (4, [len(values)]),
        258: (3, [bits] * channels),
        259: (3, [8 if deflate else 1]),
        262: (3, [1 if channels < 3 else 2]),
        277: (3, [channels]),
        278: (4, [len(values)]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [1]),
        339: (3, [PIXEL_TYPES[values.dtype.kind]] * channels),
        273: (4, [0] * len(strips)),
        **(tags or {}),
    }
    entries = {number: entry for number, entry in entries.items() if entry is not None}
    raw = {
        number: struct.pack(f"{order}{len(entry[1])}{'xBxHI'[entry[0]]}", *entry[1])
        for number, entry in entries.items()
    }
    # values of more than 4 bytes follow the directory, and the strips follow these values
    end = 8 + 2 + 12 * len(entries) + 4
    offsets = {}
    for number in sorted(raw):
        if len(raw[number]) > 4:
            offsets[number], end = end, end + len(raw[number])
    starts = [end + sum(len(strip) for strip in strips[:i]) for i in range(len(strips))]
    raw[273] = struct.pack(f"{order}{len(starts)}I", *starts)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for number in sorted(raw):
        head += struct.pack(f"{order}HHI", number, entries[number][0], len(entries[number][1]))
        head += (
            struct.pack(f"{order}I", offsets[number])
            if number in offsets
            else raw[number].ljust(4, b"\0")
        )
    long_values = b"".join(raw[number] for number in sorted(raw) if number in offsets)
    return head + bytes(4) + long_values + b"".join(strips)


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    """A TIFF directory with that one tag."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of numbers of `bits` bits, each row filled up to a whole byte."""
    shifts = np.arange(bits - 1, -1, -1)
    return b"".join(
        np.packbits(((row[:, None].astype(int) >> shifts) & 1).astype(np.uint8).ravel()).tobytes()
        for row in values
    )


def icc(space: str, gamma: float | None) -> bytes:
    """A v2 profile of sRGB's colours, or a grey one, with that gamma; None: nearly sRGB itself."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    def xyz(*numbers: float) -> bytes:
        return b"XYZ " + bytes(4) + fixed(*numbers)

    if gamma is None:
        steps = np.linspace(0, 1, 1024)
        light = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.43)
        curve = (
            b"curv" + struct.pack(">II", 0, 1024) + np.rint(light * 65535).astype(">u2").tobytes()
        )
    else:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"made by a test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78 + 5),
        b"cprt": b"text" + bytes(4) + text,
        b"wtpt": xyz(0.9642, 1, 0.8249),
    }
    if space == "GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {
            b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
            b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
            b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
            b"rTRC": curve,
            b"gTRC": curve,
            b"bTRC": curve,
        }
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value
    head = struct.pack(
        ">I4sI4s4s4s",
        start + len(body),
        b"lcms",
        0x02400000,
        b"mntr",
        space.encode().ljust(4),
        b"XYZ ",
    )
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def through_gamma(values: np.ndarray, gamma: float) -> np.ndarray:
    """Light is value ** gamma; sRGB's curve of it."""
    light = (values / 255.0) ** gamma
    return np.rint(
        255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    ).astype(np.uint8)


# ------------------------------------------------------------------ members


def png_members() -> list[Member]:
    grey16, colour16 = DEEP, COLOUR.astype(np.uint16) * 100 + 7000
    alpha = np.where(SPOTS, 0, 255).astype(np.uint8)
    half = np.full_like(GREY, 128)
    palette = np.stack([np.arange(256)[::-1], np.arange(256), np.full(256, 40)], axis=-1).astype(
        np.uint8
    )
    plte = chunk(b"PLTE", palette.tobytes())
    greys = chunk(b"PLTE", np.arange(256, dtype=np.uint8)[::-1].repeat(3).tobytes())
    clear = np.where(GREY == GREY[3, 4], 0, GREY)
    deep_clear = DEEP != DEEP[3, 4]
    colour_clear = np.where((COLOUR == COLOUR[3, 4]).all(-1, keepdims=True), 0, COLOUR)
    two = GREY >> 6
    alpha16 = np.where(SPOTS, 0, np.where(X > 20, 65535, 32768)).astype(np.uint16)
    linear, srgb = (
        icc("RGB", 1.0),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )

    def iccp(profile: bytes) -> bytes:
        return chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))

    gamma_1 = np.rint(255 * (GREY / 255.0) ** (1 / 2.2)).astype(np.uint8)
    gama = chunk(b"gAMA", struct.pack(">I", 100000))
    raw_exif = (b"Exif\0\0" + exif(6)).hex().encode()
    members = [
        Member("1 bit", png(GREY >> 7, 1, 0), (GREY >> 7) * 255),
        Member("2 bits", png(two, 2, 0), two * 85),
        Member("4 bits", png(GREY >> 4, 4, 0), (GREY >> 4) * 17),
        Member("8 bits", png(GREY, 8, 0), GREY),
        Member("8 bits, not the whole range", png(GREY // 4 + 60, 8, 0), GREY // 4 + 60),
        Member("16 bits", png(grey16, 16, 0), scaled(grey16)),
        Member(
            "12 bits in 16, sBIT",
            png(GREY.astype(np.uint16) * 257 & 0xFFF0, 16, 0, chunk(b"sBIT", b"\x0c")),
            scaled(GREY.astype(np.uint16) * 257 & 0xFFF0),
        ),
        Member("colour", png(COLOUR, 8, 2), COLOUR),
        Member("16-bit colour", png(colour16, 16, 2), scaled(colour16)),
        Member(
            "16-bit grey as colour",
            png(grey16[..., None].repeat(3, 2), 16, 2),
            scaled(grey16)[..., None].repeat(3, 2),
        ),
        Member("palette", png(GREY, 8, 3, plte), palette[GREY]),
        Member("palette of greys", png(GREY, 8, 3, greys), (255 - GREY)[..., None].repeat(3, 2)),
        Member(
            "palette of 4 bits",
            png(GREY >> 4, 4, 3, plte[:0] + chunk(b"PLTE", palette[:16].tobytes())),
            palette[GREY >> 4],
        ),
        Member(
            "palette, one clear",
            png(GREY, 8, 3, plte + chunk(b"tRNS", b"\xff" * GREY[3, 4] + b"\0")),
            np.where((GREY == GREY[3, 4])[..., None], 0, palette[GREY]),
        ),
        Member(
            "palette, half clear",
            png(GREY, 8, 3, plte + chunk(b"tRNS", bytes([128] * 256))),
            np.rint(palette[GREY] * (128 / 255)).astype(np.uint8),
            1,
        ),
        Member("grey and alpha", png(np.stack([GREY, alpha], -1), 8, 4), np.where(SPOTS, 0, GREY)),
        Member(
            "grey and half alpha",
            png(np.stack([GREY, half], -1), 8, 4),
            np.rint(GREY * (128 / 255)).astype(np.uint8),
            1,
        ),
        Member("grey and full alpha", png(np.stack([GREY, half * 0 + 255], -1), 8, 4), GREY),
        Member(
            "16-bit grey and alpha",
            png(np.stack([grey16, alpha16], -1), 16, 4),
            np.rint(scaled(grey16, ~SPOTS) * (alpha16 / 65535)).astype(np.uint8),
        ),
        Member(
            "colour and alpha",
            png(np.dstack([COLOUR, alpha]), 8, 6),
            np.where(SPOTS[..., None], 0, COLOUR),
        ),
        Member(
            "16-bit colour and alpha",
            png(np.dstack([colour16, alpha16]), 16, 6),
            np.rint(scaled(colour16, ~SPOTS) * (alpha16[..., None] / 65535)).astype(np.uint8),
        ),
        Member(
            "grey, one clear", png(GREY, 8, 0, chunk(b"tRNS", struct.pack(">H", GREY[3, 4]))), clear
        ),
        Member(
            "2 bits, one clear",
            png(two, 2, 0, chunk(b"tRNS", struct.pack(">H", 2))),
            np.where(two == 2, 0, two * 85),
        ),
        Member(
            "1 bit, white clear",
            png(1 - (GREY >> 7), 1, 0, chunk(b"tRNS", struct.pack(">H", 0))),
            (1 - (GREY >> 7)) * 255,
        ),
        Member(
            "16 bits, one clear",
            png(np.where(SPOTS, 65535, DEEP), 16, 0, chunk(b"tRNS", b"\xff\xff")),
            scaled(DEEP, ~SPOTS),
        ),
        Member(
            "16 bits, one grey clear",
            png(DEEP, 16, 0, chunk(b"tRNS", struct.pack(">H", DEEP[3, 4]))),
            scaled(DEEP, deep_clear),
        ),
        Member(
            "colour, one clear",
            png(COLOUR, 8, 2, chunk(b"tRNS", struct.pack(">3H", *COLOUR[3, 4]))),
            colour_clear,
        ),
        Member(
            "16-bit colour, one clear",
            png(np.where(SPOTS[..., None], 65535, colour16), 16, 2, chunk(b"tRNS", b"\xff" * 6)),
            scaled(colour16, ~SPOTS),
        ),
        Member("gamma 1", png(GREY, 8, 0, gama), gamma_1, 1),
        Member("gamma of sRGB", png(GREY, 8, 0, chunk(b"gAMA", struct.pack(">I", 45455))), GREY),
        Member(
            "gamma of nearly sRGB",
            png(GREY, 8, 0, chunk(b"gAMA", struct.pack(">I", 44000))),
            GREY,
        ),
        Member("gamma under sRGB", png(GREY, 8, 0, gama + chunk(b"sRGB", b"\0")), GREY),
        Member(
            "gamma 1, colour",
            png(COLOUR, 8, 2, gama),
            np.rint(255 * (COLOUR / 255.0) ** (1 / 2.2)).astype(np.uint8),
            1,
        ),
        Member(
            "gamma 1, 16 bits",
            png(DEEP, 16, 0, gama),
            np.rint(255 * (scaled(DEEP) / 255.0) ** (1 / 2.2)).astype(np.uint8),
            1,
        ),
        Member(
            "linear profile, grey",
            png(GREY, 8, 0, iccp(icc("GRAY", 1.0))),
            through_gamma(GREY, 1.0),
            2,
        ),
        Member("profile of gamma 2.2, grey", png(GREY, 8, 0, iccp(icc("GRAY", 2.2))), GREY),
        Member(
            "linear profile of colours, grey",
            png(GREY, 8, 0, iccp(linear)),
            through_gamma(GREY, 1.0),
            2,
        ),
        Member("linear profile", png(COLOUR, 8, 2, iccp(linear)), through_gamma(COLOUR, 1.0), 3),
        Member("profile of sRGB", png(COLOUR, 8, 2, iccp(srgb)), COLOUR),
        Member("profile of nearly sRGB", png(COLOUR, 8, 2, iccp(icc("RGB", None))), COLOUR),
        Member(
            "linear profile, palette",
            png(GREY, 8, 3, iccp(linear) + plte),
            through_gamma(palette[GREY], 1.0),
            3,
        ),
        Member("broken profile", png(COLOUR, 8, 2, iccp(b"no profile")), COLOUR),
        Member("profile of another kind", png(COLOUR, 8, 2, iccp(icc("GRAY", 1.0))), COLOUR),
        Member("eXIf", png(GREY, 8, 0, chunk(b"eXIf", exif(6))), turned(GREY, 6)),
        Member(
            "eXIf after the pixels", png(GREY, 8, 0, after=chunk(b"eXIf", exif(8))), turned(GREY, 8)
        ),
        Member("eXIf, 16 bits", png(DEEP, 16, 0, chunk(b"eXIf", exif(5))), turned(scaled(DEEP), 5)),
        Member(
            "eXIf, palette",
            png(GREY, 8, 3, plte + chunk(b"eXIf", exif(7))),
            turned(palette[GREY], 7),
        ),
        Member("broken eXIf", png(GREY, 8, 0, chunk(b"eXIf", b"nothing of the kind")), GREY),
        Member("orientation 9", png(GREY, 8, 0, chunk(b"eXIf", exif(9))), GREY),
        Member(
            "XMP",
            png(
                GREY, 8, 0, chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>')
            ),
            turned(GREY, 3),
        ),
        Member(
            "EXIF as text",
            png(
                GREY,
                8,
                0,
                chunk(
                    b"tEXt",
                    b"Raw profile type exif\0\nexif\n%8d\n" % (len(raw_exif) // 2)
                    + raw_exif
                    + b"\n",
                ),
            ),
            turned(GREY, 6),
        ),
        Member("constant, 8 bits", png(GREY * 0 + 9, 8, 0), GREY * 0 + 9),
        Member(
            "constant, 16 bits",
            png(DEEP * 0 + 900, 16, 0),
            None,
            fault="every pixel has the value 900",
        ),
        Member(
            "all clear",
            png(np.stack([GREY, GREY * 0], -1), 8, 4),
            None,
            fault="no pixel to show: all are transparent",
        ),
        Member(
            "all clear, 16 bits",
            png(np.stack([DEEP, DEEP * 0], -1), 16, 4),
            None,
            fault="no pixel to show",
        ),
    ]
    return members


def tiff_members() -> list[Member]:
    members = []
    for order, deflate in (("<", False), ("<", True), (">", False), (">", True)):
        how = f"{'little' if order == '<' else 'big'} endian{', deflate' if deflate else ''}"
        for kind, values in {
            "u1": GREY,
            "i1": (GREY ^ 128).view(np.int8),
            "u2": DEEP,
            "i2": (DEEP - 20000).view(np.int16),
            "i4": DEEP.astype(np.int32) * 30000 - 5,
            "f4": GREY / np.float32(300),
            "u4": DEEP.astype(np.uint32) * 120000,
        }.items():
            if (kind, order) != ("u4", ">"):  # Pillow knows no such file
                members.append(
                    Member(
                        f"{kind}, {how}",
                        tiff(values, order=order, deflate=deflate),
                        GREY if kind in ("u1", "i1") else scaled(values),
                        0,
                    )
                )
        white = {262: (3, [0])}
        members.append(
            Member(f"u1, white is zero, {how}", tiff(GREY, white, order, deflate), 255 - GREY)
        )
        members.append(
            Member(
                f"f4, white is zero, {how}",
                tiff(GREY / np.float32(300), white, order, deflate),
                255 - scaled(GREY),
                1,
            )
        )
        if order == "<":
            members.append(
                Member(
                    f"u2, white is zero, {how}",
                    tiff(DEEP, white, order, deflate),
                    255 - scaled(DEEP),
                )
            )
        holes = GREY / np.float32(300)
        holes[SPOTS] = np.nan
        holes[0, 1], holes[0, 2] = np.inf, -np.inf
        members.append(
            Member(
                f"f4 with NaN and infinity, {how}",
                tiff(holes, order=order, deflate=deflate),
                scaled(np.nan_to_num(holes), np.isfinite(holes)),
            )
        )
        colour16 = COLOUR.astype(np.uint16) * 100 + 7000
        members.append(
            Member(
                f"16-bit colour, {how}",
                tiff(colour16, order=order, deflate=deflate),
                scaled(colour16),
            )
        )
        rgba16 = np.dstack([colour16, np.where(SPOTS, 0, 65535)]).astype(np.uint16)
        members.append(
            Member(
                f"16-bit colour and alpha, {how}",
                tiff(rgba16, {338: (3, [2])}, order, deflate),
                scaled(colour16, ~SPOTS),
            )
        )
    for orientation in range(1, 9):
        members.append(
            Member(
                f"orientation {orientation}",
                tiff(GREY, {274: (3, [orientation])}),
                turned(GREY, orientation),
            )
        )
    members += [
        Member(
            f"orientation {o}, u2, deflate",
            tiff(DEEP, {274: (3, [o])}, deflate=True),
            turned(scaled(DEEP), o),
        )
        for o in (3, 6)
    ]
    members.append(
        Member(
            "orientation 8, 16-bit colour",
            tiff(colour16, {274: (3, [8])}),
            turned(scaled(colour16), 8),
        )
    )
    white_holes = np.where(SPOTS, np.nan, GREY / np.float32(300)).astype(np.float32)
    one, four, twelve = GREY >> 7, GREY >> 4, DEEP >> 4
    cmyk = np.dstack([COLOUR, GREY // 3])
    table = (np.arange(256)[::-1], np.arange(256), np.full(256, 40))
    colours = np.concatenate(table).astype(int) * 257
    rgba = np.dstack(
        [np.where(SPOTS[..., None], 0, COLOUR), np.where(SPOTS, 0, 255).astype(np.uint8)]
    )
    grey_alpha = np.dstack([np.where(SPOTS, 0, GREY), np.where(SPOTS, 0, 255)]).astype(np.uint8)
    lab = np.dstack([GREY, GREY * 0, GREY * 0])  # L alone
    f = (GREY / 255.0 * 100 + 16) / 116
    light = np.where(f**3 > 0.008856, f**3, (116 * f - 16) / 903.3)
    members += [
        Member(
            "white is zero with NaN",
            tiff(white_holes, {262: (3, [0])}),
            np.where(SPOTS, 0, 255 - scaled(GREY, ~SPOTS)),
            1,
        ),
        Member("1 bit", tiff(GREY, rows=packed(one, 1), bits=1), one * 255),
        Member(
            "1 bit, white is zero",
            tiff(GREY, {262: (3, [0])}, rows=packed(one, 1), bits=1),
            (1 - one) * 255,
        ),
        Member(
            "1 bit, group 4",
            saved(Image.fromarray(GREY > 127), "TIFF", compression="group4"),
            (GREY > 127) * np.uint8(255),
        ),
        Member("4 bits", tiff(GREY, rows=packed(four, 4), bits=4), four * 17),
        Member(
            "4 bits, white is zero",
            tiff(GREY, {262: (3, [0])}, rows=packed(four, 4), bits=4),
            (15 - four) * 17,
        ),
        Member("12 bits", tiff(GREY, rows=packed(twelve, 12), bits=12), scaled(twelve)),
        Member(
            "cmyk",
            tiff(cmyk, {262: (3, [5])}),
            np.rint((255 - COLOUR.astype(float)) * (255 - cmyk[..., 3:]) / 255).astype(np.uint8),
            1,
        ),
        Member("YCbCr", saved(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), COLOUR, 3),
        Member(
            "LAB of greys",
            tiff(lab, {262: (3, [8])}),
            through_gamma(255 * light, 1.0)[..., None].repeat(3, 2),
            4,
        ),
        Member(
            "palette",
            tiff(GREY, {262: (3, [3]), 320: (3, colours.tolist())}),
            np.stack(table, -1)[GREY].astype(np.uint8),
        ),
        Member(
            "palette and alpha",
            saved(_palette_alpha(), "TIFF"),
            np.where(SPOTS[..., None], 0, np.stack(table, -1)[GREY]).astype(np.uint8),
        ),
        Member("associated alpha", tiff(rgba, {338: (3, [1])}), rgba[..., :3]),
        Member("other alpha", tiff(rgba, {338: (3, [2])}), rgba[..., :3]),
        Member("a channel more", tiff(np.dstack([COLOUR, GREY]), {338: (3, [0])}), COLOUR),
        Member("grey, associated alpha", tiff(grey_alpha, {338: (3, [1])}), grey_alpha[..., 0]),
        Member("grey and alpha", tiff(grey_alpha, {338: (3, [2])}), grey_alpha[..., 0]),
        Member("colours apart", tiff(COLOUR, {284: (3, [2])}), COLOUR),
        Member(
            "lzw, predictor",
            saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
            scaled(DEEP),
        ),
        Member(
            "jpeg", saved(Image.fromarray(GREY), "TIFF", compression="jpeg", quality=100), GREY, 3
        ),
        Member(
            "minimum and maximum tags", tiff(DEEP, {280: (3, [0]), 281: (3, [65535])}), scaled(DEEP)
        ),
        Member(
            "linear profile",
            saved(Image.fromarray(COLOUR), "TIFF", icc_profile=icc("RGB", 1.0)),
            through_gamma(COLOUR, 1.0),
            3,
        ),
        Member(
            "a small copy behind",
            saved(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[_thumbnail()]),
            GREY,
        ),
        Member(
            "two pages",
            saved(
                Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]
            ),
            None,
            fault="several pages",
        ),
        Member(
            "colours apart, 16 bits",
            tiff(colour16, {284: (3, [2])}),
            None,
            fault="colours stored apart",
        ),
        Member(
            "no photometric interpretation",
            tiff(DEEP, {262: None}),
            None,
            fault="without PhotometricInterpretation",
        ),
        Member(
            "nothing but NaN",
            tiff(np.full((H, W), np.nan, np.float32)),
            None,
            fault="NaN or infinite",
        ),
        Member(
            "constant float",
            tiff(np.full((H, W), 0.25, np.float32)),
            None,
            fault="every pixel has the value 0.25",
        ),
        Member("doubles", tiff(GREY / 255.0), None, fault="unreadable image"),
    ]
    return members


def _palette_alpha() -> Image.Image:
    image = Image.new("PA", (W, H))
    image.putpalette(
        np.stack([np.arange(256)[::-1], np.arange(256), np.full(256, 40)], -1)
        .astype(np.uint8)
        .tobytes()
    )
    image.putdata(list(zip(GREY.ravel().tolist(), np.where(SPOTS, 0, 255).ravel().tolist())))
    return image


def _thumbnail() -> Image.Image:
    image = Image.fromarray(GREY[::2, ::2])
    image.encoderinfo = {"tiffinfo": {254: 1}}
    return image


def other_members() -> list[Member]:
    """JPEG, WebP, BMP, GIF, PNM, TGA, JPEG 2000."""
    grey, colour, alpha = (
        Image.fromarray(GREY),
        Image.fromarray(COLOUR),
        Image.fromarray(np.dstack([COLOUR, np.where(SPOTS, 0, 255).astype(np.uint8)])),
    )
    jpeg = saved(grey, "JPEG", quality=95)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
    blocks = np.zeros((16, 32, 4), np.uint8)  # two flat halves: JPEG keeps them
    blocks[:, :16], blocks[:, 16:] = (20, 200, 90, 30), (240, 10, 60, 0)
    cmyk = saved(Image.frombytes("CMYK", (32, 16), blocks.tobytes()), "JPEG", quality=100)
    seen = np.rint((255.0 - blocks[..., :3]) * (255.0 - blocks[..., 3:]) / 255).astype(np.uint8)
    clear = Image.fromarray(GREY).convert("P")
    pnm = b"P5 %d %d %d\n" % (W, H, 65535)
    deep_jp2 = bytearray(saved(colour, "JPEG2000"))
    for i in range(3):  # bits of a component, less one
        deep_jp2[deep_jp2.find(b"\xff\x4f\xff\x51") + 42 + 3 * i] = 15
    deep_jp2 = bytes(deep_jp2)
    members = [
        Member(
            f"JPEG, orientation {o}",
            saved(grey, "JPEG", quality=95, exif=b"Exif\0\0" + exif(o)),
            turned(decoded, o),
        )
        for o in range(1, 9)
    ]
    members += [
        Member(
            f"WebP, orientation {o}",
            saved(colour, "WEBP", lossless=True, exif=exif(o)),
            turned(COLOUR, o),
        )
        for o in (2, 6, 7)
    ]
    members += [
        Member("JPEG, grey", jpeg, decoded),
        Member("JPEG, Adobe CMYK", cmyk, seen, 5),
        Member(
            "JPEG, linear profile",
            saved(grey, "JPEG", quality=95, icc_profile=icc("GRAY", 1.0)),
            through_gamma(decoded, 1.0),
            2,
        ),
        Member(
            "JPEG, broken EXIF", saved(grey, "JPEG", quality=95, exif=b"Exif\0\0nothing"), decoded
        ),
        Member(
            "JPEG, orientation 0",
            saved(grey, "JPEG", quality=95, exif=b"Exif\0\0" + exif(0)),
            decoded,
        ),
        Member("WebP", saved(colour, "WEBP", lossless=True), COLOUR),
        Member(
            "WebP, alpha",
            saved(alpha, "WEBP", lossless=True, exact=True),
            np.where(SPOTS[..., None], 0, COLOUR),
        ),
        Member(
            "WebP, linear profile",
            saved(colour, "WEBP", lossless=True, icc_profile=icc("RGB", 1.0)),
            through_gamma(COLOUR, 1.0),
            3,
        ),
        Member(
            "WebP, animated",
            saved(colour, "WEBP", save_all=True, append_images=[grey.convert("RGB")]),
            None,
            fault="several frames",
        ),
        Member(
            "APNG",
            saved(colour, "PNG", save_all=True, append_images=[grey.convert("RGB")]),
            None,
            fault="several frames",
        ),
        Member(
            "GIF, animated",
            saved(grey, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
            None,
            fault="several frames",
        ),
        Member(
            "GIF, one clear",
            saved(clear, "GIF", transparency=int(np.asarray(clear)[3, 4])),
            np.where(
                (np.asarray(clear) == np.asarray(clear)[3, 4])[..., None],
                0,
                np.asarray(clear.convert("RGB")),
            ),
        ),
        Member("GIF", saved(grey, "GIF"), GREY[..., None].repeat(3, 2)),
        Member("BMP, grey", saved(grey, "BMP"), GREY),
        Member("BMP, colour", saved(colour, "BMP"), COLOUR),
        Member(
            "BMP, 1 bit", saved(Image.fromarray(GREY > 127), "BMP"), (GREY > 127) * np.uint8(255)
        ),
        Member("PGM of 16 bits", pnm + DEEP.astype(">u2").tobytes(), scaled(DEEP)),
        Member(
            "PGM of 12 bits",
            b"P5 %d %d 4095\n" % (W, H) + (DEEP >> 4).astype(">u2").tobytes(),
            scaled(DEEP >> 4),
            1,
        ),
        Member("PPM", b"P6 %d %d 255\n" % (W, H) + COLOUR.tobytes(), COLOUR),
        Member(
            "PPM of 16 bits",
            b"P6 %d %d 65535\n" % (W, H) + (COLOUR.astype(">u2") * 16).tobytes(),
            None,
            fault="PPM of 16 bits a channel",
        ),
        Member(
            "JPEG 2000, colours of 16 bits",
            deep_jp2,
            None,
            fault="JPEG2000 of 16 bits a channel",
        ),
        Member("SGI of 16 bits", saved(colour, "SGI", bpc=2), None, fault="SGI of 16 bits"),
        Member(
            "PFM",
            b"Pf\n%d %d\n-1.0\n" % (W, H) + (GREY[::-1] / np.float32(7)).astype("<f4").tobytes(),
            scaled(GREY),
        ),
        Member("TGA", saved(colour, "TGA"), COLOUR),
        Member("JPEG 2000", saved(colour, "JPEG2000"), COLOUR),
        Member("JPEG 2000 of 16 bits", saved(Image.fromarray(DEEP), "JPEG2000"), scaled(DEEP)),
        Member(
            "EPS",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            None,
            fault="unreadable image",
        ),
        Member("no image", b"a table, perhaps", None, fault="unreadable image"),
        Member("nothing", b"", None, fault="unreadable image|an empty file"),
        Member("JPEG, cut", jpeg[:-60], None, fault="unreadable image"),
        Member("PNG, cut", png(GREY, 8, 0)[:-90], None, fault="unreadable image"),
        Member("PNG, a bit flipped", _flipped(png(GREY, 8, 0)), None, fault="unreadable image"),
        Member(
            "WebP, cut", saved(colour, "WEBP", lossless=True)[:-40], None, fault="unreadable image"
        ),
    ]
    return members


def _flipped(data: bytes) -> bytes:
    """A PNG with one bit of its pixel data flipped."""
    at = data.index(b"IDAT") + 12
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# ------------------------------------------------------------------ DICOM


def dicom(pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", **tags: Any) -> bytes:
    """A DICOM file of (H, W) or (H, W, 3) pixels with these elements; None leaves one out."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=syntax.endswith("1008.1.2"),
        is_little_endian=not syntax.endswith("1.2.2"),
    )
    bits = 8 * pixels.itemsize
    settings = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if pixels.ndim == 3 else {}),
        **tags,
    }
    if settings.get("PlanarConfiguration"):
        pixels = pixels.transpose(2, 0, 1)
    if settings["BitsStored"] < bits and "HighBit" not in tags:
        settings["HighBit"] = settings["BitsStored"] - 1
    for key, value in settings.items():
        if value is not None:
            setattr(dataset, key, value)
    order = pixels.dtype.newbyteorder(">" if syntax.endswith("1.2.2") else "<")
    dataset.PixelData = settings.get("PixelData") or pixels.astype(order).tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def lut(entries: np.ndarray, first: int, bits: int) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def window(values: np.ndarray, centre: float, width: float, kind: str = "LINEAR") -> np.ndarray:
    """The pseudo-code of PS3.3 C.11.2.1.2.1 and C.11.2.1.3, for an output of 0 to 255."""
    values = values.astype(float)
    if kind == "SIGMOID":
        return np.rint(255 / (1 + np.exp(-4 * (values - centre) / width))).astype(np.uint8)
    centre, width = (centre - 0.5, width - 1) if kind == "LINEAR" else (centre, width)
    ramp = ((values - centre) / max(width, 1e-9) + 0.5) * 255
    above = np.where(values > centre + width / 2, 255.0, ramp)
    return np.rint(np.where(values <= centre - width / 2, 0.0, above)).astype(np.uint8)


def jpeg_dicom(values: np.ndarray, **tags: Any) -> bytes:
    from pydicom.encaps import encapsulate

    return dicom(
        values,
        "1.2.840.10008.1.2.4.50",
        PixelData=encapsulate([saved(Image.fromarray(values), "JPEG", quality=95)]),
        **tags,
    )


def enhanced(**tags: Any) -> Any:
    """The sequence of functional groups of the one frame of an enhanced DICOM."""
    from pydicom.dataset import Dataset

    group = Dataset()
    for macro, keys in (("FrameVOILUT", "Window"), ("PixelValueTransformation", "Rescale")):
        inner = Dataset()
        for key, value in tags.items():
            if key.startswith(keys):
                setattr(inner, key, value)
        setattr(group, f"{macro}Sequence", [inner])
    return [group]


def dicom_members() -> list[Member]:
    twelve = GREY.astype(np.uint16) * 14 + 200  # 200 to 3770
    signed = twelve.astype(np.int16) - 2000
    stretched, padded = scaled(twelve), ~SPOTS
    junk = twelve | np.where((X + Y) % 2, 0xF000, 0).astype(np.uint16)
    thirds, sixth = (
        np.where(SPOTS, 4095, twelve),
        np.where(SPOTS & (X > 9), 4000, np.where(SPOTS, 4050, twelve)),
    )
    table = (np.arange(4096)[::-1] // 2).astype(np.uint16)
    palette = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour, values in {
            "Red": np.arange(256),
            "Green": np.arange(256)[::-1],
            "Blue": np.full(256, 70),
        }.items()
        for part, value in {
            "Descriptor": [256, 0, 16],
            "Data": (values * 257).astype("<u2").tobytes(),
        }.items()
    }
    seen_palette = np.stack([GREY, 255 - GREY, GREY * 0 + 70], -1)
    ybr = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    decoded = np.asarray(Image.open(io.BytesIO(saved(Image.fromarray(GREY), "JPEG", quality=95))))
    frame = enhanced(WindowCenter=1500, WindowWidth=800, RescaleSlope=2, RescaleIntercept=-4000)
    twice = np.asarray(Image.fromarray(stretched).resize((W, 2 * H), Image.Resampling.BICUBIC))
    wide = np.asarray(Image.fromarray(stretched).resize((2 * W, H), Image.Resampling.BICUBIC))
    b12 = {"BitsStored": 12}
    members = [
        Member("16 bits", dicom(twelve), stretched),
        Member("12 bits", dicom(twelve, **b12), stretched),
        Member("12 bits under other bits", dicom(junk, **b12), stretched),
        Member("12 bits at the top", dicom(twelve << 4 | 3, **b12, HighBit=15), stretched),
        Member("signed", dicom(signed), stretched),
        Member(
            "12 bits signed",
            dicom((signed.view(np.uint16) & 0xFFF).view(np.int16), **b12),
            stretched,
        ),
        Member("32 bits", dicom(twelve.astype(np.uint32) * 90000), stretched),
        Member("big endian", dicom(twelve, "1.2.840.10008.1.2.2"), stretched),
        Member("implicit", dicom(twelve, "1.2.840.10008.1.2"), stretched),
        Member("deflated", dicom(twelve, "1.2.840.10008.1.2.1.99"), stretched),
        Member("8 bits", dicom(GREY // 3 + 20), GREY // 3 + 20),
        Member("8 bits signed", dicom((GREY ^ 128).view(np.int8)), GREY),
        Member("8 bits, slope -1", dicom(GREY, RescaleSlope=-1, RescaleIntercept=255), 255 - GREY),
        Member("8 bits in 16", dicom(GREY.astype(np.uint16), BitsStored=8), GREY),
        Member("4 bits in 8", dicom(GREY >> 4, BitsStored=4), (GREY >> 4) * 17),
        Member(
            "8 bits, white is low", dicom(GREY, PhotometricInterpretation="MONOCHROME1"), 255 - GREY
        ),
        Member(
            "white is low", dicom(twelve, PhotometricInterpretation="MONOCHROME1"), 255 - stretched
        ),
        Member(
            "white is low, INVERSE",
            dicom(twelve, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
            255 - stretched,
        ),
        Member("INVERSE", dicom(twelve, PresentationLUTShape="INVERSE"), 255 - stretched),
        Member("IDENTITY", dicom(twelve, PresentationLUTShape="IDENTITY"), stretched),
        Member(
            "padding above",
            dicom(np.where(SPOTS, 65535, twelve), PixelPaddingValue=65535),
            scaled(twelve, padded),
        ),
        Member(
            "padding below",
            dicom(np.where(SPOTS, -32768, signed).astype(np.int16), PixelPaddingValue=-32768),
            scaled(twelve, padded),
        ),
        Member(
            "padding between",
            dicom(np.where(SPOTS, 0, signed).astype(np.int16), PixelPaddingValue=0),
            scaled(signed, (~SPOTS) & (signed != 0)),
        ),
        Member(
            "padding beyond the bits",
            dicom(np.where(SPOTS, 65535, twelve), **b12, PixelPaddingValue=65535),
            scaled(twelve, padded),
        ),
        Member(
            "a range of padding",
            dicom(sixth, PixelPaddingValue=4095, PixelPaddingRangeLimit=3990),
            scaled(twelve, padded),
        ),
        Member(
            "padding, white is low",
            dicom(thirds, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1"),
            np.where(SPOTS, 0, 255 - scaled(twelve, padded)),
        ),
        Member(
            "padding and slope",
            dicom(thirds, PixelPaddingValue=4095, RescaleSlope=2, RescaleIntercept=-1000),
            scaled(twelve, padded),
        ),
        Member(
            "padding and window",
            dicom(thirds, PixelPaddingValue=4095, WindowCenter=2000, WindowWidth=1500),
            np.where(SPOTS, 0, window(twelve, 2000, 1500)),
            1,
        ),
        Member(
            "padding of 8 bits",
            dicom(np.where(SPOTS, 255, GREY // 2).astype(np.uint8), PixelPaddingValue=255),
            np.where(SPOTS, 0, GREY // 2),
        ),
        Member("padding that is nowhere", dicom(twelve, PixelPaddingValue=65535), stretched),
        Member("slope", dicom(twelve, RescaleSlope=0.5, RescaleIntercept=-1024), stretched),
        Member(
            "negative slope", dicom(twelve, RescaleSlope=-1, RescaleIntercept=4095), 255 - stretched
        ),
        Member(
            "modality table",
            dicom(twelve, ModalityLUTSequence=lut(table, 0, 12)),
            scaled(table[twelve]),
        ),
        Member(
            "window",
            dicom(twelve, WindowCenter=2000, WindowWidth=1500),
            window(twelve, 2000, 1500),
            1,
        ),
        Member(
            "window, exact",
            dicom(twelve, WindowCenter=2000, WindowWidth=1500, VOILUTFunction="LINEAR_EXACT"),
            window(twelve, 2000, 1500, "LINEAR_EXACT"),
            1,
        ),
        Member(
            "window, sigmoid",
            dicom(twelve, WindowCenter=2000, WindowWidth=900, VOILUTFunction="SIGMOID"),
            window(twelve, 2000, 900, "SIGMOID"),
            1,
        ),
        Member(
            "window of 8 bits",
            dicom(GREY, WindowCenter=100, WindowWidth=80),
            window(GREY, 100, 80),
            1,
        ),
        Member(
            "window of width 1",
            dicom(twelve, WindowCenter=2000, WindowWidth=1),
            np.where(twelve <= 1999.5, 0, 255).astype(np.uint8),
        ),
        Member(
            "two windows",
            dicom(twelve, WindowCenter=[1500, 3000], WindowWidth=[800, 400]),
            window(twelve, 1500, 800),
            1,
        ),
        Member(
            "window wider than the values",
            dicom(twelve, WindowCenter=2048, WindowWidth=8192),
            window(twelve, 2048, 8192),
            1,
        ),
        Member(
            "window after slope",
            dicom(twelve, RescaleSlope=2, RescaleIntercept=-4000, WindowCenter=0, WindowWidth=3000),
            window(twelve * 2.0 - 4000, 0, 3000),
            1,
        ),
        Member(
            "window, white is low",
            dicom(
                twelve, WindowCenter=2000, WindowWidth=1500, PhotometricInterpretation="MONOCHROME1"
            ),
            255 - window(twelve, 2000, 1500),
            1,
        ),
        Member(
            "window and slope of all frames",
            dicom(twelve, NumberOfFrames=1, SharedFunctionalGroupsSequence=frame),
            window(twelve * 2.0 - 4000, 1500, 800),
            1,
        ),
        Member(
            "window and slope of its only frame",
            dicom(twelve, NumberOfFrames=1, PerFrameFunctionalGroupsSequence=frame),
            window(twelve * 2.0 - 4000, 1500, 800),
            1,
        ),
        Member("window of width 0", dicom(twelve, WindowCenter=0, WindowWidth=0), stretched),
        Member(
            "a bad window, then a good one",
            dicom(twelve, WindowCenter=[0, 2000], WindowWidth=[0, 1500]),
            window(twelve, 2000, 1500),
            1,
        ),
        Member("window without a centre", dicom(twelve, WindowWidth=100), stretched),
        Member(
            "VOI table",
            dicom(twelve, VOILUTSequence=lut(table, 0, 11)),
            np.rint(table[twelve] * (255 / 2047)).astype(np.uint8),
        ),
        Member(
            "VOI table that claims more bits",
            dicom(twelve, VOILUTSequence=lut(table, 0, 16)),
            np.rint(table[twelve] * (255 / 2047)).astype(np.uint8),
        ),
        Member(
            "VOI table beside a window",
            dicom(twelve, VOILUTSequence=lut(table, 0, 11), WindowCenter=9, WindowWidth=9),
            np.rint(table[twelve] * (255 / 2047)).astype(np.uint8),
        ),
        Member(
            "VOI table that begins later",
            dicom(twelve, VOILUTSequence=lut(table[:2000], 1000, 12)),
            np.rint(table[np.clip(twelve.astype(int) - 1000, 0, 1999)] * (255 / 2047)).astype(
                np.uint8
            ),
        ),
        Member(
            "VOI table that begins above 32767",
            dicom(twelve + 40000, VOILUTSequence=lut(table, 40000, 11)),
            np.rint(table[twelve] * (255 / 2047)).astype(np.uint8),
        ),
        Member(
            "VOI table that begins below 0, after rescale",
            dicom(
                twelve,
                RescaleSlope=1,
                RescaleIntercept=-2000,
                VOILUTSequence=lut(table, 65536 - 2000, 11),
            ),
            np.rint(table[twelve] * (255 / 2047)).astype(np.uint8),
        ),
        Member("colour", dicom(COLOUR), COLOUR),
        Member("colour, planes", dicom(COLOUR, PlanarConfiguration=1), COLOUR),
        Member("colour, 16 bits", dicom(COLOUR.astype(np.uint16) * 100 + 7), COLOUR),
        Member("YBR", dicom(ybr, PhotometricInterpretation="YBR_FULL"), COLOUR, 3),
        Member(
            "palette",
            dicom(GREY, PhotometricInterpretation="PALETTE COLOR", **palette),
            seen_palette,
        ),
        Member("JPEG", jpeg_dicom(GREY), decoded, 1),
        Member(
            "JPEG, white is low",
            jpeg_dicom(GREY, PhotometricInterpretation="MONOCHROME1"),
            255 - decoded,
            1,
        ),
        Member("tall pixels", dicom(twelve, PixelAspectRatio=[2, 1]), twice),
        Member("wide pixels", dicom(twelve, PixelAspectRatio=[1, 2]), wide),
        Member("tall pixels by spacing", dicom(twelve, PixelSpacing=[0.4, 0.2]), twice),
        Member("square by spacing", dicom(twelve, PixelSpacing=[0.2, 0.2]), stretched),
        Member(
            "window beside the values",
            dicom(twelve, WindowCenter=-9000, WindowWidth=10),
            None,
            fault="one flat grey .* own window .centre -9000, width 10.",
        ),
        Member("constant", dicom(twelve * 0 + 77), None, fault="every pixel has the value 77"),
        Member(
            "all padding",
            dicom(twelve * 0 + 77, PixelPaddingValue=77),
            None,
            fault="no pixel to show",
        ),
        Member(
            "all padding, 8 bits",
            dicom(GREY * 0 + 77, PixelPaddingValue=77),
            None,
            fault="no pixel to show",
        ),
        Member(
            "two frames",
            dicom(twelve.reshape(H // 2, 2 * W), NumberOfFrames=2, Columns=W, Rows=H // 2),
            None,
            fault="2 frames",
        ),
        Member("no pixels", dicom(twelve, Rows=None), None, fault="no Rows"),
        Member("cut", dicom(twelve)[:-100], None, fault="unreadable DICOM"),
        Member(
            "JPEG of another size",
            jpeg_dicom(GREY, Rows=12),
            None,
            fault="24 x 36 pixels, its header says 12 x 36",
        ),
        Member(
            "another interpretation",
            dicom(COLOUR, PhotometricInterpretation="HSV"),
            None,
            fault="HSV",
        ),
        Member(
            "unknown compression",
            jpeg_dicom(GREY).replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99"),
            None,
            fault="unreadable DICOM",
        ),
    ]
    return members
