"""The reader of image files: any file that Pillow or pydicom opens, as a viewer shows it.

Training, validation, evaluation, search, reports, overlap, contact sheets, checks and `prepare` use
it, so that all have the same image: 8 bits of grey or colour. What the file states about its
display is applied: orientation, colour profile, transparency (over black), white at zero, and the
rescale, window, padding and presentation of DICOM. Decision 0039 has the rules.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...config import DataError
from ..heatmap import check_file_size
from .dicom import is_dicom, read_dicom, read_dicom_frame
from .options import ReadOptions
from .picture import Frame, Picture
from .pillow import Draft, read_pillow, read_pillow_frame

DICOM_SUFFIXES = (".dcm", ".dicom")


def read_picture(
    data: bytes | Path, name: str, options: ReadOptions = ReadOptions(), draft: Draft | None = None
) -> Picture:
    """Decode a whole file, or its bytes, to an upright image of mode "L" or "RGB".

    `draft` may ask a JPEG for a smaller image.

    Raises:
        DataError: with `name`: missing, unreadable, truncated, larger than `options` allow, several
            frames or pages, or no pixel to show.
        UserError: a DICOM file, but pydicom is not installed.
    """
    with _opened(data, name, options) as file:
        if is_dicom(file):
            return read_dicom(file, name, options)
        return read_pillow(file, _unlike_dicom(data, name), options, draft)


def read_frame(data: bytes | Path, name: str, options: ReadOptions = ReadOptions()) -> Frame:
    """Read size and orientation from the header.

    Raises DataError as `read_picture` does, for errors that show in the header.
    """
    with _opened(data, name, options) as file:
        if is_dicom(file):
            return read_dicom_frame(file, name, options)
        return read_pillow_frame(file, _unlike_dicom(data, name), options)


def _unlike_dicom(data: bytes | Path, name: str) -> str:
    """The name for messages; it says so if a file has a DICOM suffix but is none."""
    called = str(data if isinstance(data, Path) else name).lower().endswith(DICOM_SUFFIXES)
    return f"{name}: no DICOM preamble" if called else name


@contextmanager
def _opened(data: bytes | Path, name: str, options: ReadOptions) -> Iterator[BinaryIO]:
    if isinstance(data, bytes):
        yield io.BytesIO(data)
        return
    try:
        file = open(data, "rb")
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: unreadable image ({error}).") from error
    with file:
        check_file_size(os.fstat(file.fileno()).st_size, name, options)
        yield file
