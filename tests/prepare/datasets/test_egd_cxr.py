"""A small EGD-CXR: drawn fixations and their positions, sentence windows, splits, bad tables."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_inputs.mimic_trees import (
    EGD_IMAGES,
    HEIGHT,
    IMAGES,
    WIDTH,
    dicom,
    fixation,
    image_file,
    write_egd,
    write_mimic,
    write_transcript,
)
from conftest import read_manifest, read_split
from PIL import Image

from openclip_eclip.annotations.record import Word
from openclip_eclip.data.check import main as check
from openclip_eclip.gaze import Fixations
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.egd_cxr import split_items
from openclip_eclip.prepare.plan import Item, Plan
from openclip_eclip.prepare.sentence_windows import join_sentences, make_windows


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """The roots of EGD-CXR and of MIMIC-CXR."""
    return write_egd(tmp_path / "egd"), write_mimic(tmp_path / "mimic")


def prepare(trees: tuple[Path, Path], out: Path, *flags: object) -> int:
    return main(
        [
            "egd-cxr",
            str(trees[0]),
            str(out),
            *("--images", str(trees[1])),
            *("--size", "32"),
            *("--workers", "1"),
            *("--sigma", "3"),
            *map(str, flags),
        ]
    )


def peak(content: bytes) -> tuple[int, int]:
    values = np.asarray(Image.open(io.BytesIO(content)))
    return np.unravel_index(values.argmax(), values.shape)


def rewrite(path: Path, edit) -> None:
    edit(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def at(x: float, y: float) -> tuple[int, int]:
    """The (row, column) of an image's pixel in a map of 48 x 32."""
    return int((y + 0.5) * 48 / HEIGHT), int((x + 0.5) * 32 / WIDTH)


def test_maps_peak_at_the_longest_fixation(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert prepare(trees, tmp_path / "out") == 0
    written = read_split(tmp_path / "out")
    assert {name.split(".", 1)[0] for name in written} == {dicom(i) for i in EGD_IMAGES}
    # never an empty map
    assert [name for name in written if "heatmap" in name] == [
        f"{dicom(i)}.heatmap.png" for i in (0, 1)
    ]
    assert peak(written[f"{dicom(0)}.heatmap.png"]) == at(50, 20)
    assert peak(written[f"{dicom(1)}.heatmap.png"]) == at(5, 5)
    values = np.asarray(Image.open(io.BytesIO(written[f"{dicom(0)}.heatmap.png"]))) / 255
    # 0.2 s beside 0.4 s
    assert values.shape == (48, 32) and values[at(10, 70)] == pytest.approx(0.5, abs=0.1)
    # one too far is clipped; dropped rows draw nothing
    assert values[at(WIDTH - 1, 40)] > 0.1 and values[at(30, 30)] == 0
    assert json.loads(written[f"{dicom(0)}.json"]) == {
        "patient": "19000000",
        "study": "59000000",
        "class": "CHF",
    }
    assert written[f"{dicom(0)}.txt"].startswith(b"The lungs are clear")
    assert not any("windows" in name for name in written)


def test_what_is_dropped_is_counted(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert prepare(trees, tmp_path / "out") == 0
    written = read_manifest(tmp_path / "out")
    assert written["left_out"] == {
        "fixations: calibration dot (an id of 39 characters)": 1,
        "fixations: id is not in the master sheet": 1,
        "fixations: invalid (FPOGV is not 1)": 1,
        "fixations: no positive duration": 2,
        "fixations: no position": 1,
        "fixations: off the film": 4,
        "heatmap: no usable fixation (the film stays, without one)": 2,
    }
    assert written["examples"]["fixations: calibration dot (an id of 39 characters)"] == ["row 11"]
    assert written["facts"]["EGD-CXR films"] == 4
    assert written["facts"]["EGD-CXR patients"] == 3
    assert written["facts"]["fixation rows"] == 14
    # more lines than rows
    assert len((trees[0] / "master_sheet.csv").read_text().splitlines()) == 9


def test_every_table_read_is_hashed_into_the_manifest(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    """A run with changed tables must not resume in the same folder."""
    assert prepare(trees, tmp_path / "out") == 0
    tables = read_manifest(tmp_path / "out")["tables"]
    assert {"master_sheet.csv", "fixations.csv"} <= set(tables) and any(
        "metadata" in name for name in tables
    ), tables
    rewrite(trees[0] / "fixations.csv", lambda frame: frame.iloc[:-1])
    assert prepare(trees, tmp_path / "out") == 2


def test_weight_by_count(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert prepare(trees, tmp_path / "out", "--weight", "count") == 0
    values = (
        np.asarray(Image.open(io.BytesIO(read_split(tmp_path / "out")[f"{dicom(0)}.heatmap.png"])))
        / 255
    )
    # half of the one at the border
    assert values[at(10, 70)] == pytest.approx(values[at(50, 20)], rel=0.1)
    assert 0.4 < values[at(50, 20)] < 0.6


def test_windows_pair_each_sentence_with_its_gaze(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert prepare(trees, tmp_path / "out", "--windows", "sentence") == 0
    written = read_split(tmp_path / "out")
    windows = json.loads(written[f"{dicom(0)}.windows.json"])
    assert windows == [
        {"sentence": "The lungs are 1.5 clear.", "start": -1.0, "end": 1.5},
        {"sentence": "No effusion", "start": 3.5, "end": 5.9},
    ]
    maps = np.load(io.BytesIO(written[f"{dicom(0)}.windows.npz"]))["heatmaps"]
    assert maps.shape == (2, 48, 32) and maps.dtype == np.uint8
    assert [np.unravel_index(values.argmax(), values.shape) for values in maps] == [
        at(50, 20),
        at(10, 70),
    ]
    assert maps[0][at(10, 70)] == 0
    assert not any(name.startswith(dicom(1)) and "windows" in name for name in written)
    # the empty transcript
    assert read_manifest(tmp_path / "out")["left_out"]["windows: no words with times"] == 1
    (trees[0] / "audio_segmentation_transcripts" / dicom(1) / "transcript.json").unlink()
    assert (
        prepare(trees, tmp_path / "b", "--windows", "sentence", "--lead", 0, "--format", "csv") == 0
    )
    assert read_manifest(tmp_path / "b")["left_out"]["windows: no transcript"] == 1
    row = pd.read_csv(tmp_path / "b" / "train.csv", keep_default_na=False).iloc[0]
    assert [w["start"] for w in json.loads((tmp_path / "b" / row["windows"]).read_text())] == [
        0.5,
        5.0,
    ]


def test_sentences_end_at_full_stops() -> None:
    words = [
        Word(" Heart is ", 0, 1),
        Word("big. No", 1, 2),
        Word("1.5", 2, 3),
        Word("cm", 3, 4),
        Word("mass", 4, 5),
        Word(",", 5, 5),
        Word("none", 5, 6),
        Word(".", 6, 6),
        Word(".", 7, 8),
        Word("", 8, 8),
        Word("And", float("nan"), 9),
        Word("so", 9, 9.5),
        Word("on", 9.5, float("nan")),
    ]
    assert join_sentences(words) == [
        Word("Heart is big.", 0, 2),
        Word("No 1.5 cm mass, none.", 1, 6),
        Word("And so on", 9, 9.5),
    ]
    assert join_sentences([]) == [] and join_sentences([Word("a.", 2, 2)]) == []  # no time


def test_a_window_takes_the_part_of_a_fixation_within_it() -> None:
    fixations = Fixations([1, 2, 3], [1, 2, 3], [2.0, 1.0, 1.0], [-1.0, 3.0, 8.0])
    (window,) = make_windows(Plan("p"), fixations, [Word("a", 2, 3), Word("b.", 3, 3.5)], 1.5, "p")
    assert (window.start, window.end) == (0.5, 3.5) and window.annotation.x.tolist() == [1, 2]
    assert window.annotation.duration.tolist() == [0.5, 0.5]
    (window,) = make_windows(
        Plan("p"), Fixations([1], [1], [0.5], [-1.0]), [Word("a.", 0.2, 0.5)], 1.5, "p"
    )
    # before the sound began
    assert window.start == -1.3 and window.annotation.duration.tolist() == [0.5]


def test_positions_from_the_screen_equal_the_tables(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    """Sides are rounded up to even (62 x 92), and the pads are 617 left and right.

    x = trunc(62 / 686 * (1920 f - 617)), y = trunc(92 / 1080 * 1080 f).
    """
    rows = [
        fixation(0, "", "", FPOGX=(617 + 686 * 50.5 / 62) / 1920, FPOGY=20.5 / 92),
        # on the edge counts as beside
        fixation(0, "", "", start=2, FPOGX=617 / 1920, FPOGY=0.5, duration=9),
        fixation(0, "", "", start=2, FPOGX=1.2, FPOGY=0.5, duration=9),
        fixation(1, "", "", FPOGX="", FPOGY=""),
    ]
    pd.DataFrame(rows).to_csv(trees[0] / "fixations.csv", index=False)
    assert prepare(trees, tmp_path / "out", "--positions", "screen") == 0
    assert peak(read_split(tmp_path / "out")[f"{dicom(0)}.heatmap.png"]) == at(50, 20)
    left_out = read_manifest(tmp_path / "out")["left_out"]
    assert left_out["fixations: off the film"] == 2 and left_out["fixations: no position"] == 1
    # the authors' script
    rewrite(
        trees[0] / "master_sheet.csv",
        lambda t: t.rename(columns=lambda name: name.removesuffix("_pad")),
    )
    assert prepare(trees, tmp_path / "b", "--positions", "screen") == 0


@pytest.mark.parametrize(
    "edit,message",
    [
        (
            lambda t: t.drop(columns="image_left_pad"),
            "no columns image_left_pad.*--positions original",
        ),
        (
            lambda t: t.assign(image_left_pad="1400"),
            r"row 1: pads \[1400.0, 0.0, 617.0, 0.0\].*together less than the screen",
        ),
        (lambda t: t.assign(image_top_pad=""), "row 1: pads"),
    ],
)
def test_bad_pads_matter_only_for_screen_positions(
    trees: tuple[Path, Path], tmp_path: Path, edit, message: str, capsys: pytest.CaptureFixture
) -> None:
    rewrite(trees[0] / "master_sheet.csv", edit)
    assert prepare(trees, tmp_path / "out") == 0
    assert prepare(trees, tmp_path / "b", "--positions", "screen") == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "edit,message",
    [
        (
            lambda t: t.assign(path=t.path.str.replace("files/p1", "files/q1")),
            r"master_sheet.csv, row 1, column 'path': .*expected \.\.\./files/pNN",
        ),
        (
            lambda t: t.assign(patient_id="18000005"),
            "row 1, column 'path': .*expected the path of patient 18000005",
        ),
        (
            lambda t: t.assign(dicom_id=t.dicom_id.str.upper()),
            "row 1, column 'dicom_id'.*44 characters",
        ),
        (lambda t: pd.concat([t, t.tail(1)]), "row 5, column 'dicom_id'.*twice"),
        (lambda t: t.drop(columns="patient_id"), "no column 'patient_id'"),
    ],
)
def test_bad_master_sheets_are_errors(
    trees: tuple[Path, Path], tmp_path: Path, edit, message: str, capsys: pytest.CaptureFixture
) -> None:
    rewrite(trees[0] / "master_sheet.csv", edit)
    assert prepare(trees, tmp_path / "out") == 2 and re.search(message, capsys.readouterr().err)


def test_bad_flags_and_files_are_errors(
    trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert prepare(trees, tmp_path / "a", "--unit", "degrees") == 2
    assert "no pixels per degree" in capsys.readouterr().err
    assert prepare(trees, tmp_path / "a", "--lead", "-1") == 2
    assert "--lead -1.0" in capsys.readouterr().err
    write_transcript(trees[0], 0, [("a", 0, 1)]).write_text("{")
    assert prepare(trees, tmp_path / "a", "--windows", "sentence") == 2
    assert "transcript.json: JSONDecodeError" in capsys.readouterr().err
    rewrite(trees[1] / "mimic-cxr-2.0.0-metadata.csv.gz", lambda t: t.assign(Rows=""))
    assert prepare(trees, tmp_path / "a") == 2
    assert "row 1, columns 'Rows' and 'Columns'" in capsys.readouterr().err


def test_resized_copy_is_an_error_but_sides_rounded_to_even_are_not(
    trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rewrite(
        trees[1] / "mimic-cxr-2.0.0-metadata.csv.gz",
        lambda t: t.assign(Rows=str(HEIGHT + 1), Columns=str(WIDTH + 1)),
    )
    assert prepare(trees, tmp_path / "a") == 0
    path = image_file(trees[1], 0)
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)
    assert prepare(trees, tmp_path / "b") == 2
    assert "Gaze positions would be wrong" in capsys.readouterr().err


def test_images_without_report_or_metadata_are_left_out(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    (trees[1] / "files/p18/p18000005/s59000005.txt").unlink()
    rewrite(trees[1] / "mimic-cxr-2.0.0-metadata.csv.gz", lambda t: t[t.dicom_id != dicom(1)])
    assert prepare(trees, tmp_path / "out") == 0
    assert {name.split(".")[0] for name in read_split(tmp_path / "out")} == {dicom(0), dicom(3)}
    left_out = read_manifest(tmp_path / "out")["left_out"]
    assert left_out["no report"] == 1 and left_out["no row in MIMIC-CXR's metadata"] == 1


def test_splits_keep_patients_together(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert prepare(trees, tmp_path / "official", "--split", "official", "--format", "csv") == 0
    names = {
        path.stem: pd.read_csv(path)["filepath"].tolist()
        for path in (tmp_path / "official").glob("*.csv")
    }
    assert {name: len(rows) for name, rows in names.items()} == {
        "train": 3,
        "validate": 1,
    }
    assert dicom(3) in names["validate"][0]
    assert prepare(trees, tmp_path / "authors", "--split", "authors", "--format", "csv") == 0
    patients = {
        path.stem: set(pd.read_csv(path)["patient"])
        for path in (tmp_path / "authors").glob("*.csv")
    }
    assert sum(map(len, patients.values())) == 3 == len(set().union(*patients.values()))
    # three patients: int(2.4), int(2.7) -> 2, 0, 1; Python's shuffle of three with seed 1 is 1, 2,
    # 0
    assert patients == {"train": {19000001, 18000005}, "test": {19000000}}


def test_images_without_an_official_split_are_left_out_and_the_table_is_hashed(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    table = trees[1] / "mimic-cxr-2.0.0-split.csv.gz"
    rewrite(table, lambda frame: frame[frame["dicom_id"] != dicom(3)])
    assert prepare(trees, tmp_path / "out", "--split", "official", "--format", "csv") == 0
    written = read_manifest(tmp_path / "out")
    assert written["left_out"]["no row in the table of splits"] == 1
    assert written["examples"]["no row in the table of splits"] == [dicom(3)]
    assert table.name in written["tables"] and not (tmp_path / "out" / "validate.csv").exists()


def test_evaluated_patients_are_excluded(trees: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mimic-5x200.csv").write_text(f"filepath,patient\na.jpg,{IMAGES[0][0]}\n")
    assert prepare(trees, tmp_path / "out", "--exclude-subjects", tmp_path / "mimic-5x200.csv") == 0
    assert {name.split(".")[0] for name in read_split(tmp_path / "out")} == {dicom(3), dicom(7)}
    assert read_manifest(tmp_path / "out")["left_out"]["patient is in --exclude-subjects"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "webdataset"])
def test_what_is_written_passes_the_check(
    trees: tuple[Path, Path],
    tmp_path: Path,
    format: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare(trees, tmp_path / "out", "--format", format, "--windows", "sentence") == 0
    assert (
        check([str(tmp_path / "out" / ("train.csv" if format == "csv" else "train-000000.tar"))])
        == 0
    )
    assert "4 samples, 2 annotated (50.0%), 0 problems" in capsys.readouterr().out


def test_the_authors_split_is_a_shuffle_with_seed_1() -> None:
    sheet = pd.DataFrame({"patient_id": [str(i) for i in range(10)]})
    items = [Item(str(i), Path("a.jpg"), "a", columns={"patient": str(i)}) for i in range(10)]
    splits = split_items(Plan("p"), items, sheet, argparse.Namespace(split="authors"))
    assert {name: [item.key for item in part] for name, part in splits.items()} == {
        "train": list("03456789"),
        "validate": ["1"],
        "test": ["2"],
    }
