"""Heatmaps and sentence maps that mark no region, or exceed a limit of memory, are faults.

They are named with their row or key.
"""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_shard, write_table
from PIL import Image

from openclip_eclip.config import DataError
from openclip_eclip.data.check import check_entries, check_table
from openclip_eclip.data.heatmap import decode_heatmap, read_bounded
from openclip_eclip.data.images.options import ReadOptions
from openclip_eclip.data.sentence_windows import LARGEST_TEXT, decode_windows, file_windows
from openclip_eclip.data.shards.tar_source import index_shard
from openclip_eclip.data.suspicious_maps import is_the_image
from openclip_eclip.data.tables.csv_source import CsvColumns, read_csv_table
from openclip_eclip.gaze import Boxes, Fixations, RenderConfig
from openclip_eclip.prepare.options import Options
from openclip_eclip.prepare.plan import Item, Window
from openclip_eclip.prepare.write_sample import write_sample

SMALL = ReadOptions(max_pixels=10_000, max_bytes=100_000)


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def csr(sides: tuple[int, ...], **more: np.ndarray) -> bytes:
    arrays = {
        "shape": np.array(sides),
        "data": np.ones(1),
        "indices": np.zeros(1, np.int32),
        "indptr": np.array([0, 1]),
        "format": np.array(b"csr"),
    }
    return npz(**{**arrays, **more})


def header(shape: str, descr: str = "'<f8'", rest: bytes = b"") -> bytes:
    """An .npy with any header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rest


def bomb(width: int, height: int) -> bytes:
    """A grey PNG of any size without its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def zipped(
    name: str,
    content: bytes,
    kind: int = zipfile.ZIP_DEFLATED,
    edit: Callable[[bytes], bytes] = bytes,
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr(name, content)
    return edit(stream.getvalue())


def encrypted(data: bytes) -> bytes:
    """The archive with the flag of encrypted members."""
    changed = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(mark) + at] |= 1
    return bytes(changed)


def claims(data: bytes, size: int) -> bytes:
    """The archive with another unpacked size in its index."""
    changed = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        first = changed.index(mark) + at
        changed[first : first + 4] = struct.pack("<I", size)
    return bytes(changed)


MAPS = {  # name: (bytes, file name, part of the message)
    "constant 8 bit": (png(np.full((40, 40), 255, np.uint8)), "a.png", "the same everywhere"),
    "constant 16 bit": (png(np.full((40, 40), 300, np.uint16)), "a.png", "the same everywhere"),
    "constant floats": (npy(np.full((40, 40), 0.3)), "a.npy", "the same everywhere"),
    "constant bools": (npy(np.ones((40, 40), bool)), "a.npy", "the same everywhere"),
    "constant npz": (
        npz(heatmap=np.full((1, 40, 40), 7, np.int64)),
        "a.npz",
        "the same everywhere",
    ),
    "nearly constant": (
        npy(1 + 1e-4 * np.random.default_rng(0).random((40, 40))),
        "a.npy",
        "the same everywhere",
    ),
    "one pixel": (png(np.full((1, 1), 9, np.uint8)), "a.png", "the same everywhere"),
    "csr of ones": (csr((1, 1)), "a.npz", "the same everywhere"),
    "npy larger than the limit": (header("(60000, 60000)"), "a.npy", "asks for 28800000000 bytes"),
    "npy of many pixels": (
        header("(12000, 12000)", "'|u1'"),
        "a.npy",
        "144000000 pixels; expected at most",
    ),
    "npy cut off": (
        header("(5000, 5000)", "'|u1'", b"12"),
        "a.npy",
        "2 bytes where shape .* the file was cut off",
    ),
    "npy of huge items": (header("(2, 2)", "('|u1', (2000000000,))"), "a.npy", "--max-bytes"),
    "npy of negative sides": (header("(-4, 4)"), "a.npy", "no negative side"),
    "npy of nested brackets": (header("(" * 3000 + ")" * 3000), "a.npy", "no readable array"),
    "npy of no shape": (header("'wide'"), "a.npy", "no readable array"),
    "npy of another type": (header("(2, 2)", "'<q99'"), "a.npy", "no readable array"),
    "npy of a far version": (b"\x93NUMPY\x09\x00" + b"x" * 99, "a.npy", "no readable array"),
    "npz that unpacks to gigabytes": (
        zipped(
            "heatmap.npy",
            header("(9, 9)") + bytes(3 << 20),
            edit=lambda data: claims(data, 0xF0000000),
        ),
        "a.npz",
        "unpack to 4026531840 bytes; expected at most",
    ),
    "npz that says it is small": (
        zipped("h.npy", npy(np.eye(400)), edit=lambda data: claims(data, 300)),
        "a.npz",
        "unreadable|cut off",
    ),
    "npz of a huge header": (
        zipped("heatmap.npy", header("(60000, 60000)")),
        "a.npz",
        "asks for 28800000000 bytes",
    ),
    "npz without arrays": (zipped("heatmap.txt", b"hello"), "a.npz", "no readable array"),
    "npz of many members": (npz(**{f"a{i}": np.eye(2) for i in range(20)}), "a.npz", "20 arrays"),
    "npz encrypted": (zipped("heatmap.npy", npy(np.eye(4)), edit=encrypted), "a.npz", "unreadable"),
    "csr of a huge shape": (csr((60000, 60000)), "a.npz", "3600000000 pixels"),
    "csr of three sides": (csr((3, 4, 5)), "a.npz", "expected two whole numbers"),
    "csr of a fractional shape": (
        csr((2, 2), shape=np.array([2.5, np.nan])),
        "a.npz",
        "expected two whole numbers",
    ),
    "csr of negative sides": (
        csr((2, 2), shape=np.array([-2, 2])),
        "a.npz",
        "expected two whole numbers",
    ),
    "csr of texts": (csr((1, 4), data=np.array(["x"])), "a.npz", "values of type <U1"),
    "csr of other lengths": (csr((5, 4)), "a.npz", "a broken CSR matrix"),
    "bomb": (bomb(30000, 30000), "a.png", "900000000 pixels|decompression bomb"),
    "bomb below Pillow's limit": (bomb(11000, 11000), "a.png", "121000000 pixels"),
    "png without its pixels": (bomb(40, 40), "a.png", "unreadable"),
    "png of broken chunks": (bomb(4, 4)[:20] + b"\xff" * 30, "a.png", "unreadable"),
}


@pytest.mark.parametrize("name", MAPS)
def test_errors_of_maps_take_one_sentence_and_little_memory(name: str) -> None:
    data, file, message = MAPS[name]
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as error:
            decode_heatmap(data, file)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"heatmap {file!r}") and len(str(error.value)) < 500


def test_limits_can_be_set() -> None:
    for data, name in (
        (png(np.eye(120, dtype=np.uint8)), "a.png"),
        (npy(np.eye(120)), "a.npy"),
        (npz(h=np.eye(120)), "a.npz"),
        (csr((120, 120), indptr=np.array([0, *[1] * 120])), "a.npz"),
    ):
        assert decode_heatmap(data, name).shape == (120, 120)
        with pytest.raises(DataError, match="--max-(pixels|bytes)"):
            decode_heatmap(data, name, SMALL)


def test_files_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        file.truncate(3 << 30)  # a sparse file, which takes no space
    message = "a.npy: a file of 3221225472 bytes; expected at most 1073741824"
    with pytest.raises(DataError, match=message):
        read_bounded(path)
    (tmp_path / "a.windows.json").write_text("[]")
    path.rename(tmp_path / "a.windows.npz")
    with pytest.raises(DataError, match="a.windows.npz: a file of 3221225472 bytes"):
        file_windows(tmp_path / "a.windows.json")


# ---- in a data set


def radiograph(size: int = 40, seed: int = 0) -> np.ndarray:
    """Shades of grey, as in a chest X-ray."""
    y, x = np.mgrid[0:size, 0:size]
    return (
        60
        + 90 * (1 + np.sin(x / 7 + seed)) * (1 + np.cos(y / 9)) / 2
        + np.random.default_rng(seed).random((size, size)) * 5
    ).astype(np.uint8)


def jpeg(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def smaller(values: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((20, 20), Image.Resampling.BILINEAR))


COPIES = {
    "bytes": lambda image: ("png", png(image)),
    "as numbers": lambda image: ("npy", npy(image)),
    "as shares": lambda image: ("npz", npz(h=image / 255)),
    "16 bit": lambda image: ("png", png(image.astype(np.uint16) * 257)),
    "negative": lambda image: ("png", png(255 - image)),
    "smaller": lambda image: ("npy", npy(smaller(image))),
    "smaller negative": lambda image: ("npy", npy(255 - smaller(image))),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("decode_images", [True, False])
def test_a_copy_of_the_image_is_no_heatmap(name: str, decode_images: bool, tmp_path: Path) -> None:
    image, good = radiograph(), png(np.eye(40, dtype=np.uint8))
    suffix, copy = COPIES[name](image)
    for file, data in (
        ("a.png", png(image)),
        (f"copy.{suffix}", copy),
        ("b.jpg", jpeg(image)),
        ("good.png", good),
        ("c.png", png(radiograph(seed=2))),
    ):
        (tmp_path / file).write_bytes(data)
    rows = [
        f"a.png,x,copy.{suffix}",
        "a.png,x,good.png",
        f"b.jpg,x,copy.{suffix}",
        f"c.png,x,copy.{suffix}",
        "a.png,x,a.png",
        "a.png,x,./a.png",
    ]
    (tmp_path / "t.csv").write_text("filepath,title,heatmap\n" + "\n".join(rows) + "\n")
    report = check_table(
        read_csv_table(tmp_path / "t.csv", CsvColumns()), decode_images=decode_images
    )
    assert [(fault.where.split(", ")[1], fault.key) for fault in report.faults] == [
        (f"row {i}", "heatmap") for i in (1, 3, 5, 6)
    ]
    assert all("image itself" in fault.message for fault in report.faults)
    assert report.good == [1, 3]
    members = {
        "a.png": png(image),
        "a.txt": b"x",
        f"a.heatmap.{suffix}": copy,
        "b.png": png(image),
        "b.txt": b"x",
        "b.heatmap.png": good,
    }
    shard = write_shard(tmp_path / "a.tar", members)
    (fault,) = check_entries(index_shard(shard), decode_images=decode_images).faults
    assert fault.where.split(", ")[1] == "a"
    assert "image itself" in fault.message


def test_a_smaller_copy_of_the_image_is_recognised() -> None:
    pixels = radiograph(80)
    image = Image.fromarray(pixels)
    small = np.asarray(image.resize((20, 20), Image.Resampling.BOX), np.float32)
    assert is_the_image(small / small.max(), image)
    assert is_the_image(small / small.max(), image.convert("RGB"))
    assert not is_the_image(np.rot90(small) / small.max(), image)
    assert not is_the_image(np.eye(20, dtype=np.float32), Image.new("L", (80, 80), 7))
    mark = np.zeros((40, 40), np.float32)
    mark[5:9, 20:30] = 1
    # an image that is itself a drawn mark may equal its map
    assert not is_the_image(mark, Image.fromarray((mark * 255).astype(np.uint8)))


def test_of_many_maps_evenly_spaced_ones_are_compared(tmp_path: Path) -> None:
    path = write_table(tmp_path, 130, annotated=range(130), size=8)
    image = Image.fromarray(radiograph(8))
    image.save(tmp_path / "image.png")
    np.save(tmp_path / "small.npy", np.asarray(image.resize((4, 4), Image.Resampling.BOX)))
    lines = [f"image.png,text {i},small.npy\n" for i in range(130)]
    path.write_text("filepath,title,heatmap\n" + "".join(lines))
    table = read_csv_table(path, CsvColumns())
    rows = [int(fault.where.split("row ")[1]) for fault in check_table(table).faults]
    assert rows == list(range(1, 131, 3))
    assert len(check_table(table, decode_images=True).faults) == 130


def test_maps_that_are_images_of_other_samples_are_counted(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(radiograph(seed=i)))
    (tmp_path / "t.csv").write_text(
        "filepath,title,heatmap\n0.png,a,1.png\n1.png,b,2.png\n2.png,c,0.png\n"
    )
    report = check_table(read_csv_table(tmp_path / "t.csv", CsvColumns()))
    assert not report.faults
    assert report.warnings == ["3 heatmaps are images of other samples; expected maps"]


def test_maps_of_several_images_are_counted(tmp_path: Path) -> None:
    path = write_table(tmp_path, 6, annotated=[2, 3, 4])
    lines = path.read_text().splitlines()
    lines[4], lines[6] = lines[4].replace("3.npy", "2.npy"), lines[6] + "images/2.npy"
    # the same map under another name
    (tmp_path / "images" / "4.npy").write_bytes((tmp_path / "images" / "2.npy").read_bytes())
    lines.append(lines[3])  # an image in two rows may have its map in both
    path.write_text("\n".join(lines) + "\n")
    report = check_table(read_csv_table(path, CsvColumns()))
    assert not report.faults and report.annotated == 5
    assert report.warnings == [
        "1 heatmap serves 4 different images (one of them 4); expected each image to have its own"
    ]
    other = write_table(tmp_path / "own", 4, annotated=[1, 2])
    report = check_table(read_csv_table(other, CsvColumns()))
    assert not report.warnings and not report.faults


# ---- sentence windows


def spoken(count: int = 1) -> bytes:
    return json.dumps(
        [{"sentence": f"s {i}", "start": i, "end": i + 1} for i in range(count)]
    ).encode()


EYE = np.eye(8, dtype=np.uint8)[None]
WINDOWS = {
    "constant": (
        spoken(2),
        npz(heatmaps=np.stack([EYE[0], np.full((8, 8), 9, np.uint8)])),
        "heatmap of sentence 2 .* is the same everywhere",
    ),
    "more than the limit": (
        spoken(),
        zipped("heatmaps.npy", header("(99999, 999, 999)", "'|u1'")),
        "--max-bytes",
    ),
    "many pixels": (
        spoken(),
        zipped("heatmaps.npy", header("(1, 20000, 20000)", "'|u1'")),
        "--max-|cut off",
    ),
    "unpacks to gigabytes": (
        spoken(),
        zipped("heatmaps.npy", npy(EYE), edit=lambda data: claims(data, 0xF0000000)),
        "--max-bytes",
    ),
    "encrypted": (spoken(), zipped("heatmaps.npy", npy(EYE), edit=encrypted), "unreadable"),
    "no npz": (spoken(), b"PK\x03\x04 and no more", "not a readable npz"),
    "text in the npz": (spoken(), zipped("heatmaps.npy", b"hello"), "no readable array"),
    "too much text": (b"[" + b" " * LARGEST_TEXT + b"]", npz(heatmaps=EYE), "bytes of JSON"),
    "too many sentences": (spoken(10_001), npz(heatmaps=EYE), "10001 sentences"),
    "lists in lists": (b"[" * 200_000, npz(heatmaps=EYE), "JSON"),
    "a number of many digits": (
        b'[{"sentence": "s", "start": ' + b"1" * 5000 + b', "end": 2}]',
        npz(heatmaps=EYE),
        "JSON",
    ),
    "a time beyond floats": (
        b'[{"sentence": "s", "start": 0, "end": ' + b"9" * 400 + b"}]",
        npz(heatmaps=EYE),
        "entry 1",
    ),
    "times that are truths": (
        b'[{"sentence": "s", "start": false, "end": true}]',
        npz(heatmaps=EYE),
        "entry 1",
    ),
    "infinite": (b'[{"sentence": "s", "start": 0, "end": Infinity}]', npz(heatmaps=EYE), "entry 1"),
    "an object": (b'{"sentence": "s"}', npz(heatmaps=EYE), "expected a list"),
    "a number": (b"[3]", npz(heatmaps=EYE), "entry 1"),
    "Latin-1": (b'[{"sentence": "\xe9"}]', npz(heatmaps=EYE), "not JSON in UTF-8"),
    "line ends in a sentence": (
        b'[{"sentence": "a\\nb", "start": 2, "end": 1}]',
        npz(heatmaps=EYE),
        "entry 1",
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_errors_of_windows_take_one_sentence(name: str, tmp_path: Path) -> None:
    text, maps, message = WINDOWS[name]
    with pytest.raises(DataError, match=message) as caught:
        decode_windows(text, maps, "k.windows", (80, 80))
    error = str(caught.value)
    assert error.startswith("windows 'k.windows'")
    assert "\n" not in error and len(error) < 500
    members = {
        "k.png": png(radiograph()),
        "k.txt": b"x",
        "k.windows.json": text,
        "k.windows.npz": maps,
    }
    shard = write_shard(tmp_path / "a.tar", members)
    (fault,) = check_entries(index_shard(shard), windows=True).faults
    assert fault.where.endswith("a.tar, k") and fault.key == "windows"


# ---- prepare


def test_prepare_writes_no_map_that_marks_no_region(tmp_path: Path) -> None:
    Image.fromarray(radiograph(64)).save(tmp_path / "a.png")
    options = Options(tmp_path, 64, 95, "csv", 1, None, (0, 1), 10, False)
    gaze = Fixations([10.0, 20], [10, 20], [1, 1], [0, 5])
    windows = (
        Window("a nodule", 0, 2, gaze.between(0, 2)),
        Window("nothing looked at", 2, 3, gaze.between(2, 3)),
        Window("nan", 4, 6, gaze.between(4, 6)),
    )
    written = write_sample(
        Item(
            "a",
            tmp_path / "a.png",
            "x",
            (Boxes([[0, 0, 64, 64]]),),
            windows=windows,
            config=RenderConfig(sigma=5),
        ),
        options,
    )
    assert written.heatmap is None
    assert json.loads(written.windows[0]) == [{"sentence": "a nodule", "start": 0, "end": 2}]
    assert sorted(written.notes) == [
        "heatmap: the same everywhere (the image stays, without one)",
        "windows: sentence without a fixation on the image",
        "windows: sentence without words",
    ]
    written = write_sample(Item("a", tmp_path / "a.png", "x", (Boxes([[0, 0, 32, 64]]),)), options)
    assert written.notes == ()
    assert decode_heatmap(written.heatmap, "a.png").shape == (64, 64)
