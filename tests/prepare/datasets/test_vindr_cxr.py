"""A small VinDr-CXR: boxes of several radiologists, findings, both layouts, bad rows."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openclip_eclip.gaze import merge, render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.vindr_cxr import add_arguments, make_plan

BOX = ["x_min", "y_min", "x_max", "y_max"]
HEADER = ["image_id", "rad_id", "class_name", *BOX]
ROWS = [
    ["b", "R8", "No finding", None, None, None, None],
    ["a", "R9", "Cardiomegaly", 0, 0, 20, 40],
    ["a", "R10", "Cardiomegaly", 0, 0, 40, 40],
    ["a", "R10", "Nodule/Mass", 40, 40, 60, 80],
    ["a", "R8", "No finding", None, None, None, None],
]


def write_tree(root: Path, rows: list[list] = ROWS, kaggle: bool = False) -> Path:
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
    for path in ("train/a.png", "train/b.png", "test/c.png"):
        Image.fromarray(np.eye(80, 60, dtype=np.uint8) * 255).save(root / path)
    table = pd.DataFrame(rows, columns=HEADER)
    if kaggle:
        table.to_csv(root / "train.csv", index=False)
        return root
    (root / "annotations").mkdir()
    table.to_csv(root / "annotations" / "annotations_train.csv", index=False)
    test = pd.DataFrame([["c", "Pneumothorax", 0, 0, 30, 80]], columns=["image_id", *HEADER[2:]])
    test.to_csv(root / "annotations" / "annotations_test.csv", index=False)
    return root


def plan_of(root: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args([str(root), "out", *flags]))


def test_each_radiologist_is_a_reader(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    first, second = plan.splits["train"]
    assert (first.key, second.key) == ("a", "b")
    assert first.text == "Findings: cardiomegaly, nodule/mass." and second.text == "No finding."
    assert first.columns["readers"] == "R9 R10 R8" and not second.annotations
    assert len(first.annotations) == 2 and first.merge == "mean"
    maps = [render(shape, (80, 60), (80, 60)) for shape in first.annotations]
    merged = merge(maps, first.merge).values
    assert merged[0, 0] > merged[0, 30] > 0 and merged[60, 50] > 0 and merged[60, 10] == 0
    heart, mass = (render(window.annotation, (80, 60), (80, 60)).values for window in first.windows)
    assert heart[:40, :40].all() and not heart[40:].any()
    assert mass[40:, 40:].all() and mass.sum() == 800
    (third,) = plan.splits["test"]
    assert third.text == "Findings: pneumothorax." and len(third.annotations) == 1
    assert plan.facts["boxes of train"] == 3


def test_layout_of_kaggle(tmp_path: Path) -> None:
    rows = [[*row[:3], *(row[3:] if row[3] is not None else (0, 0, 1, 1))] for row in ROWS]
    splits = plan_of(write_tree(tmp_path, rows, kaggle=True), "--readers", "one").splits
    assert list(splits) == ["train"]
    assert [bool(item.annotations) for item in splits["train"]] == [True, False]
    assert splits["train"][0].merge == "one"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["a", "R8", "Nodule/Mass", 30, 0, 20, 40], "row 2: box"),
        (["a", "R8", "Nodule/Mass", 300, 0, 320, 40], "row 2: box"),
        (["a", "R8", "Nodule/Mass", None, 0, 20, 40], "row 2: class_name='Nodule/Mass'"),
        (["a", "R8", "Nodule/Mass", "x", 0, 20, 40], "row 2: class_name='Nodule/Mass'"),
        (["a", "R8", "No finding", 0, 0, 20, 40], "expected blanks"),
        (["a", "R8", "", 0, 0, 20, 40], "row 2: class_name=''"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, bad: list, message: str
) -> None:
    root = write_tree(tmp_path, [ROWS[1], bad])
    assert main(["vindr-cxr", str(root), "out", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "annotations_train.csv, row 2" in error and message in error
