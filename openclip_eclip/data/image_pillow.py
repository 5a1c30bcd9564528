"""Everything that Pillow opens, as a person sees it (decision 0039)."""

from __future__ import annotations

import struct
import sys
import zlib
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, Callable, Iterator

import numpy as np
from PIL import Image, ImageChops

from .heatmap import DataError
from .image_colour import apply_gamma, apply_profile
from .image_levels import stretch
from .image_png import check_png, read_grey_alpha, tells_late
from .picture import QUARTER_TURNS, Frame, Picture, check_size, turn_image
from .pillow_limit import own_limit
from .read_options import ReadOptions

# EPS and WMF run another program; BUFR, GRIB, HDF5 and MPEG cannot be decoded; icons hold several
# sizes; Pillow ignores the scale of FITS, and FLI is an animation
NOT_SHOWN = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "ICO", "ICNS", "CUR", "FITS", "FLI")
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)  # what decoders raise on damaged files
# a pixel in Pillow's memory; 4 in all other modes
BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
FIRST_IS_WHOLE = ("MPO", "PSD")  # further frames are small copies and layers
ORIENTATION, PHOTOMETRIC, SUBFILE, OLD_SUBFILE = 274, 262, 254, 255
BITS, COMPRESSION, PLANAR, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 258, 259, 284, 322, 323, 339
# libtiff gives the machine's byte order where Pillow 13 expects the file's
NATIVE = {
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
}
NATIVE_16 = ";16L" if sys.byteorder == "little" else ";16B"
Draft = Callable[[Image.Image], None]


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What a decoder raises on a damaged file becomes a DataError with `name`."""
    try:
        yield
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"{name}: unreadable image (its format, or this kind of it, is not read "
            "here, or its beginning is damaged). Save it as a PNG or TIFF of 8 or 16 "
            "bits, or copy it again."
        ) from error
    except BROKEN as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{name}: unreadable image ({reason}).") from error


def read_pillow(
    file: BinaryIO, name: str, options: ReadOptions, draft: Draft | None = None
) -> Picture:
    """The picture upright, of mode "L" or "RGB". `draft` may ask a JPEG for a smaller one.

    DataError with `name`: unreadable, damaged, too large, several frames, nothing to show.
    """
    with own_limit(), readable(name):
        image = _open(file, name, options)
        # Pillow turns TIFF itself, when it decodes
        turned = _orientation(image) if image.format == "TIFF" else 1
        stored = _turned((image.height, image.width), turned)
        if image.format == "PNG":
            check_png(file, name)
        if draft is not None and image.format in ("JPEG", "MPO"):
            draft(image)
        shown, deep = _show(file, image, name, options)
        if image.format != "TIFF":
            turned = _orientation(image)  # only now: PNG may tell after its pixels
            shown = turn_image(shown, turned)
        shown.info.clear()
    return Picture(shown, Frame(stored, _turned(stored, turned), turned), deep)


def read_pillow_frame(file: BinaryIO, name: str, options: ReadOptions) -> Frame:
    """The same from the header alone."""
    with own_limit(), readable(name):
        image = _open(file, name, options)
        if image.format == "PNG" and tells_late(file):
            image.load()
        size, turned = (image.height, image.width), _orientation(image)
    stored = _turned(size, turned) if image.format == "TIFF" else size
    return Frame(stored, _turned(stored, turned), turned)


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation in QUARTER_TURNS else size


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.preinit()
    common = tuple(Image.OPEN)
    Image.init()
    return tuple(dict.fromkeys(kind for kind in (*common, *Image.OPEN) if kind not in NOT_SHOWN))


def _open(file: BinaryIO, name: str, options: ReadOptions) -> Image.Image:
    """Identified and within the limits, nothing unpacked yet."""
    file.seek(0)
    size = _webp_size(file.read(30))
    if size:  # Pillow allocates a WebP's canvas when it opens it
        check_size(size, 4, options, name)
    file.seek(0)
    image = Image.open(file, formats=_formats())
    check_size((image.height, image.width), BYTES.get(image.mode, 4), options, name)
    _check_colour_depth(file, image, name)
    if image.format == "TIFF":
        _check_tiff(image, name, options)
    elif image.format not in FIRST_IS_WHOLE and getattr(image, "is_animated", False):
        raise DataError(
            f"{name}: {image.format} of several frames; expected one image. "
            "Save the frame that is meant."
        )
    return image


def _check_colour_depth(file: BinaryIO, image: Image.Image, name: str) -> None:
    """DataError for deep colours of which Pillow keeps the upper 8 bits: often nearly black."""
    bits, kind = 8, image.tile[0] if image.tile else None
    if kind and kind.codec_name in ("ppm", "ppm_plain") and image.mode == "RGB":
        bits = int(kind.args[1]).bit_length()
    elif kind and kind.codec_name == "SGI16":
        bits = 16
    elif image.format == "JPEG2000" and len(image.getbands()) > 1:
        file.seek(0)
        head = file.read(1 << 16)
        place = head.find(b"\xff\x4f\xff\x51") + 42  # Ssiz of the first component
        if 42 <= place < len(head):
            bits = (head[place] & 127) + 1
    if bits > 8:
        raise DataError(
            f"{name}: {image.format} of {bits} bits a channel, of which Pillow "
            "keeps the upper 8; expected 8, or a PNG or TIFF of 16."
        )


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) of a WebP's canvas from its first 30 bytes."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[27:30], "little") + 1, int.from_bytes(head[24:27], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[26:30])
    return height & 0x3FFF, width & 0x3FFF


def _orientation(image: Image.Image) -> int:
    """1 to 8 from EXIF, TIFF tags or XMP; a damaged one counts as none, as viewers have it."""
    try:
        value = Image.Image.getexif(image).get(ORIENTATION, 1)  # not PNG's own, which decodes
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_tiff(image: Image.Image, name: str, options: ReadOptions) -> None:
    """DataError for what Pillow would show wrongly, several pages and oversized tiles."""
    tags = image.tag_v2
    if PHOTOMETRIC not in tags:
        raise DataError(
            f"{name}: TIFF without PhotometricInterpretation (tag 262), so black "
            "may be 0 or the highest value; expected the tag."
        )
    bits, tile = tags.get(BITS, (1,)), (tags.get(TILE_LENGTH, 1), tags.get(TILE_WIDTH, 1))
    if tags.get(PLANAR, 1) == 2 and max(bits) != 8 and len(bits) > 1:
        raise DataError(
            f"{name}: TIFF of {max(bits)} bits with its colours stored apart, which "
            "Pillow decodes wrongly; expected pixel after pixel (PlanarConfiguration "
            "1)."
        )
    if all(isinstance(side, int) for side in tile):
        least = ReadOptions(None, max(options.max_pixels, 1 << 16), max(options.max_bytes, 1 << 18))
        check_size(tile, 4, least, f"{name}, tiles")  # may be larger than a small image
    if image.is_animated:
        _check_pages(image, name)
    if tags.get(COMPRESSION, 1) != 1 and image.tile:
        _set_raw_mode(image, NATIVE.get(_raw_mode(image)))


def _check_pages(image: Image.Image, name: str) -> None:
    """Smaller copies of the first page and masks are no further pages."""
    page = 0
    while True:
        try:
            image.seek(page := page + 1)
        except EOFError:
            break
        if not (image.tag_v2.get(SUBFILE, 0) & 0b101 or image.tag_v2.get(OLD_SUBFILE) == 2):
            raise DataError(
                f"{name}: TIFF of several pages; expected one image. Save the page that is meant."
            )
    image.seek(0)


def _raw_mode(image: Image.Image) -> str:
    """How the decoder's bytes are understood, such as RGB;16B; "" where nothing says so."""
    arguments = image.tile[0].args if image.tile else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _set_raw_mode(image: Image.Image, raw: str | None) -> None:
    def changed(arguments: Any) -> Any:
        return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw

    if raw:
        image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]


def _show(
    file: BinaryIO, image: Image.Image, name: str, options: ReadOptions
) -> tuple[Image.Image, bool]:
    """(the decoded "L" or "RGB" image, turned for TIFF alone; whether it has more than 8 bits)."""
    info, raw = dict(image.info), _raw_mode(image)
    found, deep = _sixteen_bit_colour(file, image, raw, name, options), True
    if found is None:
        deep = image.mode.startswith("I") or image.mode == "F"
        tags = image.tag_v2 if image.format == "TIFF" else {}
        bits, photometric = max(tags.get(BITS, (0,))), tags.get(PHOTOMETRIC, 1)
        signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
        image.load()
        if deep:
            values = np.asarray(image)
            if image.mode == "I" and bits == 32 and not signed:
                values = values.view(np.uint32)  # Pillow has signed ones only
            clear = image.info.get("transparency")
            found = _deep_grey(values, clear, photometric == 0, name, options)
        elif signed and bits == 8 and image.mode == "L":
            found = Image.fromarray(np.asarray(image) ^ 128)  # -128 is black
        else:
            found = _eight_bits(image, raw, name)
    found = apply_profile(found, info.get("icc_profile"))
    if image.format == "PNG" and not info.get("icc_profile") and "srgb" not in info:
        found = apply_gamma(found, info.get("gamma", 0))
    return found, deep


def _deep_grey(
    values: np.ndarray, clear: int | None, white_is_zero: bool, name: str, options: ReadOptions
) -> Image.Image:
    """`clear`: the value that is transparent; `white_is_zero`: Pillow inverts 8 bits, not more."""
    grey = stretch(values, None if clear is None else values != clear, options.grey_range, name)
    if white_is_zero:  # what is no number stays background
        part = np.isfinite(values) if values.dtype.kind == "f" else True
        grey = np.where(part, 255 - grey, 0).astype(np.uint8)
    return Image.fromarray(grey)


def _eight_bits(image: Image.Image, raw: str, name: str) -> Image.Image:
    """Any mode of 8 bits or fewer as "L", "RGB" or, for its profile, "CMYK"; alpha over black."""
    if image.mode in ("L", "RGB", "CMYK") and "transparency" not in image.info:
        return image
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int):  # Pillow scales pixels of 2, 4 bits alone
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}.get(raw, 1) & 255
    elif image.mode == "RGB" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value & 255 for value in clear)
    if image.has_transparency_data:
        return _over_black(image, name)
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_black(image: Image.Image, name: str) -> Image.Image:
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("LA" if grey else "RGBA")
    alpha = image.getchannel("A")
    colour = image.getchannel("L") if grey else image.convert("RGB")
    low, high = alpha.getextrema()
    if high == 0:
        raise DataError(f"{name}: no pixel to show: all are transparent; expected an image.")
    if low == 255:
        return colour
    return ImageChops.multiply(colour, alpha if grey else Image.merge("RGB", [alpha] * 3))


def _sixteen_bit_colour(
    file: BinaryIO, image: Image.Image, raw: str, name: str, options: ReadOptions
) -> Image.Image | None:
    """A PNG or TIFF of 16 bits a channel, stretched over its channels together; None for others.

    Pillow keeps the upper bytes alone. The lower ones are had by reading with the other byte order.
    """
    if raw == "LA;16B":
        pixels = read_grey_alpha(file, name)
    elif raw[:-4] in ("RGB", "RGBA", "RGBX") and raw[-4:] in (";16L", ";16B", ";16N"):
        order = NATIVE_16 if raw.endswith("N") else raw[-4:]
        file.seek(0)
        low = Image.open(file, formats=[image.format])
        _set_raw_mode(low, raw[:-4] + {";16L": ";16B", ";16B": ";16L"}[order])
        low.load()
        file.seek(0)
        image.load()
        pixels = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    else:
        return None
    shown, clear = None, image.info.get("transparency")
    if pixels.shape[2] in (2, 4):
        shown = pixels[..., -1] > 0
    elif clear is not None:
        shown = (pixels != np.array(clear)).any(axis=-1)
    colours = pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels
    shown = None if shown is None or shown.all() else shown
    levels = stretch(colours, shown, options.grey_range, name)
    if pixels.shape[2] in (2, 4) and pixels[..., -1].min() < 65535:
        levels = np.rint(levels * (pixels[..., -1:] / 65535)).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
