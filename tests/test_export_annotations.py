"""Heatmaps go out to an annotation tool and come back: the same regions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import read_shard
from PIL import Image

from openclip_eclip.data.sentence_windows import decode_windows, encode_windows
from openclip_eclip.export_annotations import main as export
from openclip_eclip.prepare.__main__ import main as prepare


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def region(path: Path) -> np.ndarray:
    values = np.asarray(Image.open(path), float)
    return values >= values.max() / 2


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    prepare(["phantom", str(folder), "--train", "12", "--test", "1", "--annotated", "0.5"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["coco", "label-studio"])
def test_regions_come_back_as_they_went_out(form: str, phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "regions.json"
    assert export([str(phantoms / "train.csv"), str(out), "--to", form]) == 0
    command = ["annotations", str(out), str(tmp_path / "back"), "--format", "csv", "--workers", "1"]
    images = ["--images", str(phantoms / "images"), "--texts", str(phantoms / "train.csv")]
    assert prepare([*command, *images, "--size", "original"]) == 0
    before = {Path(row["filepath"]).stem: row["heatmap"] for row in rows_of(phantoms / "train.csv")}
    after = {Path(row["filepath"]).stem: row for row in rows_of(tmp_path / "back" / "train.csv")}
    annotated = [stem for stem, heatmap in before.items() if heatmap]
    assert len(annotated) == 6
    assert {stem for stem, row in after.items() if row["heatmap"]} == set(annotated)
    for stem in annotated:
        back = region(tmp_path / "back" / after[stem]["heatmap"])
        assert overlap(region(phantoms / before[stem]), back) == 1


@pytest.mark.slow
def test_phrases_of_shards_come_back_with_their_regions(phantoms: Path, tmp_path: Path) -> None:
    first = tmp_path / "regions.json"
    assert export([str(phantoms / "train.csv"), str(first)]) == 0
    images = ["--images", str(phantoms / "images"), "--texts", str(phantoms / "train.csv")]
    phrases = ["--phrases", "where the {c} looked", "--size", "original", "--workers", "1"]
    assert prepare(["annotations", str(first), str(tmp_path / "a"), *images, *phrases]) == 0
    (shard,) = (tmp_path / "a").glob("*.tar")
    second = tmp_path / "again.json"
    assert export([str(shard), str(second), "--to", "label-studio"]) == 0
    again = [*images, "--phrases", "{c}", "--size", "original", "--workers", "1"]
    assert prepare(["annotations", str(second), str(tmp_path / "b"), *again]) == 0
    (other,) = (tmp_path / "b").glob("*.tar")
    one, two = read_shard(shard), read_shard(other)
    keys = [name.removesuffix(".windows.json") for name in one if name.endswith(".windows.json")]
    assert len(keys) == 6
    for key in keys:
        maps = [
            decode_windows(sample[f"{key}.windows.json"], sample[f"{key}.windows.npz"], key)
            for sample in (one, two)
        ]
        assert maps[0].sentences == maps[1].sentences == ["where the expert looked"]
        assert np.array_equal(maps[0].heatmaps > 127, maps[1].heatmaps > 127)


def test_a_phrase_without_a_region_is_left_out(tmp_path: Path) -> None:
    maps = np.zeros((2, 24, 24))
    maps[0, 4:9, 4:9] = 1
    text, arrays = encode_windows([("a mass", np.nan, np.nan), ("a tube", np.nan, np.nan)], maps)
    (tmp_path / "a.windows.json").write_bytes(text)
    (tmp_path / "a.windows.npz").write_bytes(arrays)
    Image.new("L", (24, 24)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("filepath,title,windows\na.png,one,a.windows.json\n")
    assert export([str(tmp_path / "a.csv"), str(tmp_path / "out.json")]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["a mass"]
    assert len(content["annotations"]) == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--threshold", "0"], "--threshold 0.0: expected above 0"),
        (["--csv-heatmap-key", "none"], "no column 'none'"),
    ],
)
def test_bad_input(
    flags: list[str], message: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert export([str(phantoms / "train.csv"), str(tmp_path / "out.json"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_nothing_annotated_and_an_old_file_are_errors(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.json"
    assert export([str(phantoms / "test.csv"), str(out)]) == 2
    assert "no sample has a heatmap" in capsys.readouterr().err and not out.exists()
    out.write_text("{}")
    assert export([str(phantoms / "train.csv"), str(out)]) == 2
    assert "expected a new file" in capsys.readouterr().err and out.read_text() == "{}"
