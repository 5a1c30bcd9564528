"""Folders of mask pictures."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pytest
from drawn_files import SIZES, area, filled, random_outline, read_drawings
from PIL import Image

from openclip_eclip.annotations import formats
from openclip_eclip.annotations.drawn import masks
from openclip_eclip.config import UserError


def save(path: Path, values: np.ndarray, palette: list[int] | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path)
    return values


def some(seed: int = 0) -> tuple[np.ndarray, tuple[int, int]]:
    rng = np.random.default_rng(seed)
    size = SIZES[seed % 3]
    return filled(random_outline(rng, size), size), size


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif"])
def test_one_an_image(tmp_path: Path, suffix: str) -> None:
    drawn = {}
    for seed in range(3):
        values, size = some(seed)
        save(tmp_path / "masks" / f"0_{seed}_mask{suffix}", values.astype(np.uint8) * 255)
        drawn[f"0_{seed}"] = values, size
    save(tmp_path / "masks" / f"empty{suffix}", np.zeros((9, 9), np.uint8))
    found, left_out = read_drawings("masks", tmp_path)
    assert [one.image for one in found] == list(drawn) and left_out == {"empty mask": 1}
    for one in found:
        values, size = drawn[one.image]
        assert one.label == "" and one.size == size and (area(one, size) == values).all()


@pytest.mark.parametrize(
    "name", ["masks/{label}/{image}.png", "{image}_{label}_mask.png", "masks/{image}-{label}.png"]
)
def test_one_a_class(tmp_path: Path, name: str) -> None:
    drawn = {}
    for seed, (image, label) in enumerate(
        [("1_008", "heart"), ("1_008", "lung"), ("2_001", "heart")]
    ):
        drawn[image, label], _ = some(seed)
        values = drawn[image, label].astype(np.uint8)
        save(tmp_path / "x" / name.format(image=image, label=label), values)
    found, _ = read_drawings("masks", tmp_path / "x")
    assert sorted((one.image, one.label) for one in found) == sorted(drawn)
    assert all((area(one, one.size) == drawn[one.image, one.label]).all() for one in found)


@pytest.mark.parametrize(
    ("files", "images", "names"),
    [
        # the same name again: a class each
        ("lung/1 heart/1 heart/2", "1 2", [("1", "lung"), ("1", "heart"), ("2", "heart")]),
        ("lung/1 lung/2", "1 2", [("1", "lung"), ("2", "lung")]),  # the only folder
        ("p1/1 p2/2", "1 2", [("1", ""), ("2", "")]),  # other masks in each: no classes
        ("p1/1 p2/1", "p1/1 p2/1", [("1", ""), ("1", "")]),  # folders of the images
        ("p1/1", "p1/1 p2/1", [("1", "")]),
        ("p1/lung/1 p1/heart/1", "p1/1", [("1", "lung"), ("1", "heart")]),
        ("lung/p1/1 heart/p1/1", "p1/1", [("1", "lung"), ("1", "heart")]),
        ("p1/1_lung p2/1_lung", "p1/1 p2/1", [("1", "lung"), ("1", "lung")]),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_folders_of_classes_and_of_patients(
    tmp_path: Path, files: str, images: str, names: list[tuple[str, str]], beside: bool
) -> None:
    """Also where the masks are in the folder of the images."""
    folder = tmp_path if beside else tmp_path / "images"
    for name in images.split():
        save(folder / f"{name}.jpg", np.zeros((40, 60), np.uint8))
    paths = [tmp_path / "masks" / f"{name}.png" for name in files.split()]
    for path in paths:
        save(path, some()[0].astype(np.uint8))
    args = argparse.Namespace(images=folder, mask_names=None)
    found = list(masks.read(paths, tmp_path / "masks", args, lambda *_: None))
    assert [(one.image, one.label) for one in found] == names


def test_names_without_classes_stay_whole(tmp_path: Path) -> None:
    for name in ("a_left", "b_right", "c_3"):
        save(tmp_path / "masks" / f"{name}.png", some()[0].astype(np.uint8))
    assert [one.image for one in read_drawings("masks", tmp_path)[0]] == [
        "a_left",
        "b_right",
        "c_3",
    ]


def test_a_pattern_tells_image_class_and_annotator(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        save(tmp_path / name / "a_pleural_effusion.png", some()[0].astype(np.uint8))
    flags = ["--mask-names", "{annotator}/{image}_pleural_{label}"]
    found, _ = read_drawings("masks", tmp_path, flags=flags, name="masks")
    assert [(one.image, one.label, one.annotator) for one in found] == [
        ("a", "effusion", "ann"), ("a", "effusion", "bob"),
    ]  # fmt: skip
    for pattern, message in {
        "{label}": "expected {image}",
        "{image}{image}": "expected each field once",
        "x_{image}": r"ann/a_pleural_effusion\.png: its name does not have the form",
    }.items():
        with pytest.raises(UserError, match=message):
            read_drawings("masks", tmp_path, flags=["--mask-names", pattern], name="masks")


NAMES = {
    "classes.txt": "background\nnodule\nheart\n",
    "labels.txt": "nodule\nheart\n",
    "classes.json": '{"nodule": 1, "heart": 2}',
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nnodule:250,50,83::\n"
    "heart:0,7,200::\n",
}
CASES = [*itertools.product(["grey", "palette"], NAMES), ("colours", "labelmap.txt")]


@pytest.mark.parametrize(("mode", "file"), CASES)
def test_values_are_classes(tmp_path: Path, mode: str, file: str) -> None:
    size = (40, 60)
    values = np.zeros(size, np.uint8)
    values[5:20, 5:30], values[22:35, 40:55] = 1, 2
    (tmp_path / file).write_text(NAMES[file])
    colours = [0, 0, 0, 250, 50, 83, 0, 7, 200]
    path = tmp_path / "SegmentationClass" / "a.png"
    if mode == "colours":
        save(path, np.array(colours, np.uint8).reshape(3, 3)[values])
    else:
        void = values.copy()
        void[0] = 255 if mode == "palette" else 0
        save(path, void, colours + [9] * 759 if mode == "palette" else None)
    save(tmp_path / "SegmentationObject" / "a.png", values, colours)
    found, left_out = read_drawings("masks", tmp_path)
    assert {one.label: one.image for one in found} == {"nodule": "a", "heart": "a"}
    for one in found:
        marked = values == {"nodule": 1, "heart": 2}[one.label]
        assert (area(one, size) == marked).all()
    assert left_out == {"numbers of objects, not of classes": 1}


def test_values_without_names(tmp_path: Path) -> None:
    values = np.zeros((40, 60), np.uint8)
    values[5:20], values[22:35] = 7, 200
    save(tmp_path / "masks" / "a.png", values)
    assert [one.label for one in read_drawings("masks", tmp_path)[0]] == ["class 7", "class 200"]


def test_images_are_not_claimed(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save(tmp_path / "images" / "a.png", grey)
    head = (tmp_path / "images" / "a.png").read_bytes()
    assert not masks.claims(tmp_path / "images" / "a.png", head)
    assert not masks.claims(Path("images/a.jpg"), b"") and masks.claims(Path("masks/a.jpg"), b"")
    with pytest.raises(UserError, match="the format was not recognised"):
        formats.recognise([tmp_path])


def test_bad_pictures_are_errors(tmp_path: Path) -> None:
    def message(name: str, content: np.ndarray | bytes, expected: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save(path, content)
        with pytest.raises(UserError, match=expected):
            read_drawings("masks", path.parent)

    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    message("1_mask/a_mask.jpg", grey, r"a_mask\.jpg: a mask as JPEG; expected PNG.*beside edges")
    message("2_mask/a_mask.png", b"no picture", r"a_mask\.png: not a readable mask picture")
    message("3_mask/a_mask.png", grey, "255 different values; expected a mask of at most 64")
    whole = (tmp_path / "3_mask/a_mask.png").read_bytes()
    message("4_mask/a_mask.png", whole[: len(whole) // 2], "not a readable mask picture")
    (tmp_path / "5_mask").mkdir()
    (tmp_path / "5_mask" / "classes.txt").write_text("nodule\nheart\n")
    message("5_mask/a_mask.png", grey // 64, r"the value 3; expected 0 or one of the 2 classes in")
