"""A small ChestX-Det: outlines and boxes of findings, phrases, bad records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openclip_eclip.gaze import render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.chestx_det import add_arguments, make_plan

RECORDS = [
    {
        "file_name": "36204.png",
        "syms": ["Effusion", "Mass", "Effusion"],
        "boxes": [[0, 0, 256, 256], [512, 512, 1024, 1024], [768, 0, 1024, 256]],
        "polygons": [
            [[0, 0], [256, 0], [256, 256], [0, 256]],
            [[512, 512], [1024, 512], [512, 1024]],
            [[768, 0], [1024, 0], [1024, 256], [768, 256]],
        ],
    },
    {"file_name": "36205.png", "syms": [], "boxes": [], "polygons": []},
    {"file_name": "gone.png", "syms": [], "boxes": [], "polygons": []},
]


def write_tree(root: Path, records: list[dict] = RECORDS, folder: str = "train_data/train") -> Path:
    (root / folder).mkdir(parents=True)
    for name in ("36204.png", "36205.png"):
        Image.fromarray(np.eye(1024, dtype=np.uint8) * 255).save(root / folder / name)
    (root / "ChestX_Det_train.json").write_text(json.dumps(records))
    return root


def plan_of(root: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args([str(root), "out", *flags]))


@pytest.mark.parametrize("folder", ["train_data/train", "train_data", "train"])
def test_outlines_of_a_finding_are_one_phrase(tmp_path: Path, folder: str) -> None:
    plan = plan_of(write_tree(tmp_path, folder=folder))
    first, second = plan.splits["train"]
    assert first.text == "Findings: pleural effusion, mass."
    assert second.text == "No finding." and not second.annotations and not second.windows
    assert first.columns["label"] == "Effusion|Mass"
    assert [window.sentence for window in first.windows] == ["pleural effusion", "mass"]
    effusion, mass = (
        render(window.annotation, (1024, 1024), 64).values for window in first.windows
    )
    expected = np.zeros((64, 64))
    expected[:16, :16] = expected[:16, 48:] = 1
    assert np.allclose(effusion, expected)
    assert mass[33, 33] == 1 and mass[62, 62] == 0  # the triangle, not its box
    everything = render(first.annotations[0], (1024, 1024), 64).values
    assert np.allclose(everything, np.maximum(effusion, mass))
    assert plan.left_out == {"no image file": 1}


def test_boxes_instead_of_outlines(tmp_path: Path) -> None:
    first = plan_of(write_tree(tmp_path), "--shapes", "boxes").splits["train"][0]
    assert render(first.windows[1].annotation, (1024, 1024), 64).values[62, 62] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"syms": ["Mass"]}, "record 2: 1 syms, 0 polygons"),
        ({"syms": ["Mass"], "polygons": [[[0, 0], [9, 9]]]}, "record 2: outline"),
        ({"syms": ["Mass"], "polygons": [[[0, 0], [9, 9], [0, "a"]]]}, "record 2"),
        ({"syms": ["Mass"], "polygons": [[[2000, 0], [2009, 9], [2000, 9]]]}, "record 2"),
        ({"syms": [3], "polygons": [[[0, 0], [9, 9], [0, 9]]]}, "record 2: 3 in syms"),
        ({"file_name": "36204.png"}, "'36204' occurs twice"),
        ({"file_name": None}, "'file_name'"),
    ],
)
def test_bad_records_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, change: dict, message: str
) -> None:
    root = write_tree(tmp_path, [RECORDS[0], RECORDS[1] | change])
    assert main(["chestx-det", str(root), "out", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "ChestX_Det_train.json" in error and message in error


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["chestx-det", str(tmp_path), "out", "--dry-run"]) == 2
    assert "neither ChestX_Det_train.json nor" in capsys.readouterr().err
