"""A small covid-chestxray: views, licences, notes, lung boxes, zone scores, splits, bad files."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.covid_chestxray import add_arguments, make_plan
from openclip_eclip.prepare.datasets.covid_notes import clean_note

HEADER = "patientid offset sex age finding view modality filename doi url license clinical_notes"
ZONES = [f"{reader}-{zone}" for reader in "SJ" for zone in "ABCDEF"]
NOTE = "Fever for two days. Chest X-ray shows opacities\ufffd\nin the left lung. CT was normal."


def row(patient: int, name: str, **cells: str) -> dict[str, str]:
    values = {
        "patientid": str(patient),
        "finding": "COVID-19",
        "view": "PA",
        "modality": "X-ray",
        "filename": name,
        "license": "CC BY 4.0",
        "url": "https://example.org",
        "clinical_notes": NOTE,
    }
    return {column: (values | cells).get(column, "") for column in HEADER.split()}


ROWS = [
    row(1, "a.1.png"),
    row(1, "b.png", view="AP Supine"),
    row(2, "c.jpg", view="?"),  # a view nobody stated, but lungs were drawn
    row(3, "d.png", view="L"),
    row(4, "e.png", modality="CT", view="Axial"),
    row(5, "f.png", license=""),
    row(6, "g.png", view=""),
    row(7, "h.png", clinical_notes=""),
    row(8, "gone.png"),
    row(9, "i.png", license="listed as authorized for everyone"),  # names no licence
]


def lungs(*names: str) -> dict:
    """COCO JSON: the right lung is the left third of an image of 60 x 90, the left lung the last.

    The last box has no category.
    """
    boxes = []
    for i, _ in enumerate(names):
        for category, box in ((7, [0, 0, 20, 90]), (8, [40, 0, 20, 60])):
            boxes.append({"id": len(boxes), "image_id": i, "category_id": category, "bbox": box})
    del boxes[-1]["category_id"]
    return {
        "categories": [{"id": 7, "name": "Right Lung"}, {"id": 8, "name": "Left Lung"}],
        "images": [
            {"id": i, "file_name": name, "height": 90, "width": 60} for i, name in enumerate(names)
        ],
        "annotations": boxes,
    }


def write_tree(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    # some releases have a blank before this name, and a last column without one
    table = pd.DataFrame(ROWS).rename(columns={"url": " url"}).assign(**{"": ""})
    table.to_csv(root / "metadata.csv", index=False)
    for cells in ROWS:
        if cells["filename"] == "gone.png":
            continue
        values = np.random.default_rng(3).integers(0, 255, (90, 60), dtype=np.uint8)
        Image.fromarray(values).save(root / "images" / cells["filename"])
    (root / "boxes.json").write_text(json.dumps(lungs("a.1.png", "b.png", "c.jpg", "h.png")))
    scores = pd.DataFrame(
        [
            ["a.1.png", 3, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 3],
            ["b.png", *[0] * 12],
        ],
        columns=["filename", *ZONES],
    )
    scores.to_csv(root / "scores.csv", index=False, encoding="utf-8-sig")
    return root


def prepare(root: Path, *flags: str, files: str = "both") -> int:
    given = ["--lung-boxes", str(root / "boxes.json")] if files != "none" else []
    given += ["--scores", str(root / "scores.csv")] if files == "both" else []
    out = root.parent / "out"
    argv = ["covid-chestxray", str(root), str(out), *given, "--workers", "1", "--format", "csv"]
    return main([*argv, *flags])


def test_frontal_images_with_licence_become_samples(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "raw")
    assert prepare(root, "--size", "original", "--test-share", "0") == 0
    table = pd.read_csv(tmp_path / "out" / "train.csv", dtype=str, keep_default_na=False)
    assert table["source_file"].tolist() == ["a.1.png", "b.png", "c.jpg"]
    assert set(table["title"]) == {"Chest X-ray shows opacities in the left lung."}
    assert table["patient"].tolist() == ["1", "1", "2"]
    assert set(table["license"]) == {"CC BY 4.0"}
    assert set(table["url"]) == {"https://example.org"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["facts"]["images with text"] == 3
    assert manifest["facts"]["images with zone scores"] == 2
    assert manifest["left_out"] == {
        "lateral or other view": 1,
        "no X-ray": 1,
        "no stated licence (--license any keeps them)": 2,
        "view unknown": 1,
        "no image file": 1,
        "zones: every score is 0, or no lung boxes (the image stays)": 1,
        "no text, or a word that stands for none": 1,
    }


def test_zones_are_thirds_of_the_lungs_weighted_by_score(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "raw")
    assert prepare(root, "--size", "original", "--test-share", "0") == 0
    table = pd.read_csv(tmp_path / "out" / "train.csv", dtype=str, keep_default_na=False)
    assert (table["heatmap"] != "").tolist() == [True, False, False]
    path = tmp_path / "out" / table["heatmap"][0]
    expected = np.zeros((90, 60))
    expected[:30, :20] = 255  # A: the patient's right lung, in the left of the image, at the top
    expected[40:60, 40:] = 255 * (1 / 3 + 1) / 2  # F: the lowest third; 1 and 3 of the two readers
    assert np.abs(np.asarray(Image.open(io.BytesIO(path.read_bytes()))) - expected).max() <= 1


def test_lung_boxes_alone(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "raw")
    assert prepare(root, "--size", "original", "--test-share", "0", files="boxes") == 0
    table = pd.read_csv(tmp_path / "out" / "train.csv", dtype=str, keep_default_na=False)
    expected = np.zeros((90, 60))
    expected[:, :20] = expected[:60, 40:] = 255
    for name in table["heatmap"]:  # the last image's second box has no category
        path = tmp_path / "out" / name
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(path.read_bytes()))), expected)


def test_patients_are_in_one_split(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "raw")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    tests = set()
    for seed in range(6):
        argv = [str(root), "out", "--license", "any", "--test-share", "0.5", "--seed", str(seed)]
        splits = make_plan(parser.parse_args(argv)).splits
        patients = {name: {item.patient for item in items} for name, items in splits.items()}
        assert patients["train"] | patients["test"] == {"1", "5", "7", "9"}
        assert len(patients["test"]) == 2 and not patients["train"] & patients["test"]
        tests.add(frozenset(patients["test"]))
    assert len(tests) > 1


@pytest.mark.parametrize(
    ("note", "text"),
    [
        ("Fever. ", "Fever."),
        ("On auscultation, lungs had crackles. Lungs are clear.", "Lungs are clear."),
        (
            "Presentation: Cough. Imaging Notes: Left basal opacity.. Discussion: A lung film.",
            "Left basal opacity.",
        ),
        ("Imaging Notes: Known HIV. Discussion: Opacities.", "Known HIV."),
        ("The patient died a day after the last x-ray. No effusion.", "No effusion."),
        ("\ufffd \n", ""),
    ],
)
def test_notes_are_cleaned_to_what_speaks_of_the_image(note: str, text: str) -> None:
    assert clean_note(note).text == text


def broken(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text(encoding="utf-8-sig")
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("boxes.json", "{", "[", "boxes.json: not JSON"),
        ("boxes.json", '"annotations"', '"marks"', "no key 'annotations'"),
        ("boxes.json", "[0, 0, 20, 90]", "[0, 0, -20, 90]", "annotation 1: box"),
        ("boxes.json", "[0, 0, 20, 90]", "[100, 0, 20, 90]", "annotation 1: box"),
        ("boxes.json", "[0, 0, 20, 90]", '["x", 0, 20, 90]', "annotation 1, key 'bbox': ['x'"),
        ("boxes.json", '"height": 90', '"height": 0', "image 1: 0 x 60"),
        ("boxes.json", "Left Lung", "Heart", "category 2: 'heart'"),
        ("scores.csv", "a.1.png,3", "a.1.png,4", "row 1, column 'S-A': '4'"),
        ("scores.csv", "b.png", "a.1.png", "row 2, column 'filename': 'a.1.png' occurs twice"),
        ("metadata.csv", "b.png", "a.1.png", "row 2, column 'filename': 'a.1.png' occurs twice"),
        ("metadata.csv", "b.png", "a_1.png", "row 2, column 'filename': 'a_1' occurs twice"),
        ("metadata.csv", "b.png", "../b.png", "row 2: patientid '1', filename '../b.png'"),
        ("metadata.csv", "modality", "kind", "no column 'modality'"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    name: str,
    old: str,
    new: str,
    message: str,
) -> None:
    root = write_tree(tmp_path / "raw")
    broken(root, name, old, new)
    assert prepare(root, "--dry-run") == 2
    assert message in capsys.readouterr().err


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_tree(tmp_path / "raw")
    assert prepare(root, "--dry-run", "--maps", "zones", files="none") == 2
    assert "--lung-boxes" in capsys.readouterr().err
    (root / "images").rename(root / "pictures")
    assert prepare(root, "--dry-run") == 2
    assert "none of 5 images exists" in capsys.readouterr().err
