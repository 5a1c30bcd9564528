"""A small REFLACX: kept and dropped readings, several readers, annotations, windows, bad tables."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_inputs.mimic_trees import (
    HEIGHT,
    PHASE_LABELS,
    WIDTH,
    dicom,
    image_file,
    write_crlf,
    write_mimic,
    write_reflacx,
)
from conftest import read_manifest, read_split
from PIL import Image

from openclip_eclip.data.check import main as check
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.reflacx_files import Reading, read_gaze
from openclip_eclip.prepare.plan import Plan


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """The roots of REFLACX and of MIMIC-CXR."""
    return write_reflacx(tmp_path / "reflacx"), write_mimic(tmp_path / "mimic")


def prepare(trees: tuple[Path, Path], out: Path, *flags: object) -> int:
    return main(
        [
            "reflacx",
            str(trees[0]),
            str(out),
            *("--images", str(trees[1])),
            *("--size", "32"),
            *("--workers", "1"),
            *map(str, flags),
        ]
    )


def samples(out: Path, split: str = "train") -> dict[str, np.ndarray | None]:
    """{key: map from 0 to 1, or None}."""
    written = read_split(out, split)
    content = {name.split(".")[0]: None for name in written}
    for key in content:
        if f"{key}.heatmap.png" in written:
            content[key] = np.asarray(Image.open(io.BytesIO(written[f"{key}.heatmap.png"]))) / 255
    return content


def at(x: float, y: float) -> tuple[int, int]:
    """The (row, column) of an image's pixel in a map of 48 x 32."""
    return int((y + 0.5) * 48 / HEIGHT), int((x + 0.5) * 32 / WIDTH)


def rewrite(path: Path, edit) -> None:
    write_crlf(path, edit(pd.read_csv(path, dtype=str, keep_default_na=False)))


def test_splits_are_honoured_and_unusable_readings_counted(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    assert prepare(trees, tmp_path / "out") == 0
    assert list(samples(tmp_path / "out")) == [dicom(0), dicom(7)]
    assert list(samples(tmp_path / "out", "test")) == [dicom(4)]
    assert samples(tmp_path / "out")[dicom(7)] is None  # all off the film: no map, not zeros
    content = read_manifest(tmp_path / "out")
    assert content["left_out"] == {
        "reading discarded by the authors": 2,
        "gaze: end not after start": 2,
        "gaze: no angular resolution": 2,
        "gaze: nothing of the film was shown": 1,
        "gaze: off image": 3,
        "gaze: nothing to draw (the film stays)": 1,
    }
    assert [content["facts"][f"readings of phase {phase}"] for phase in (1, 2, 3)] == [
        3,
        1,
        2,
    ]
    assert content["facts"]["films"] == 3
    assert list(content["tables"]) == [f"metadata_phase_{phase}.csv" for phase in (1, 2, 3)]


def test_a_reading_without_fixations_is_skipped(trees: tuple[Path, Path], tmp_path: Path) -> None:
    (trees[0] / "main_data" / "P101R000001" / "fixations.csv").unlink()
    assert prepare(trees, tmp_path / "out", "--readers", "all") == 0
    assert list(samples(tmp_path / "out")) == ["P101R000002", "P300R000006"]
    assert read_manifest(tmp_path / "out")["left_out"]["reading without fixations.csv"] == 1


def test_ways_to_deal_with_several_readers(trees: tuple[Path, Path], tmp_path: Path) -> None:
    """Reader 1 has equally long fixations at (10, 10), before the sound began, and (50, 80).

    Reader 2 has a fixation at (50, 10), and one of half that duration at (10, 10).
    """
    maps = {}
    for readers in ("mean", "noisy-or", "one", "all"):
        assert prepare(trees, tmp_path / readers, "--readers", readers) == 0
        maps[readers] = samples(tmp_path / readers)
    first, second = maps["all"]["P101R000001"], maps["all"]["P101R000002"]
    assert first[at(10, 10)] > 0.8
    assert first[at(50, 80)] > 0.8
    assert first[at(50, 10)] < 0.01
    assert first[at(30, 30)] < 0.01
    assert second[at(50, 10)] > 0.8
    assert second[at(10, 10)] == pytest.approx(0.5, abs=0.05)
    assert second[at(50, 80)] < 0.01
    assert np.array_equal(maps["one"][dicom(0)], first)
    mean, either = (first + second) / 2, 1 - (1 - first) * (1 - second)
    np.testing.assert_allclose(maps["mean"][dicom(0)], mean / mean.max(), atol=0.01)
    np.testing.assert_allclose(maps["noisy-or"][dicom(0)], either / either.max(), atol=0.01)
    assert prepare(trees, tmp_path / "default") == 0
    assert np.array_equal(samples(tmp_path / "default")[dicom(0)], maps["mean"][dicom(0)])
    assert not np.allclose(maps["mean"][dicom(0)], maps["noisy-or"][dicom(0)], atol=0.01)


def test_one_reader_is_the_first_who_has_a_map(trees: tuple[Path, Path], tmp_path: Path) -> None:
    rewrite(
        trees[0] / "main_data" / "P101R000001" / "fixations.csv",
        lambda t: t.assign(x_position="-1"),
    )
    assert prepare(trees, tmp_path / "out", "--readers", "one") == 0
    assert samples(tmp_path / "out")[dicom(0)][at(50, 10)] > 0.8
    assert read_split(tmp_path / "out")[f"{dicom(0)}.txt"] == b"clear, lungs. no mass. P101R000002"


def test_sigma_is_one_degree_and_the_part_outside_the_shown_area_is_dropped(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    path = trees[0] / "main_data" / "P300R000005" / "fixations.csv"
    rewrite(
        path,
        lambda t: t.assign(xmin_shown_from_image="30", angular_resolution_x_pixels_per_degree="8"),
    )
    assert prepare(trees, tmp_path / "out") == 0
    values = samples(tmp_path / "out", "test")[dicom(4)]
    assert values[at(20, 45)].max() == 0
    assert values[at(30 + 8, 45)] == pytest.approx(np.exp(-0.5), abs=0.08)
    assert values[at(30, 45 + 4)] == pytest.approx(np.exp(-0.5), abs=0.12)
    assert prepare(trees, tmp_path / "wide", "--sigma", 0.4, "--unit", "width") == 0
    assert samples(tmp_path / "wide", "test")[dicom(4)][at(30 + 24, 45)] > 0.5


def test_sigma_without_unit_is_in_pixels_and_the_part_outside_is_dropped(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    rewrite(
        trees[0] / "main_data" / "P101R000001" / "fixations.csv",
        lambda t: t.head(2).assign(x_position=["50", str(WIDTH - 1)]),
    )
    for out, flags, inner in (("none", (), 1), ("reflect", ("--border", "reflect"), 0.5)):
        assert prepare(trees, tmp_path / out, "--readers", "all", "--sigma", 3, *flags) == 0
        values = samples(tmp_path / out)["P101R000001"]
        assert values[at(50, 10)] == pytest.approx(inner, abs=0.1) and values[at(50, 10 + 9)] < 0.02


@pytest.mark.slow
def test_texts_are_dictations_or_reports(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert prepare(trees, tmp_path / "a") == 0
    written = read_split(tmp_path / "a")
    assert written[f"{dicom(0)}.txt"] == b"clear, lungs. no mass. P101R000001"
    columns = json.loads(written[f"{dicom(0)}.json"])
    # labels are one reader's
    assert columns["readings"] == "P101R000001 P101R000002" and "Consolidation" not in columns
    assert prepare(trees, tmp_path / "b", "--reports", trees[1], "--sections", "impression") == 0
    assert read_split(tmp_path / "b")[f"{dicom(0)}.txt"] == b"No acute process."
    assert prepare(trees, tmp_path / "c", "--annotation", "chest-box", "--readers", "all") == 0
    # discarded readings
    assert (
        read_manifest(tmp_path / "c")["left_out"]["no transcription; --reports has texts for these"]
        == 2
    )
    (trees[0] / "main_data" / "P101R000001" / "transcription.txt").unlink()
    assert prepare(trees, tmp_path / "d") == 0
    assert read_split(tmp_path / "d")[f"{dicom(0)}.txt"] == b"clear, lungs. no mass. P101R000002"


def test_labels_of_one_reading_go_by_the_names_of_its_phase(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    assert prepare(trees, tmp_path / "out", "--readers", "all") == 0
    columns = json.loads(read_split(tmp_path / "out")["P101R000001.json"])
    assert columns["Consolidation"] == 4
    assert columns["Other"] == "Azygos|Clip"
    assert columns["Support devices"] == 1
    assert columns["Mass"] == 0
    later = json.loads(read_split(tmp_path / "out")["P300R000006.json"])
    assert later["Lung nodule or mass"] == 0
    assert "Mass" not in later
    assert set(PHASE_LABELS[3]) <= set(later)


def test_ellipses_and_chest_boxes_of_discarded_readings_too(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    flags = ("--reports", trees[1], "--readers", "all")
    assert prepare(trees, tmp_path / "box", "--annotation", "chest-box", *flags) == 0
    boxes = samples(tmp_path / "box")
    assert list(boxes) == [
        "P101R000001",
        "P101R000002",
        "P102R000003",
        "P201R000004",
        "P300R000006",
    ]
    assert all(
        values[at(30, 45)] == 1 and values[at(2, 45)] == 0 and values[at(30, 85)] == 0
        for values in boxes.values()
    )
    assert prepare(trees, tmp_path / "ellipses", "--annotation", "ellipses", *flags) == 0
    ellipses = samples(tmp_path / "ellipses")
    assert ellipses["P101R000002"] is None  # a header alone
    # the rectangle's corner
    assert ellipses["P201R000004"][at(20, 40)] == 1 and ellipses["P201R000004"][at(11, 21)] < 0.2
    assert read_manifest(tmp_path / "ellipses")["left_out"] == {
        "ellipses: nothing to draw (the film stays)": 1
    }


def test_missing_chest_box_is_counted_and_the_image_is_kept(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    (trees[0] / "main_data" / "P300R000006" / "chest_bounding_box.csv").unlink()
    assert prepare(trees, tmp_path / "out", "--annotation", "chest-box") == 0
    assert samples(tmp_path / "out")[dicom(7)] is None
    left_out = read_manifest(tmp_path / "out")["left_out"]
    assert left_out["no chest_bounding_box.csv"] == 1
    assert left_out["chest-box: nothing to draw (the film stays)"] == 1


@pytest.mark.slow
def test_windows_of_several_readings_use_the_gaze_of_each(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    assert prepare(trees, tmp_path / "out", "--windows", "sentence", "--readers", "all") == 0
    written = read_split(tmp_path / "out")
    windows = json.loads(written["P101R000001.windows.json"])
    assert windows == [
        {"sentence": "clear, lungs.", "start": pytest.approx(-1.3), "end": 1.0},
        {"sentence": "no mass.", "start": pytest.approx(2.1), "end": 4.0},
    ]
    maps = np.load(io.BytesIO(written["P101R000001.windows.npz"]))["heatmaps"] / 255
    assert maps[0][at(10, 10)] > 0.8
    assert maps[0][at(50, 80)] == 0
    assert maps[1][at(50, 80)] > 0.8
    assert maps[1][at(10, 10)] == 0
    # nothing looked at during the second sentence
    assert len(json.loads(written["P101R000002.windows.json"])) == 1
    assert "P300R000006.windows.json" not in written
    assert prepare(trees, tmp_path / "mean", "--windows", "sentence") == 0
    assert len(json.loads(read_split(tmp_path / "mean")[f"{dicom(0)}.windows.json"])) == 3
    (trees[0] / "main_data" / "P101R000001" / "timestamps_transcription.csv").unlink()
    assert prepare(trees, tmp_path / "b", "--windows", "sentence") == 0
    assert read_manifest(tmp_path / "b")["left_out"]["no timestamps_transcription.csv"] == 1


PHASE_1 = "metadata_phase_1.csv"


@pytest.mark.parametrize(
    "name,edit,message",
    [
        (
            PHASE_1,
            lambda t: t.assign(id="P401R000001"),
            "metadata_phase_1.csv, row 1, column 'id': 'P401R000001'",
        ),
        (
            PHASE_1,
            lambda t: t.assign(id="P101R000001"),
            "row 2, column 'id': 'P101R000001' occurs twice",
        ),
        (PHASE_1, lambda t: t.assign(split="valid"), "row 1, column 'split': 'valid'"),
        (
            PHASE_1,
            lambda t: t.assign(split=["train", "test", "train"]),
            "row 2: split, size or patient of image .* differ from reading P101R000001",
        ),
        (
            PHASE_1,
            lambda t: t.assign(eye_tracking_data_discarded="1"),
            "column 'eye_tracking_data_discarded': '1'; expected True or False",
        ),
        (PHASE_1, lambda t: t.assign(dicom_id="x"), "row 1, column 'dicom_id': 'x'"),
        (PHASE_1, lambda t: t.assign(image="a.dcm"), "row 1, column 'image': 'a.dcm'"),
        (
            PHASE_1,
            lambda t: t.assign(subject_id="18000005"),
            "row 1, column 'image': .*expected the path of subject 18000005",
        ),
        (PHASE_1, lambda t: t.assign(image_size_x="0"), "row 1, column 'image_size_x': '0'"),
        (PHASE_1, lambda t: t.assign(Mass="6"), "row 1, column 'Mass': '6'; expected a certainty"),
        (PHASE_1, lambda t: t.drop(columns="split"), "no column 'split'"),
        (
            "P300R000005/fixations.csv",
            lambda t: t.drop(columns="x_position"),
            "P300R000005/fixations.csv: no column 'x_position'",
        ),
    ],
)
def test_bad_tables_are_errors(
    trees: tuple[Path, Path],
    tmp_path: Path,
    name: str,
    edit,
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    rewrite(trees[0] / "main_data" / name, edit)
    assert prepare(trees, tmp_path / "out") == 2 and re.search(message, capsys.readouterr().err)


def test_certainty_of_minus_one_is_accepted(trees: tuple[Path, Path], tmp_path: Path) -> None:
    rewrite(trees[0] / "main_data" / PHASE_1, lambda t: t.assign(Mass="-1"))
    assert prepare(trees, tmp_path / "out") == 0


def test_bad_flags_and_files_are_errors(
    trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert prepare(trees, tmp_path / "a", "--annotation", "ellipses", "--windows", "sentence") == 2
    assert "the only one with times" in capsys.readouterr().err
    assert (
        prepare(
            trees, tmp_path / "a", "--annotation", "ellipses", "--sigma", 1, "--unit", "degrees"
        )
        == 2
    )
    assert "expected pixels or width" in capsys.readouterr().err
    assert prepare(trees, tmp_path / "a", "--unit", "degrees") == 2
    assert "--unit degrees without --sigma" in capsys.readouterr().err
    for lead in ("-1", "inf"):
        assert prepare(trees, tmp_path / "a", "--lead", lead) == 2
        assert "expected seconds, at least 0" in capsys.readouterr().err
    rewrite(
        trees[0] / "main_data" / "P201R000004" / "chest_bounding_box.csv",
        lambda t: pd.concat([t, t]),
    )
    assert prepare(trees, tmp_path / "a", "--annotation", "chest-box") == 2
    assert "2 rows; expected exactly one" in capsys.readouterr().err
    path = image_file(trees[1], 0)
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)
    assert prepare(trees, tmp_path / "b") == 2
    assert "Gaze positions would be wrong" in capsys.readouterr().err
    (trees[0] / "main_data" / "metadata_phase_2.csv").unlink()
    assert prepare(trees, tmp_path / "c") == 2
    assert "found none of metadata_phase_2.csv" in capsys.readouterr().err


def test_evaluated_patients_are_excluded(trees: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "held_out.csv").write_text("patient\n19000000\n")
    assert prepare(trees, tmp_path / "out", "--exclude-subjects", tmp_path / "held_out.csv") == 0
    assert list(samples(tmp_path / "out")) == [dicom(7)]


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
    paths = [
        str(tmp_path / "out" / (f"{split}.csv" if format == "csv" else f"{split}-000000.tar"))
        for split in ("train", "test")
    ]
    assert check(paths) == 0
    assert "2 samples, 1 annotated (50.0%), 0 problems" in capsys.readouterr().out


def test_times_before_the_sound_stay_negative(trees: tuple[Path, Path]) -> None:
    """A window that ends before the sound starts includes the fixation of that time.

    Clipping the start of the fixation at 0 would lose it.
    """
    reading = Reading(
        "P101R000001",
        trees[0] / "main_data" / "P101R000001",
        "train",
        False,
        dicom(0),
        "1",
        "5",
        (HEIGHT, WIDTH),
        {},
    )
    gaze = read_gaze(Plan("reflacx"), reading)
    assert gaze.start[0] == -0.4 and gaze.duration[0] == pytest.approx(0.5)
    assert gaze.between(-0.4, -0.1).duration.tolist() == pytest.approx([0.3])
