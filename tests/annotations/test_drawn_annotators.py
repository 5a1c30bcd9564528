"""Several files that draw the same class on the same image come from several annotators."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest
from drawn_miniatures import IMAGE, MINIATURES, SIZE, text_of, write
from PIL import Image

from openclip_eclip.annotations.record import Drawing
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Boxes
from openclip_eclip.prepare.annotations.annotators import name_annotators
from openclip_eclip.prepare.annotations.command import add_arguments, fill_plan
from openclip_eclip.prepare.annotations.found import OfImage
from openclip_eclip.prepare.annotations.kept import KeptDrawings
from openclip_eclip.prepare.plan import Plan


def named(drawn: dict[str, str], annotator: str = "") -> tuple[dict[str, str], dict[str, object]]:
    """({"file image": annotator}, facts) of files that draw "image class" each."""
    found: dict[str, OfImage] = {}
    kept = KeptDrawings()
    files = []
    for file, shapes in drawn.items():
        for shape in shapes.split(","):
            image, label = shape.split()
            box = Boxes([[4, 5, 20, 25]])
            _, group = kept.add(Drawing(image, box, file, label, annotator, file=Path(file)))
            found.setdefault(image, OfImage(image)).groups.append(group)
            files.append((file, image, group))
    plan = Plan("annotations")
    name_annotators(plan, found.values(), kept)
    names = {f"{file} {image}": kept.groups[group].annotator for file, image, group in files}
    return names, plan.facts


@pytest.mark.parametrize(
    ("drawn", "annotators"),
    [
        # one set of data in several files: by images, by classes, or both
        ({"train.json": "1 mass", "val.json": "2 mass"}, ["", ""]),
        ({"lung.json": "1 lung", "heart.json": "1 heart"}, ["", ""]),
        ({"x/1.json": "1 mass", "x/2.json": "2 mass"}, ["", ""]),
        # several readers
        ({"ann.json": "1 mass", "bob.json": "1 mass"}, ["ann", "bob"]),
        ({"s/ann/1.json": "1 mass", "s/bob/1.json": "1 mass"}, ["ann", "bob"]),
        ({"ann/x/1.json": "1 mass", "bob/x/1.json": "1 mass"}, ["ann", "bob"]),
        ({"ann/1.xml": "1 mass", "1.xml": "1 mass"}, ["ann", "set"]),
        # the folder names a reader, although the names of all files differ
        (
            {"ann/1_ann.json": "1 mass", "bob/1_bob.json": "1 mass", "bob/2_bob.json": "2 mass"},
            ["ann", "bob", "bob"],
        ),
        # several readers, each with a file a class
        (
            {"ann/a.json": "1 a", "ann/b.json": "1 b", "bob/a.json": "1 a", "bob/b.json": "1 b"},
            ["ann", "ann", "bob", "bob"],
        ),
        # a reader's files all have the name, whether or not the other one drew the same
        ({"ann/1.json": "1 a", "ann/2.json": "2 b", "bob/1.json": "1 a"}, ["ann", "ann", "bob"]),
        # only all folders together tell them apart
        (
            {"x/ann/1": "1 a", "x/bob/1": "1 a", "y/ann/1": "1 a", "y/bob/1": "1 a"},
            ["x/ann", "x/bob", "y/ann", "y/bob"],
        ),
    ],
)
def test_files_tell_annotators_apart(drawn: dict[str, str], annotators: list[str]) -> None:
    names, facts = named({f"/set/{file}": shapes for file, shapes in drawn.items()})
    by_file = [
        names[f"/set/{file} {shapes.split()[0]}"] for file, shapes in drawn.items()
    ]  # fmt: skip
    assert by_file == annotators
    assert bool(facts) == any(annotators)


def test_the_summary_names_them() -> None:
    _, facts = named({f"/x/{name}.json": "1 mass" for name in "abcdefgh"})
    assert facts == {"annotators, by file name": "8, such as a, b, c, d, e, f"}


def test_a_number_counts_within_its_file() -> None:
    """Every Label Studio has a user 1; a name is a name in all files."""
    files = {"/x/ann.json": "1 mass", "/x/bob.json": "1 mass"}
    assert list(named(files, "1")[0].values()) == ["ann 1", "bob 1"]
    assert list(named(files, "ann@x.org")[0].values()) == ["ann@x.org", "ann@x.org"]


def test_files_that_nothing_tells_apart_are_an_error() -> None:
    files = {"/x/ann/1.json": "1 mass", "/x/ann/2.json": "1 mass", "/x/bob/1.json": "1 mass"}
    message = (
        r"^1: /x/ann/1\.json and /x/ann/2\.json and .* draw the class 'mass'.*; expected files"
    )
    with pytest.raises(UserError, match=message):
        named(files)


def plan_of(tmp_path: Path, *flags: str, sources: Sequence[Path]) -> Plan:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    images = ["--images", str(tmp_path / "images"), "--texts", "labels", *flags]
    plan = Plan("annotations")
    fill_plan(plan, parser.parse_args([*map(str, sources), str(tmp_path / "out"), *images]))
    return plan


def add_images(tmp_path: Path, *names: str) -> None:
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE[::-1], 90).save(path)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        (name, by)
        for name in MINIATURES
        for by in ("folder", "file name")
        if (name, by) != ("yolo", "file name")  # its file has the name of the image
    ],
)
def test_two_files_of_an_image_are_two_readers(tmp_path: Path, name: str, by: str) -> None:
    form, file, _ = MINIATURES[name]
    add_images(tmp_path, IMAGE)
    for reader in ("ann", "bob"):
        write(
            tmp_path / "in",
            name,
            file=f"{reader}/{file}" if by == "folder" else f"{reader}{file[1:]}",
        )
    plan = plan_of(tmp_path, "--annotation-format", form, sources=[tmp_path / "in"])
    (item,) = plan.splits["train"]
    assert len(item.annotations) == 2
    assert plan.facts["mean IoU of two annotators"] == 1
    if form == "label-studio":  # which calls them 1
        assert plan.facts[f"annotators, by {by}"] == "ann, bob"
    assert plan.facts["classes"] == ("class 0" if name == "yolo" else "nodule")


def test_the_same_file_twice_is_read_once(tmp_path: Path) -> None:
    add_images(tmp_path, IMAGE)
    path = write(tmp_path / "in", "coco")
    assert plan_of(tmp_path, sources=[tmp_path / "in", path]).facts["annotations"] == 5


@pytest.mark.parametrize(
    ("file", "image", "wanted"),
    [
        ("p1/a.json", "a.png", "p1/a.png"),  # beside an image, or in a folder of the same name
        ("p2/a.json", "a.png", "p2/a.png"),
        ("p2/a.json", "b.png", None),  # p1/b.png is another patient's
        ("ann/a.json", "b.png", "p1/b.png"),  # a folder that no image has says nothing
        ("p1/labels/a.json", "../a.png", "p1/a.png"),
        ("p1/labels/a.json", "a.png", "p1/a.png"),
        ("labels/a.json", "../images/p2/a.png", "p2/a.png"),
        ("labels/a.json", "..\\\\images\\\\p2\\\\a.png", "p2/a.png"),
        ("labels/a.json", "/gone/p2/a.png", "p2/a.png"),
        ("labels/a.json", "/gone/c.png", "c.png"),
        ("p1/a.json", "c.png", None),
    ],
)
def test_a_path_counts_from_the_folder_of_its_file(
    tmp_path: Path, file: str, image: str, wanted: str | None
) -> None:
    add_images(tmp_path, "p1/a.png", "p1/b.png", "p2/a.png", "c.png")
    write(tmp_path / "in", "labelme", text_of("labelme").replace("a.png", image), file)
    if wanted is None:
        with pytest.raises(UserError, match="none of the 5 annotations fits an image"):
            plan_of(tmp_path, sources=[tmp_path / "in"])
        return
    (item,) = plan_of(tmp_path, sources=[tmp_path / "in"]).splits["train"]
    assert item.image == tmp_path / "images" / wanted


def test_files_of_the_same_name_in_the_folders_of_two_patients(tmp_path: Path) -> None:
    """YOLO's and VOC's files name no folder; those of p1 and p2 are no two readers."""
    add_images(tmp_path, "p1/a.png", "p2/a.png")
    for name in ("yolo", "voc"):
        for patient in ("p1", "p2"):
            write(tmp_path / name, name, file=f"{patient}/a{MINIATURES[name][1][1:]}")
        plan = plan_of(tmp_path, sources=[tmp_path / name])
        assert [len(item.annotations) for item in plan.splits["train"]] == [1, 1]
        assert not any(fact.startswith("annotators") for fact in plan.facts)
