"""Heatmap files to float32 maps in [0, 1]: 8/16-bit grey PNG, .npy, .npz (dense, or SciPy CSR)."""
from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..config import UserError

SUFFIXES = (".png", ".npy", ".npz")
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
ASPECT_TOLERANCE = 0.02  # one pixel of rounding on a 50-pixel map


class DataError(UserError):
    """Bad input data, named by file and row or key."""


def decode_heatmap(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a heatmap file, (H, W) float32, non-negative, maximum exactly 1.

    `name` decides the format by its suffix and is named in every DataError: NaN or infinite, negative, all zero, more
    than one channel, pickled objects, unreadable.
    """
    suffix = name[name.rfind("."):].lower()
    if suffix not in SUFFIXES:
        raise DataError(f"heatmap {name!r}: unknown format; expected one of {', '.join(SUFFIXES)}.")
    try:
        values = _decode_png(data, name) if suffix == ".png" else _decode_numpy(data, name, suffix)
    except (OSError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, UnidentifiedImageError) as error:
        raise DataError(f"heatmap {name!r}: unreadable ({error}).") from error
    return normalise_heatmap(values, name)


def normalise_heatmap(values: np.ndarray, name: str) -> np.ndarray:
    """Check a map and divide it by its own maximum (never the batch's), (H, W) float32."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values.squeeze(0 if values.shape[0] == 1 else -1)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"heatmap {name!r}: shape {values.shape}; expected (H, W) or (1, H, W), one grey channel. "
                        "A colour-mapped picture is not a heatmap: save the values themselves.")
    if values.dtype.kind not in "biuf":
        raise DataError(f"heatmap {name!r}: values of type {values.dtype}; expected real numbers.")
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"heatmap {name!r}: holds NaN or infinite values; expected finite ones.")
    if values.dtype.kind in "if" and values.min() < 0:
        raise DataError(f"heatmap {name!r}: minimum {values.min():g}; expected no negative value.")
    if not values.any():
        raise DataError(f"heatmap {name!r}: all zero; leave the sample's heatmap blank if it has no annotation.")
    values = values.astype(np.float32, copy=False)
    return values / values.max()


def check_aspect(heatmap_size: tuple[int, int], image_size: tuple[int, int], name: str) -> None:
    """DataError unless both (height, width) have the same aspect ratio; the resolutions may differ."""
    (h, w), (image_h, image_w) = heatmap_size, image_size
    if not aspect_fits(heatmap_size, image_size):
        hint = " It fits transposed." if aspect_fits((w, h), image_size) else ""
        raise DataError(f"heatmap {name!r}: {h} x {w} (height x width) on an image of {image_h} x {image_w}; expected "
                        f"the image's aspect ratio at any resolution.{hint}")


def aspect_fits(heatmap_size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether both (height, width) have the same aspect ratio."""
    (h, w), (image_h, image_w) = heatmap_size, image_size
    # a map of h rows can only hit the image's ratio to within half a pixel on its short side
    tolerance = max(ASPECT_TOLERANCE, 0.5 / min(h, w) + 0.5 / min(image_h, image_w))
    return abs(np.log((w / h) / (image_w / image_h))) <= tolerance


def _decode_png(data: bytes, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode not in GREY_MODES:
            raise DataError(f"heatmap {name!r}: PNG of mode {picture.mode}; expected one grey channel (8 or 16 bit). "
                            "A colour-mapped picture is not a heatmap: save the values themselves.")
        return np.asarray(ImageOps.exif_transpose(picture))  # its own orientation comes first (decision 0039)


def _decode_numpy(data: bytes, name: str, suffix: str) -> np.ndarray:
    try:
        if suffix == ".npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if "indptr" in archive.files:
                return _decode_csr(archive, name)
            if len(archive.files) != 1:
                raise DataError(f"heatmap {name!r}: arrays {archive.files}; expected one dense array or a SciPy CSR matrix.")
            return archive[archive.files[0]]
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"heatmap {name!r}: {error}. Object arrays (pickles) are refused; save plain numbers.") from error


def _decode_csr(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    from scipy.sparse import csr_matrix

    missing = {"data", "indices", "indptr", "shape"} - set(archive.files)
    if missing:
        raise DataError(f"heatmap {name!r}: sparse, but without {sorted(missing)}; save it with scipy.sparse.save_npz.")
    shape = tuple(int(side) for side in np.atleast_1d(archive["shape"]))
    values, indices, indptr = (archive[key] for key in ("data", "indices", "indptr"))
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise DataError(f"heatmap {name!r}: indices of type {indices.dtype}, indptr of {indptr.dtype}; expected whole numbers.")
    if values.dtype.kind in "biuf":  # SciPy knows no float16, and entries given twice would wrap in 8 bits
        values = values.astype(np.float32)
    matrix = csr_matrix((values, indices, indptr), shape=shape)
    matrix.check_format(full_check=True)  # ValueError for indices out of range or arrays that do not fit
    return matrix.toarray()
