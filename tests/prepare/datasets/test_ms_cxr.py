"""A small MS-CXR: phrases with one or several boxes, splits, texts, bad rows."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_inputs.mimic_trees import HEIGHT, IMAGES, WIDTH, dicom, write_mimic

from openclip_eclip.gaze import render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.ms_cxr import add_arguments, make_plan


def row(i: int, phrase: str, box: tuple[float, ...], split: str = "train", **cells: object) -> dict:
    subject, study, *_ = IMAGES[i]
    return {
        "dicom_id": dicom(i),
        "category_name": "Pneumonia",
        "label_text": phrase,
        "path": f"files/p{subject[:2]}/p{subject}/s{study}/{dicom(i)}.jpg",
        **dict(zip("xywh", box)),
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "split": split,
    } | cells


ROWS = [
    row(0, "opacity in both bases", (0, 60, 20, 31)),
    row(0, "opacity in both bases", (41, 60, 20, 31)),
    row(0, "large heart.", (20, 40, 30, 30), category_name="Cardiomegaly"),
    row(4, "right apical opacity", (0, 0, 61, 91), split="test"),
]


def write_tree(root: Path, rows: list[dict] = ROWS) -> Path:
    write_mimic(root / "mimic")
    table = pd.DataFrame(rows)
    table.to_csv(root / "MS_CXR_Local_Alignment_v1.1.0.csv", index=False)
    return root


def arguments(root: Path, *flags: str) -> list[str]:
    return [str(root), "out", "--images", str(root / "mimic"), *flags]


def plan_of(root: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args(arguments(root, *flags)))


def test_boxes_of_a_phrase_are_one_window(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    assert {name: [item.key for item in items] for name, items in plan.splits.items()} == {
        "train": [dicom(0)],
        "test": [dicom(4)],
    }
    (item,) = plan.splits["train"]
    assert item.image.is_file() and item.size == (HEIGHT, WIDTH)
    assert (item.patient, item.study) == IMAGES[0][:2]
    assert item.text == "opacity in both bases. large heart."
    assert item.columns["label"] == "Pneumonia|Cardiomegaly"
    assert [window.sentence for window in item.windows] == ["opacity in both bases", "large heart."]
    values = render(item.windows[0].annotation, item.size, item.size).values
    expected = np.zeros(item.size)
    expected[60:, :20] = expected[60:, 41:] = 1
    assert np.array_equal(values, expected)
    expected[40:70, 20:50] = 1
    assert np.array_equal(render(item.annotations[0], item.size, item.size).values, expected)


def test_reports_replace_the_phrases(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path), "--reports", str(tmp_path / "mimic"))
    assert plan.splits["train"][0].text.startswith("The lungs are clear")


def test_release_1_0_has_no_splits(tmp_path: Path) -> None:
    rows = [{name: cell for name, cell in row.items() if name != "split"} for row in ROWS]
    assert list(plan_of(write_tree(tmp_path, rows)).splits) == ["test"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(0, "a", (0, 0, -5, 5)), "row 2: box"),
        (row(0, "a", (70, 0, 5, 5)), "row 2: box"),
        (row(0, "a", ("x", 0, 5, 5)), "row 2, columns x, y, w, h"),
        (row(0, " ", (0, 0, 5, 5)), "row 2, column 'label_text'"),
        (row(0, "a", (0, 0, 5, 5), split="test"), "row 2: path, image_height, image_width, split"),
        (row(4, "a", (0, 0, 5, 5), split="dev"), "split 'dev'"),
        (row(4, "a", (0, 0, 5, 5), image_width=0), "row 2, columns image_height, image_width"),
        (row(4, "a", (0, 0, 5, 5), dicom_id="x"), "row 2, column 'dicom_id'"),
        (row(4, "a", (0, 0, 5, 5), path="x"), "row 2, column 'path'"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, bad: dict, message: str
) -> None:
    root = write_tree(tmp_path, [ROWS[0], bad])
    assert main(["ms-cxr", *arguments(root), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "MS_CXR_Local_Alignment_v1.1.0.csv" in error and message in error
