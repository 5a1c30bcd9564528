"""Raw images (JPEG, PNG, DICOM) to small grey JPEGs."""
from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..config import UserError


SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")


class ImageError(UserError):
    """An image that can not be read, named by its file."""


def list_images(folders: Iterable[Path]) -> dict[str, Path]:
    """{name without suffixes: file} of the images in these folders; the first folder that has a name wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in SUFFIXES:
                    found.setdefault(path.name.partition(".")[0], path)
    return found


def read_grey(path: Path, size: int | None, content: bytes | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The 8-bit grey image, its shortest side reduced to `size` pixels (never enlarged), and its original (height, width).

    `content`: the file's, where it lies in an archive; `path` then only names it. ImageError: missing, unreadable, truncated.
    """
    source = path if content is None else io.BytesIO(content)
    try:
        if path.suffix.lower() in (".dcm", ".dicom"):
            image = _read_dicom(source, path)
            original = image.height, image.width
        else:
            image = Image.open(source)
            original = image.height, image.width
            if size is not None:  # JPEG: decode at the smallest scale that is still twice as large as needed
                image.draft("L", (_scaled(original, 2 * size)[1], _scaled(original, 2 * size)[0]))
            image = _to_grey(image)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ImageError(f"{path}: unreadable image ({error}).") from error
    if size is not None and min(original) > size:
        height, width = _scaled(original, size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return image, original


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_map(values: np.ndarray) -> bytes:
    """A grey PNG of a heatmap: (h, w) float in [0, 1], 1 becoming 255."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _scaled(original: tuple[int, int], shortest: int) -> tuple[int, int]:
    scale = shortest / min(original)
    return round(original[0] * scale), round(original[1] * scale)


def _to_grey(image: Image.Image) -> Image.Image:
    """8 bit; 16-bit images by their own range. An alpha channel is ignored, as a viewer of films would."""
    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(np.asarray(image, dtype=np.float32))
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGB")
    return image.convert("L")


def _stretch(values: np.ndarray) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def _read_dicom(source: Path | io.BytesIO, path: Path) -> Image.Image:
    """Pixels through the file's own rescale and window (VOI) steps; MONOCHROME1 (white is low) inverted."""
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise UserError("reading DICOM needs the extra: pip install 'openclip_eclip[dicom]'") from error
    try:
        dataset = pydicom.dcmread(source)
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float32)
    except (pydicom.errors.InvalidDicomError, AttributeError, EOFError, KeyError, ValueError, RuntimeError,
            struct.error) as error:
        raise ImageError(f"{path}: unreadable DICOM ({error}). Rare compressions need "
                         "a decoder more: pip install pylibjpeg pylibjpeg-libjpeg.") from error
    if values.ndim != 2:
        raise ImageError(f"{path}: pixels of shape {values.shape}; expected one grey frame.")
    if dataset.get("BitsStored", 16) == 8 and values.min() >= 0 and values.max() <= 255:  # as it is: RSNA's films
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    else:
        image = _stretch(values)
    return ImageOps.invert(image) if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else image
