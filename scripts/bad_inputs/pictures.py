"""Images that cannot be read, for every command that reads images."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .bombs import chunk, png_bomb, tiff_header
from .harness import Case
from .world import Maker, evaluate, model, pixels, png, put, rows, table, train, world


def saved(kind: str, mode: str = "L", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(0)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def in_table(
    content: bytes, name: str = "bad.png", command: Sequence[object] = ("check", "train.csv")
) -> Maker:
    """A case with a table whose row 3 names this image."""
    lines = rows()
    lines[3] = f"{name},A nodule.,,0,2,train"
    return put({name: content, "train.csv": "\n".join(lines) + "\n"}, list(command))


def dicom(cut: int | None = None, **changes: object) -> bytes:
    """A DICOM image with some elements changed; None leaves an element out."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = pydicom.Dataset()
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": "1.2.3",
        "Rows": 48,
        "Columns": 48,
        "SamplesPerPixel": 1,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": pixels(0).tobytes(),
    }
    for name, value in {**values, **changes}.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()[:cut]


def bmp(width: int, height: int) -> bytes:
    return struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )


def _inputs() -> Iterator[tuple[str, bytes, str]]:
    good = png(pixels(0))
    nan = io.BytesIO()
    Image.fromarray(np.full((48, 48), np.nan, np.float32)).save(nan, "TIFF")
    yield from [
        ("empty file", b"", "bad.png"),
        ("text", b"no picture", "bad.png"),
        ("HTML", b"<!doctype html><title>404</title>", "bad.jpg"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "bad.svg"),
        ("cut PNG", good[:300], "bad.png"),
        ("PNG header alone", good[:33], "bad.png"),
        ("PNG with a damaged middle", good[:200] + bytes(60) + good[260:], "bad.png"),
        ("cut JPEG", saved("JPEG")[:500], "bad.jpg"),
        ("JPEG without end", saved("JPEG")[:-300], "bad.jpg"),
        ("cut WebP", saved("WEBP", "RGB")[:120], "bad.webp"),
        ("cut TIFF", saved("TIFF")[:90], "bad.tif"),
        ("cut GIF", saved("GIF")[:60], "bad.gif"),
        ("TIFF of NaN", nan.getvalue(), "bad.tif"),
        ("PNG of 3.6 GB", png_bomb(60000, 60000), "bad.png"),
        ("PNG of 170 million pixels", png_bomb(17000, 10000), "bad.png"),
        ("PNG of no pixel", png_bomb(0, 48), "bad.png"),
        (
            "PNG that promises 4 000 million pixels",
            png_bomb(63000, 63000, written=1 << 20),
            "bad.png",
        ),
        ("TIFF that promises 10^10 pixels", tiff_header(100000, 100000), "bad.tif"),
        ("BMP that promises 10^10 pixels", bmp(100000, 100000), "bad.bmp"),
        ("PNG whose text unpacks to 500 MB", _text_bomb(), "bad.png"),
        (
            "EPS",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\nshowpage\n",
            "bad.eps",
        ),
        ("PDF", b"%PDF-1.4\n%%EOF\n", "bad.pdf"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\3" + bytes(50), "bad.png"),
        ("an .npy", b"\x93NUMPY\x01\0v\0", "bad.png"),
        ("ICO of nothing", b"\0\0\1\0\1\0" + bytes(16), "bad.ico"),
    ]


def _text_bomb() -> bytes:
    from .bombs import deflated

    good = png(pixels(0))
    return (
        good[:33]
        + chunk(b"zTXt", b"Comment\0\0" + deflated(b"", 500 << 20, wrapped=True))
        + good[33:]
    )


def _folder(folder: Path) -> list[object]:
    (folder / "bad.png").mkdir()
    lines = rows()
    lines[3] = "bad.png,A nodule.,,0,2,train"
    table(folder, lines)
    return ["check", "train.csv"]


def _val(folder: Path) -> list[object]:
    table(folder)
    (folder / "bad.png").write_bytes(png(pixels(0))[:200])
    lines = rows()
    lines[3] = "bad.png,A nodule.,,0,2,train"
    table(folder, lines, "val.csv")
    return train("--train-data", "train.csv", "--val-data", "val.csv")


def _rsna(name: str, content: bytes) -> Maker:
    """A case with one bad image in RSNA's layout."""
    lines = ["patientId,x,y,width,height,Target", *(f"id{i},,,,,0" for i in range(10))]
    images = {f"stage_2_train_images/id{i}.png": png(pixels(i)) for i in range(10) if i != 3}
    return put(
        {
            **{f"src/{key}": value for key, value in images.items()},
            f"src/stage_2_train_images/{name}": content,
            "src/stage_2_train_labels.csv": "\n".join(lines),
        },
        [
            "prepare",
            "rsna",
            "src",
            "out",
            *("--evaluation", "none"),
            *("--workers", 1),
            *("--format", "csv"),
        ],
    )


def cases() -> Iterator[Case]:
    where, cut = ("train.csv", "row 3"), png(pixels(0))[:200]
    for name, content, file in _inputs():
        yield Case(name, "images", in_table(content, file), where)
    yield Case("a folder", "images", _folder, where)
    bomb = png_bomb(60000, 60000)
    commands = [
        ("training", train("--train-data", "train.csv")),
        ("retrieval", evaluate("retrieval", "--data", "train.csv")),
        ("embedding-quality", evaluate("embedding-quality", "--data", "train.csv")),
        ("overlap", ["overlap", "train.csv", "train.csv"]),
        ("linear-probe", evaluate("linear-probe", "--data", "train.csv", "--classes", "a", "b")),
    ]
    for what, command in commands:
        yield Case(f"cut PNG, in {what}", "images", in_table(cut, command=command), where)
        yield Case(f"PNG of 3.6 GB, in {what}", "images", in_table(bomb, command=command), where)
    yield Case("cut PNG, in validation", "images", _val, ("val.csv", "row 3"))
    search = [
        "evaluate",
        "search",
        "bad.png",
        *("--index", world() / "index"),
        *("--model", model()),
        *("--device", "cpu"),
    ]
    report = [
        "report",
        "bad.png",
        *("--index", world() / "reports_index"),
        *("--model", model()),
        *("--device", "cpu"),
        *("--writer", "copy"),
    ]
    for what, command in (("search", search), ("report", report)):
        for name, content in (("cut PNG", cut), ("PNG of 3.6 GB", bomb), ("text", b"hello")):
            yield Case(
                f"{name}, in {what}", "images", put({"bad.png": content}, command), ("bad.png",)
            )
        yield Case(f"no such file, in {what}", "images", put({}, command), ("bad.png",))
    for name, content in (
        ("text", b"no picture"),
        ("cut DICOM", dicom(cut=300)),
        ("DICOM without pixels", dicom(PixelData=None)),
        ("DICOM without rows", dicom(Rows=None)),
        ("DICOM of too few pixels", dicom(PixelData=bytes(100))),
        ("DICOM that promises 4 000 million pixels", dicom(Rows=65000, Columns=65000)),
        ("DICOM of an unknown photometry", dicom(PhotometricInterpretation="MONOCHROME9")),
        ("DICOM of 16 of 8 bits", dicom(BitsStored=16, HighBit=15)),
    ):
        yield Case(f"{name}, in prepare", "images", _rsna("id3.dcm", content), ("id3.dcm",))
    yield Case("cut PNG, in prepare", "images", _rsna("id3.png", cut), ("id3.png",))
    yield Case("PNG of 3.6 GB, in prepare", "images", _rsna("id3.png", bomb), ("id3.png",))
