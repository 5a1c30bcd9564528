"""A small Flickr30k Entities as published: captions with marks, XML of boxes, splits, bad files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import BASIC, Launcher
from PIL import Image

from openclip_eclip.data.sentence_windows import decode_windows
from openclip_eclip.evaluate.grounding import task
from openclip_eclip.evaluate.grounding.phrases import read_grounding_set
from openclip_eclip.gaze import render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.flickr30k_entities import LARGEST, add_arguments, make_plan

SIZE = (60, 80)  # height, width
SPLITS = {"train": ["101", "102", "105"], "val": ["103"], "test": ["104", "106"]}
DOGS = "[/EN#1/animals Two dogs] chase [/EN#2/other a ball] in [/EN#3/scene the yard] ."
FIVE = [
    DOGS,
    "[/EN#1/animals/people Both] want [/EN#2/other it] , says [/EN#0/notvisual someone] .",
    "[/EN#4/animals A dog] runs past [/EN#5/animals a dog ] for [/EN#6/other fun] .",
    "It is [/EN#7/other late] .",
    "Nothing is marked [ here ] .",
]
# as published: pixels count from 1, an object may be of several phrases
BOXES = [
    (["1", "4"], (1, 1, 20, 30)),
    (["1", "5"], (41, 31, 80, 60)),
    (["2"], (30, 20, 30, 20)),  # one pixel
]
FLAGS = [("3", 1, 0), ("6", 0, 1)]  # id, scene, nobndbox


def xml(identity: str, boxes: list = BOXES, flags: list = FLAGS) -> str:
    height, width = SIZE
    objects = [
        "".join(f"\t\t<name>{name}</name>\n" for name in names)
        + "\t\t<bndbox>\n"
        + "".join(
            f"\t\t\t<{side}>{value}</{side}>\n"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box)
        )
        + "\t\t</bndbox>\n"
        for names, box in boxes
    ]
    objects += [
        f"\t\t<name>{name}</name>\n\t\t<scene>{scene}</scene>\n\t\t<nobndbox>{none}</nobndbox>\n"
        for name, scene, none in flags
    ]
    return (
        f"<annotation>\n\t<filename>{identity}.jpg</filename>\n\t<size>\n"
        f"\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n"
        "\t</size>\n"
        + "".join(f"\t<object>\n{content}\t</object>\n" for content in objects)
        + "</annotation>\n"
    )


def write_tree(root: Path) -> Path:
    """Photograph 101 has five captions, the others have one; 105 is not there."""
    for name in ("Sentences", "Annotations", "photos"):
        (root / name).mkdir(parents=True)
    for split, identities in SPLITS.items():
        (root / f"{split}.txt").write_text("".join(f"{identity}\n" for identity in identities))
        for identity in identities:
            lines = FIVE if identity == "101" else [DOGS]
            (root / "Sentences" / f"{identity}.txt").write_text("".join(f"{x}\n" for x in lines))
            (root / "Annotations" / f"{identity}.xml").write_text(xml(identity))
            if identity != "105":
                noise = np.random.default_rng(int(identity)).integers(0, 256, (*SIZE, 3), np.uint8)
                Image.fromarray(noise).save(root / "photos" / f"{identity}.jpg")
    return root


def plan_of(root: Path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return make_plan(parser.parse_args([str(root), "out", "--images", str(root / "photos")]))


def write(root: Path, out: Path, *flags: str) -> Path:
    command = ["flickr30k-entities", root, out, "--images", root / "photos", "--workers", 1, *flags]
    assert main([str(word) for word in command]) == 0
    return out


def area(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A map of 1 in boxes of top, bottom, left, right, as slices of the array."""
    values = np.zeros(SIZE)
    for top, bottom, left, right in boxes:
        values[top:bottom, left:right] = 1
    return values


FIRST, SECOND, BALL = (0, 30, 0, 20), (30, 60, 40, 80), (19, 20, 29, 30)


def test_captions_are_samples_of_the_authors_splits(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    assert {name: [item.key for item in items] for name, items in plan.splits.items()} == {
        "train": ["101_0", "101_1", "101_2", "101_3", "101_4", "102_0"],
        "val": ["103_0"],
        "test": ["104_0", "106_0"],
    }
    assert [item.text for item in plan.splits["train"][:5]] == [
        "Two dogs chase a ball in the yard .",
        "Both want it , says someone .",
        "A dog runs past a dog for fun .",
        "It is late .",
        "Nothing is marked [ here ] .",
    ]
    first = plan.splits["train"][0]
    assert first.colour and first.size == SIZE and first.columns == {"patient": "101"}
    assert first.image == tmp_path / "photos" / "101.jpg"
    assert plan.left_out == {"no image file": 1} and plan.examples["no image file"] == ["105.jpg"]
    # the files of what is planned, whose hashes are kept
    assert len(plan.tables) == 3 + 2 * 5


def test_a_phrase_has_all_its_boxes_and_a_caption_all_of_its_phrases(tmp_path: Path) -> None:
    items = {item.key: item for item in plan_of(write_tree(tmp_path)).splits["train"]}
    windows = {
        key: {window.sentence: window.annotation for window in item.windows}
        for key, item in items.items()
    }
    expected = {
        "101_0": {"Two dogs": (FIRST, SECOND), "a ball": (BALL,)},
        "101_1": {"Both": (FIRST, SECOND), "it": (BALL,)},
        "101_2": {"A dog": (FIRST, SECOND)},  # two phrases of the same words, a box each
        "101_3": {},
        "101_4": {},
    }
    for key, phrases in expected.items():
        assert list(windows[key]) == list(phrases), key
        for words, boxes in phrases.items():
            values = render(windows[key][words], SIZE, SIZE).values
            assert np.array_equal(values, area(*boxes)), (key, words)
        everything = {box for boxes in phrases.values() for box in boxes}
        assert len(items[key].annotations) == bool(everything)
        if everything:
            values = render(items[key].annotations[0], SIZE, SIZE).values
            assert np.array_equal(values, area(*everything)), key
    assert np.isnan(items["101_0"].windows[0].start)


def test_phrases_without_a_window_are_counted_by_their_reason(tmp_path: Path) -> None:
    facts = plan_of(write_tree(tmp_path)).facts
    assert facts == {
        "photographs": 5,
        "captions": 9,
        "phrases": 22,
        "phrases without a window, the whole scene": 5,
        "phrases without a window, not visual": 1,
        "phrases joined with others of the same words": 1,
        "phrases without a window, no box": 2,  # one said so, one has no object
    }


def test_a_scene_with_a_box_is_a_window(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    path = root / "Annotations" / "103.xml"
    path.write_text(xml("103", [*BOXES, (["3"], (1, 1, 40, 60))]))
    (item,) = plan_of(root).splits["val"]
    assert [window.sentence for window in item.windows] == ["Two dogs", "a ball", "the yard"]


def test_splits_that_are_not_there_are_left_away(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    (root / "train.txt").unlink()
    (root / "val.txt").write_text("103\r\n\r\n")
    assert list(plan_of(root).splits) == ["val", "test"]


def test_written_phrases_are_at_their_place_in_pixels(tmp_path: Path) -> None:
    out = write(write_tree(tmp_path / "raw"), tmp_path / "out", "--format", "csv", "--size", "30")
    table = pd.read_csv(out / "train.csv").set_index("filepath")
    row = table.loc["images/101_0.jpg"]
    assert Image.open(out / "images" / "101_0.jpg").mode == "RGB"
    content = (out / row["windows"]).read_bytes()
    windows = decode_windows(
        content, (out / row["windows"]).with_suffix(".npz").read_bytes(), "101_0"
    )
    assert windows.sentences == ["Two dogs", "a ball"]
    # half the size: each pixel is the mean of four
    half = area(FIRST, SECOND).reshape(30, 2, 40, 2).mean(axis=(1, 3))
    assert np.array_equal(windows.heatmaps[0], np.rint(255 * half))
    ball = windows.heatmaps[1]
    assert np.argwhere(ball).tolist() == [[9, 14]]
    assert table["windows"].isna().tolist() == [False, False, False, True, True, False]
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["phrases"] == 22


def test_grounding_reads_the_phrases(tmp_path: Path) -> None:
    out = write(write_tree(tmp_path / "raw"), tmp_path / "out", "--format", "csv")
    parser = argparse.ArgumentParser()
    task.add_arguments(parser)
    args = parser.parse_args(["--model", "m", "--out", "o"])
    data = read_grounding_set(args, str(out / "train.csv"), None, False)
    # the captions of a photograph are one image
    assert [phrase.text for phrase in data.phrases] == [
        *("Two dogs", "a ball", "Both", "it", "A dog"),
        *("Two dogs", "a ball"),
    ]
    assert len(set(data.groups)) == 2 and len(data.grounded) == 7
    dogs = data.phrases[0]
    assert dogs.share == pytest.approx(area(FIRST, SECOND).mean(), abs=0.01)


@pytest.mark.slow
def test_trains_on_the_phrases_and_evaluates_them(launcher: Launcher) -> None:
    out = write(write_tree(launcher.folder / "raw"), launcher.folder / "out")
    launcher.train(
        [
            *BASIC,
            *("--train-data", out / "train-000000.tar", "--train-num-samples", 6),
            *("--batch-size", 3, "--epochs", 1, "--warmup", 0, "--name", "run"),
            *("--method", "align", "--align-windows"),
        ]
    )
    assert launcher.losses("run")
    assert "4 samples with sentence windows" in launcher.log("run")
    launcher.run(
        "openclip_eclip.evaluate",
        ["grounding", "--model", "logs/run", "--data", out / "test-000000.tar", "--out", "result"],
    )
    result = json.loads((launcher.folder / "result" / "result.json").read_text())
    assert result["values"]["phrases_with_region"] == 4


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("train.txt", "102", "10x", "train.txt, line 2: '10x'; expected the id"),
        ("train.txt", "102", "../102", "train.txt, line 2: '../102'"),
        ("val.txt", "103", "102", "val.txt, line 1: 102 is also in"),
        ("Sentences/103.txt", "#2/other a ball]", "#2/other a ball", "103.txt, line 1"),
        ("Sentences/103.txt", "#2/other a ball]", "#2/other  ]", "103.txt, line 1"),
        ("Sentences/103.txt", "#2/other", "#x/other", "103.txt, line 1"),
        ("Sentences/103.txt", DOGS, "", "103.txt: no caption"),
        ("Annotations/103.xml", "103.jpg", "104.jpg", "filename '104.jpg'; expected"),
        ("Annotations/103.xml", "annotation>", "annotations>", "element 'annotations'"),
        ("Annotations/103.xml", "<height>60", "<height>tall", "103.xml, size/height: 'tall'"),
        ("Annotations/103.xml", "<depth>", "<depth", "103.xml: broken XML"),
        ("Annotations/103.xml", "<annotation>", "<!DOCTYPE a><annotation>", "document type"),
        ("Annotations/103.xml", "<xmax>20", "<xmax>0", "103.xml, object 1: box [0.0, 0.0, 0.0"),
        ("Annotations/103.xml", "<xmin>41</xmin>", "", "103.xml, object 2, xmin: missing"),
        ("Annotations/103.xml", "<xmin>41", "<xmin>nan", "103.xml, object 2, xmin: 'nan'"),
        ("Annotations/103.xml", "<xmin>41", "<xmin>81", "object 2: box [80.0, 30.0, 80.0"),
        ("Annotations/103.xml", "<name>2<", "<name>two<", "object 3: names ['two']"),
        ("Annotations/103.xml", "<name>2</name>", "", "object 3: names []"),
        ("Annotations/103.xml", "<scene>1", "<scene>yes", "object 4, scene: 'yes'"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, old: str, new: str, message: str
) -> None:
    root = write_tree(tmp_path)
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))
    images = str(root / "photos")
    assert main(["flickr30k-entities", str(root), "out", "--images", images, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_object_without_box_and_flags_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_tree(tmp_path)
    path = root / "Annotations" / "101.xml"
    path.write_text(path.read_text().replace("<scene>1</scene>\n\t\t<nobndbox>0</nobndbox>", ""))
    images = str(root / "photos")
    assert main(["flickr30k-entities", str(root), "out", "--images", images, "--dry-run"]) == 2
    assert "101.xml, object 4: no bndbox and no scene or nobndbox" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train.txt", "Sentences/101.txt", "Annotations/101.xml"])
def test_files_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    root = write_tree(tmp_path)
    with (root / name).open("ab") as file:
        file.truncate(LARGEST + 1)
    images = str(root / "photos")
    assert main(["flickr30k-entities", str(root), "out", "--images", images, "--dry-run"]) == 2
    assert f"{name}: {LARGEST + 1} bytes; expected at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("Sentences/101.txt", "101.txt: no such file; expected it, because a split names 101"),
        ("Annotations/101.xml", "101.xml: no such file"),
        ("*.txt", "no ids in train.txt, val.txt, test.txt"),
        ("photos/*", "none of 6 photographs exists, such as 101.jpg"),
    ],
)
def test_missing_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, gone: str, message: str
) -> None:
    root = write_tree(tmp_path)
    for path in list(root.glob(gone)):
        path.unlink()
    images = str(root / "photos")
    assert main(["flickr30k-entities", str(root), "out", "--images", images, "--dry-run"]) == 2
    assert message in capsys.readouterr().err
