"""Read heatmap files as float32 maps in [0, 1].

Formats: 8/16-bit grey PNG, .npy, .npz (one dense array, or a SciPy CSR matrix).
"""

from __future__ import annotations

import io
import threading
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..config import DataError
from .images.options import ReadOptions
from .images.pillow_limit import own_limit

# numpy's warning on headers written by Python 2; set once, as warnings.catch_warnings is not
# thread-safe
warnings.filterwarnings(
    "ignore", message="Reading `.npy` or `.npz` file required", category=UserWarning
)

SUFFIXES = (".png", ".npy", ".npz")
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
ASPECT_TOLERANCE = 0.02  # one pixel of rounding on a 50-pixel map
CONTRAST = 1 / 255  # of the maximum: a map with less contrast is flat in 8-bit grey
MEMBERS = 16  # maximum number of arrays in an .npz; a CSR matrix has five
# numpy parses a header with `ast`. In Python 3.11 two threads that do so at once can end in
# "SystemError: AST constructor recursion depth mismatch".
PARSING = threading.Lock()


UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)
# Errors from a damaged or forged .npy header, which numpy parses as Python, and from a zip of an
# unknown kind
BROKEN_ARRAY = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
)


def decode_heatmap(data: bytes, name: str, options: ReadOptions = ReadOptions()) -> np.ndarray:
    """Decode the bytes of a heatmap file, (H, W) float32, non-negative, maximum exactly 1.

    The suffix of `name` decides the format. Raises DataError as `decode_levels` does.
    """
    return unit_map(decode_levels(data, name, options))


def decode_levels(data: bytes, name: str, options: ReadOptions = ReadOptions()) -> np.ndarray:
    """As `decode_heatmap`, but (H, W) uint8 with the values of the file if it has up to 8 bits.

    Raises:
        DataError: with `name`: values that are NaN, infinite, negative, all zero or the same
            everywhere; more than one channel; pickled objects; an unreadable file; or one that is
            larger than `options` allow, by its header.
    """
    suffix = name[name.rfind(".") :].lower()
    if suffix not in SUFFIXES:
        raise DataError(f"heatmap {name!r}: unknown format; expected one of {', '.join(SUFFIXES)}.")
    try:
        values = (
            _decode_png(data, name, options)
            if suffix == ".png"
            else _decode_numpy(data, name, suffix, options)
        )
    except UNREADABLE as error:
        raise DataError(f"heatmap {name!r}: unreadable ({error}).") from error
    return _checked(values, name)


def normalise_heatmap(values: np.ndarray, name: str) -> np.ndarray:
    """Check a map and divide it by its own maximum (not the batch's), (H, W) float32."""
    return unit_map(_checked(values, name))


def unit_map(values: np.ndarray) -> np.ndarray:
    """A map as float32 of maximum 1."""
    if values.dtype == np.float32:
        return values / values.max()
    unit = values.astype(np.float32)
    unit /= unit.max()
    return unit


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    """Check a map, (H, W) uint8 with its own values, or float32 of maximum 1."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values.squeeze(0 if values.shape[0] == 1 else -1)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(
            f"heatmap {name!r}: shape {values.shape}; expected (H, W) or (1, H, W), one grey"
            " channel. A colour-mapped image is not a heatmap: save the values themselves."
        )
    if values.dtype.kind not in "biuf":
        raise DataError(f"heatmap {name!r}: values of type {values.dtype}; expected real numbers.")
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # an overflow becomes infinite, an error below
            values = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"heatmap {name!r}: holds NaN or infinite values; expected finite ones.")
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    low, high = values.min(), values.max()
    if low < 0:
        raise DataError(f"heatmap {name!r}: minimum {low:g}; expected no negative value.")
    if high == 0:
        raise DataError(
            f"heatmap {name!r}: all zero; leave the sample's heatmap blank if it has no annotation."
        )
    if is_flat(np.float32(low) / np.float32(high)):
        raise DataError(
            f"heatmap {name!r}: the same everywhere (contrast below 1/255), so it marks no region;"
            " leave the sample's heatmap blank if it has no annotation."
        )
    return values if values.dtype == np.uint8 else unit_map(values)


def is_flat(values: np.ndarray | np.float32) -> bool:
    """Whether a map of maximum 1 marks no region: it varies by less than a step of 8-bit grey."""
    return bool(1 - values.min() < CONTRAST * (1 - 1e-6))


def check_aspect(heatmap_size: tuple[int, int], image_size: tuple[int, int], name: str) -> None:
    """Raise a DataError unless both (height, width) have the same aspect ratio.

    The resolutions may differ.
    """
    (h, w), (image_h, image_w) = heatmap_size, image_size
    if not aspect_fits(heatmap_size, image_size):
        hint = " It fits transposed." if aspect_fits((w, h), image_size) else ""
        raise DataError(
            f"heatmap {name!r}: {h} x {w} (height x width) on an image of {image_h} x {image_w};"
            f" expected the image's aspect ratio at any resolution.{hint}"
        )


def aspect_fits(heatmap_size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether both (height, width) have the same aspect ratio."""
    (h, w), (image_h, image_w) = heatmap_size, image_size
    # the short side of a map is rounded to whole pixels, which changes its ratio
    tolerance = max(ASPECT_TOLERANCE, 0.5 / min(h, w) + 0.5 / min(image_h, image_w))
    return abs(np.log((w / h) / (image_w / image_h))) <= tolerance


def check_file_size(size: int, name: str, options: ReadOptions) -> None:
    """Raise a DataError for a file that is larger than what it may unpack to (headers aside)."""
    if size > options.max_bytes + (1 << 20):
        raise DataError(
            f"{name}: a file of {size} bytes; expected at most {options.max_bytes} (--max-bytes)."
        )


def read_bounded(path: Path, options: ReadOptions = ReadOptions()) -> bytes:
    """The content of a file. Raises DataError as `check_file_size` does."""
    check_file_size(path.stat().st_size, str(path), options)
    return path.read_bytes()


def check_array_size(
    shape: tuple[int, ...], itemsize: int, what: str, options: ReadOptions
) -> None:
    """Raise a DataError for an array whose header asks for more bytes than `options` allow.

    The message begins with `what`.
    """
    size = itemsize
    for side in shape:
        if side < 0:
            raise DataError(f"{what}: shape {shape}; expected no negative side.")
        size *= int(side)
    if size > options.max_bytes:
        raise DataError(
            f"{what}: shape {shape} of {itemsize} bytes each asks for {size} bytes; expected at"
            f" most {options.max_bytes} (--max-bytes)."
        )


def check_pixels(shape: tuple[int, ...], what: str, options: ReadOptions) -> None:
    """Raise a DataError for a map (height, width) of more pixels than `options` allow.

    The message begins with `what`.
    """
    pixels = 1
    for side in shape:
        pixels *= max(int(side), 0)
    if pixels > options.max_pixels:
        raise DataError(
            f"{what}: {' x '.join(map(str, shape))} (height x width), {pixels} pixels; expected at"
            f" most {options.max_pixels} (--max-pixels)."
        )


def read_npy(data: bytes, what: str, options: ReadOptions) -> np.ndarray:
    """Read an array from the bytes of an .npy; its header is checked first.

    Raises:
        DataError: beginning with `what`: pickled, too large, or cut off.
    """
    stream = io.BytesIO(data)
    try:
        with PARSING:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise DataError(
                f"{what}: an array of objects (pickles). Pickles are not read; save plain numbers."
            )
        check_array_size(shape, dtype.itemsize, what, options)
        if len(shape) == 2:
            check_pixels(shape, what, options)
        needed = dtype.itemsize * int(np.prod(shape, dtype=object))
        present = len(data) - stream.tell()
        if needed > present:
            raise DataError(
                f"{what}: {present} bytes where shape {shape} of {dtype} needs {needed}; the file"
                " was cut off."
            )
        # not np.load, which would parse the header once more
        start = stream.tell()
        return np.ndarray(shape, dtype, data, start, order="F" if is_fortran else "C").copy("K")
    except DataError:
        raise
    except BROKEN_ARRAY as error:
        raise DataError(
            f"{what}: no readable array ({str(error)[:200]}). Pickles are not read; save plain"
            " numbers."
        ) from error


def read_npz(data: bytes, what: str, options: ReadOptions) -> dict[str, np.ndarray]:
    """Read an .npz as {name: array}. Raises DataError as `read_npy` does.

    The index of the file, then the header of each array, is checked before anything is unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MEMBERS or total > options.max_bytes + (1 << 16):
                raise DataError(
                    f"{what}: {len(members)} arrays that unpack to {total} bytes; expected at most"
                    f" {MEMBERS} and {options.max_bytes} bytes (--max-bytes)."
                )
            arrays = {}
            for member in members:  # zipfile unpacks no more bytes than the index states
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    arrays[name] = read_npy(file.read(), f"{what}, array {name!r}", options)
    except DataError:
        raise
    # encrypted, or compressed in a way that Python does not know
    except (RuntimeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{what}: unreadable ({error}).") from error
    return arrays


def _decode_png(data: bytes, name: str, options: ReadOptions) -> np.ndarray:
    try:
        with own_limit():
            picture = Image.open(io.BytesIO(data))
        with picture:
            check_pixels((picture.height, picture.width), f"heatmap {name!r}", options)
            if picture.mode not in GREY_MODES:
                raise DataError(
                    f"heatmap {name!r}: PNG of mode {picture.mode}; expected one grey channel (8 or"
                    " 16 bit). A colour-mapped image is not a heatmap: save the values themselves."
                )
            # the orientation tag of the heatmap itself is applied first (decision 0039)
            picture.load()
            if picture.info:
                ImageOps.exif_transpose(picture, in_place=True)
            return np.asarray(picture)
    except DataError:
        raise
    # text chunks that unpack to megabytes, chunks of other lengths than they state
    except ValueError as error:
        raise DataError(f"heatmap {name!r}: unreadable ({error}).") from error


def _decode_numpy(data: bytes, name: str, suffix: str, options: ReadOptions) -> np.ndarray:
    what = f"heatmap {name!r}"
    if suffix == ".npy":
        return read_npy(data, what, options)
    arrays = read_npz(data, what, options)
    if "indptr" in arrays:
        return _decode_csr(arrays, name, options)
    if len(arrays) != 1:
        raise DataError(
            f"{what}: arrays {list(arrays)}; expected one dense array or a SciPy CSR matrix."
        )
    return next(iter(arrays.values()))


def _decode_csr(arrays: dict[str, np.ndarray], name: str, options: ReadOptions) -> np.ndarray:
    from scipy.sparse import csr_matrix

    missing = {"data", "indices", "indptr", "shape"} - set(arrays)
    if missing:
        raise DataError(
            f"heatmap {name!r}: sparse, but without {sorted(missing)}; save it with"
            " scipy.sparse.save_npz."
        )
    shape, values, indices, indptr = (arrays[key] for key in ("shape", "data", "indices", "indptr"))
    if shape.dtype.kind not in "iu" or shape.shape != (2,) or (shape < 1).any():
        found = shape.tolist() if shape.size < 9 else f"{shape.size} numbers"
        raise DataError(
            f"heatmap {name!r}: a sparse matrix whose shape is {found}: its shape must have length"
            " 2; expected two whole numbers, height and width."
        )
    height, width = (int(side) for side in shape)
    check_pixels((height, width), f"heatmap {name!r}", options)
    check_array_size((height, width), 4, f"heatmap {name!r}", options)
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise DataError(
            f"heatmap {name!r}: indices of type {indices.dtype}, indptr of {indptr.dtype}; expected"
            " whole numbers."
        )
    if values.dtype.kind not in "biuf":
        raise DataError(f"heatmap {name!r}: values of type {values.dtype}; expected real numbers.")
    try:
        with np.errstate(over="ignore"):
            # SciPy has no float16, and the sum of duplicate entries would wrap in 8 bits
            matrix = csr_matrix((values.astype(np.float32), indices, indptr), shape=(height, width))
        # ValueError for indices out of range, or arrays whose lengths do not agree
        matrix.check_format(full_check=True)
        return matrix.toarray()
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise DataError(
            f"heatmap {name!r}: a broken CSR matrix ({error}); save it with scipy.sparse.save_npz."
        ) from error
