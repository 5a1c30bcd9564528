"""DICOM segmentations written by highdicom, and presentation states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_files import SIZES, area, assert_same, filled, random_outline, read_drawings

from openclip_eclip.config import UserError

pydicom = pytest.importorskip("pydicom")
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
STATE = "1.2.840.10008.5.1.4.1.1.11.1"


def dataset(kind: str, **values: Any) -> Any:
    result = pydicom.Dataset()
    result.file_meta = pydicom.dataset.FileMetaDataset()
    result.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID = kind
    uid = values.pop("SOPInstanceUID", pydicom.uid.generate_uid())
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID = uid
    for name, value in values.items():
        setattr(result, name, value)
    return result


def item(**values: Any) -> Any:
    result = pydicom.Dataset()
    for name, value in values.items():
        setattr(result, name, value)
    return result


def radiograph(size: tuple[int, int]) -> Any:
    return dataset(
        "1.2.840.10008.5.1.4.1.1.1.1",
        StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", PatientID="p", PatientName="p",
        PatientBirthDate="", PatientSex="", AccessionNumber="", StudyID="", StudyDate="",
        StudyTime="", ReferringPhysicianName="", Modality="DX", SeriesNumber=1, InstanceNumber=1,
        Rows=size[0], Columns=size[1], SamplesPerPixel=1, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelRepresentation=0, PhotometricInterpretation="MONOCHROME2",
        PixelSpacing=[0.2, 0.2], ImagerPixelSpacing=[0.2, 0.2], PixelData=bytes(size[0] * size[1]),
        FrameOfReferenceUID="1.2.3.5", ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[0, 0, 0], SliceThickness=1, PositionReferenceIndicator="",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("beside", [False, True])
def test_segmentations_of_highdicom(tmp_path: Path, kind: str, beside: bool) -> None:
    hd = pytest.importorskip("highdicom")
    size = SIZES[0]
    rng = np.random.default_rng(0)
    drawn = [filled(random_outline(rng, size), size) for _ in range(2)]
    drawn[1] &= ~drawn[0]
    source = radiograph(size)
    if beside:
        (tmp_path / "images").mkdir()
        source.save_as(tmp_path / "images" / "x.dcm", enforce_file_format=True)
    code = hd.sr.CodedConcept("1", "99X", "lesion")
    segments = [
        hd.seg.SegmentDescription(
            number, label, code, code, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, label in ((1, "nodule"), (2, "heart"), (3, "nothing"))
    ]
    stack = np.stack([*drawn, np.zeros(size, bool)], axis=-1)[None]
    segmentation = hd.seg.Segmentation(
        [source], stack.astype(float if kind == "FRACTIONAL" else np.uint8), kind, segments,
        hd.UID(), 2, hd.UID(), 1, "maker", "model", "1", "serial",
        content_creator_name="Ann^Lee",
    )  # fmt: skip
    segmentation.save_as(tmp_path / "seg.dcm")
    found, left_out = read_drawings("dicom", tmp_path)
    image = "images/x.dcm" if beside else source.SOPInstanceUID
    assert [(one.image, one.label) for one in found] == [(image, "nodule"), (image, "heart")]
    assert left_out == {"empty segment": 1}
    for one, marked in zip(found, drawn):
        assert one.size == size and (area(one, size) == marked).all()


def state(folder: Path, *graphics: Any, texts: tuple[str, ...] = ("nodule",), **more: Any) -> Path:
    image = item(ReferencedSOPClassUID=SECONDARY, ReferencedSOPInstanceUID="1.2.9")
    annotation = item(
        ReferencedImageSequence=[image],
        GraphicLayer="ONE",
        GraphicObjectSequence=list(graphics),
        TextObjectSequence=[item(UnformattedTextValue=text) for text in texts],
    )
    result = dataset(
        STATE, ContentCreatorName="Lee^Ann", GraphicAnnotationSequence=[annotation], **more
    )
    path = folder / "state.dcm"
    result.save_as(path, enforce_file_format=True)
    return path


def graphic(kind: str, data: Any, filled: str = "N", units: str = "PIXEL") -> Any:
    return item(
        GraphicAnnotationUnits=units, GraphicDimensions=2, GraphicType=kind, GraphicFilled=filled,
        NumberOfGraphicPoints=len(data) // 2, GraphicData=[float(value) for value in data],
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_graphic_objects_are_read_as_drawn(tmp_path: Path, size: tuple[int, int]) -> None:
    outline = random_outline(np.random.default_rng(0), size)
    closed = np.concatenate([outline, outline[:1]]).ravel()
    corner = item(
        DisplayedAreaTopLeftHandCorner=[1, 1], DisplayedAreaBottomRightHandCorner=list(size[::-1])
    )
    path = state(
        tmp_path,
        graphic("POLYLINE", closed),
        graphic("POLYLINE", outline.ravel(), filled="Y"),
        graphic("POLYLINE", (outline / size[::-1]).ravel(), filled="Y", units="DISPLAY"),
        graphic("CIRCLE", [15, 14, 25, 14]),
        graphic("ELLIPSE", [15, 4, 15, 24, 10, 14, 20, 14]),
        graphic("POINT", [3.5, 4.5]),
        graphic("POLYLINE", outline.ravel()),
        DisplayedAreaSelectionSequence=[corner],
    )
    found, left_out = read_drawings("dicom", path)
    assert {(one.image, one.label, one.annotator) for one in found} == {
        ("1.2.9", "nodule", "Lee Ann")
    }
    assert left_out == {"open or empty outline": 1}
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    drawn = [filled(outline, size)] * 3
    drawn.append((x - 15) ** 2 + (y - 14) ** 2 <= 100)
    drawn.append(((x - 15) / 5) ** 2 + ((y - 14) / 10) ** 2 <= 1)
    for one, marked in zip(found, drawn):
        assert_same(area(one, size), marked)
    assert (found[5].shape.x, found[5].shape.y) == ([3.5], [4.5])


def test_two_texts_are_no_label(tmp_path: Path) -> None:
    path = state(tmp_path, graphic("POINT", [3, 4]), texts=("a", "b"))
    assert [one.label for one in read_drawings("dicom", path)[0]] == [""]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("CIRCLE", [1, 2]), r"object 1 \(CIRCLE\): 1 points of type 'CIRCLE'; expected POINT"),
        (("POLYLINE", [1, 2, 3]), "GraphicData: 3 numbers; expected pairs"),
        (("POINT", []), "GraphicData: 0 numbers"),
        (("SQUARE", [1, 2]), "1 points of type 'SQUARE'"),
        (("POINT", [1, 2], "N", "DISPLAY"), "'DISPLAY' without a displayed area; expected PIXEL"),
        (("POINT", [1, 2], "N", "MATRIX"), "GraphicAnnotationUnits: 'MATRIX'; expected PIXEL"),
    ],
)
def test_bad_graphics_are_errors(tmp_path: Path, bad: tuple, message: str) -> None:
    with pytest.raises(UserError, match=r"state\.dcm, graphic annotation 1, .*" + message):
        read_drawings("dicom", state(tmp_path, graphic(*bad)))


def test_bad_files_are_errors(tmp_path: Path) -> None:
    path = state(tmp_path, graphic("POINT", [3, 4]))
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"state\.dcm: the SOP instance UID .* again, first in"):
        read_drawings("dicom", tmp_path)
    (tmp_path / "copy.dcm").unlink()
    lost = dataset(STATE, GraphicAnnotationSequence=[item(GraphicLayer="ONE")])
    lost.save_as(path, enforce_file_format=True)
    with pytest.raises(UserError, match="graphic annotation 1: it refers to no image"):
        read_drawings("dicom", path)
    dataset("1.2.840.10008.5.1.4.1.1.66.4", Rows=3).save_as(path, enforce_file_format=True)
    with pytest.raises(UserError, match=r"state\.dcm: not a readable DICOM annotation"):
        read_drawings("dicom", path)
    radiograph((4, 4)).save_as(path, enforce_file_format=True)
    with pytest.raises(UserError, match="the format was not recognised"):
        read_drawings("dicom", path)
