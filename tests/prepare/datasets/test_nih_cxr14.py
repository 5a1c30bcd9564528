"""A small NIH ChestX-ray14: both headers and folder layouts, boxes, lists, evaluation sets."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import read_split
from PIL import Image

from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets import nih_cxr14
from openclip_eclip.prepare.datasets.nih_cxr14 import CLASS_LISTS, FINDINGS, NO_FINDING

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View"
    " Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
LABELS = [
    "No Finding",
    "Cardiomegaly|Emphysema",
    "Pleural_Thickening",
    "No Finding",
    "Hernia",
    "Infiltration",
]


def names(count: int) -> list[str]:
    """Image names, two of each patient."""
    return [f"{900 + i // 2:08d}_{i % 2:03d}.png" for i in range(count)]


def write_tables(root: Path, labels: list[str], v2020: bool = True) -> None:
    end = "" if v2020 else ","
    rows = [
        f"{name},{cell},0,{int(name[:8])},{60 if v2020 else 411},M,PA,2000,2500,0.1,0.1{end}"
        for name, cell in zip(names(len(labels)), labels)
    ]
    table = root / ("Data_Entry_2017_v2020.csv" if v2020 else "Data_Entry_2017.csv")
    root.mkdir(exist_ok=True)
    table.write_text("\n".join([HEADER + end, *rows]) + "\n")


def write_tree(root: Path, v2020: bool = True, kaggle: bool = False) -> Path:
    """Writes six images of three patients; one image is RGBA.

    The images of the last patient have boxes and are in the test list.
    """
    write_tables(root, LABELS, v2020)
    for i, name in enumerate(names(6)):
        folder = root / (f"images_{1 + i % 2:03d}/images" if kaggle else "images")
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.new("L", (1024, 1024), 40 + 20 * i)
        (grey.convert("RGBA") if i == 1 else grey).save(folder / name, compress_level=1)
    (root / "train_val_list.txt").write_text("\n".join(names(4)[:3]) + "\n")
    (root / "test_list.txt").write_text("\n".join(names(6)[4:]))
    (root / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"{names(6)[5]},Infiltrate,512.0,0.0,256.0,256.0,,,\n"
    )
    return root


def prepare(root: Path, out: Path, *flags: str) -> int:
    return main(
        [
            "nih-cxr14",
            str(root),
            str(out),
            *("--size", "32"),
            *("--workers", "1"),
            *("--evaluation", "cxr8"),
            *flags,
        ]
    )


@pytest.mark.parametrize("v2020", [True, False])
@pytest.mark.parametrize("kaggle", [True, False])
def test_both_headers_and_both_folder_forms(tmp_path: Path, v2020: bool, kaggle: bool) -> None:
    assert prepare(write_tree(tmp_path / "raw", v2020, kaggle), tmp_path / "out") == 0
    content = read_split(tmp_path / "out")
    keys = [name[:-4] for name in names(3)]
    assert [name for name in content if name.endswith(".txt")] == [f"{key}.txt" for key in keys]
    assert [content[f"{key}.txt"] for key in keys] == [
        b"No finding.",
        b"Findings: cardiomegaly, emphysema.",
        b"Findings: pleural thickening.",
    ]
    image = Image.open(io.BytesIO(content[f"{keys[1]}.jpg"]))
    assert image.mode == "L" and image.size == (32, 32) and abs(np.asarray(image).mean() - 60) < 2
    columns = json.loads(content[f"{keys[1]}.json"])
    assert columns["patient"] == "00000900"
    assert [name for name in FINDINGS if columns[name]] == [
        "Cardiomegaly",
        "Emphysema",
    ]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["left_out"] == {
        "in neither list": 1
    }
    rows = (tmp_path / "out" / "cxr8.csv").read_text().splitlines()
    assert len(rows) == 3 and {"Infiltration", "filepath"} <= set(rows[0].split(","))


@pytest.mark.slow
def test_boxes_are_drawn_and_infiltrate_is_infiltration(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    assert prepare(raw, tmp_path / "out") == 0
    content = read_split(tmp_path / "out", "test")
    (name,) = [name for name in content if name.endswith("heatmap.png")]
    heat = np.asarray(Image.open(io.BytesIO(content[name])))
    expected = np.zeros((32, 32))
    expected[:8, 16:24] = 255
    assert name.startswith(names(6)[5][:-4]) and np.array_equal(heat, expected)
    assert prepare(raw, tmp_path / "dry", "--dry-run") == 0
    assert "'Infiltration': 1" in capsys.readouterr().out
    Image.new("L", (512, 512)).save(raw / "images" / names(6)[5])
    assert prepare(raw, tmp_path / "b") == 2
    assert "the tables say 1024 x 1024" in capsys.readouterr().err
    assert prepare(raw, tmp_path / "c", "--boxes", "none") == 0


def test_missing_images_are_named_in_the_manifest(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw")
    (raw / "images" / names(1)[0]).unlink()
    assert prepare(raw, tmp_path / "out") == 0
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["skipped"]) == [
        names(1)[0][:-4]
    ]


def plan_of(root: Path, *flags: str) -> nih_cxr14.Plan:
    parser = argparse.ArgumentParser()
    nih_cxr14.add_arguments(parser)
    return nih_cxr14.make_plan(parser.parse_args([str(root), "out", *flags]))


@pytest.mark.slow
def test_cxr_14x100_has_both_class_lists_and_its_patients_are_left_out_of_train(
    tmp_path: Path,
) -> None:
    """Each class has 120 images with that label alone, of 120 patients.

    Hernia and Edema have two images of each patient. Images with two labels never count.
    """

    def table() -> list[str]:
        cells = [
            cell
            for label in (NO_FINDING, *FINDINGS[:-1])
            for _ in range(120)
            for cell in ((label, label) if label == "Edema" else (label, "Mass|Nodule"))
        ]
        return cells + ["Hernia"] * 110

    write_tables(tmp_path, table())
    plan = plan_of(tmp_path, "--split", "none")
    assert list(plan.evaluation) == ["cxr-14x100-no-finding", "cxr-14x100-hernia"]
    for name, evaluation in plan.evaluation.items():
        assert evaluation.class_counts() == {label: 100 for label in CLASS_LISTS[name]}
        assert len(evaluation.items) == 1400 == len({i.key for i in evaluation.items})
        for item in evaluation.items:
            assert [label for label in FINDINGS if item.columns[label]] == (
                [] if item.columns["label"] == NO_FINDING else [item.columns["label"]]
            )
    assert "Hernia" not in CLASS_LISTS["cxr-14x100-no-finding"]
    assert NO_FINDING not in CLASS_LISTS["cxr-14x100-hernia"]
    no_finding = [
        item.columns["patient"] for item in plan.evaluation["cxr-14x100-no-finding"].items
    ]
    assert len(set(no_finding)) == 1400
    held_out = {
        item.columns["patient"]
        for evaluation in plan.evaluation.values()
        for item in evaluation.items
    }
    assert plan.splits["train"]
    assert not held_out & {item.columns["patient"] for item in plan.splits["train"]}
    assert plan.left_out["patient is in cxr-14x100"] == len(table()) - len(plan.splits["train"])
    shared = [{item.key for item in evaluation.items} for evaluation in plan.evaluation.values()]
    assert len(shared[0] & shared[1]) == 1300
    with pytest.raises(ValueError, match="class Hernia: 90 images fit the rule, 100 are needed"):
        write_tables(tmp_path, table()[:-20])
        plan_of(tmp_path, "--split", "none")
    assert list(
        plan_of(tmp_path, "--split", "none", "--evaluation", "cxr-14x100-no-finding").evaluation
    ) == ["cxr-14x100-no-finding"]


def test_pool_test_draws_from_the_test_list(tmp_path: Path) -> None:
    """The first half of the images is in train; the second half has as many of each class."""
    half = [
        cell
        for label in (NO_FINDING, *FINDINGS)
        for _ in range(101)
        for cell in (label, "Mass|Nodule")
    ]
    write_tables(tmp_path, half * 2)
    every = names(len(half) * 2)
    (tmp_path / "train_val_list.txt").write_text("\n".join(every[: len(half)]))
    (tmp_path / "test_list.txt").write_text("\n".join(every[len(half) :]))
    plan = plan_of(tmp_path, "--pool", "test")
    assert all(
        f"{item.key}.png" in set(every[len(half) :])
        for item in plan.evaluation["cxr-14x100-hernia"].items
    )
    assert len(plan.splits["train"]) == len(half) == len(plan.evaluation["cxr8"].items)
    assert not plan.left_out


@pytest.mark.parametrize(
    "file,old,new,message",
    [
        (
            "Data_Entry_2017_v2020.csv",
            "Hernia",
            "Hernai",
            "row 5, column 'Finding Labels': 'Hernai'",
        ),
        (
            "Data_Entry_2017_v2020.csv",
            "Hernia",
            "No Finding|Hernia",
            "row 5, column 'Finding Labels': 'No Finding.Hernia'",
        ),
        ("Data_Entry_2017_v2020.csv", "Hernia", "", "row 5, column 'Finding Labels': ''"),
        (
            "Data_Entry_2017_v2020.csv",
            "00000902_000.png",
            "00000901_001.png",
            "row 5, column 'Image Index': '00000901_001.png' of patient '902'",
        ),
        (
            "Data_Entry_2017_v2020.csv",
            "00000900_001.png",
            "00000900_000.png",
            "row 2, column 'Image Index': '00000900_000.png' occurs twice",
        ),
        (
            "Data_Entry_2017_v2020.csv",
            "00000900_001.png",
            "../x.png",
            "row 2, column 'Image Index': '../x.png'",
        ),
        (
            "test_list.txt",
            "00000902_001",
            "00000905_001",
            "test_list.txt, line 2: 00000905_001.png is not in the table",
        ),
        (
            "test_list.txt",
            "00000902_001",
            "00000900_000",
            "line 2: 00000900_000.png is already in train",
        ),
        ("BBox_List_2017.csv", "Infiltrate", "Hernia", "row 1: 'Hernia' at x, y, w, h"),
        ("BBox_List_2017.csv", "512.0", "", "row 1: 'Infiltrate' at x, y, w, h .nan"),
        ("BBox_List_2017.csv", "512.0", "812.0", "row 1: 'Infiltrate' at x, y, w, h .812"),
        ("BBox_List_2017.csv", "00000902", "00000908", "00000908_001.png is not in"),
    ],
)
def test_bad_tables_are_errors(
    tmp_path: Path, file: str, old: str, new: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    text = (raw / file).read_text()
    assert old in text
    (raw / file).write_text(text.replace(old, new))
    assert prepare(raw, tmp_path / "out", "--dry-run") == 2
    assert re.search(message, capsys.readouterr().err)


def test_official_lists_are_required_and_overlapping_lists_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    # 00000901_001, whose patient has another image in train
    (raw / "test_list.txt").write_text("\n".join(names(6)[3:]))
    assert prepare(raw, tmp_path / "out") == 2
    assert "1 patient is both in train and in test, such as 00000901" in capsys.readouterr().err
    (raw / "test_list.txt").unlink()
    assert prepare(raw, tmp_path / "out") == 2 and "use --split none" in capsys.readouterr().err
    assert prepare(raw, tmp_path / "out", "--split", "none") == 0
