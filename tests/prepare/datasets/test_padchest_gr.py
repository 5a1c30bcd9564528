"""A small PadChest-GR: sentences in two languages, boxes of two readers, splits, bad records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openclip_eclip.gaze import render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.padchest_gr import add_arguments, make_plan

FINDINGS = [
    {
        "sentence_en": "Left effusion",
        "sentence_es": "Derrame izquierdo",
        "abnormal": True,
        "boxes": [[0.5, 0.5, 1.0, 1.0]],
        "extra_boxes": [[0.75, 0.5, 1.0, 1.0]],
        "labels": ["pleural effusion"],
    },
    {
        "sentence_en": "No consolidation.",
        "sentence_es": "Sin consolidación.",
        "abnormal": False,
    },
]
RECORDS = [
    {"StudyID": "s1", "ImageID": "1_a-1.png", "findings": FINDINGS},
    {"StudyID": "s2", "ImageID": "2.png", "findings": FINDINGS[1:]},
    {"StudyID": "s3", "ImageID": "gone.png", "findings": []},
]


def write_tree(root: Path, records: list[dict] = RECORDS) -> Path:
    (root / "Padchest_GR_files").mkdir()
    for name in ("1_a-1.png", "2.png"):
        image = Image.fromarray(np.eye(40, 80, dtype=np.uint8) * 255)
        image.save(root / "Padchest_GR_files" / name)
    (root / "grounded_reports_20240819.json").write_text(json.dumps(records))
    rows = [
        ["1_a-1.png", "p1", "train"],
        ["1_a-1.png", "p1", "train"],
        ["2.png", "p2", "validation"],
        ["gone.png", "p3", "test"],
    ]
    table = pd.DataFrame(rows, columns=["ImageID", "PatientID", "split"])
    table.to_csv(root / "master_table.csv", index=False)
    return root


def plan_of(root: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args([str(root), "out", *flags]))


def test_sentences_have_the_boxes_of_both_readers(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    (first,), (second,) = plan.splits["train"], plan.splits["val"]
    assert first.text == "Left effusion. No consolidation."
    assert first.patient == "p1" and first.columns["label"] == "pleural effusion"
    assert [window.sentence for window in first.windows] == ["Left effusion"]
    values = render(first.windows[0].annotation, (40, 80), (40, 80)).values
    expected = np.zeros((40, 80))
    expected[20:, 40:] = 1
    assert np.array_equal(values, expected)
    assert [shape.xyxy.tolist() for shape in first.annotations] == [
        [[40, 20, 80, 40]],
        [[60, 20, 80, 40]],
    ]
    assert not second.annotations and not second.windows
    assert plan.left_out == {"no image file": 1}


def test_sentences_in_spanish(tmp_path: Path) -> None:
    (first,) = plan_of(write_tree(tmp_path), "--language", "es").splits["train"]
    assert first.text == "Derrame izquierdo. Sin consolidación."
    assert first.windows[0].sentence == "Derrame izquierdo"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"ImageID": "4.png"}, "record 2: ImageID '4.png' is not in master_table.csv"),
        ({"ImageID": "1_a-1.png"}, "record 2: '1_a-1' occurs twice"),
        ({"findings": [FINDINGS[0] | {"boxes": [[20, 30, 40, 50]]}]}, "expected fractions"),
        ({"findings": [FINDINGS[0] | {"boxes": [[0.5, 0.5, 0.2, 1]]}]}, "finding 1, key 'boxes'"),
        ({"findings": [FINDINGS[0] | {"boxes": [[0.5, 0.5, 0.2]]}]}, "four numbers"),
        ({"findings": [FINDINGS[0] | {"boxes": 3}]}, "a list of boxes"),
        ({"findings": [{"abnormal": True}]}, "sentence_en"),
        ({"findings": [FINDINGS[0] | {"sentence_en": " "}]}, "blank sentence_en"),
    ],
)
def test_bad_records_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, record: dict, message: str
) -> None:
    root = write_tree(tmp_path, [RECORDS[0], RECORDS[1] | record])
    assert main(["padchest-gr", str(root), "out", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "grounded_reports_20240819.json, record 2" in error and message in error


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("p1,train", "p1,test", "row 2: split or patient of '1_a-1.png' differ"),
        ("validation", "dev", "row 3, column 'split': 'dev'"),
        ("ImageID", "Image", "no column 'ImageID'"),
    ],
)
def test_bad_splits_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, old: str, new: str, message: str
) -> None:
    root = write_tree(tmp_path)
    table = root / "master_table.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    assert main(["padchest-gr", str(root), "out", "--dry-run"]) == 2
    assert message in capsys.readouterr().err
