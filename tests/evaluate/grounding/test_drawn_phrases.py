"""Phrases of annotation files: the same scores as from windows, and several annotators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy_grounding import SQUARE, draw_squares, measured

from openclip_eclip.evaluate.__main__ import main

HEADER = "filepath,phrase,x,y,w,h,segmentation,mask,reader\n"


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    draw_squares(folder)
    return folder


def regions(squares: Path) -> list[tuple[str, str, int, int]]:
    """(image, phrase, x, y) of each square of the test images."""
    found = []
    for i in range(6):
        spoken = json.loads((squares / f"{i}.windows.json").read_text())
        with np.load(squares / f"{i}.windows.npz") as arrays:
            for entry, map_ in zip(spoken[:2], arrays["heatmaps"], strict=False):
                y, x = (int(side.min()) for side in np.nonzero(map_))
                found.append((f"{i}.png", entry["sentence"], x, y))
    return found


def outline(x: int, y: int) -> list[int]:
    return [x, y, x + SQUARE, y, x + SQUARE, y + SQUARE, x, y + SQUARE]


def annotate(squares: Path, folder: Path) -> Path:
    """A table of the same phrases and regions as test.csv, each form of a region in turn."""
    lines = []
    for number, (image, phrase, x, y) in enumerate(regions(squares)):
        start = f"{image},{phrase}"
        if number % 4 == 0:
            lines.append(f"{start},{x},{y},{SQUARE},{SQUARE},,,")
        elif number % 4 == 1:
            lines.append(f'{start},,,,,"{outline(x, y)}",,')
        elif number % 4 == 2:
            runs = np.zeros((64, 64), int)
            runs[y : y + SQUARE, x : x + SQUARE] = 1
            flat = np.concatenate([[0], runs.T.ravel(), [0]])
            edges = np.flatnonzero(np.diff(flat))
            counts = np.diff([0, *edges, 64 * 64]).tolist()
            code = json.dumps({"size": [64, 64], "counts": counts}).replace('"', '""')
            lines.append(f'{start},,,,,"{code}",,')
        else:
            mask = np.zeros((64, 64), np.uint8)
            mask[y : y + SQUARE, x : x + SQUARE] = 255
            Image.fromarray(mask).save(folder / f"mask{number}.png")
            lines.append(f"{start},,,,,,mask{number}.png,")
    lines += [f"{i}.png,blue square,,,,,,," for i in range(6)]
    (folder / "phrases.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return folder / "phrases.csv"


def test_a_table_of_phrases_gives_the_scores_of_windows(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = str(annotate(squares, tmp_path))
    expected = measured(squares, tmp_path / "windows", monkeypatch)["values"]
    flags = ("--annotations", table, "--images", str(squares))
    found = measured(squares, tmp_path / "drawn", monkeypatch, *flags)["values"]
    assert found["phrases"] == 18 and found["phrases_with_region"] == 12
    for key in ("methods", "sizes", "sides", "without_region"):
        assert list(found[key]) == list(expected[key])
    model = ("similarity", "center", "random")  # the others depend on the order of the phrases
    assert {name: found["methods"][name] for name in model} == {
        name: expected["methods"][name] for name in model
    }
    patients = pd.read_csv(squares / "test.csv").rename(columns={"filepath": "image"})
    patients.assign(image=[str(squares / name) for name in patients["image"]]).to_csv(
        tmp_path / "images.csv", index=False
    )
    flags = ("--annotations", table, "--images", str(tmp_path / "images.csv"))
    of_table = measured(
        squares, tmp_path / "t", monkeypatch, *flags, "--patient-column", "person", "--limit", "5"
    )["values"]
    assert (of_table["images"], of_table["patients"]) == (5, 3)


def test_several_boxes_of_a_phrase_are_one_region_and_classes_get_a_phrase(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COCO JSON; the squares of an image are one class, but for the green one of the first."""
    found = regions(squares)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in range(6)],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        "annotations": [
            {
                "id": number,
                "image_id": int(image[0]),
                "category_id": 2 if number == 1 else 1,
                "bbox": [x, y, SQUARE, SQUARE],
            }
            for number, (image, _, x, y) in enumerate(found)
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    flags = ("--annotations", str(path), "--images", str(squares), "--phrases", "{c} square")
    values = measured(squares, tmp_path / "o", monkeypatch, *flags)["values"]
    assert (values["phrases"], values["phrases_with_region"]) == (7, 7)
    assert values["methods"]["similarity"]["pointing game"]["value"] == 1
    # a square is 6 % of the image, two are 12.5 %; the centre of a Gaussian is in none
    with np.load(tmp_path / "o" / "predictions.npz") as arrays:
        assert arrays["id"].tolist() == [
            "0.png#0",
            "0.png#1",
            *(f"{i}.png#0" for i in range(1, 6)),
        ]


def test_another_annotator_is_scored_as_a_method(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second annotator draws the first image alike, and the second one somewhere else."""
    lines = []
    for image, phrase, x, y in regions(squares):
        lines.append(f"{image},{phrase},{x},{y},{SQUARE},{SQUARE},,,ann")
        if image == "0.png":
            lines.append(f"{image},{phrase},{x},{y},{SQUARE},{SQUARE},,,bob")
        if image == "1.png":
            lines.append(f"{image},{phrase},{(x + 32) % 64},{y},{SQUARE},{SQUARE},,,bob")
    path = tmp_path / "phrases.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    flags = ("--annotations", str(path), "--images", str(squares))
    record = measured(squares, tmp_path / "o", monkeypatch, *flags)
    human = record["values"]["methods"]["another annotator"]
    for name in ("pointing game", "pointing game, 15 px", "mIoU", "Dice"):
        assert human[name]["value"] == 0.5, name
    assert human["AUC-Judd"]["value"] == pytest.approx((1 + (1 - 256 / 3840) / 2) / 2)
    assert "another annotator" not in record["values"]["sides"]
    assert "another annotator" in (tmp_path / "o" / "report.html").read_text()


def test_bad_annotations(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common = ["grounding", "--model", "toy", "--out", str(tmp_path / "e")]
    path = tmp_path / "p.csv"
    images = ("--images", str(squares))

    def message(content: str, *flags: str) -> str:
        path.write_text(content)
        assert main([*common, *flags]) == 2
        return capsys.readouterr().err

    drawn = ("--annotations", str(path), *images)
    row = "0.png,red square,1,1,9,9,,,\n"
    assert "expected either --data or --annotations" in message(HEADER)
    assert "expected both" in message(HEADER, "--annotations", str(path))
    assert "p.csv, row 2, column 'phrase': blank" in message(
        f"{HEADER}{row}0.png,,1,1,9,9,,,\n", *drawn
    )
    assert "row 1, columns 'segmentation', 'x': 2 regions" in message(
        f'{HEADER}0.png,red,1,1,9,9,"[1,1,9,1,9,9]",,\n', *drawn
    )
    assert "column 'segmentation': not JSON" in message(f"{HEADER}0.png,red,,,,,abc,,\n", *drawn)
    assert "away.png: no such file; expected a mask" in message(
        f"{HEADER}0.png,red,,,,,,away.png,\n", *drawn
    )
    assert "x 80 to 90, y 1 to 9 on an image of 64 x 64" in message(
        f'{HEADER}0.png,red,,,,,"[80,1,90,1,90,9]",,\n', *drawn
    )
    assert "annotation without its image: 1" in message(f"{HEADER}9.png,red,1,1,9,9,,,\n", *drawn)
    assert "for 1 image; expected at least two images" in message(HEADER + row, *drawn)
    gaze = "image,fixation x,fixation y,duration\n0.png,1,1,100\n"
    assert "p.csv: gaze (gaze-table); expected drawings" in message(gaze, *drawn)
