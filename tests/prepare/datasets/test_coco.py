"""A small COCO: captions, masks of what they name, words and plurals, bad files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openclip_eclip.annotations.record import NOTHING_DRAWN
from openclip_eclip.gaze import Polygons, RleMask, render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.coco import add_arguments, find_named, make_plan

NAMES = {1: "person", 17: "cat", 18: "dog", 58: "hot dog"}
CAPTIONS = {
    7: ["Two dogs and a kitten.", "A hot dog on a plate."],
    9: ["An empty street.", "A cat\n  sleeps."],
}
SQUARE = [0, 0, 40, 0, 40, 30, 0, 30]
BESIDE = [40, 30, 80, 30, 80, 60, 40, 60]


def mark(identity: int, image: int, category: int, segmentation: object) -> dict:
    return {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "bbox": [0, 0, 40, 30],
        "iscrowd": 0,
    }


def write_tree(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": 60, "width": 80, "license": 4}
        for i in (7, 9, 11)
    ]
    for image in images:
        values = np.zeros((60, 80, 3), dtype=np.uint8)
        values[..., 0] = 200
        Image.fromarray(values).save(root / "val2017" / image["file_name"])
    licences = [{"id": 4, "name": "Attribution License"}]
    captions = [
        {"id": 10 * i + j, "image_id": i, "caption": text}
        for i, texts in CAPTIONS.items()
        for j, text in enumerate(texts)
    ]
    # the cat of image 9: an RLE down the columns, the left half of the image
    rle = {"size": [60, 80], "counts": [0, 60 * 40, 60 * 40]}
    marks = [mark(1, 7, 18, [SQUARE]), mark(2, 7, 18, [BESIDE]), mark(3, 9, 17, rle)]
    shared = {"images": images, "licenses": licences}
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in NAMES.items()]
    (root / "annotations" / "captions_val2017.json").write_text(
        json.dumps(shared | {"annotations": captions})
    )
    (root / "annotations" / "instances_val2017.json").write_text(
        json.dumps(shared | {"annotations": marks, "categories": categories})
    )
    return root


def plan_of(root: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args([str(root), "out", *flags]))


def test_each_caption_is_a_sample_with_masks_of_what_it_names(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    items = {item.key: item for item in plan.splits["val"]}
    assert [item.text for item in items.values()] == [
        "Two dogs and a kitten.",
        "A hot dog on a plate.",
        "An empty street.",
        "A cat sleeps.",
    ]
    dogs = items["000000000007_0"]
    assert dogs.colour and dogs.size == (60, 80)
    assert dogs.columns["license"] == "Attribution License"
    assert [window.sentence for window in dogs.windows] == ["dogs"]  # no mask of a cat
    assert np.isnan(dogs.windows[0].start)
    expected = np.zeros((60, 80))
    expected[:30, :40] = expected[30:, 40:] = 1
    for annotation in (dogs.annotations[0], dogs.windows[0].annotation):
        assert np.allclose(render(annotation, (60, 80), (60, 80)).values, expected)
    assert all(isinstance(part, Polygons) for part in dogs.annotations[0].parts)
    assert not items["000000000007_1"].annotations  # a hot dog is no dog
    assert not items["000000000009_0"].windows
    cat = items["000000000009_1"]
    assert isinstance(cat.annotations[0].parts[0], RleMask)
    half = np.zeros((60, 80))
    half[:, :40] = 1
    assert np.array_equal(render(cat.annotations[0], (60, 80), (60, 80)).values, half)
    assert plan.left_out == {"photograph without a caption": 1, NOTHING_DRAWN: 1}


def test_captions_of_a_photograph_can_be_joined(tmp_path: Path) -> None:
    items = plan_of(write_tree(tmp_path), "--captions", "joined").splits["val"]
    assert [item.key for item in items] == ["000000000007", "000000000009"]
    assert items[1].text == "An empty street. A cat sleeps."
    assert [window.sentence for window in items[1].windows] == ["cat"]


def test_photographs_are_written_in_colour(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "raw")
    flags = ["--workers", "1", "--format", "csv", "--size", "original", "--maps", "none"]
    assert main(["coco", str(root), str(tmp_path / "out"), *flags]) == 0
    path = next((tmp_path / "out").rglob("*.jpg"))
    assert Image.open(path).mode == "RGB"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Men ride HORSES past a man.", ["person", "horse"]),
        ("A roll of toilet paper.", []),
        ("A toilet.", ["toilet"]),
        ("Knives, sheep and wine  glasses", ["knife", "sheep", "wine glass"]),
        ("A stuffed bear beside buses", ["teddy bear", "bus"]),
        ("A catalogue, a carpet and a scar", []),
        ("puppies and parties", ["dog"]),
        ("A couple of baby elephants", ["elephant"]),
    ],
)
def test_categories_are_found_by_names_plurals_and_synonyms(text: str, named: list[str]) -> None:
    assert [found.category for found in find_named(text)] == named


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("captions", '"image_id": 9', '"image_id": 99', "caption 3: image_id 99"),
        ("captions", '"id": 9,', '"id": 7,', "image 2: id 7"),
        ("captions", "000000000009.jpg", "../9.jpg", "'../9.jpg'"),
        ("captions", '"caption": "An', '"text": "An', "caption 3: no key 'caption'"),
        ("captions", '{"images', '["images', "captions_val2017.json: not JSON"),
        ("instances", '"category_id": 17', '"category_id": 99', "99"),
        ("instances", "2400, 2400", "2400, 2401", "4801"),
        ("instances", "[0, 0, 40, 0,", '["a", 0, 40, 0,', "segmentation"),
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
    root = write_tree(tmp_path)
    path = root / "annotations" / f"{name}_val2017.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert main(["coco", str(root), str(tmp_path / "out"), "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_tree(tmp_path)
    (root / "annotations" / "instances_val2017.json").unlink()
    assert main(["coco", str(root), str(tmp_path / "out"), "--dry-run"]) == 2
    assert "instances_val2017.json: no such file" in capsys.readouterr().err
    (root / "annotations" / "captions_val2017.json").unlink()
    assert main(["coco", str(root), str(tmp_path / "out"), "--dry-run"]) == 2
    assert "no captions_train*.json" in capsys.readouterr().err
