"""A small MIMIC-Eye, rearranged from small copies of its sources: gaze of both sets, splits."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd
import pytest
from bad_inputs.mimic_trees import (
    HEIGHT,
    IMAGES,
    READINGS,
    WIDTH,
    dicom,
    image_file,
    write_egd,
    write_mimic,
    write_reflacx,
)

from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.mimic_eye import add_arguments, make_plan
from openclip_eclip.prepare.datasets.mimic_files import report_path


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def write_tree(root: Path) -> Path:
    """The layout of MIMIC-Eye, from small copies of MIMIC-CXR, EGD-CXR and REFLACX."""
    mimic = write_mimic(root / "mimic")
    egd, reflacx = write_egd(root / "egd"), write_reflacx(root / "reflacx")
    eye = root / "mimic-eye"
    for name in ("CXR-JPG", "REFLACX", "EyeGaze"):
        (eye / "spreadsheets" / name).mkdir(parents=True)
    for i, (subject, study, *_) in enumerate(IMAGES):
        folder = eye / f"patient_{subject}"
        (folder / "CXR-DICOM").mkdir(parents=True, exist_ok=True)
        (folder / "CXR-JPG" / f"s{study}").mkdir(parents=True, exist_ok=True)
        if image_file(mimic, i).is_file():
            shutil.copy(image_file(mimic, i), folder / "CXR-JPG" / f"s{study}" / f"{dicom(i)}.jpg")
        if report_path(mimic, subject, study).is_file():
            shutil.copy(report_path(mimic, subject, study), folder / "CXR-DICOM" / f"s{study}.txt")
        transcripts = egd / "audio_segmentation_transcripts" / dicom(i)
        if transcripts.is_dir():
            target = folder / "EyeGaze" / "audio_segmentation_transcripts" / dicom(i)
            shutil.copytree(transcripts, target)
    for identity, i, _ in READINGS:
        target = eye / f"patient_{IMAGES[i][0]}" / "REFLACX" / "main_data" / identity
        shutil.copytree(reflacx / "main_data" / identity, target)
    tables = [read(path) for path in sorted((reflacx / "main_data").glob("metadata_phase_*.csv"))]
    metadata = pd.concat(tables).fillna("")
    metadata.to_csv(eye / "spreadsheets" / "REFLACX" / "metadata.csv", index=False)
    shutil.copy(egd / "fixations.csv", eye / "spreadsheets" / "EyeGaze")
    sheet = eye / "spreadsheets" / "EyeGaze" / "master_sheet_with_updated_stayId.csv"
    shutil.copy(egd / "master_sheet.csv", sheet)
    meta = read(mimic / "mimic-cxr-2.0.0-metadata.csv.gz")
    meta.to_csv(eye / "spreadsheets" / "cxr_meta.csv", index=False)
    splits = read(mimic / "mimic-cxr-2.0.0-split.csv.gz")
    splits.to_csv(eye / "spreadsheets" / "CXR-JPG" / "cxr_split.csv", index=False)
    return eye


def plan_of(eye: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args([str(eye), "out", *flags]))


def readings(plan) -> dict[str, dict[str, str]]:
    return {
        split: {item.key: item.columns["readings"] for item in items}
        for split, items in plan.splits.items()
    }


def test_readings_of_both_sets_are_one_sample(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    assert readings(plan) == {
        "train": {
            dicom(0): "EGD-CXR P101R000001 P101R000002",
            dicom(1): "EGD-CXR",
        },
        "validate": {},
        "test": {dicom(4): "P300R000005"},
    }
    item = plan.splits["train"][0]
    assert len(item.annotations) == 3 and item.merge == "mean"
    assert item.image.is_file() and item.size == (HEIGHT, WIDTH)
    assert item.text.startswith("The lungs are clear")
    assert (item.patient, item.study) == IMAGES[0][:2]


def test_sources_and_windows(tmp_path: Path) -> None:
    eye = write_tree(tmp_path)
    plan = plan_of(eye, "--sources", "egd-cxr", "--windows", "sentence")
    assert set(readings(plan)["train"].values()) == {"EGD-CXR"}
    assert [window.sentence for window in plan.splits["train"][0].windows] == [
        "The lungs are 1.5 clear.",
        "No effusion",
    ]
    plan = plan_of(eye, "--sources", "reflacx")
    assert readings(plan)["train"] == {dicom(0): "P101R000001 P101R000002"}


def test_errors_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    eye = write_tree(tmp_path)
    argv = ["mimic-eye", str(eye), "out", "--dry-run"]
    assert main([*argv, "--sigma", "1", "--unit", "degrees"]) == 2
    assert "EGD-CXR has none" in capsys.readouterr().err
    table = eye / "spreadsheets" / "REFLACX" / "metadata.csv"
    frame = read(table)
    frame.loc[0, "image_size_x"] = str(WIDTH + 9)
    frame.to_csv(table, index=False)
    assert main(argv) == 2
    assert f"row 1: image {dicom(0)} of {HEIGHT} x {WIDTH + 9}" in capsys.readouterr().err
    (eye / "spreadsheets" / "cxr_meta.csv").unlink()
    assert main(argv) == 2
    assert "cxr_meta.csv" in capsys.readouterr().err
