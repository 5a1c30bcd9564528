"""`prepare annotations` from files to data: gaze with transcripts, and what the user is told."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import read_manifest, read_split
from PIL import Image

from openclip_eclip.annotations.formats import recognise
from openclip_eclip.config import UserError
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
    assert "format: gaze-table (1 file)" in printed and "look at this" not in printed
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


def test_swapped_axes_are_named_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = write_source(tmp_path, swapped=True)
    assert prepare([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "lie off their image, 0% with x and y swapped" in printed
    picture = tmp_path / "out-gaze.png"
    assert f"picture of all gaze: {picture}" in printed
    assert not (tmp_path / "out").exists()
    assert share_below_image(picture) > 0.3  # the image is wide


def share_below_image(picture: Path) -> float:
    """Of the blue pixels of positions in a picture of all gaze, those below the frame."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)[:, :600]
    rows = (pixels[..., 2] - pixels[..., 0] > 60).nonzero()[0]
    frame = ((pixels.max(axis=2) < 30).sum(axis=1) > 300).nonzero()[0]
    groups = np.split(frame, (np.diff(frame) > 3).nonzero()[0] + 1)
    # long black lines: axes, image, image, axes
    assert len(rows) and len(groups) == 4
    return float((rows > groups[2][-1]).mean())


def test_an_error_of_units_names_its_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The numbers alone are an error when maps are drawn; the picture is there before."""
    command = write_source(tmp_path)
    table = list(csv.reader((tmp_path / "gaze.csv").open(newline="")))
    for row in table[1:]:
        row[1:3] = [str(float(row[1]) / SIZE[0]), str(float(row[2]) / SIZE[1])]
    with open(tmp_path / "gaze.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    assert prepare([*command, "--gaze-unit", "image-pixels"]) == 2
    message = capsys.readouterr().err
    picture = tmp_path / "out-gaze.png"
    assert "0.png: fixations: all 24 positions" in message
    assert f"{picture} shows all gaze." in message and picture.is_file()
    # with its unit the same command is right
    assert prepare([*command, "--gaze-unit", "image-fractions", "--dry-run"]) == 0
    assert share_below_image(picture) == 0


def test_the_manifest_has_how_gaze_was_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Detector and its parameters, placement, lead; loss, precision and drift of the samples."""
    pymovements = pytest.importorskip("pymovements")
    command = write_source(tmp_path)
    draws = np.random.default_rng(1)
    rows: list[list[object]] = [["image", "time_ms", "x", "y"]]
    for number in range(4):
        for i in range(600):  # at 250 Hz, four places of 0.6 s, and a blink in the second
            place = (700, 500, 300, 600)[i // 150]
            at = [place + draws.normal(0, 1), 300 + draws.normal(0, 1)]
            rows.append([f"{number}.png", 4 * i, *(["", ""] if 200 <= i < 230 else at)])
    with open(tmp_path / "gaze.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    command.remove("--time-unit"), command.remove("s")
    flags = "--detector ivt --velocity-threshold 40 --screen 1200x800 --screen-cm 40x27"
    flags += " --distance-cm 60 --placement fit --lead 0.25 --limit 1"
    words = ["--transcripts", str(tmp_path / "words")]
    assert prepare([*command, *flags.split(), *words]) == 0
    facts = read_manifest(tmp_path / "out")["facts"]
    assert facts["gaze, detector"] == f"pymovements {pymovements.__version__} ivt"
    assert facts["gaze, velocity threshold per second"] == 40
    assert facts["gaze, shortest fixation, seconds"] == 0.06
    assert facts["gaze, lead of a sentence, seconds"] == 0.25
    where = "screen-pixels, screen of 1200 x 800, 40 x 27 cm, at 60 cm, fit: 4"
    assert facts["gaze, positions"] == where
    assert facts["gaze, samples per second (mean)"] == 250
    assert facts["gaze, data loss (mean)"] == 0.05
    assert 0 < facts["gaze, precision, degrees (mean)"] < 0.2
    assert "x: " in facts["gaze, middle of gaze from the centre"]
    printed = capsys.readouterr().out
    for name in ("detector", "data loss (mean)", "precision, degrees (mean)", "positions"):
        assert f"gaze, {name}: " in printed


def test_viewings_without_fixations_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = write_source(tmp_path)
    command.remove("--time-unit"), command.remove("s")
    (tmp_path / "gaze.csv").write_text("image,gaze\n0.png,[]\n1.png,[]\n")
    named = ["--annotation-format", "gaze-table", "--gaze-columns", "fixations=gaze", "--dry-run"]
    assert prepare([*command, *named]) == 2
    error = capsys.readouterr().err
    assert "no annotation in these files" in error and "a viewing without fixations: 2" in error
    (tmp_path / "gaze.csv").write_text('image,gaze\n0.png,[]\n1.png,"[[9, 8, 200]]"\n')
    assert prepare([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "left out, a viewing without fixations: 1 (such as " in printed
    assert "gaze.csv, row 1 (0.png))" in printed
    assert "split train: 4 samples, 1 annotated" in printed  # the image stays


def test_fixations_of_the_file_have_no_detector(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert prepare([*write_source(tmp_path), "--detector", "ivt", "--dry-run"]) == 0
    assert "gaze, detector" not in capsys.readouterr().out


def test_transcripts_need_starts_and_one_image(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [*write_source(tmp_path), "--transcripts", str(tmp_path / "words"), "--dry-run"]
    table = list(csv.reader((tmp_path / "gaze.csv").open(newline="")))

    def refused() -> str:
        assert prepare(command) == 2
        return capsys.readouterr().err

    with open(tmp_path / "gaze.csv", "w", newline="") as file:
        csv.writer(file).writerows([row[:3] + row[4:] for row in table])
    message = refused()
    assert "gaze.csv, row 1: gaze on 0.png without start times" in message
    assert "0.json" in message and "--gaze-columns start=COLUMN" in message
    with open(tmp_path / "gaze.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    # two files for an image: by its name, and by its name with the suffix
    (tmp_path / "words" / "1.png.json").write_bytes((tmp_path / "words" / "1.json").read_bytes())
    message = refused()
    assert "1.png.json (1.png): words of 1.png, as" in message and "1.json has" in message
    (tmp_path / "words" / "1.png.json").unlink()
    # a name of two images
    for folder in "ab":
        (tmp_path / "images" / folder).mkdir()
        Image.new("RGB", SIZE).save(tmp_path / "images" / folder / "2.png")
    (tmp_path / "images" / "2.png").unlink()
    rows = [[row[0].replace("2.png", "a/2.png"), *row[1:]] for row in table]
    with open(tmp_path / "gaze.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    reports = (tmp_path / "reports.csv").read_text().replace("2.png", "a/2.png")
    (tmp_path / "reports.csv").write_text(reports)
    message = refused()
    assert "2.json (2): '2' may be a/2.png or b/2.png" in message


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


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("lung/1.png", "If these pictures are masks, add --annotation-format masks"),
        ("odd.csv", "Of boxes, add --annotation-format boxes --box-columns"),
        ("odd.txt", "Name it with --annotation-format, one of coco, "),
    ],
)
def test_files_of_no_format_come_with_a_remedy(name: str, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    if path.suffix == ".png":
        Image.new("L", (8, 8), 255).save(path)
    else:
        path.write_text("alpha,beta\n1,2\n")
    with pytest.raises(UserError, match=re.escape(remedy)):
        recognise([tmp_path / "in"])
