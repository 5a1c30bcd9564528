"""`prepare annotations` from files to data: gaze with transcripts, and what the user is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import read_manifest, read_split
from PIL import Image

from openclip_eclip.data.scanpath import decode_scanpath
from openclip_eclip.data.sentence_windows import decode_windows
from openclip_eclip.prepare.__main__ import main as prepare

SIZE = (120, 80)  # width, height


def write_source(folder: Path, swapped: bool = False) -> list[str]:
    """Four images with reports, gaze of 24 fixations on each, and words of two sentences."""
    draws = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "words").mkdir()
    gaze, reports = [["image", "x", "y", "start", "duration"]], [["image", "report"]]
    for number in range(4):
        name = f"{number}.png"
        Image.new("RGB", SIZE, (200, 40, 40)).save(folder / "images" / name)
        reports.append([name, f"report {number}"])
        for i in range(24):
            x = 100 if i < 12 else 20  # right, then left
            at = [x + draws.uniform(-9, 9), 40 + draws.uniform(-9, 9)]
            gaze.append([name, *(at[::-1] if swapped else at), i * 0.25, 0.2])
        words = [["a", 0.5, 1.0], ["mass.", 1.0, 2.5], ["a", 3.5, 4.0], ["node.", 4.0, 5.5]]
        segments = [{"words": [dict(zip(("word", "start", "end"), word)) for word in words]}]
        (folder / "words" / f"{number}.json").write_text(json.dumps({"segments": segments}))
    for path, rows in (("gaze.csv", gaze), ("reports.csv", reports)):
        with open(folder / path, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return [
        *("annotations", str(folder / "gaze.csv"), str(folder / "out"), "--workers", "1"),
        *("--images", str(folder / "images"), "--texts", str(folder / "reports.csv")),
        *("--time-unit", "s", "--sigma", "6", "--size", "original"),
    ]


@pytest.mark.slow
def test_gaze_and_words_become_heatmaps_windows_and_scanpaths(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = write_source(tmp_path)
    words = ["--transcripts", str(tmp_path / "words"), "--lead", "0.5"]
    assert prepare([*command, *words]) == 0
    printed = capsys.readouterr().out
    assert "format: gaze-table (1 files)" in printed and "look at this" not in printed
    assert "gaze, fixations: 96" in printed
    members = read_split(tmp_path / "out")
    windows = decode_windows(members["2.windows.json"], members["2.windows.npz"], "2")
    assert windows.sentences == ["a mass.", "a node."]
    assert windows.times == [(0.0, 2.5), (3.0, 5.5)]
    right, left = windows.heatmaps
    assert right[:, 80:].max() == 255 and right[:, :40].max() == 0
    assert left[:, :40].max() == 255 and left[:, 80:].max() == 0
    path = decode_scanpath(members["2.scanpath.npz"], "2")
    assert len(path.x) == 24 and np.allclose(path.start, np.arange(24) * 0.25)
    assert (path.x[:12] > 0.7).all() and (path.x[12:] < 0.3).all()
    assert np.asarray(Image.open(tmp_path / "images" / "2.png")).ndim == 3
    assert read_manifest(tmp_path / "out")["facts"]["annotations"] == 4
    page = (tmp_path / "out" / "overlays.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 4 and "a mass." in page and "http" not in page
    # the same command again finds all of it written
    assert prepare([*command, *words]) == 0


def test_swapped_axes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = write_source(tmp_path, swapped=True)
    assert prepare([*command, "--dry-run"]) == 0
    assert "lie off their image, 0% with x and y swapped" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (["--annotation-format", "coco"], "not JSON"),
        (["--transcripts", "none"], "--transcripts none: no such file"),
        (["--phrases", "mass"], "no {c}"),
        (["--lead", "-1"], "--lead -1.0: expected seconds"),
        (["--text-column", "title"], "no column 'title'"),
        (["--split-column", "fold"], "column 'fold': blank"),
    ],
)
def test_bad_flags(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert prepare([*write_source(tmp_path), *change, "--dry-run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_formats_in_a_folder_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = write_source(tmp_path)
    both = tmp_path / "both"
    both.mkdir()
    (both / "gaze.csv").write_bytes((tmp_path / "gaze.csv").read_bytes())
    image = {"id": 1, "file_name": "0.png", "width": 120, "height": 80}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "mass"}]}
    (both / "coco.json").write_text(json.dumps(content))
    command[1] = str(both)
    assert prepare(command) == 2
    assert "files of 2 formats (coco: " in capsys.readouterr().err


@pytest.mark.slow
def test_columns_of_the_texts_do_not_replace_ours(tmp_path: Path) -> None:
    """A table that `prepare` wrote may be the texts of the next one; tabs separate as well."""
    command = write_source(tmp_path)
    rows = list(csv.reader((tmp_path / "reports.csv").open(newline="")))
    table = [
        [*row, *extra] for row, extra in zip(rows, [["title", "heatmap"], *[["t", "h.png"]] * 4])
    ]
    lines = ["\t".join(row) for row in table]
    (tmp_path / "reports.tsv").write_text("\n".join(lines) + "\n")
    command[command.index("--texts") + 1] = str(tmp_path / "reports.tsv")
    assert prepare([*command, "--text-column", "report", "--format", "csv"]) == 0
    with open(tmp_path / "out" / "train.csv", newline="") as file:
        (first, *_) = csv.DictReader(file)
    assert (first["title"], first["source_title"]) == ("report 0", "t")
    assert (first["heatmap"], first["source_heatmap"]) == ("heatmaps/0.png", "h.png")
