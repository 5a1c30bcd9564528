"""A small RSNA: forms of DICOM, boxes, GLoRIA's split, ready-made splits, bad tables."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pydicom.data
import pytest
from conftest import read_shard
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from sklearn.model_selection import train_test_split

from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.rsna import _sets, read_images, split_gloria
from openclip_eclip.prepare.images import ImageError, read_grey
from openclip_eclip.prepare.plan import Plan

HEADER = ["patientId", "x", "y", "width", "height", "Target"]


def write_dicom(
    path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", jpeg: bool = False, **fields
) -> None:
    """Writes a CR image; `jpeg` stores the pixels as RSNA does."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.1",
        "1.2.3",
    )
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation, dataset.PhotometricInterpretation = (
        1,
        0,
        photometric,
    )
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    for name, value in fields.items():
        setattr(dataset, name, value)
    if jpeg:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=98)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def make_image(i: int, side: int = 1024) -> np.ndarray:
    """An image of a ramp to the right, brighter with larger i."""
    return np.tile(np.linspace(10, 200, side), (side, 1)).astype(np.uint8) + np.uint8(i)


def write_tree(root: Path, images: int = 14) -> Path:
    """Writes DICOM files `id-00` ...; the last has no file.

    Every second image is positive; the first positive one has two boxes.
    """
    rows = []
    for i in range(images):
        if i < images - 1:
            write_dicom(
                root / "stage_2_train_images" / f"id-{i:02d}.dcm", make_image(i), jpeg=i % 2 == 0
            )
        boxes = [[512.0, 0.0, 256.0, 256.0], [0.0, 768.0, 256.0, 256.0]][: 2 if i == 1 else 1]
        rows += (
            [[f"id-{i:02d}", *box, 1] for box in boxes]
            if i % 2
            else [[f"id-{i:02d}", *[None] * 4, 0]]
        )
    root.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=HEADER).to_csv(root / "stage_2_train_labels.csv", index=False)
    return root


def prepare(root: Path, out: Path, *flags: str) -> int:
    return main(["rsna", str(root), str(out), "--size", "32", "--workers", "1", *flags])


def samples(out: Path) -> dict[str, dict[str, bytes]]:
    written: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        for name, content in read_shard(path).items():
            key, _, extension = name.partition(".")
            written.setdefault(key, {})[extension] = content
    return written


@pytest.mark.slow
def test_dicoms_become_shards_with_boxes(tmp_path: Path) -> None:
    assert prepare(write_tree(tmp_path / "raw"), tmp_path / "out") == 0
    written = samples(tmp_path / "out")
    assert len(written) == 13
    assert {key for key, sample in written.items() if "heatmap.png" in sample} == {
        f"id-{i:02d}" for i in (1, 3, 5, 7, 9, 11)
    }
    heat = np.asarray(Image.open(io.BytesIO(written["id-01"]["heatmap.png"])))
    expected = np.zeros((32, 32))
    expected[:8, 16:24] = expected[24:, :8] = 255  # both boxes, x to the right and y down
    assert np.array_equal(heat, expected)
    assert written["id-01"]["txt"] == b"Findings: lung opacity, suspicious for pneumonia."
    assert written["id-02"]["txt"] == b"No sign of pneumonia."
    pixels = np.asarray(Image.open(io.BytesIO(written["id-02"]["jpg"])), dtype=float)
    assert (
        np.abs(
            pixels
            - np.asarray(
                Image.fromarray(make_image(2)).resize((32, 32), Image.Resampling.BOX), dtype=float
            )
        ).max()
        < 6
    )
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["skipped"]) == [
        "id-13"
    ]


def test_monochrome1_is_inverted_and_compressed_pixels_are_read(tmp_path: Path) -> None:
    plain = make_image(0, 64)
    write_dicom(tmp_path / "a.dcm", plain)
    write_dicom(tmp_path / "b.dcm", 255 - plain, "MONOCHROME1")
    write_dicom(tmp_path / "c.dcm", 255 - plain, "MONOCHROME1", jpeg=True)
    a, b, c = (
        np.asarray(read_grey(tmp_path / f"{name}.dcm", None)[0], dtype=int) for name in "abc"
    )
    assert np.array_equal(a, plain) and np.array_equal(b, plain) and np.abs(c - plain).max() <= 3


def test_twelve_bits_windows_and_rescaling(tmp_path: Path) -> None:
    """Values outside the window are clipped, the others are scaled to 0 to 255.

    The rescale slope is applied before the window.
    """
    ramp = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (64, 1))
    write_dicom(
        tmp_path / "w.dcm", ramp, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=1024
    )
    write_dicom(
        tmp_path / "s.dcm",
        ramp,
        BitsStored=12,
        HighBit=11,
        WindowCenter=4096,
        WindowWidth=2048,
        RescaleSlope=2,
        RescaleIntercept=0,
    )
    for name in "ws":
        row = np.asarray(read_grey(tmp_path / f"{name}.dcm", None)[0], dtype=int)[0]
        assert (row[:24] == 0).all()
        assert (row[41:] == 255).all()
        assert abs(row[32] - 127.5) <= 2
        assert (np.diff(row[24:40]) > 0).all()


def test_jpeg_dicom_of_pydicom_is_read() -> None:
    # 12 bits, JPEG process 2 and 4
    path = Path(pydicom.data.get_testdata_file("JPGExtended.dcm", download=False))
    image, size = read_grey(path, 64)
    assert size == (1024, 256) and image.size == (64, 256) and np.asarray(image).std() > 10


@pytest.mark.parametrize("fault", ["no dicom", "no pixels", "HSV", "cut"])
def test_errors_name_unreadable_dicoms(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "bad.dcm"
    write_dicom(path, make_image(0, 64), jpeg=fault == "cut")
    if fault == "no dicom":
        path.write_bytes(b"no DICOM at all")
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:600])
    else:
        dataset = pydicom.dcmread(path)
        if fault == "no pixels":
            del dataset.PixelData
        else:
            (
                dataset.SamplesPerPixel,
                dataset.PhotometricInterpretation,
                dataset.PlanarConfiguration,
            ) = (
                3,
                fault,
                0,
            )
            dataset.PixelData = bytes(64 * 64 * 3)
        dataset.save_as(path)
    with pytest.raises(ImageError, match="bad.dcm"):
        read_grey(path, None)


def test_gloria_split_and_balanced_set(tmp_path: Path) -> None:
    """The order of rows does not matter, splits are disjoint, and the balanced set is balanced.

    The published counts could only be checked with the real ids.
    """
    table = tmp_path / "stage_2_train_labels.csv"
    rows = [
        [f"i{i:03d}", *([1, 1, 5, 5, 1] if i % 4 == 0 else [None] * 4 + [0])] for i in range(200)
    ]
    pd.DataFrame(rows, columns=HEADER).sample(frac=1, random_state=3).to_csv(table, index=False)
    plan = Plan("rsna")
    items = read_images(plan, table, [tmp_path], "heatmap")
    plan.splits = split_gloria(items[::-1])
    assert {name: len(written) for name, written in plan.splits.items()} == {
        "train": 140,
        "valid": 30,
        "test": 30,
    }
    assert len({item.key for written in plan.splits.values() for item in written}) == 200
    rest = train_test_split([f"i{i:03d}" for i in range(200)], test_size=0.3, random_state=0)[1]
    assert [item.key for item in plan.splits["test"]] == train_test_split(
        rest, test_size=0.5, random_state=0
    )[0]  # the first half
    _sets(
        plan,
        argparse.Namespace(evaluation=["rsna-gloria", "rsna-balanced"], seed=0),
        {"rsna-gloria": "r", "rsna-balanced": "r"},
    )
    counts = plan.evaluation["rsna-balanced"].class_counts()
    assert (
        counts["Pneumonia"]
        == counts["No pneumonia"]
        == plan.evaluation["rsna-gloria"].class_counts()["Pneumonia"]
        > 0
    )


@pytest.mark.slow
def test_exported_splits_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Ready-made splits (SPLIT_labels.csv beside SPLIT_images/*.jpeg) work without boxes.

    With boxes, another size than 1024 is an error.
    """
    raw = tmp_path / "raw"
    for split, ids in (("train", "abc"), ("test", "def")):
        (raw / f"{split}_images").mkdir(parents=True)
        for i, name in enumerate(ids):
            Image.fromarray(make_image(i, 64)).save(raw / f"{split}_images" / f"{name}.jpeg")
        pd.DataFrame({"patientId": list(ids), "Target": [0, 1, 1]}).to_csv(
            raw / f"{split}_labels.csv", index=False
        )
    assert prepare(raw, tmp_path / "out") == 0
    assert set(samples(tmp_path / "out")) == set("abcdef")
    table = pd.read_csv(tmp_path / "out" / "rsna-given.csv")
    assert table["label"].tolist() == ["No pneumonia", "Pneumonia", "Pneumonia"]
    assert len(pd.read_csv(tmp_path / "out" / "rsna-balanced.csv")) == 2
    pd.DataFrame(
        [["a", None, None, None, None, 0], ["b", 1, 1, 9, 9, 1], ["c", 1, 1, 9, 9, 1]],
        columns=HEADER,
    ).to_csv(raw / "train_labels.csv")
    assert prepare(raw, tmp_path / "b") == 2
    assert "64 x 64 pixels (height x width); the tables say 1024 x 1024" in capsys.readouterr().err
    assert prepare(raw, tmp_path / "c", "--boxes", "none") == 0


def test_detailed_classes_are_joined_once_for_each_image(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    labels = pd.read_csv(raw / "stage_2_train_labels.csv")
    classes = pd.DataFrame(
        {
            "patientId": labels.patientId,
            "class": np.where(labels.Target == 1, "Lung Opacity", "Normal"),
        }
    )
    # a row for each box, so id-01 twice
    classes.to_csv(raw / "stage_2_detailed_class_info.csv", index=False)
    assert prepare(raw, tmp_path / "out", "--dry-run") == 0
    assert "'Normal': 7, 'Lung Opacity': 7" in capsys.readouterr().out
    classes.assign(**{"class": "Normal"}).to_csv(
        raw / "stage_2_detailed_class_info.csv", index=False
    )
    assert prepare(raw, tmp_path / "out", "--dry-run") == 2
    assert "id-01 has class 'Normal' and Target 1" in capsys.readouterr().err
    classes.assign(**{"class": "Odd"}).to_csv(raw / "stage_2_detailed_class_info.csv", index=False)
    assert prepare(raw, tmp_path / "out", "--dry-run") == 2
    assert "row 1, column 'class': 'Odd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row,column,value,message",
    [
        (1, "x", None, "row 2, columns x, y, width, height: x=''.* within 1024"),
        (0, "x", "5", "row 1, columns .*expected blanks for Target 0"),
        (1, "width", "900", "row 2, columns .*within 1024"),
        (1, "height", "0", "row 2, columns .*within 1024"),
        (1, "Target", "2", "row 2, column 'Target': '2'"),
        (
            2,
            "Target",
            "0",
            "row 3, column 'Target': 0 for id-01, but another value",
        ),
        (0, "patientId", "../x", r"row 1, column 'patientId': '\.\./x'"),
    ],
)
def test_bad_tables_are_errors(
    tmp_path: Path, row: int, column: str, value: str | None, message: str, capsys
) -> None:
    write_tree(tmp_path / "raw", images=1)
    table = pd.DataFrame(
        [["id-00", "", "", "", "", "0"], *[["id-01", "1", "1", "200", "9", "1"]] * 2],
        columns=HEADER,
    )
    table.loc[row, column] = value
    if (row, column) == (1, "width"):
        table.loc[row, "x"] = "200"
    table.to_csv(tmp_path / "raw" / "stage_2_train_labels.csv", index=False)
    assert prepare(tmp_path / "raw", tmp_path / "out", "--dry-run") == 2
    assert re.search(message, capsys.readouterr().err)
