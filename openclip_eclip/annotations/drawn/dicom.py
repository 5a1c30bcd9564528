"""DICOM segmentations, and the graphic objects of presentation states.

The image is the one that the file refers to: its file, where SRC has it, or else its SOP instance
UID. The annotator is the ContentCreatorName.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...data.images.dicom import DAMAGED
from ...data.images.options import MAX_BYTES
from ..record import Drawing, LeaveOut, Record
from .dicom_graphics import shape_of
from .mask_runs import encode_mask

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STATE = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.11\.\d+")
CLASS = re.compile(rb"\x02\x00\x02\x00UI..([0-9.]+)", re.DOTALL)  # MediaStorageSOPClassUID
HALF = 0.5  # of the largest value of a fractional segmentation


def claims(path: Path, head: bytes) -> bool:
    """Whether the header says that this DICOM file is one of the two kinds."""
    found = CLASS.search(head[132:1024]) if head[128:132] == b"DICM" else None
    kind = found[1].decode() if found else ""
    return kind in SEGMENTATION or STATE.fullmatch(kind) is not None


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Record]:
    """All segments and closed graphic objects, in the order of the files.

    Raises:
        UserError: the extra is not installed, a broken file, no reference to an image.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UserError(
            f"{files[0]}: reading DICOM needs the extra: pip install 'openclip_eclip[dicom]'"
        ) from error
    images = _images(pydicom, root, set(files))
    known: dict[str, Path] = {}
    for path in files:
        try:
            dataset = pydicom.dcmread(path)
            records = list(_records(path, dataset, images, leave_out))
        except UserError:
            raise
        except (pydicom.errors.InvalidDicomError, *DAMAGED) as error:
            raise UserError(
                f"{path}: not a readable DICOM annotation ({type(error).__name__}: {error})."
            ) from error
        identity = str(dataset.get("SOPInstanceUID", ""))
        if identity and identity in known:
            raise UserError(
                f"{path}: the SOP instance UID {identity} again, first in {known[identity]};"
                " expected each file once."
            )
        known[identity] = path
        yield from records


def _images(pydicom: Any, root: Path, others: set[Path]) -> dict[str, str]:
    """Paths, relative to `root`, of its DICOM images by SOP instance UID."""
    result = {}
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        if path in others or path.suffix.lower() not in (".dcm", ".dicom", "") or path.is_dir():
            continue
        try:
            header = pydicom.dcmread(path, None, True, specific_tags=["SOPInstanceUID"])
        except (pydicom.errors.InvalidDicomError, *DAMAGED):
            continue  # the join reads the images, and tells what is wrong with one
        result[str(header.get("SOPInstanceUID", ""))] = path.relative_to(root).as_posix()
    return result


def _records(
    path: Path, dataset: Any, images: dict[str, str], leave_out: LeaveOut
) -> Iterator[Drawing]:
    annotator = str(dataset.get("ContentCreatorName", "") or "").replace("^", " ").strip()
    segmented = str(dataset.get("SOPClassUID", "")) in SEGMENTATION
    found = _segments(path, dataset) if segmented else _graphics(path, dataset, leave_out)
    for uid, shape, label, where, size in found:
        if shape is None:
            leave_out("empty segment", where)
        else:
            yield Drawing(images.get(uid, uid), shape, where, label, annotator, size, file=path)


def _segments(path: Path, dataset: Any) -> Iterator[tuple[str, Any, str, str, Any]]:
    """(UID of the image, mask or None, label, where, size) of each segment on each image."""
    labels = {
        int(item.SegmentNumber): str(item.get("SegmentLabel", "")).strip()
        for item in dataset.SegmentSequence
    }
    kind = str(dataset.get("SegmentationType", "BINARY"))
    if kind == "LABELMAP":
        labels.pop(int(dataset.get("PixelPaddingValue", 0)), None)  # the background
    frames, rows, columns = (
        int(dataset.get(key, 1) or 1) for key in ("NumberOfFrames", "Rows", "Columns")
    )
    if frames * rows * columns > MAX_BYTES:
        raise UserError(
            f"{path}: {frames} frames of {rows} x {columns}; expected at most {MAX_BYTES} pixels."
        )
    pixels = dataset.pixel_array.reshape(frames, rows, columns)
    limit = HALF * int(dataset.get("MaximumFractionalValue", 255)) if kind == "FRACTIONAL" else 0.5
    marked: dict[tuple[str, int], np.ndarray] = {}
    for i, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        uid = _source(path, dataset, groups, i)
        if kind == "LABELMAP":
            parts = {number: pixels[i] == number for number in labels}
        else:
            identifier = groups.get("SegmentIdentificationSequence") or (
                dataset.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence
            )
            number = int(identifier[0].ReferencedSegmentNumber)
            if number not in labels:
                raise UserError(
                    f"{path}, frame {i + 1}: segment {number}; expected one of {sorted(labels)}."
                )
            parts = {number: pixels[i] >= limit}
        for number, inside in parts.items():
            before = marked.get((uid, number))
            marked[uid, number] = inside if before is None else before | inside
    empty = set(labels) - {number for (_, number), inside in marked.items() if inside.any()}
    for number in sorted(empty):
        yield "", None, labels[number], f"{path}, segment {number} {labels[number]!r}", None
    for (uid, number), inside in marked.items():
        where = f"{path}, segment {number} {labels[number]!r}"
        if inside.any():
            yield uid, encode_mask(inside), labels[number], where, inside.shape


def _source(path: Path, dataset: Any, groups: Any, frame: int) -> str:
    """The SOP instance UID of the image of a frame."""
    for derivation in groups.get("DerivationImageSequence") or ():
        for source in derivation.get("SourceImageSequence") or ():
            return str(source.ReferencedSOPInstanceUID)
    uids = {
        str(instance.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedInstanceSequence") or ()
    }
    if len(uids) != 1:
        raise UserError(
            f"{path}, frame {frame + 1}: it refers to {len(uids)} images; expected one"
            " (DerivationImageSequence, or ReferencedSeriesSequence with one instance)."
        )
    return uids.pop()


def _graphics(
    path: Path, dataset: Any, leave_out: LeaveOut
) -> Iterator[tuple[str, Any, str, str, Any]]:
    """The same of each graphic object; its label is the text beside it, if there is just one."""
    every = [
        str(image.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    for i, annotation in enumerate(dataset.get("GraphicAnnotationSequence") or (), 1):
        named = annotation.get("ReferencedImageSequence") or ()
        uids = [str(image.ReferencedSOPInstanceUID) for image in named] or every
        if not uids:
            raise UserError(
                f"{path}, graphic annotation {i}: it refers to no image; expected one in"
                " ReferencedImageSequence."
            )
        texts = [
            str(text.get("UnformattedTextValue", "")).strip()
            for text in annotation.get("TextObjectSequence") or ()
        ]
        label = texts[0] if len(texts) == 1 else ""
        for j, graphic in enumerate(annotation.get("GraphicObjectSequence") or (), 1):
            kind = str(graphic.get("GraphicType", ""))
            where = f"{path}, graphic annotation {i}, object {j} ({kind})"
            shape = shape_of(graphic, kind, _displayed(dataset, uids), where)
            if shape is None:
                leave_out("open or empty outline", where)
                continue
            for uid in uids:
                yield uid, shape, label, where, None


def _displayed(dataset: Any, uids: Sequence[str]) -> tuple[list[float], list[float]] | None:
    """(left and top, right and bottom) in pixels of the displayed area; None: not stated."""
    for area in dataset.get("DisplayedAreaSelectionSequence") or ():
        images = area.get("ReferencedImageSequence") or ()
        named = [str(image.ReferencedSOPInstanceUID) for image in images]
        if not named or set(named) & set(uids):
            first = [float(value) - 1 for value in area.DisplayedAreaTopLeftHandCorner]
            return first, [float(value) for value in area.DisplayedAreaBottomRightHandCorner]
    return None
