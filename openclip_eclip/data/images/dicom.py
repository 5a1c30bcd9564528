"""Read DICOM with its rescale, window, padding and presentation applied (decision 0039)."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ...config import DataError, UserError
from .colour import apply_profile
from .dicom_numbers import read_number, read_numbers, read_whole
from .levels import check_flat, stretch
from .options import ReadOptions
from .picture import Frame, Picture, check_size

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")  # pydicom converts all to RGB
DEFLATED = "1.2.840.10008.1.2.1.99"
FRAME_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
SQUARE = 0.01  # relative difference of the sides of a pixel that counts as rounding
# Errors that pydicom raises on damaged files
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def is_dicom(file: BinaryIO) -> bool:
    """Whether the content is DICOM: a preamble of 128 bytes, then DICM."""
    file.seek(128)
    return file.read(4) == b"DICM"


def read_dicom(file: BinaryIO, name: str, options: ReadOptions) -> Picture:
    """Read an image of mode "L" or "RGB". Raises DataError as `read.read_picture` does."""
    file = _inflated(file, name, options)
    frame = read_dicom_frame(file, name, options)
    dataset, values = _decode(file, name)
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    bits = read_whole(dataset, "BitsStored", 8 * values.itemsize)
    if photometric in GREY and values.ndim == 2:
        image = Image.fromarray(_grey(dataset, values, bits, name, options))
    elif photometric == "PALETTE COLOR" and values.ndim == 2:
        image = _palette(dataset, values, name)
    elif photometric in COLOUR and values.ndim == 3 and values.shape[2] == 3:
        levels = values if bits == 8 else stretch(values, None, options.grey_range, name)
        image = Image.fromarray(levels)
    else:
        found = photometric or "no photometric interpretation"
        raise DataError(
            f"{name}: unreadable DICOM (pixels of shape {values.shape}, {found}); "
            f"expected one of {', '.join((*GREY, 'PALETTE COLOR', *COLOUR))}."
        )
    if image.mode == "RGB":
        image = apply_profile(image, dataset.get("ICCProfile"))
    if frame.shown_size != frame.stored_size:
        image = image.resize(frame.shown_size[::-1], Image.Resampling.BICUBIC)
    return Picture(image, frame, bits > 8 or values.dtype.kind == "f")


def read_dicom_frame(file: BinaryIO, name: str, options: ReadOptions) -> Frame:
    """Read the frame from the header; DataError for several, or a size beyond `options`."""
    pydicom = _pydicom(name)
    file = _inflated(file, name, options)
    file.seek(0)
    try:
        header = _of_its_frame(pydicom.dcmread(file, stop_before_pixels=True))
        size = read_whole(header, "Rows", 0), read_whole(header, "Columns", 0)
        frames, samples, bits = (
            read_whole(header, key, 1)
            for key in ("NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
        )
        ratio = _pixel_ratio(header)
    except (pydicom.errors.InvalidDicomError, *DAMAGED) as error:
        raise DataError(f"{name}: unreadable DICOM ({error}).") from error
    if 0 in size:
        raise DataError(f"{name}: a DICOM without an image (no Rows and Columns).")
    if frames > 1:
        raise DataError(
            f"{name}: a DICOM of {frames} frames; expected one image. Save the intended frame."
        )
    height, width = max(1, round(size[0] * ratio)), max(1, round(size[1] / ratio))
    shown = (height, size[1]) if ratio > 1 else (size[0], width)
    for height_width in (size, shown):
        check_size(height_width, samples * max(1, bits // 8), options, name)
    return Frame(size, shown)


def _pydicom(name: str) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise UserError(
            f"{name}: reading DICOM needs the extra: pip install 'openclip_eclip[dicom]'"
        ) from error
    return pydicom


def _inflated(file: BinaryIO, name: str, options: ReadOptions) -> BinaryIO:
    """The file, inflated if it is deflated as a whole; pydicom would do so without a limit."""
    file.seek(0)
    head = file.read(1024)
    if DEFLATED.encode() not in head or head[132:136] != b"\2\0\0\0":
        return file
    # The deflated part begins after the group of meta elements; its first element is its length
    start = 144 + int.from_bytes(head[140:144], "little")
    file.seek(start)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(file.read(), options.max_bytes)
    except zlib.error as error:
        raise DataError(f"{name}: unreadable DICOM ({error}).") from error
    if unpacker.unconsumed_tail:
        raise DataError(
            f"{name}: unpacks to more than {options.max_bytes} bytes; expected at most "
            "that (--max-bytes)."
        )
    file.seek(0)
    plain = b"1.2.840.10008.1.2.1"  # the same transfer syntax without deflation
    meta = file.read(start).replace(DEFLATED.encode(), plain + bytes(len(DEFLATED) - len(plain)))
    return io.BytesIO(meta + content)


def _decode(file: BinaryIO, name: str) -> tuple[Any, np.ndarray]:
    """(data set, pixels as stored). Unused bits and padding are included; colours are RGB."""
    pydicom = _pydicom(name)
    file.seek(0)
    uid = None
    try:
        dataset = pydicom.dcmread(file)
        uid = dataset.file_meta.TransferSyntaxUID
        if uid.is_encapsulated:
            _check_compressed(dataset, name)
        pixels = pydicom.pixels.pixel_array(dataset, correct_unused_bits=False)
        return _of_its_frame(dataset), pixels
    except DataError:
        raise
    except (pydicom.errors.InvalidDicomError, *DAMAGED) as error:
        hint = _decoder_hint(pydicom, uid)
        raise DataError(f"{name}: unreadable DICOM ({error}).{hint}") from error


def _of_its_frame(dataset: Any) -> Any:
    """Copy the functional groups of an enhanced DICOM's only frame into the data set."""
    for group in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for macro in FRAME_MACROS:
            for outer in (dataset.get(group) or ())[:1]:
                for inner in (outer.get(macro) or ())[:1]:
                    dataset.update(inner)
    return dataset


def _decoder_hint(pydicom: Any, uid: Any) -> str:
    """The package that is missing, if the compression has no decoder; otherwise ""."""
    try:
        if uid is None or not uid.is_encapsulated or pydicom.pixels.get_decoder(uid).is_available:
            return ""
    except (NotImplementedError, ValueError):
        return f" No decoder is known for its compression ({uid})."
    return (
        f" Its compression ({uid.name}) needs a decoder: "
        "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg."
    )


def _check_compressed(dataset: Any, name: str) -> None:
    """Raise a DataError, before anything is unpacked, if the header states another size."""
    size = _compressed_size(bytes(dataset.PixelData[: 1 << 20]))
    expected = int(dataset.Rows), int(dataset.Columns)
    if size is not None and size != expected:
        raise DataError(
            f"{name}: unreadable DICOM (its compressed picture has {size[0]} x "
            f"{size[1]} pixels, its header says {expected[0]} x {expected[1]})."
        )


def _compressed_size(stream: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a JPEG, JPEG-LS or JPEG 2000 stream; None: not found."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if 0 <= start <= len(stream) - 24:
        right, low, left, top = struct.unpack(">4I", stream[start + 8 : start + 24])
        return low - top, right - left
    # JPEG and JPEG-LS: go from marker to marker up to a start of frame
    position = stream.find(b"\xff\xd8\xff") + 2
    while 2 <= position <= len(stream) - 9 and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", stream[position + 5 : position + 9])
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    return None


def _grey(
    dataset: Any, stored: np.ndarray, bits: int, name: str, options: ReadOptions
) -> np.ndarray:
    """Convert stored greys to uint8 (H, W): rescale; range, table, window or stretch; invert."""
    shown = _not_padding(dataset, stored)
    values = _without_unused_bits(dataset, stored, bits)
    deep = bits > 8 or values.dtype.kind == "f"
    rescaled, table_bits = _rescale(dataset, values, name)
    table, window = _voi_table(dataset, rescaled, name), _window(dataset)
    if deep and options.grey_range:
        grey = stretch(rescaled, shown, options.grey_range, name)
    elif table is not None:
        levels, first = table
        index = (np.rint(rescaled) - first).clip(0, len(levels) - 1).astype(np.int64)
        white = (1 << int(levels.max()).bit_length()) - 1 or 1  # many files state too many bits
        grey = np.rint(levels[index] * (255 / white)).astype(np.uint8)
        _check_voi(grey, rescaled, shown, "by its own VOI table", name)
    elif window is not None:
        grey = _through_window(rescaled, *window)
        centre, width, _ = window
        how = f"by its own window (centre {centre:g}, width {width:g})"
        _check_voi(grey, rescaled, shown, how, name)
    elif deep or table_bits > 8:
        grey = stretch(rescaled, shown, None, name)
    else:
        grey = _shallow(dataset, values, rescaled, bits, table_bits)
    low_is_white = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    if low_is_white or dataset.get("PresentationLUTShape") == "INVERSE":
        grey = 255 - grey  # once: the standard asks for INVERSE together with MONOCHROME1
    if shown is not None:
        if not shown.any():
            raise DataError(f"{name}: no pixel to show: all are padding; expected an image.")
        grey[~shown] = 0
    return grey


def _check_voi(
    grey: np.ndarray, values: np.ndarray, shown: np.ndarray | None, how: str, name: str
) -> None:
    """Raise a DataError for a window outside the values; a flat image of 8 bits is no error."""
    part = values if shown is None else values[shown]
    if part.size and part.min() != part.max():
        extent = f"its values being {float(part.min()):g} to {float(part.max()):g}"
        check_flat(grey, shown, f"{how}, {extent}", name)


def _shallow(
    dataset: Any, values: np.ndarray, rescaled: np.ndarray, bits: int, table_bits: int
) -> np.ndarray:
    """Convert 8 bits or fewer: the scale runs from the lowest storable number to the highest."""
    if table_bits:
        return rescaled.astype(np.uint8)
    low = -(1 << bits - 1) if values.dtype.kind == "i" else 0
    grey = np.rint((values.astype(np.float32) - low) * (255 / ((1 << bits) - 1))).astype(np.uint8)
    decreasing = (read_number(dataset.get("RescaleSlope")) or 1) < 0
    return 255 - grey if decreasing else grey


def _not_padding(dataset: Any, stored: np.ndarray) -> np.ndarray | None:
    """Where the pixels are not padding, bool (H, W); None if none is padding.

    Stored values are compared, because padding often uses bits that are otherwise unused.
    """
    value = _like(dataset.get("PixelPaddingValue"), stored.dtype)
    limit = _like(dataset.get("PixelPaddingRangeLimit"), stored.dtype)
    if value is None:
        return None
    low, high = sorted((value, value if limit is None else limit))
    padding = (stored >= low) & (stored <= high)
    return ~padding if padding.any() else None


def _like(value: Any, dtype: np.dtype) -> float | None:
    """A padding value as a pixel of type `dtype`; the file may give it with another sign."""
    number = read_number(value)
    if number is None or dtype.kind not in "iu":
        return number
    span, low = 1 << 8 * dtype.itemsize, np.iinfo(dtype).min
    return (int(number) - int(low)) % span + int(low)


def _without_unused_bits(dataset: Any, stored: np.ndarray, bits: int) -> np.ndarray:
    """The numbers in the BitsStored bits up to HighBit; other bits may have any value."""
    allocated = 8 * stored.itemsize
    if stored.dtype.kind not in "iu" or not 0 < bits < allocated:
        return stored
    high = max(read_whole(dataset, "HighBit", bits - 1), bits - 1)
    top = allocated - 1 - min(high, allocated - 1)
    return stored << top >> allocated - bits


def _rescale(dataset: Any, values: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """(numbers after the modality's table or slope and intercept, bits of that table or 0)."""
    if dataset.get("ModalityLUTSequence"):
        levels, first = _table(dataset, dataset.ModalityLUTSequence[0], name)
        if values.dtype.kind == "i" and first > 32767:
            first -= 1 << 16
        index = (values.astype(np.int64) - first).clip(0, len(levels) - 1)
        return levels[index], int(levels.max()).bit_length() or 1
    slope, intercept = (
        read_number(dataset.get(key)) for key in ("RescaleSlope", "RescaleIntercept")
    )
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if (slope, intercept) == (1, 0):
        return values, 0
    values = values.astype(np.float32 if values.itemsize <= 2 else np.float64)
    return values * slope + intercept, 0


def _voi_table(dataset: Any, values: np.ndarray, name: str) -> tuple[np.ndarray, int] | None:
    """The VOI table as `_table` returns it, or None."""
    sequence = dataset.get("VOILUTSequence")
    if not sequence or None in (sequence[0].get("LUTData"), sequence[0].get("LUTDescriptor")):
        return None
    levels, first = _table(dataset, sequence[0], name)
    # The first value may be a negative number in an unsigned element: so it is taken if no pixel
    # reaches the unsigned number
    return levels, first - (1 << 16) if first > max(32767, values.max()) else first


def _table(dataset: Any, item: Any, name: str) -> tuple[np.ndarray, int]:
    """(the entries of a table, the pixel value of its first entry)."""
    try:
        count, first, _ = (int(number) for number in item.LUTDescriptor)
        data = item.LUTData
        if isinstance(data, bytes):
            order = "<" if dataset.original_encoding[1] in (True, None) else ">"
            wide = len(data) >= 2 * (count or 1 << 16)
            data = np.frombuffer(data, f"{order}u2" if wide else np.uint8)
        levels = np.atleast_1d(np.asarray(data)).astype(np.int64)[: count or 1 << 16]
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{name}: unreadable DICOM (a table of grey levels: {error}).") from error
    if not len(levels) or levels.min() < 0:
        raise DataError(
            f"{name}: unreadable DICOM (a table of grey levels with {len(levels)} "
            "entries, or negative ones)."
        )
    return levels, first


def _window(dataset: Any) -> tuple[float, float, str] | None:
    """(centre, width, function) of the first window whose width the standard allows, or None."""
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    exact = function in ("LINEAR_EXACT", "SIGMOID")
    function = function if exact else "LINEAR"
    centres, widths = (read_numbers(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    for centre, width in zip(centres, widths):
        if centre is not None and width is not None and (width > 0 if exact else width >= 1):
            return centre, width, function
    return None


def _through_window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Apply a window as in PS3.3 C.11.2.1.2 and C.11.2.1.3; uint8 (H, W), 0 to 255."""
    values = values.astype(np.float32 if values.itemsize <= 4 else np.float64)
    if function == "SIGMOID":
        levels = 1 / (1 + np.exp((-4 * (values - centre) / width).clip(-80, 80)))
    else:
        if function == "LINEAR":
            centre, width = centre - 0.5, width - 1
        rising = width and ((values - centre) / width + 0.5).clip(0, 1)
        levels = rising if width else (values > centre).astype(np.float32)
    return np.rint(np.nan_to_num(levels) * 255).astype(np.uint8)


def _palette(dataset: Any, values: np.ndarray, name: str) -> Image.Image:
    """Convert indices into the palette of the data set to an RGB image."""
    from pydicom.pixels import apply_color_lut

    try:
        values = _without_unused_bits(dataset, values, read_whole(dataset, "BitsStored", 8))
        colours = apply_color_lut(values, dataset)[..., :3]
    except DAMAGED as error:
        raise DataError(f"{name}: unreadable DICOM (its palette: {error}).") from error
    return Image.fromarray((colours >> 8 if colours.max() > 255 else colours).astype(np.uint8))


def _pixel_ratio(dataset: Any) -> float:
    """Height of a pixel / its width; 1 if they are equal, or if there is no usable element."""
    for key in (
        "PixelSpacing",
        "ImagerPixelSpacing",
        "NominalScannedPixelSpacing",
        "PixelAspectRatio",
    ):
        pair = read_numbers(dataset.get(key))
        if len(pair) != 2:
            continue
        height, width = pair
        if height is not None and height > 0 and width is not None and width > 0:
            return height / width if abs(height / width - 1) > SQUARE else 1.0
    return 1.0
