"""Annotations, images and texts are joined by name; what does not fit is counted and named."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openclip_eclip.annotations.record import Drawing, Record, Recording, Word
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Boxes, Ellipses, Fixations, Mask, Points, Polygons, Union, render
from openclip_eclip.prepare.annotations.agreement import agreement, kappa
from openclip_eclip.prepare.annotations.command import read_phrases
from openclip_eclip.prepare.annotations.join import How, join
from openclip_eclip.prepare.annotations.kept import KeptDrawings, in_pixels, together
from openclip_eclip.prepare.annotations.match import Images, find_column, read_images
from openclip_eclip.prepare.annotations.texts import Text
from openclip_eclip.prepare.plan import Item, Plan


def images_in(folder: Path, *names: str, size: tuple[int, int] = (40, 30)) -> Images:
    """Grey images of (width, height) `size` with these names below `folder`."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 90).save(path)
    return read_images(folder)


@pytest.mark.parametrize(
    "wanted, name",
    [
        ("a/1.png", "a/1.png"),  # the path itself
        ("/home/me/set/a/1.png", "a/1.png"),
        ("C:\\set\\b\\1.png", "b/1.png"),  # the folder decides
        ("2.png", "b/2.png"),  # the only file of this name
        ("2", "b/2.png"),  # an id without a suffix
        ("2.jpg", "b/2.png"),  # annotated as JPEG, stored as PNG
        ("x.1.2", "b/x.1.2.dcm"),  # dots in a name
        ("3.png", None),
        ("c/1.png", None),  # another folder: another image
        ("/set/c/2.png", None),
        ("", None),
        ("/", None),
    ],
)
def test_an_image_is_found_by_path_then_file_then_stem(wanted: str, name: str | None) -> None:
    files = ("a/1.png", "b/1.png", "b/2.png", "b/x.1.2.dcm")
    assert Images({file: Path(file) for file in files}).find(wanted) == name


def test_a_name_that_fits_two_images_is_an_error() -> None:
    images = Images({name: Path(name) for name in ("a/1.png", "b/1.png")})
    with pytest.raises(UserError, match="may be a/1.png or b/1.png"):
        images.find("1.png")


def test_images_come_from_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Image,age\nx/1.png,3\n")
    assert read_images(tmp_path / "t.csv").files == {"x/1.png": tmp_path / "x" / "1.png"}
    with pytest.raises(UserError, match="no such folder"):
        read_images(tmp_path / "none")
    with pytest.raises(UserError, match="no image"):
        (tmp_path / "empty").mkdir()
        read_images(tmp_path / "empty")
    with pytest.raises(UserError, match="Name it with --text-column"):
        find_column(Path("t.csv"), ["report", "impression"], "title", "--text-column")


def joined(tmp_path: Path, records: list[Record], texts: list[Text] | None, how: How) -> Plan:
    plan = Plan("annotations")
    join(plan, images_in(tmp_path, "1.png", "2.png", "3.png", "4.png"), records, texts, how)
    return plan


def text(image: str, words: str, **columns: str) -> Text:
    return Text(image, words, columns, f"texts.csv, {image}")


def box(image: str, label: str = "", annotator: str = "", **more: object) -> Drawing:
    return Drawing(image, Boxes([[4, 5, 20, 25]]), f"b.json, {image}", label, annotator, **more)


def test_samples_have_the_annotations_of_every_annotator(tmp_path: Path) -> None:
    records = [
        box("1.png", "nodule", "ann"),
        box("1.png", "mass", "ann"),
        Drawing("1.png", Points([3], [4]), "b.json, 3", "nodule", "bob"),
        Recording("2.png", Fixations([1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [0.0, 1.0]), "g.csv"),
        box("9.png"),
        box("3.png"),
    ]
    texts = [
        text("1.png", "one", patient="p"),
        text("2.png", "two"),
        text("2.png", "two again"),
        text("8.png", "none"),
    ]
    plan = joined(
        tmp_path, records, texts, How(phrase=lambda label: f"a {label}", merge="noisy-or")
    )
    one, two, again = plan.splits["train"]
    assert (one.key, two.key, again.key) == ("1", "2-0", "2-1")
    assert (one.text, two.text, again.text) == ("one", "two", "two again")
    ann, bob = (shape.load() for shape in one.annotations)
    assert isinstance(ann, Boxes) and len(ann.xyxy) == 2 and isinstance(bob, Points)
    assert (one.merge, one.size, dict(one.columns)) == ("noisy-or", (30, 40), {"patient": "p"})
    nodule, mass = one.windows
    assert (nodule.sentence, mass.sentence) == ("a nodule", "a mass")
    assert isinstance(nodule.annotation.load(), Union) and isinstance(mass.annotation.load(), Boxes)
    assert math.isnan(nodule.start) and math.isnan(nodule.end)
    assert isinstance(two.annotations[0], Fixations) and not two.windows
    assert plan.left_out == {
        "text without its image": 1,
        "annotation without its image": 1,
        "annotated image without a text": 1,
        "image without text and annotation": 1,
    }
    assert plan.examples["annotation without its image"] == ["9.png (b.json, 9.png)"]


def test_sentences_with_times_become_windows(tmp_path: Path) -> None:
    gaze = Fixations([1.0, 0.5], [0.5, 0.25], [1.0, 2.0], [0.0, 4.0])
    words = (Word("First.", 1.0, 2.0), Word("Second.", 5.0, 6.0))

    def place(fixations: Fixations, size: tuple[int, int]) -> Fixations:
        return Fixations(
            fixations.x * size[1], fixations.y * size[0], fixations.duration, fixations.start
        )

    record = Recording("1.png", gaze, "g.csv", words=words, place=place)
    plan = joined(tmp_path, [record], [text("1.png", "r")], How(lead=0.5))
    (item,) = plan.splits["train"]
    first, second = item.windows
    assert (first.sentence, first.start, first.end) == ("First.", 0.5, 2.0)
    assert first.annotation.x.tolist() == [40.0] and second.annotation.y.tolist() == [7.5]


def test_a_text_gets_a_window_with_the_gaze_of_its_reader(tmp_path: Path) -> None:
    records = [
        Recording("1.png", Fixations([at], [at], [1.0]), "g.csv", annotator=reader)
        for at, reader in ((1.0, "ann"), (2.0, "bob"), (3.0, ""))
    ]
    texts = [text("1.png", "a dog", who="bob"), text("1.png", "a cat", who="eve")]
    plan = joined(tmp_path, records, texts, How(reader="who"))
    dog, cat = plan.splits["train"]
    (window,) = dog.windows
    assert window.sentence == "a dog" and window.annotation.x.tolist() == [2.0]
    assert not cat.windows  # eve has no recording
    assert not joined(tmp_path, records, texts, How()).splits["train"][0].windows


def test_a_text_counts_once_for_mirrored_gaze(tmp_path: Path) -> None:
    """Ten readers of one image are no ten texts that name a side."""
    left = Fixations([4.0, 5.0], [9.0, 9.0], [0.2, 0.2])
    records: list[Record] = [Recording("1.png", left, "g.csv", str(i)) for i in range(10)]
    texts = [text("1.png", "on the right", who="3"), text("1.png", "to the left", who="8")]
    name = "gaze, texts with left and right that gaze follows"
    plan = joined(tmp_path, records, texts, How())
    assert plan.facts[name] == "agree: 1, of: 2"
    # with the column of readers, a text has the gaze of who wrote it
    records[8] = Recording("1.png", Fixations([30.0], [9.0], [0.2]), "g.csv", "8")
    plan = joined(tmp_path, records, texts, How(reader="who"))
    assert plan.facts[name] == "agree: 0, of: 2"


def test_keys_of_several_texts_do_not_collide(tmp_path: Path) -> None:
    images = images_in(tmp_path, "a.png", "a-1.png")
    plan = Plan("annotations")
    texts = [text("a.png", "one"), text("a.png", "two"), text("a-1.png", "three")]
    join(plan, images, [box("a.png")], texts, How())
    keys = {item.text: item.key for item in plan.splits["train"]}
    assert len(set(keys.values())) == 3


@pytest.mark.parametrize("split", ["../../evil", "a/b", ""])
def test_a_split_is_a_plain_name(split: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the name of a split"):
        joined(tmp_path, [box("1.png")], [text("1.png", "a", fold=split)], How(split="fold"))


def test_a_box_off_an_image_of_unstated_size_is_named(tmp_path: Path) -> None:
    off = Drawing("1.png", Boxes([[400, 5, 500, 25]]), "b.csv, row 2")
    with pytest.raises(UserError, match="b.csv, row 2"):
        joined(tmp_path, [box("1.png"), off], [text("1.png", "a")], How())


def test_texts_from_class_names_and_splits(tmp_path: Path) -> None:
    records = [box("1.png", "nodule"), box("1.png", "mass"), box("1.png", "nodule"), box("2.png")]
    plan = joined(tmp_path, records, None, How())
    assert [item.text for item in plan.splits["train"]] == ["nodule, mass"]
    texts = [text("1.png", "a", fold="train"), text("2.png", "b", fold="test")]
    plan = joined(tmp_path, records, texts, How(split="fold"))
    assert {name: len(items) for name, items in plan.splits.items()} == {"train": 1, "test": 1}
    with pytest.raises(UserError, match="column 'fold': blank"):
        joined(tmp_path, records, [text("1.png", "a")], How(split="fold"))


@pytest.mark.parametrize(
    "records, texts, message",
    [
        ([], [text("1.png", "a")], "no annotation in these files"),
        ([box("x")], [text("1.png", "a")], "none of the 1 annotations fits an image"),
        ([box("1.png")], [text("x", "a")], "none of the 1 texts fits an image"),
        (
            [box("1.png", size=(30, 40)), box("1.png", size=(60, 80))],
            [text("1.png", "a")],
            "an image of 60 x 80; an earlier annotation of 1.png says 30 x 40",
        ),
        (
            [Drawing("1.png", Mask(np.ones((3, 4))), "m.json, 1", fractions=True)],
            [text("1.png", "a")],
            "Mask in fractions",
        ),
    ],
)
def test_what_cannot_be_joined_is_an_error(
    tmp_path: Path, records: list, texts: list, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        joined(tmp_path, records, texts, How())


def test_fractions_become_pixels() -> None:
    size = (30, 40)
    where = "y.txt"
    boxes = in_pixels(Drawing("1", Boxes([[0, 0.5, 1, 1]]), where, fractions=True), size)
    assert boxes.xyxy.tolist() == [[0, 15, 40, 30]]
    ellipses = in_pixels(Drawing("1", Ellipses([[0, 0.5, 1, 1]]), where, fractions=True), size)
    assert ellipses.xyxy.tolist() == [[0, 15, 40, 30]]
    points = in_pixels(Drawing("1", Points([0.5], [0.5]), where, fractions=True), size)
    assert (points.x.tolist(), points.y.tolist()) == ([20], [15])
    line = in_pixels(
        Drawing("1", Polygons([[[0, 0], [1, 0], [1, 1]]]), where, fractions=True), size
    )
    assert line.outlines[0].tolist() == [[0, 0], [40, 0], [40, 30]]
    assert together([points]) is points


def test_agreement_of_annotators() -> None:
    same, half = Boxes([[0, 0, 32, 64]]), Boxes([[0, 0, 16, 64]])
    items = [
        Item("1", Path("1"), "", (same, same), (64, 64)),
        Item("2", Path("2"), "", (same, half), (64, 64)),
        Item("2-1", Path("2"), "another text", (same, half), (64, 64)),
        Item("3", Path("3"), "", (same,), (64, 64)),
    ]
    # the cells of the first image agree; of the second, a quarter of all differ
    one = np.r_[np.repeat([True, False], 128), np.repeat([True, False], 128)]
    other = np.r_[np.repeat([True, False], 128), np.repeat([True, False], [64, 192])]
    assert agreement(items) == {
        "images with several annotators": 2,
        "mean IoU of two annotators": 0.75,
        "Cohen's kappa on cells": round(kappa(one, other), 3),
    }
    # Cohen's formula by hand: 448 of 512 agree; 256 and 192 of 512 are inside
    expected = (256 * 192 + 256 * 320) / 512**2
    assert kappa(one, other) == pytest.approx((448 / 512 - expected) / (1 - expected))
    assert math.isnan(kappa(np.ones(3, bool), np.ones(3, bool))) and agreement(items[3:]) == {}


def test_phrases(tmp_path: Path) -> None:
    assert read_phrases(None) is None
    assert read_phrases("a {c}")("mass") == "a mass"
    (tmp_path / "p.json").write_text('{"mass": "a large mass"}')
    phrase = read_phrases(str(tmp_path / "p.json"))
    assert phrase("mass") == "a large mass"
    with pytest.raises(UserError, match="no phrase for the class 'nodule'"):
        phrase("nodule")
    with pytest.raises(UserError, match="no {c}"):
        read_phrases("a mass")


def test_drawings_stay_in_a_file_until_the_plan_is_gone(tmp_path: Path) -> None:
    """Samples name places of the file: they take few bytes, and another process reads them."""
    outline = np.random.default_rng(0).uniform(0, 30, (5000, 2))
    record = Drawing("1.png", Polygons([outline]), "b.json, 1", "nodule", size=(30, 40))
    plan = joined(tmp_path, [record], None, How(phrase=lambda label: f"a {label}"))
    (item,) = plan.splits["train"]
    assert len(pickle.dumps(item)) < 2000
    assert item.annotations[0].load().outlines[0].tolist() == outline.tolist()
    assert render(item.windows[0].annotation, (30, 40), 30) is not None
    path = plan.kept.path
    assert path.exists() and path.parent.stat().st_mode & 0o077 == 0
    del plan
    assert not path.exists()


def test_a_full_disk_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptDrawings()
    monkeypatch.setattr(kept, "_file", Path("/dev/full").open("wb", buffering=0))
    with pytest.raises(UserError, match="drawings: No space left on device.*Set TMPDIR"):
        kept.add(box("1.png"))


def test_a_box_off_its_image_is_found_beside_one_whose_file_states_the_size(tmp_path: Path) -> None:
    off = Drawing("1.png", Boxes([[50, 5, 60, 25]]), "other.csv, row 3")
    with pytest.raises(UserError, match="other.csv, row 3: x 50 to 60"):
        joined(tmp_path, [box("1.png", size=(30, 40)), off], [text("1.png", "a")], How())


def test_a_split_that_is_not_used_is_said(tmp_path: Path) -> None:
    texts = [text("1.png", "a", split="valid")]
    plan = joined(tmp_path, [box("1.png")], texts, How())
    assert plan.facts["column split"].startswith("not used; --split-column split")
    plan = joined(tmp_path, [box("1.png")], texts, How(split="split"))
    assert "column split" not in plan.facts and list(plan.splits) == ["valid"]
