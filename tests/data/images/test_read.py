"""One reader of images: what a person sees of a file is what training, validation, evaluation,
prepare and all checks see (decision 0039).
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
def test_what_a_person_sees(family: str, member: Member, tmp_path: Path) -> None:
    """Of the bytes and of the file, with the frame that the header alone tells; or one sentence
    that names the file.
    """
    path = tmp_path / "file"
    path.write_bytes(member.data)
    if member.shown is None:
        for data in (member.data, path):
            with pytest.raises(DataError, match=member.fault) as caught:
                read_picture(data, "table.csv, row 3")
            assert (
                str(caught.value).startswith("table.csv, row 3: ")
                and "\n" not in str(caught.value)
                and "0x" not in str(caught.value)
            )
        return
    for data in (member.data, path):
        picture = read_picture(data, "name")
        assert picture.image.mode in ("L", "RGB") and not picture.image.info
        assert (
            pixels(picture.image).shape == member.shown.shape
            and np.abs(pixels(picture.image) - member.shown).max() <= member.tolerance
        )
        assert (
            picture.frame == read_frame(data, "name")
            and picture.frame.shown_size == member.shown.shape[:2]
        )


def test_the_zoo_is_large_and_not_flat() -> None:
    assert len(MEMBERS) >= 200 and len(
        {name for name in map(lambda entry: (entry[0], entry[1].name), MEMBERS)}
    ) == len(MEMBERS)
    flat = [member.name for _, member in GOOD if len(np.unique(member.shown)) < 3]
    assert all("constant" in name or "1 bit" in name or "width 1" in name for name in flat), flat


def test_eight_bits_are_pillows_own() -> None:
    """Grey stays "L" and colour "RGB", pixel for pixel: stock equality hangs on it."""
    for image in (Image.fromarray(GREY), Image.fromarray(COLOUR)):
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
            data = saved(image, kind)
            found, stock = read_image(data, "x"), Image.open(io.BytesIO(data))
            assert found.mode == stock.mode and found.tobytes() == stock.tobytes()


class Whole:
    """In the place of the training transform: the image itself, and its maps, as they come."""

    def with_windows(
        self, image: Image.Image, heatmap: np.ndarray | None, placebo: Any, windows: Any
    ) -> Any:
        return (
            torch.from_numpy(np.array(image)),
            None if heatmap is None else torch.from_numpy(heatmap),
            [torch.from_numpy(np.array(one)) for one in windows],
        )


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.zeros(len(texts), 4, dtype=torch.int64)


def put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_zoo(folder: Path, members: list[tuple[str, Member]]) -> tuple[Path, Path]:
    """(table, shard) of these files."""
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
def test_every_reader_sees_the_same(tmp_path: Path) -> None:
    """Training of tables and shards, validation, evaluation and prepare, file by file."""
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
        own, rgb, grey = (
            np.asarray(image),
            np.asarray(image.convert("RGB")),
            np.asarray(image.convert("L")),
        )
        assert np.array_equal(trained[i].image.numpy(), own) and np.array_equal(
            validated[i][0].numpy(), own
        ), member.name
        for found in (sharded[i].image, evaluated[0][i], evaluated[1][i]):
            assert np.array_equal(found.numpy(), rgb), member.name
        for content in (None, member.data):
            assert np.array_equal(np.asarray(read_grey(rows.images[i], None, content)[0]), grey), (
                member.name
            )
        reduced, size = read_grey(rows.images[i], 16)
        assert size == own.shape[:2] and min(reduced.size) == 16 and reduced.mode == "L"


def test_faults_are_found_by_row_before_training(tmp_path: Path) -> None:
    """Each of the faulty members alone, in tables and shards; training stops with the same
    sentence.
    """
    bad = [(family, member) for family, member in MEMBERS if member.shown is None]
    table, shard = write_zoo(tmp_path, bad + GOOD[:3])
    rows = read_csv_table(table, CsvColumns())
    for report in (
        check_table(rows, decode_images=True),
        check_entries(index_shard(shard), decode_images=True),
    ):
        assert report.good == list(range(len(bad), len(bad) + 3)) and len(report.faults) == len(bad)
        for fault, (_, member) in zip(report.faults, bad):
            assert re.search(member.fault, str(fault)), str(fault)
    assert all(
        f"row {i + 1}" in str(fault)
        for i, fault in enumerate(check_table(rows, decode_images=True).faults)
    )
    samples = CsvSamples(rows, Whole(), tokenize)
    for i in range(len(bad)):
        with pytest.raises(DataError, match=f"row {i + 1}, column 'filepath'"):
            samples[i]


@pytest.mark.parametrize("size", [16, 24, 100])
@pytest.mark.parametrize("kind", ["grey", "colour", "turned", "profile", "cmyk"])
def test_reduced_jpegs_of_prepare_are_the_readers_reduced(size: int, kind: str) -> None:
    """Its short cut, decoding at a smaller scale, keeps what the file says of itself."""
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
    found, original = read_grey(Path("x.jpg"), size, data)
    whole = read_image(data, "x").convert("L")
    assert (
        original == (whole.height, whole.width) == ((600, 400) if kind == "turned" else (400, 600))
    )
    assert np.abs(pixels(found) - pixels(whole.resize(found.size, Image.Resampling.BOX))).max() <= 8


# ------------------------------------------------------------------ maps


def spot(size: tuple[int, int], place: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.rint(255 * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 18)).astype(np.uint8)


STORED, PLACE = spot((40, 60), (8, 13)), (8, 13)


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
    """Of mass, as shares of height and width."""
    values = values.astype(float)
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    return ((y + 0.5) * values).sum() / values.sum() / values.shape[0], (
        (x + 0.5) * values
    ).sum() / values.sum() / values.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
def test_a_heatmap_goes_with_its_image(kind: str, orientation: int, tmp_path: Path) -> None:
    """The mark lies over what it marks after the joint transform: table and shard, heatmap and
    sentence windows, any resolution.
    """
    image, small = (
        encoded(kind, orientation),
        np.asarray(Image.fromarray(STORED).resize((30, 20), Image.Resampling.BOX)),
    )
    heatmap, (text, maps) = (
        saved(Image.fromarray(small), "PNG"),
        windows_of([small, STORED[::2, ::2]]),
    )
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
    joint, entries = (
        JointTransform(image_transform(32, is_train=True, aug_cfg={"scale": (0.6, 1.0)}), 0.0),
        index_shard(tmp_path / "s.tar"),
    )
    table = read_csv_table(tmp_path / "t.csv", CsvColumns())
    torch.manual_seed(orientation)
    for samples in (
        CsvSamples(table, joint, tokenize, windows=True),
        TarSamples(entries, joint, tokenize, [0], windows=True),
    ):
        sample = samples[0]
        shown = sample.image[0].numpy() - sample.image[0].min().item()
        assert (
            np.allclose(centre(shown), centre(sample.heatmap[0].numpy()), atol=0.06)
            and len(sample.sentence_heatmap) == 2
        )
        assert all(
            np.allclose(centre(shown), centre(one[0].numpy()), atol=0.06)
            for one in sample.sentence_heatmap
        )
    for report in (
        check_table(table, windows=True),
        check_entries(entries, windows=True),
        check_table(table, decode_images=True),
    ):
        assert not report.faults and report.turned == (orientation != 1)
        assert list(report.image_sizes) == [(60, 40) if orientation > 4 else (40, 60)]
    data = join_heatmaps(read_eval_set(tmp_path / "t.csv"), "heatmap", None)
    transform = image_transform(32, is_train=False, resize_mode="squash")
    film = read_image(image, "x", "RGB")
    evaluated = read_heatmap_tensor(data, 0, film, transform)[0].numpy()
    seen = transform(film)[0].numpy()
    assert np.allclose(centre(seen - seen.min()), centre(evaluated), atol=0.06)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_over_stored_and_over_shown_pixels(orientation: int) -> None:
    """A map is turned with its image; one that fits the shown picture alone was drawn on that; one
    that fits neither is a fault.
    """
    frame = read_frame(encoded("jpeg", orientation), "x")
    upright = turned(STORED, orientation)
    assert frame == Frame((40, 60), upright.shape, orientation)
    assert np.array_equal(orient_maps(STORED, frame, "h"), upright) and np.array_equal(
        orient_maps(np.stack([STORED] * 2), frame, "h")[1], upright
    )
    assert np.array_equal(turn_maps_back(upright, orientation), STORED) and np.array_equal(
        turn_maps(STORED, orientation), upright
    )
    if orientation > 4:
        assert np.array_equal(orient_maps(upright, frame, "h"), upright)
    with pytest.raises(DataError, match="aspect ratio"):
        orient_maps(np.ones((40, 40)), frame, "h")
    # the map's own orientation comes first
    own = saved(Image.fromarray(STORED), "PNG", exif=b"Exif\0\0" + exif(orientation))
    assert np.array_equal(
        np.rint(read_heatmap(own, "h.png", Frame(upright.shape, upright.shape)) * 255), upright
    )


def test_maps_of_pixels_that_are_not_square() -> None:
    """Over the stored pixels or over the shown picture: both cover all of it."""
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
    """Positions count stored pixels, or those of the upright picture where the tables promise its
    size alone.
    """
    (tmp_path / "a.jpg").write_bytes(encoded("jpeg", orientation))
    shown = turned(STORED, orientation)
    upright = promised == "shown" and orientation in (6, 8)
    y, x = np.unravel_index(
        (shown if upright else STORED).argmax(), (shown if upright else STORED).shape
    )
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
def test_one_range_for_all(data: bytes, tmp_path: Path) -> None:
    """--image-range takes the place of an image's own range or window, here and in prepare."""
    options = ReadOptions(grey_range=(5000, 30000))
    expected = scaled(DEEP, low=5000, high=30000)
    assert np.abs(pixels(read_picture(data, "x", options).image) - expected).max() <= 1
    assert np.abs(pixels(read_grey(Path("x"), None, data, options)[0]) - expected).max() <= 1
    with pytest.raises(
        DataError, match="one flat grey .* --image-range 0 1, its values being 7000 to 32500"
    ):
        read_picture(data, "x", ReadOptions(grey_range=(0, 1)))


def test_a_range_shows_a_constant_image_and_leaves_eight_bits_alone() -> None:
    options = ReadOptions(grey_range=(0, 1000))
    assert np.array_equal(pixels(read_picture(png(GREY, 8, 0), "x", options).image), GREY)
    with pytest.raises(DataError, match="one flat grey"):
        read_picture(png(DEEP * 0 + 500, 16, 0), "x", options)


@lru_cache(maxsize=1)
def bombs() -> dict[str, bytes]:
    """A few kB each, which would unpack to much more than the test allows."""
    flat, text = zlib.compress(bytes(1 << 20)), zlib.compress(bytes(1 << 25))
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    base = png(GREY, 8, 0)
    jpeg = bytearray(saved(Image.fromarray(GREY), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 65000, 65000)
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
        "png",
        "png of 16-bit colour",
        "png text",
        "png profile",
        "jpeg",
        "webp",
        "gif",
        "bmp",
        "tiff",
        "tiff of floats",
        "tiff tiles",
        "ppm",
        "dicom",
        "dicom of 64 bits",
        "dicom of long pixels",
        "dicom frames",
        "dicom, deflated",
    ],
)
def test_bombs_are_refused_by_their_header(
    kind: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Nothing is decoded and nothing large is allocated."""
    import pydicom.pixels

    data = bombs()[kind]
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda *_, **__: decoded.append("dicom"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = ReadOptions(max_bytes=1 << 26)  # of a test's machine
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
def test_limits_are_settings(family: str, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours alone rules: Pillow's neither warns nor stops, and is as it was afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (read_picture, read_frame):
        read(member.data, "x", ReadOptions(max_pixels=H * W))
        with pytest.raises(DataError, match=f"at most {H * W - 1} pixels .--max-pixels"):
            read(member.data, "x", ReadOptions(max_pixels=H * W - 1))
        with pytest.raises(DataError, match="--max-bytes"):
            read(member.data, "x", ReadOptions(max_bytes=H * W - 1))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(GREY, 8, 0) + bytes(1_100_000))
    options, message = (
        ReadOptions(max_bytes=H * W),
        "a file of .* bytes; expected at most .* .--max-bytes",
    )
    with pytest.raises(DataError, match=message):
        read_picture(path, "x", options)
    (tmp_path / "t.csv").write_text("filepath,title\nlarge.png,clear\n")
    table = read_csv_table(tmp_path / "t.csv", CsvColumns())  # the check finds what training would
    (fault,) = check_table(table, decode_images=True, options=options).faults
    assert re.search(message, fault.message)
    with pytest.raises(DataError, match="no file.*unreadable image"):
        read_picture(tmp_path / "absent.png", "no file")
    with pytest.raises(DataError, match="unreadable image"):
        read_picture(tmp_path, "a folder")


def test_dicom_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by content, whatever its name; a file that is only called so says that."""
    data = dicom(DEEP)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UserError,
        match=r"row 1: reading DICOM needs the extra: pip install 'openclip_eclip\[dicom\]'",
    ) as caught:
        read_picture(data, "row 1")
    assert not isinstance(caught.value, DataError)  # no fault of the file: it may not be skipped
    with pytest.raises(DataError, match="a.dcm: no DICOM preamble: unreadable image"):
        read_picture(b"text", "a.dcm")


def test_flags() -> None:
    parser = argparse.ArgumentParser()
    add_read_arguments(parser)
    assert read_options(parser.parse_args([])) == ReadOptions()
    assert read_options(
        parser.parse_args("--image-range -5 9 --max-pixels 7 --max-bytes 8".split())
    ) == ReadOptions((-5, 9), 7, 8)
    for wrong in (
        "--image-range 9 9",
        "--image-range 3 nan",
        "--image-range 0 inf",
        "--max-pixels 0",
        "--max-bytes -1",
    ):
        with pytest.raises(UserError, match=wrong.split()[0]):
            read_options(parser.parse_args(wrong.split()))


def test_the_check_says_how_deep_images_are_read(
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
    assert (
        "warning: 1 annotated images are turned by their own orientation tag" in out
        and sheet.is_file()
    )
    assert (
        check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet), "--image-range", "0", "40000"])
        == 0
    )
    assert (
        "images of more than 8 bits: 2, each converted to 8 bits from 0 to 40000 (--image-range)"
        in capsys.readouterr().out
    )
    assert check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet), "--max-pixels", "800"]) == 1
    assert capsys.readouterr().out.count("--max-pixels") == 3
    (tmp_path / "t.csv").write_text("filepath,title,heatmap\nc.png,three,h.png\n")
    assert check_main([str(tmp_path / "t.csv"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "more than 8 bits" not in out and "warning" not in out


def test_the_contact_sheet_draws_what_is_read(
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
        [(encoded("png", 6), saved(Image.fromarray(STORED), "PNG"), "h.png")],
        tmp_path / "s.png",
        [(encoded("png", 6), windows, "w")],
    )
    assert len(drawn) == 3
    for image, values in drawn:
        assert np.array_equal(image, turned(STORED, 6))
        assert values is None or np.allclose(values * 255, turned(STORED, 6), atol=0.51)


def test_copies_of_an_image_are_alike_whatever_their_depth_and_turn() -> None:
    """The hash of overlap sees the picture that training sees."""
    plain = perceptual_hash(read_image(png(GREY, 8, 0), "x"))
    for data in (
        png(DEEP, 16, 0),
        tiff(DEEP, {262: (3, [0])}),
        dicom(255 - GREY, PhotometricInterpretation="MONOCHROME1"),
        png(np.ascontiguousarray(turned(GREY, 8)), 8, 0, chunk(b"eXIf", exif(6))),
    ):
        image = read_image(data, "x")
        image = (
            Image.fromarray(255 - np.asarray(image))
            if data == tiff(DEEP, {262: (3, [0])})
            else image
        )
        found = perceptual_hash(image)
        assert (
            np.array_equal(found[0], plain[0])
            and np.abs(found[1].astype(int) - plain[1]).max() <= 1
        )


def test_features_of_another_range_are_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's key knows how the images were read."""
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
        facts, precision, device = (
            {"weights_hash": "w", "transform": "t"},
            "fp32",
            torch.device("cpu"),
        )

    for grey_range in (None, (0.0, 9.0), (0.0, 9.5)):
        features.encode_images(
            Tower(),
            read_eval_set(tmp_path / "t.csv", reading=ReadOptions(grey_range)),
            features.EncodeOptions(workers=0),
        )
    assert len(set(keys)) == 3


def test_training_transforms_take_every_member() -> None:
    """open_clip's own: nothing but "L" and "RGB" reaches it."""
    joint = JointTransform(image_transform(16, is_train=True), 0.0)
    for _, member in GOOD[::9]:
        pixels_of = joint(read_image(member.data, "x"))[0]
        assert pixels_of.shape == (3, 16, 16) and (
            pixels_of[0].unique().numel() > 2 or len(np.unique(member.shown)) < 3
        )
