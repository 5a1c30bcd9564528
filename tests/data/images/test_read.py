"""The reader of images: all parts of the package read what a viewer shows (decision 0039).

The parts are training, validation, evaluation, prepare and all checks.
"""

from __future__ import annotations

import argparse
import io
import re
import resource
import struct
import sys
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_zoo import (
    COLOUR,
    DEEP,
    GREY,
    H,
    Member,
    W,
    chunk,
    dicom,
    dicom_members,
    exif,
    other_members,
    png,
    png_members,
    saved,
    scaled,
    tiff,
    tiff_members,
    turned,
)
from open_clip.transform import image_transform
from PIL import Image, ImageFile

from openclip_eclip.config import DataError, UserError
from openclip_eclip.data.check import check_entries, check_table
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.images.options import ReadOptions, add_read_arguments, read_options
from openclip_eclip.data.images.picture import Frame, orient_maps, turn_maps, turn_maps_back
from openclip_eclip.data.images.read import read_frame, read_picture
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.overlap_read import perceptual_hash
from openclip_eclip.data.sample import read_heatmap, read_image, read_windows
from openclip_eclip.data.sentence_windows import encode_windows
from openclip_eclip.data.shards.tar_source import TarSamples, index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.features import _Images, _key
from openclip_eclip.evaluate.inputs.heatmaps import join_heatmaps, read_heatmap_tensor
from openclip_eclip.gaze import Boxes
from openclip_eclip.prepare.images import ImageError, read_grey
from openclip_eclip.prepare.options import Options
from openclip_eclip.prepare.plan import Item
from openclip_eclip.prepare.write_sample import write_sample
from training_patches.val_data import CsvPairs

MEMBERS = [
    (family, member)
    for family, members in (
        ("png", png_members()),
        ("tiff", tiff_members()),
        ("other", other_members()),
        ("dicom", dicom_members()),
    )
    for member in members
]
GOOD = [(family, member) for family, member in MEMBERS if member.shown is not None]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "member"), MEMBERS, ids=[f"{family}: {member.name}" for family, member in MEMBERS]
)
def test_a_file_is_read_as_a_viewer_shows_it(family: str, member: Member, tmp_path: Path) -> None:
    """Bytes and files give the same image, and the header gives the same frame.

    An error is one sentence that names the file.
    """
    path = tmp_path / "file"
    path.write_bytes(member.data)
    if member.shown is None:
        for data in (member.data, path):
            with pytest.raises(DataError, match=member.fault) as caught:
                read_picture(data, "table.csv, row 3")
            error = str(caught.value)
            assert error.startswith("table.csv, row 3: ")
            assert "\n" not in error and "0x" not in error
        return
    for data in (member.data, path):
        picture = read_picture(data, "name")
        assert picture.image.mode in ("L", "RGB") and not picture.image.info
        assert pixels(picture.image).shape == member.shown.shape
        assert np.abs(pixels(picture.image) - member.shown).max() <= member.tolerance
        assert picture.frame == read_frame(data, "name")
        assert picture.frame.shown_size == member.shown.shape[:2]


def test_the_zoo_has_many_distinct_and_no_flat_images() -> None:
    assert len(MEMBERS) >= 200
    assert len({(family, member.name) for family, member in MEMBERS}) == len(MEMBERS)
    flat = [member.name for _, member in GOOD if len(np.unique(member.shown)) < 3]
    assert all("constant" in name or "1 bit" in name or "width 1" in name for name in flat), flat


def test_images_of_eight_bits_are_read_as_pillow_reads_them() -> None:
    """Grey stays "L" and colour "RGB", pixel for pixel; equality with open_clip depends on it."""
    for image in (Image.fromarray(GREY), Image.fromarray(COLOUR)):
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
            data = saved(image, kind)
            read, stock = read_image(data, "x"), Image.open(io.BytesIO(data))
            assert read.mode == stock.mode and read.tobytes() == stock.tobytes()


class Whole:
    """Replaces the training transform; returns the image and its maps unchanged."""

    def draw_view(self) -> None:
        return None

    def draft(self) -> None:
        return None

    def with_windows(
        self, image: Image.Image, heatmap: np.ndarray | None, placebo: Any, windows: Any, crop: Any
    ) -> Any:
        return (
            torch.from_numpy(np.array(image)),
            None if heatmap is None else torch.from_numpy(heatmap),
            [torch.from_numpy(np.array(values)) for values in windows],
        )


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.zeros(len(texts), 4, dtype=torch.int64)


def put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_zoo(folder: Path, members: list[tuple[str, Member]]) -> tuple[Path, Path]:
    """Write the files as a table and as a shard; returns both paths."""
    rows, shard = ["filepath\ttitle"], folder / "zoo.tar"
    with tarfile.open(shard, "w") as archive:
        for i, (family, member) in enumerate(members):
            (folder / f"{i}.{'dcm' if family == 'dicom' else 'img'}").write_bytes(member.data)
            rows.append(f"{i}.{'dcm' if family == 'dicom' else 'img'}\ta caption")
            put(archive, f"{i:04d}.png", member.data)
            put(archive, f"{i:04d}.txt", b"a caption")
    (folder / "zoo.tsv").write_text("\n".join(rows) + "\n")
    return folder / "zoo.tsv", shard


@pytest.mark.slow
def test_all_parts_of_the_package_read_the_same_pixels(tmp_path: Path) -> None:
    """Training from tables and shards, validation, evaluation and prepare, file by file."""
    table, shard = write_zoo(tmp_path, GOOD)
    rows = read_csv_table(table, CsvColumns())
    trained, entries = CsvSamples(rows, Whole(), tokenize), index_shard(shard)
    sharded = TarSamples(entries, Whole(), tokenize, range(len(entries)))
    validated = CsvPairs(rows, lambda image: torch.from_numpy(np.array(image)), tokenize)
    sets = [read_eval_set(table), read_eval_set(shard)]
    evaluated = [
        _Images(data, lambda image: torch.from_numpy(np.array(image)), list(range(len(data))))
        for data in sets
    ]
    for i, (_, member) in enumerate(GOOD):
        image = read_image(rows.images[i], "x")
        assert np.abs(pixels(image) - member.shown).max() <= member.tolerance
        as_read = np.asarray(image)
        rgb, grey = np.asarray(image.convert("RGB")), np.asarray(image.convert("L"))
        assert np.array_equal(trained[i].image.numpy(), as_read), member.name
        assert np.array_equal(validated[i][0].numpy(), as_read), member.name
        for tensor in (sharded[i].image, evaluated[0][i], evaluated[1][i]):
            assert np.array_equal(tensor.numpy(), rgb), member.name
        for content in (None, member.data):
            prepared = np.asarray(read_grey(rows.images[i], None, content)[0])
            assert np.array_equal(prepared, grey), member.name
        reduced, size = read_grey(rows.images[i], 16)
        assert size == as_read.shape[:2]
        assert min(reduced.size) == 16 and reduced.mode == "L"


def test_the_check_names_every_unreadable_image(tmp_path: Path) -> None:
    """In tables and shards; training raises an error that names the row."""
    bad = [(family, member) for family, member in MEMBERS if member.shown is None]
    table, shard = write_zoo(tmp_path, bad + GOOD[:3])
    rows = read_csv_table(table, CsvColumns())
    for report in (
        check_table(rows, decode_images=True),
        check_entries(index_shard(shard), decode_images=True),
    ):
        assert report.good == list(range(len(bad), len(bad) + 3))
        assert len(report.faults) == len(bad)
        for fault, (_, member) in zip(report.faults, bad):
            assert re.search(member.fault, str(fault)), str(fault)
    for i, fault in enumerate(check_table(rows, decode_images=True).faults):
        assert f"row {i + 1}" in str(fault)
    samples = CsvSamples(rows, Whole(), tokenize)
    for i in range(len(bad)):
        with pytest.raises(DataError, match=f"row {i + 1}, column 'filepath'"):
            samples[i]


@pytest.mark.parametrize("size", [16, 24, 100])
@pytest.mark.parametrize("kind", ["grey", "colour", "turned", "profile", "cmyk"])
def test_reduced_jpegs_of_prepare_equal_reduced_images_of_the_reader(size: int, kind: str) -> None:
    """`prepare` decodes JPEGs at a smaller scale; orientation and colour profile are applied."""
    y, x = np.mgrid[0:400, 0:600]
    smooth = np.stack(
        [127 + 120 * np.sin(x / 80), 127 + 100 * np.cos(y / 60), x * 255 / 600], -1
    ).astype(np.uint8)
    image = Image.fromarray(smooth)
    from image_zoo import icc

    settings = {
        "turned": {"exif": b"Exif\0\0" + exif(6)},
        "profile": {"icc_profile": icc("RGB", 1.0)},
    }.get(kind, {})
    data = saved(
        {"grey": image.convert("L"), "cmyk": image.convert("CMYK")}.get(kind, image),
        "JPEG",
        quality=95,
        **settings,
    )
    reduced, original = read_grey(Path("x.jpg"), size, data)
    whole = read_image(data, "x").convert("L")
    assert original == (whole.height, whole.width)
    assert original == ((600, 400) if kind == "turned" else (400, 600))
    expected = whole.resize(reduced.size, Image.Resampling.BOX)
    assert np.abs(pixels(reduced) - pixels(expected)).max() <= 8


# ------------------------------------------------------------------ maps


def spot(size: tuple[int, int], position: tuple[int, int]) -> np.ndarray:
    """A bright spot at `position` (y, x), uint8 (height, width)."""
    y, x = np.mgrid[: size[0], : size[1]]
    distance = (y - position[0]) ** 2 + (x - position[1]) ** 2
    return np.rint(255 * np.exp(-distance / 18)).astype(np.uint8)


STORED = spot((40, 60), (8, 13))


def encoded(kind: str, orientation: int) -> bytes:
    image = Image.fromarray(STORED)
    if kind == "tiff":
        return tiff(STORED, {274: (3, [orientation])})
    if kind == "png":
        return png(STORED.astype(np.uint16) * 257, 16, 0, chunk(b"eXIf", exif(orientation)))
    if kind == "webp":
        return saved(image.convert("RGB"), "WEBP", lossless=True, exif=exif(orientation))
    return saved(image, "JPEG", quality=95, exif=b"Exif\0\0" + exif(orientation))


def windows_of(maps: list[np.ndarray]) -> tuple[bytes, bytes]:
    return encode_windows(
        [(f"sentence {i}", float(i), i + 1.0) for i in range(len(maps))],
        [values / 255 for values in maps],
    )


def centre(values: np.ndarray) -> tuple[float, float]:
    """The centre of mass (y, x), as shares of height and width."""
    values = values.astype(float)
    height, width = values.shape
    y, x = np.mgrid[:height, :width]
    centre_y = ((y + 0.5) * values).sum() / values.sum() / height
    centre_x = ((x + 0.5) * values).sum() / values.sum() / width
    return centre_y, centre_x


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
def test_a_heatmap_is_turned_with_its_image(kind: str, orientation: int, tmp_path: Path) -> None:
    """After the joint transform, the spot of the map lies over the spot of the image.

    So it does in tables and shards, for heatmaps and sentence windows, and at any resolution.
    """
    image = encoded(kind, orientation)
    small = np.asarray(Image.fromarray(STORED).resize((30, 20), Image.Resampling.BOX))
    heatmap = saved(Image.fromarray(small), "PNG")
    text, maps = windows_of([small, STORED[::2, ::2]])
    name = {"jpeg": "jpg", "tiff": "png"}.get(kind, kind)
    (tmp_path / "a.img").write_bytes(image)
    (tmp_path / "h.png").write_bytes(heatmap)
    (tmp_path / "w.json").write_bytes(text)
    (tmp_path / "w.npz").write_bytes(maps)
    (tmp_path / "t.csv").write_text("filepath,title,heatmap,windows\na.img,text,h.png,w.json\n")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for member, data in (
            (name, image),
            ("txt", b"text"),
            ("heatmap.png", heatmap),
            ("windows.json", text),
            ("windows.npz", maps),
        ):
            put(archive, f"k.{member}", data)
    joint = JointTransform(image_transform(32, is_train=True, aug_cfg={"scale": (0.6, 1.0)}), 0.0)
    entries = index_shard(tmp_path / "s.tar")
    table = read_csv_table(tmp_path / "t.csv", CsvColumns())
    torch.manual_seed(orientation)
    for samples in (
        CsvSamples(table, joint, tokenize, windows=True),
        TarSamples(entries, joint, tokenize, [0], windows=True),
    ):
        sample = samples[0]
        shown = sample.image[0].numpy() - sample.image[0].min().item()
        assert np.allclose(centre(shown), centre(sample.heatmap[0].numpy()), atol=0.06)
        assert len(sample.sentence_heatmap) == 2
        for values in sample.sentence_heatmap:
            assert np.allclose(centre(shown), centre(values[0].numpy()), atol=0.06)
    for report in (
        check_table(table, windows=True),
        check_entries(entries, windows=True),
        check_table(table, decode_images=True),
    ):
        assert not report.faults and report.turned == (orientation != 1)
        assert list(report.image_sizes) == [(60, 40) if orientation > 4 else (40, 60)]
    data = join_heatmaps(read_eval_set(tmp_path / "t.csv"), "heatmap", None)
    transform = image_transform(32, is_train=False, resize_mode="squash")
    rgb = read_image(image, "x", "RGB")
    evaluated = read_heatmap_tensor(data, 0, rgb, transform)[0].numpy()
    transformed = transform(rgb)[0].numpy()
    assert np.allclose(centre(transformed - transformed.min()), centre(evaluated), atol=0.06)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_may_lie_over_the_stored_or_the_upright_pixels(orientation: int) -> None:
    """A map that fits the stored pixels is turned; one that fits the upright image only is not.

    One that fits neither is an error.
    """
    frame = read_frame(encoded("jpeg", orientation), "x")
    upright = turned(STORED, orientation)
    assert frame == Frame((40, 60), upright.shape, orientation)
    assert np.array_equal(orient_maps(STORED, frame, "h"), upright)
    assert np.array_equal(orient_maps(np.stack([STORED] * 2), frame, "h")[1], upright)
    assert np.array_equal(turn_maps_back(upright, orientation), STORED)
    assert np.array_equal(turn_maps(STORED, orientation), upright)
    if orientation > 4:
        assert np.array_equal(orient_maps(upright, frame, "h"), upright)
    with pytest.raises(DataError, match="aspect ratio"):
        orient_maps(np.ones((40, 40)), frame, "h")
    # the orientation tag of the map itself is applied first
    tagged = saved(Image.fromarray(STORED), "PNG", exif=b"Exif\0\0" + exif(orientation))
    decoded = read_heatmap(tagged, "h.png", Frame(upright.shape, upright.shape))
    assert np.array_equal(np.rint(decoded * 255), upright)


def test_maps_over_pixels_that_are_not_square_are_not_turned() -> None:
    """Whether they have the aspect ratio of the stored pixels or of the image shown."""
    frame = read_frame(dicom(DEEP, PixelAspectRatio=[2, 1]), "x")
    assert frame == Frame((H, W), (2 * H, W))
    for values in (GREY, GREY.repeat(2, axis=0)):
        assert np.array_equal(orient_maps(values, frame, "h"), values)
    text, maps = windows_of([GREY])
    assert np.array_equal(read_windows(text, maps, "w", frame).heatmaps[0], GREY)
    with pytest.raises(DataError, match="aspect ratio"):
        orient_maps(GREY.T, frame, "h")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("promised", ["nothing", "stored", "shown"])
def test_prepare_turns_annotations_with_their_image(
    orientation: int, promised: str, tmp_path: Path
) -> None:
    """Positions are in stored pixels, unless the tables state the size of the upright image."""
    (tmp_path / "a.jpg").write_bytes(encoded("jpeg", orientation))
    shown = turned(STORED, orientation)
    upright = promised == "shown" and orientation in (6, 8)
    annotated_on = shown if upright else STORED
    y, x = np.unravel_index(annotated_on.argmax(), annotated_on.shape)
    size = {"nothing": None, "stored": (40, 60), "shown": shown.shape}[promised]
    box = Boxes.from_xywh(np.array([[x - 3.0, y - 3.0, 7.0, 7.0]]))
    for reduced in (None, 20):
        options = Options(tmp_path, reduced, 95, "csv", 1, None, (0, 1), 10, False)
        written = write_sample(Item("k", tmp_path / "a.jpg", "text", (box,), size), options)
        picture = read_picture(written.image, "x")
        heatmap = read_heatmap(written.heatmap, "h.png", picture.frame)
        assert np.allclose(centre(pixels(picture.image) > 120), centre(heatmap), atol=0.03)
    with pytest.raises(ImageError, match="the tables say 41 x 47"):
        write_sample(Item("k", tmp_path / "a.jpg", "text", (box,), (41, 47)), options)


# ------------------------------------------------------------------ ranges, limits, flags


@pytest.mark.parametrize(
    "data",
    [
        png(DEEP, 16, 0),
        tiff(DEEP),
        tiff(DEEP, order=">", deflate=True),
        tiff(DEEP.astype(np.float32)),
        dicom(DEEP),
        dicom(DEEP, WindowCenter=9, WindowWidth=9),
    ],
    ids=["png", "tiff", "big endian", "float", "dicom", "dicom with a window"],
)
def test_image_range_replaces_the_range_or_window_of_the_image(data: bytes, tmp_path: Path) -> None:
    """In the reader and in `prepare`."""
    options = ReadOptions(grey_range=(5000, 30000))
    expected = scaled(DEEP, low=5000, high=30000)
    assert np.abs(pixels(read_picture(data, "x", options).image) - expected).max() <= 1
    assert np.abs(pixels(read_grey(Path("x"), None, data, options)[0]) - expected).max() <= 1
    message = "one flat grey .* --image-range 0 1, its values being 7000 to 32500"
    with pytest.raises(DataError, match=message):
        read_picture(data, "x", ReadOptions(grey_range=(0, 1)))


def test_image_range_does_not_change_images_of_eight_bits() -> None:
    """And a constant image stays an error."""
    options = ReadOptions(grey_range=(0, 1000))
    assert np.array_equal(pixels(read_picture(png(GREY, 8, 0), "x", options).image), GREY)
    with pytest.raises(DataError, match="one flat grey"):
        read_picture(png(DEEP * 0 + 500, 16, 0), "x", options)


@lru_cache(maxsize=1)
def bombs() -> dict[str, bytes]:
    """Files of a few kB that would unpack to much more than the test allows."""
    flat, text = zlib.compress(bytes(1 << 20)), zlib.compress(bytes(1 << 25))
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    base = png(GREY, 8, 0)
    jpeg = bytearray(saved(Image.fromarray(GREY), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    webp = bytearray(saved(Image.fromarray(COLOUR), "WEBP", lossless=True))
    webp[21:25] = (0x2FFFFFFF & 0x0FFFFFFF).to_bytes(4, "little")
    gif = bytearray(saved(Image.fromarray(GREY), "GIF"))
    gif[6:10] = struct.pack("<HH", 65000, 65000)
    bmp = bytearray(saved(Image.fromarray(GREY), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    deflated = dicom(DEEP, "1.2.840.10008.1.2.1.99")
    meta = 144 + int.from_bytes(deflated[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return {
        "png": (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", huge) + chunk(b"IDAT", flat) + chunk(b"IEND", b"")
        ),
        "png of 16-bit colour": (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 6, 0, 0, 0))
            + chunk(b"IDAT", flat)
            + chunk(b"IEND", b"")
        ),
        "png text": base[:33] + chunk(b"zTXt", b"k\0\0" + text) + base[33:],
        "png profile": base[:33] + chunk(b"iCCP", b"k\0\0" + text) + base[33:],
        "jpeg": bytes(jpeg),
        "webp": bytes(webp),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "tiff": tiff(GREY, {256: (4, [60000]), 257: (4, [60000])}),
        "tiff of floats": tiff(
            GREY.astype(np.float32), {256: (4, [60000]), 257: (4, [60000])}, deflate=True
        ),
        "tiff tiles": tiff(
            GREY,
            {273: (4, [0]), 322: (4, [1 << 20]), 323: (4, [1 << 20]), 324: (4, [8]), 325: (4, [8])},
            deflate=True,
        ),
        "ppm": b"P6 60000 60000 255\n" + bytes(100),
        "dicom": dicom(DEEP, Rows=60000, Columns=60000),
        "dicom of 64 bits": dicom(DEEP, Rows=20000, Columns=5000, BitsAllocated=128),
        "dicom of long pixels": dicom(DEEP, PixelAspectRatio=[1_000_000, 1]),
        "dicom frames": dicom(DEEP, NumberOfFrames=100000),
        "dicom, deflated": deflated[:meta] + packer.compress(bytes(1 << 27)) + packer.flush(),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        *("png", "png of 16-bit colour", "png text", "png profile"),
        *("jpeg", "webp", "gif", "bmp", "tiff", "tiff of floats", "tiff tiles", "ppm"),
        *("dicom", "dicom of 64 bits", "dicom of long pixels", "dicom frames", "dicom, deflated"),
    ],
)
def test_decompression_bombs_are_rejected_by_their_header(
    kind: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Nothing is decoded and nothing large is allocated."""
    import pydicom.pixels

    data = bombs()[kind]
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda *_, **__: decoded.append("dicom"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = ReadOptions(max_bytes=1 << 26)  # small enough for the machine of the tests
    for read in (read_picture, read_frame):
        with pytest.raises(DataError, match="^row 1") as caught:
            read(data, "row 1", options)
        assert "\n" not in str(caught.value)
    assert not decoded and not [warning for warning in recwarn if "omb" in str(warning.message)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 160_000  # kB


@pytest.mark.parametrize(
    ("family", "member"),
    [
        (family, member)
        for family, member in GOOD
        if member.name
        in (
            "8 bits",
            "16 bits",
            "u2, little endian",
            "orientation 6",
            "JPEG, grey",
            "WebP",
            "GIF",
            "colour",
        )
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_limits_can_be_set(family: str, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these limits apply; that of Pillow has no effect, and is restored afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (read_picture, read_frame):
        read(member.data, "x", ReadOptions(max_pixels=H * W))
        with pytest.raises(DataError, match=f"at most {H * W - 1} pixels .--max-pixels"):
            read(member.data, "x", ReadOptions(max_pixels=H * W - 1))
        with pytest.raises(DataError, match="--max-bytes"):
            read(member.data, "x", ReadOptions(max_bytes=H * W - 1))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_files_beyond_max_bytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(GREY, 8, 0) + bytes(1_100_000))
    options = ReadOptions(max_bytes=H * W)
    message = "a file of .* bytes; expected at most .* .--max-bytes"
    with pytest.raises(DataError, match=message):
        read_picture(path, "x", options)
    (tmp_path / "t.csv").write_text("filepath,title\nlarge.png,clear\n")
    table = read_csv_table(tmp_path / "t.csv", CsvColumns())
    (fault,) = check_table(table, decode_images=True, options=options).faults
    assert re.search(message, fault.message)
    with pytest.raises(DataError, match="no file.*unreadable image"):
        read_picture(tmp_path / "absent.png", "no file")
    with pytest.raises(DataError, match="unreadable image"):
        read_picture(tmp_path, "a folder")


def test_dicom_without_pydicom_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DICOM is recognised by its content; an error says if only the file name is DICOM's."""
    data = dicom(DEEP)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    message = r"row 1: reading DICOM needs the extra: pip install 'openclip_eclip\[dicom\]'"
    with pytest.raises(UserError, match=message) as caught:
        read_picture(data, "row 1")
    # no DataError: the file is good and must not be skipped
    assert not isinstance(caught.value, DataError)
    with pytest.raises(DataError, match="a.dcm: no DICOM preamble: unreadable image"):
        read_picture(b"text", "a.dcm")


def test_flags_set_the_read_options() -> None:
    parser = argparse.ArgumentParser()
    add_read_arguments(parser)
    assert read_options(parser.parse_args([])) == ReadOptions()
    args = parser.parse_args("--image-range -5 9 --max-pixels 7 --max-bytes 8".split())
    assert read_options(args) == ReadOptions((-5, 9), 7, 8)
    for wrong in (
        "--image-range 9 9",
        "--image-range 3 nan",
        "--image-range 0 inf",
        "--max-pixels 0",
        "--max-bytes -1",
    ):
        with pytest.raises(UserError, match=wrong.split()[0]):
            read_options(parser.parse_args(wrong.split()))


def test_the_check_prints_how_deep_images_are_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(png(DEEP, 16, 0, chunk(b"eXIf", exif(6))))
    (tmp_path / "b.dcm").write_bytes(dicom(DEEP))
    (tmp_path / "c.png").write_bytes(png(GREY, 8, 0))
    (tmp_path / "h.png").write_bytes(png(GREY[::-1] // 64 * 64, 8, 0))
    (tmp_path / "t.csv").write_text(
        "filepath,title,heatmap\na.png,one,h.png\nb.dcm,two,\nc.png,three,h.png\n"
    )
    sheet = tmp_path / "sheet.png"
    assert check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    line = (
        "images of more than 8 bits: 2, each converted to 8 bits by its own window, or from its"
        " darkest to its brightest value"
    )
    assert line in out
    assert "warning: 1 annotated image is turned by an orientation tag" in out
    assert sheet.is_file()
    image_range = ["--image-range", "0", "40000"]
    assert check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet), *image_range]) == 0
    line = "images of more than 8 bits: 2, each converted to 8 bits from 0 to 40000 (--image-range)"
    assert line in capsys.readouterr().out
    assert check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet), "--max-pixels", "800"]) == 1
    assert capsys.readouterr().out.count("--max-pixels") == 3
    (tmp_path / "t.csv").write_text("filepath,title,heatmap\nc.png,three,h.png\n")
    assert check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "more than 8 bits" not in out and "warning" not in out


def test_the_contact_sheet_draws_images_and_maps_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openclip_eclip.data import figures

    drawn = []
    monkeypatch.setattr(
        figures,
        "_overlay",
        lambda axis, image, values, title: drawn.append((np.asarray(image), values)),
    )
    windows = read_windows(*windows_of([STORED]), "w", read_frame(encoded("png", 6), "x"))
    figures.contact_sheet(
        [(encoded("png", 6), saved(Image.fromarray(STORED), "PNG"), "h.png", "t")],
        tmp_path / "s.png",
        [(encoded("png", 6), windows, "w")],
    )
    assert len(drawn) == 3
    for image, values in drawn:
        assert np.array_equal(image, turned(STORED, 6))
        assert values is None or np.allclose(values * 255, turned(STORED, 6), atol=0.51)


def test_the_perceptual_hash_is_independent_of_depth_and_orientation() -> None:
    """`data.overlap` hashes the image that training reads."""
    plain = perceptual_hash(read_image(png(GREY, 8, 0), "x"))
    for data in (
        png(DEEP, 16, 0),
        tiff(DEEP, {262: (3, [0])}),
        dicom(255 - GREY, PhotometricInterpretation="MONOCHROME1"),
        png(np.ascontiguousarray(turned(GREY, 8)), 8, 0, chunk(b"eXIf", exif(6))),
    ):
        image = read_image(data, "x")
        if data == tiff(DEEP, {262: (3, [0])}):  # white is zero: read inverted
            image = Image.fromarray(255 - np.asarray(image))
        fingerprint, thumbnail = perceptual_hash(image)
        assert np.array_equal(fingerprint, plain[0])
        assert np.abs(thumbnail.astype(int) - plain[1]).max() <= 1


def test_cached_features_depend_on_the_image_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the cache contains the read options."""
    from openclip_eclip.evaluate.inputs import features

    (tmp_path / "a.png").write_bytes(png(DEEP, 16, 0))
    (tmp_path / "t.csv").write_text("filepath,title\na.png,one\n")
    keys = []
    monkeypatch.setattr(
        features,
        "_key",
        lambda kind, encoder, options, content: (
            keys.append(content) or _key(kind, encoder, options, content)
        ),
    )
    monkeypatch.setattr(
        features,
        "_cached",
        lambda cache, key, encode: [
            key() and None,
            {
                "bad": np.zeros(1, bool),
                "unit": np.ones((1, 2), np.float32),
                "pooled": np.ones((1, 0)),
            },
        ][1],
    )

    class Tower:
        facts = {"weights_hash": "w", "transform": "t"}
        precision, device = "fp32", torch.device("cpu")

    for grey_range in (None, (0.0, 9.0), (0.0, 9.5)):
        features.encode_images(
            Tower(),
            read_eval_set(tmp_path / "t.csv", reading=ReadOptions(grey_range)),
            features.EncodeOptions(workers=0),
        )
    assert len(set(keys)) == 3


def test_the_training_transform_accepts_every_image() -> None:
    """open_clip's transform receives images of mode "L" and "RGB" only."""
    joint = JointTransform(image_transform(16, is_train=True), 0.0)
    for _, member in GOOD[::9]:
        view = joint(read_image(member.data, "x"))[0]
        assert view.shape == (3, 16, 16)
        # a view is flat only if the image is
        assert view[0].unique().numel() > 2 or len(np.unique(member.shown)) < 3
