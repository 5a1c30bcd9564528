"""Read the files that Pillow opens, as a viewer shows them (decision 0039)."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import numpy as np
from PIL import Image, ImageChops, ImageFile

from ...config import DataError
from .colour import apply_gamma, apply_profile
from .levels import stretch
from .options import ReadOptions
from .picture import QUARTER_TURNS, Frame, Picture, check_size, turn_image
from .pillow_limit import own_limit
from .png import check_png, read_grey_alpha, tells_late

if TYPE_CHECKING:  # Pillow's own order of formats decides when its readers are loaded
    from PIL.TiffImagePlugin import TiffImageFile

# Formats that are not read. EPS and WMF run another program; BUFR, GRIB, HDF5 and MPEG cannot be
# decoded; icons have several sizes; Pillow ignores the scale of FITS; FLI is an animation
NOT_SHOWN = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "ICO", "ICNS", "CUR", "FITS", "FLI")
# Errors that decoders raise on damaged files
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
)
# Bytes per pixel in Pillow's memory, by mode; 4 in all other modes
BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
FIRST_IS_WHOLE = ("MPO", "PSD")  # formats whose further frames are small copies or layers
ORIENTATION, PHOTOMETRIC, SUBFILE, OLD_SUBFILE = 274, 262, 254, 255
BITS, COMPRESSION, PLANAR, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 258, 259, 284, 322, 323, 339
# libtiff returns the byte order of the machine, but Pillow 13 expects that of the file
NATIVE = {
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
}
NATIVE_16 = ";16L" if sys.byteorder == "little" else ";16B"
Draft = Callable[[Image.Image, int], None]  # opened image, orientation


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Convert the errors of decoders on damaged files to a DataError with `name`."""
    try:
        yield
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"{name}: unreadable image (its format, or this variant of it, is not "
            "supported, or its beginning is damaged). Save it as a PNG or TIFF of 8 or 16 "
            "bits, or copy it again."
        ) from error
    except BROKEN as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{name}: unreadable image ({reason}).") from error


def read_pillow(
    file: BinaryIO, name: str, options: ReadOptions, draft: Draft | None = None
) -> Picture:
    """Read an upright image of mode "L" or "RGB". `draft` may ask a JPEG for a smaller one.

    Raises:
        DataError: with `name`: unreadable, damaged, too large, several frames, no pixel to show.
    """
    with own_limit(), readable(name):
        image = _open(file, name, options)
        # Pillow turns a TIFF itself when it decodes it
        turned = _orientation(image) if image.format == "TIFF" else 1
        stored = _turned((image.height, image.width), turned)
        if image.format == "PNG":
            check_png(file, name)
        if draft is not None and image.format in ("JPEG", "MPO"):
            draft(image, _orientation(image))
        shown, deep = _show(file, image, name, options)
        if image.format != "TIFF":
            turned = _orientation(image)  # after decoding: a PNG may have it after its pixels
            shown = turn_image(shown, turned)
        shown.info.clear()
    return Picture(shown, Frame(stored, _turned(stored, turned), turned), deep)


def read_pillow_frame(file: BinaryIO, name: str, options: ReadOptions) -> Frame:
    """Read the frame of an image from its header."""
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


def _open(file: BinaryIO, name: str, options: ReadOptions) -> ImageFile.ImageFile:
    """Identify an image and check its limits; nothing is unpacked yet."""
    file.seek(0)
    size = _webp_size(file.read(30))
    if size:  # Pillow allocates the canvas of a WebP when it opens it
        check_size(size, 4, options, name)
    file.seek(0)
    image = Image.open(file, formats=_formats())
    check_size((image.height, image.width), BYTES.get(image.mode, 4), options, name)
    _check_colour_depth(file, image, name)
    if _is_tiff(image):
        _check_tiff(image, name, options)
    elif image.format not in FIRST_IS_WHOLE and getattr(image, "is_animated", False):
        raise DataError(
            f"{name}: {image.format} of several frames; expected one image. "
            "Save the intended frame."
        )
    return image


def _is_tiff(image: ImageFile.ImageFile) -> TypeGuard[TiffImageFile]:
    return image.format == "TIFF"


def _check_colour_depth(file: BinaryIO, image: ImageFile.ImageFile, name: str) -> None:
    """Raise a DataError for deep colours of which Pillow keeps the upper 8 bits only.

    Such images often become nearly black.
    """
    bits, kind = 8, image.tile[0] if image.tile else None
    arguments = kind.args if kind else None
    if kind and kind.codec_name in ("ppm", "ppm_plain") and image.mode == "RGB":
        assert isinstance(arguments, tuple)  # (raw mode, highest value)
        bits = int(arguments[1]).bit_length()
    elif kind and kind.codec_name == "SGI16":
        bits = 16
    elif image.format == "JPEG2000" and len(image.getbands()) > 1:
        file.seek(0)
        head = file.read(1 << 16)
        position = head.find(b"\xff\x4f\xff\x51") + 42  # Ssiz of the first component
        if 42 <= position < len(head):
            bits = (head[position] & 127) + 1
    if bits > 8:
        raise DataError(
            f"{name}: {image.format} of {bits} bits a channel, of which Pillow "
            "keeps the upper 8; expected 8, or a PNG or TIFF of 16."
        )


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) of the canvas of a WebP, from its first 30 bytes; None: no WebP."""
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
    """The orientation, 1 to 8, from EXIF, TIFF tags or XMP; a damaged one is 1, as in viewers."""
    try:
        # not the method of PngImageFile, which would decode the pixels
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_tiff(image: TiffImageFile, name: str, options: ReadOptions) -> None:
    """Raise a DataError for what Pillow decodes wrongly, several pages, or too large tiles."""
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
        # a tile may be larger than a small image
        limits = ReadOptions(
            None, max(options.max_pixels, 1 << 16), max(options.max_bytes, 1 << 18)
        )
        check_size(tile, 4, limits, f"{name}, tiles")
    if image.is_animated:
        _check_pages(image, name)
    if tags.get(COMPRESSION, 1) != 1 and image.tile:
        _set_raw_mode(image, NATIVE.get(_raw_mode(image)))


def _check_pages(image: TiffImageFile, name: str) -> None:
    """Raise a DataError for a TIFF of several pages.

    Smaller copies of the first page, and masks, do not count as pages.
    """
    page = 0
    while True:
        try:
            image.seek(page := page + 1)
        except EOFError:
            break
        if not (image.tag_v2.get(SUBFILE, 0) & 0b101 or image.tag_v2.get(OLD_SUBFILE) == 2):
            raise DataError(
                f"{name}: TIFF of several pages; expected one image. Save the intended page."
            )
    image.seek(0)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's raw mode of the decoder's bytes, such as RGB;16B; "" if there is none."""
    arguments = image.tile[0].args if image.tile else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _set_raw_mode(image: ImageFile.ImageFile, raw: str | None) -> None:
    """Set the raw mode of all tiles; None leaves them as they are."""

    def changed(arguments: Any) -> Any:
        return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw

    if raw:
        image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]


def _show(
    file: BinaryIO, image: ImageFile.ImageFile, name: str, options: ReadOptions
) -> tuple[Image.Image, bool]:
    """Decode an image: (image of mode "L" or "RGB", whether it has more than 8 bits).

    Only a TIFF is upright.
    """
    info, raw = dict(image.info), _raw_mode(image)
    shown, deep = _sixteen_bit_colour(file, image, raw, name, options), True
    if shown is None:
        deep = image.mode.startswith("I") or image.mode == "F"
        tags: Mapping[int, Any] = image.tag_v2 if _is_tiff(image) else {}
        bits, photometric = max(tags.get(BITS, (0,))), tags.get(PHOTOMETRIC, 1)
        signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
        image.load()
        if deep:
            values = np.asarray(image)
            if image.mode == "I" and bits == 32 and not signed:
                values = values.view(np.uint32)  # Pillow has signed integers only
            clear = image.info.get("transparency")
            shown = _deep_grey(values, clear, photometric == 0, name, options)
        elif signed and bits == 8 and image.mode == "L":
            shown = Image.fromarray(np.asarray(image) ^ 128)  # -128 is black
        else:
            shown = _eight_bits(image, raw, name)
    shown = apply_profile(shown, info.get("icc_profile"))
    if image.format == "PNG" and not info.get("icc_profile") and "srgb" not in info:
        shown = apply_gamma(shown, info.get("gamma", 0))
    return shown, deep


def _deep_grey(
    values: np.ndarray, clear: int | None, white_is_zero: bool, name: str, options: ReadOptions
) -> Image.Image:
    """Convert deep greys to an "L" image.

    `clear` is the transparent value. `white_is_zero` inverts, which Pillow does for 8 bits only.
    """
    grey = stretch(values, None if clear is None else values != clear, options.grey_range, name)
    if white_is_zero:  # NaN and infinite values stay background
        part = np.isfinite(values) if values.dtype.kind == "f" else True
        grey = np.where(part, 255 - grey, 0).astype(np.uint8)
    return Image.fromarray(grey)


def _eight_bits(image: Image.Image, raw: str, name: str) -> Image.Image:
    """Convert any mode of 8 bits or fewer to "L" or "RGB"; alpha is laid over black.

    "CMYK" is kept for its colour profile.
    """
    if image.mode in ("L", "RGB", "CMYK") and "transparency" not in image.info:
        return image
    clear = image.info.get("transparency")
    # Pillow scales pixels of 2 and 4 bits to 8, but not their transparent value
    if image.mode == "L" and isinstance(clear, int):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}.get(raw, 1) & 255
    elif image.mode == "RGB" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value & 255 for value in clear)
    if image.has_transparency_data:
        return _over_black(image, name)
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_black(image: Image.Image, name: str) -> Image.Image:
    """Lay an image with transparency over black; "L" or "RGB"."""
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
    file: BinaryIO, image: ImageFile.ImageFile, raw: str, name: str, options: ReadOptions
) -> Image.Image | None:
    """Convert a PNG or TIFF of 16 bits per channel, over all channels together; None for others.

    Pillow keeps the upper bytes only. A second read with the other byte order gives the lower ones.
    """
    if raw == "LA;16B":
        pixels = read_grey_alpha(file, name)
    elif raw[:-4] in ("RGB", "RGBA", "RGBX") and raw[-4:] in (";16L", ";16B", ";16N"):
        order = NATIVE_16 if raw.endswith("N") else raw[-4:]
        file.seek(0)
        low = Image.open(file, formats=[str(image.format)])
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
