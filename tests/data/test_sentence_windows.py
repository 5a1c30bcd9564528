"""Sentence windows in the check: read, every fault named with row or key, drawn on the sheet."""

from __future__ import annotations

import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import write_shard
from PIL import Image

from openclip_eclip.data.check import check_entries, check_table
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.figures import contact_sheet
from openclip_eclip.data.sentence_windows import decode_windows
from openclip_eclip.data.shards.tar_source import index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, read_csv_table

SENTENCES = [
    "The heart is of normal size and the mediastinum is not widened.",
    "Small nodule in the left upper lobe, $5 to $9 mm across.",
    "No effusion.",
    (
        "The bones are intact, as far as they can be seen on a single frontal image of this quality"
        " and at this window width."
    ),
    "No pneumothorax.",
    "Compare with the earlier image.",
]


def text(count: int = 3, **changes: object) -> bytes:
    return json.dumps(
        [
            {"sentence": SENTENCES[i], "start": 2.0 * i, "end": 2.0 * i + 1.5, **changes}
            for i in range(count)
        ]
    ).encode()


def npz(
    count: int = 3,
    size: tuple[int, int] = (60, 50),
    name: str = "heatmaps",
    dtype: object = np.uint8,
    blank: int | None = None,
) -> bytes:
    """One blob per sentence, each lower than the one before; map `blank` is all zero."""
    y, x = np.mgrid[: size[0], : size[1]]
    maps = [
        200
        * np.exp(-((y - size[0] * (i + 0.5) / count) ** 2 + (x - size[1] / 2) ** 2) / 40)
        * (i != blank)
        for i in range(count)
    ]
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: np.stack(maps).astype(dtype)})
    return stream.getvalue()


def image_png(heatmap: bool = False, key: str = "") -> bytes:
    """An image of this key, which differs from others in a pixel."""
    stream, values = io.BytesIO(), np.tile(np.linspace(40, 160, 50), (60, 1)).astype(np.uint8)
    values[0, 0] = zlib.crc32(key.encode()) % 200
    if heatmap:
        values = np.load(io.BytesIO(npz(1)))["heatmaps"][0]
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def sample(
    key: str, json_: bytes | None, npz_: bytes | None, heatmap: bool = True
) -> dict[str, bytes]:
    members = {
        "png": image_png(key=key),
        "txt": b"A report.",
        "heatmap.png": image_png(True) if heatmap else None,
        "windows.json": json_,
        "windows.npz": npz_,
    }
    return {f"{key}.{name}": content for name, content in members.items() if content is not None}


FAULTS = {
    "no-npz": (text(), None, "windows.json alone|no such file"),
    "counts": (text(3), npz(2), "2 heatmaps for 3 sentences"),
    "aspect": (text(), npz(size=(50, 60)), "fits transposed"),
    "pickle": (text(), npz(dtype=object), "Pickles are not read"),
    "cut-off": (text(), npz()[:100], "not a readable npz"),
    "not-npz": (text(), b"\x80\x04K\x01.", "Pickles are not read"),
    "npy": (text(), b"\x93NUMPY\x01\x00v\x00", "not a readable npz"),
    "floats": (text(), npz(dtype=float), "float64 .3, 60, 50.; expected uint8"),
    "other-name": (text(), npz(name="maps"), "arrays .'maps'."),
    "not-json": (b"{", npz(), "not JSON"),
    "no-list": (b"{}", npz(), "expected a list"),
    "no-sentence": (text(sentence=None), npz(), "entry 1 is"),
    "times": (text(end=-1), npz(), "start before end"),
    "nan": (text(start=float("nan")), npz(), "entry 1 is"),
}


@pytest.mark.parametrize("json_,npz_,message", FAULTS.values(), ids=FAULTS)
def test_faults_of_windows_are_named_with_key_or_row(
    json_: bytes, npz_: bytes | None, message: str, tmp_path: Path
) -> None:
    shard = write_shard(
        tmp_path / "a.tar",
        {
            **sample("good", text(), npz()),
            **sample("bad", json_, npz_),
            **sample("none", None, None),
        },
    )
    for name, content in {
        "image.png": image_png(),
        "map.png": image_png(True),
        "g.windows.json": text(),
        "g.windows.npz": npz(),
        "b.windows.json": json_,
        "b.windows.npz": npz_,
    }.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "a.csv").write_text(
        "filepath,title,heatmap,windows\nimage.png,one,map.png,g.windows.json\n"
        "image.png,two,map.png,b.windows.json\nimage.png,three,map.png,\n"
    )
    table = read_csv_table(tmp_path / "a.csv", CsvColumns())
    for report, where in (
        (check_entries(index_shard(shard), decode_images=True), f"{shard}, bad"),
        (check_table(table, decode_images=True), f"{tmp_path / 'a.csv'}, row 2"),
    ):
        (fault,) = report.faults
        assert (fault.where, fault.key) == (where, "windows")
        assert re.search(message, fault.message)
        assert report.good == [0, 2] and report.with_windows == 2
    # without `windows`, as in training that does not use them, their faults do not count
    assert not check_table(table).faults
    assert not check_entries(index_shard(shard)).faults
    assert table.keep([1]).windows == [table.windows[1]]


def test_a_missing_json_and_another_file_name_are_faults(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", sample("k", None, npz()))
    (fault, *_) = check_entries(index_shard(shard), decode_images=True).faults
    assert "windows.npz alone" in fault.message
    (tmp_path / "image.png").write_bytes(image_png())
    (tmp_path / "a.csv").write_text(
        "filepath,title,windows\nimage.png,one,g.windows.json\nimage.png,two,image.png\n"
    )
    table = read_csv_table(tmp_path / "a.csv", CsvColumns())
    faults = check_table(table, decode_images=True).faults
    assert "no such file" in faults[0].message and "g.windows.json" in faults[0].message
    assert "expected the name of a .windows.json" in faults[1].message


def test_windows_are_decoded() -> None:
    windows = decode_windows(text(), npz(), "k", (600, 500))
    assert windows.sentences == SENTENCES[:3]
    assert windows.times[1] == (2.0, 3.5)
    assert windows.heatmaps.shape == (3, 60, 50)


def test_a_map_of_zeros_is_a_phrase_without_a_region(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """`check` counts and draws it."""
    assert not decode_windows(text(), npz(blank=1), "k", (60, 50)).heatmaps[1].any()
    shard = write_shard(tmp_path / "a.tar", sample("k", text(), npz(blank=1), heatmap=False))
    assert check_main([str(shard), "--sheet", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "sentence windows: 1 sample\n  phrases without a region (maps of zeros): 1\n" in out
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.slow
def test_the_sheet_draws_the_image_and_its_first_five_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from openclip_eclip.data import figures

    drawn = []
    overlay = figures._overlay
    monkeypatch.setattr(
        figures,
        "_overlay",
        lambda axis, image, values, title: (
            drawn.append((title, values)),
            overlay(axis, image, values, title),
        ),
    )
    shard = write_shard(
        tmp_path / "a.tar",
        {
            **sample("k1", text(6), npz(6)),
            **sample("k2", None, None),
            **sample("k3", text(2), npz(2), heatmap=False),
        },
    )
    assert check_main([str(shard), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "sentence windows: 2 samples" in capsys.readouterr().out
    titles = [title for title, _ in drawn]
    # two heatmaps, then k1 with five sentences and k3 with two
    assert len(titles) == 2 + 6 + 3
    assert titles[:2] == ["k1.heatmap.png\nA report.", "k2.heatmap.png\nA report."]
    assert titles[2] == "k1\n(5 of 6 sentences)"
    assert titles[3].startswith("The heart is")
    assert titles[5] == "No effusion.\n4.0 to 5.5 s"
    assert "..." in titles[6]
    assert titles[8] == "k3"
    assert max(len(line) for title in titles for line in title.split("\n")) <= 26
    # the image alone, then maps whose blobs are each lower than the one before
    assert drawn[2][1] is None
    rows = [int(values.argmax()) // 50 for _, values in drawn[3:8]]
    assert rows == [5, 15, 25, 35, 45]
    assert all(values.max() == 1 for _, values in drawn[3:8])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (round(1.8 * 6 * 120), round((2.6 + 2 * 2.3) * 120))


def test_a_sheet_without_heatmaps_has_the_sentences_only(tmp_path: Path) -> None:
    windows = decode_windows(text(), npz(), "k", (60, 50))
    contact_sheet([], tmp_path / "sheet.png", [(image_png(), windows, "k")])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == round(2.3 * 120)
