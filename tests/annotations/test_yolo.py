"""YOLO txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_files import (
    SIZES,
    area,
    assert_same,
    box_area,
    filled,
    random_box,
    random_outline,
    read_drawings,
)

from openclip_eclip.annotations.record import NOTHING_DRAWN
from openclip_eclip.config import UserError

NAMES = {
    "classes.txt": "nodule\npleural effusion\n",
    "obj.names": "nodule\npleural effusion\n",
    "data.yaml": "path: x\ntrain: images/train\nnc: 2\nnames: [nodule, pleural effusion]\n",
    "data.yml": "names:\n  0: nodule\n  1: pleural effusion\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_outlines_are_read_as_drawn(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "labels" / "train"
    folder.mkdir(parents=True)
    (tmp_path / name).write_text(NAMES[name])
    (folder / "empty.txt").touch()
    drawn = []
    for i, size in enumerate(SIZES):
        box, outline = random_box(rng, size), random_outline(rng, size)
        left, top, right, bottom = box / np.tile(size[::-1], 2)
        row = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        rows = [[1, *row], [0, *row, 0.5], [0, *(outline / size[::-1]).ravel()]]
        lines = [" ".join(f"{value:.6g}" for value in row) for row in rows]
        (folder / f"a.{i}.txt").write_text("\n".join(lines) + "\n")
        drawn += [box_area(box, size)] * 2 + [filled(outline, size)]
    found, left_out = read_drawings("yolo", tmp_path)
    assert left_out == {NOTHING_DRAWN: 1}
    assert [one.image for one in found] == [f"a.{i}" for i in range(len(SIZES)) for _ in range(3)]
    assert [one.label for one in found] == ["pleural effusion", "nodule", "nodule"] * len(SIZES)
    assert all(one.fractions and one.size is None and not one.annotator for one in found)
    for one, marked, size in zip(found, drawn, np.repeat(SIZES, 3, axis=0)):
        assert_same(area(one, tuple(size)), marked)


def test_without_names_the_number_is_the_class(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12 0.5 0.5 0.25 0.5\n\n")
    found, _ = read_drawings("yolo", tmp_path)
    assert [one.label for one in found] == ["class 12"]
    assert found[0].shape.xyxy.tolist() == [[0.375, 0.25, 0.625, 0.75]]


def test_of_a_pose_the_box_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [lung]\nkpt_shape: [2, 3]\n")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 2\n")
    found, _ = read_drawings("yolo", tmp_path, name="yolo")
    assert found[0].shape.xyxy.tolist() == [[0.375, 0.25, 0.625, 0.75]]


BAD = {
    r"a\.txt, line 2: the number 312; expected fractions": "0 312 80 20 20",
    r"line 2: 7 numbers after the class": "0 .1 .2 .3 .4 .5 .6 .7",
    r"line 2: 3 numbers after the class": "0 .1 .2 .3",
    r"line 2, number 3: 'x'; expected a finite number": "0 .1 x .3 .3",
    r"line 2: .* of width -0\.2": "0 .5 .5 -.2 .2",
    r"line 2: .* of width 0 ": "0 .5 .5 0 .2",
    r"line 2: x 1\.1 to 1\.3, .* on an image of 1 x 1": "0 1.2 .5 .2 .2",
    r"line 2: the class 7; expected one of the 1 in .*classes\.txt": "7 .5 .5 .2 .2",
    r"line 2: the class '1\.0'; expected its number": "1.0 .5 .5 .2 .2",
    r"line 2: the class '99.*9'; expected its number": f"{'9' * 5000} .5 .5 .2 .2",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_rows_are_errors(tmp_path: Path, message: str) -> None:
    (tmp_path / "classes.txt").write_text("nodule\n")
    (tmp_path / "a.txt").write_text(f"0 .5 .5 .2 .2\n{BAD[message]}\n")
    with pytest.raises(UserError, match=message):
        read_drawings("yolo", tmp_path / "a.txt", name="yolo")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "a\nb\na\n", r"classes\.txt: the class 'a' twice"),
        ("data.yaml", "names: 3\n", r"data\.yaml, names: expected a list"),
        ("data.yaml", "names: [a\n", r"data\.yaml: not YAML"),
        ("data.yaml", "names: [a]\ndate: 2001-99-99\n", r"data\.yaml: not YAML \(month must"),
        ("labelmap.txt", f"a:1,2,{'9' * 5000}::\n", r"labelmap\.txt: 'a:1,.*; expected name:red"),
        ("classes.json", '{"a": 1, "b": 1}', r"two classes of the same number"),
        ("classes.json", '{"a": "1"}', r"classes\.json, 'a': '1'; expected the number"),
        ("labelmap.txt", "a:1,2:::\n", r"labelmap\.txt: 'a:1,2:::'; expected name:red"),
    ],
)
def test_bad_names_are_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "a.txt").write_text("0 .5 .5 .2 .2\n")
    with pytest.raises(UserError, match=message):
        read_drawings("yolo", tmp_path)
