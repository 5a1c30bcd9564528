"""Reading phrases, their regions and the priors of the data, without a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openclip_eclip.evaluate.__main__ import TASKS
from openclip_eclip.evaluate.grounding import task
from openclip_eclip.evaluate.grounding.measure import batches
from openclip_eclip.evaluate.grounding.phrases import (
    GroundingSet,
    make_phrase,
    read_grounding_set,
)
from openclip_eclip.evaluate.grounding.priors import GRID, prior_maps

WIDE = np.zeros((40, 60), np.uint8)
WIDE[10:20, 30:45] = 255


def test_the_list_of_tasks_names_the_protocol() -> None:
    assert f"protocol {task.PROTOCOL})" in TASKS["grounding"][1]


def read(data: str | None, *flags: str) -> GroundingSet:
    parser = argparse.ArgumentParser()
    task.add_arguments(parser)
    args = parser.parse_args(["--model", "m", "--out", "o", *flags])
    return read_grounding_set(args, data, None, False)


def save_images(folder: Path, count: int, size: tuple[int, int] = (60, 40)) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )


def test_rows_of_an_image_are_one_image_with_several_phrases(tmp_path: Path) -> None:
    save_images(tmp_path, 2)
    Image.fromarray(WIDE).save(tmp_path / "map.png")
    rows = [("0.png", "a", "p"), ("1.png", "b", "q"), ("0.png", "c", "r")]
    table = pd.DataFrame(rows, columns=["filepath", "title", "person"]).assign(heatmap="map.png")
    table.to_csv(tmp_path / "t.csv", index=False)
    data = read(str(tmp_path / "t.csv"))
    assert [(p.id, p.row, p.text) for p in data.phrases] == [
        ("0.png#0", 0, "a"),
        ("0.png#1", 0, "c"),
        ("1.png#0", 1, "b"),
    ]
    assert data.groups[0] == data.groups[1] != data.groups[2]
    for size in (1, 2):
        assert [len(batch) for batch in batches(data.phrases, size)] == [2, 1]
    assert [len(batch) for batch in batches(data.phrases, 3)] == [3]
    persons = read(str(tmp_path / "t.csv"), "--patient-column", "person")
    assert persons.groups.tolist() == ["p", "r", "q"] and persons.group_kind == "patient"
    assert len(read(str(tmp_path / "t.csv"), "--limit", "2").phrases) == 3  # images, not rows


def test_size_side_and_tolerance_of_a_region(tmp_path: Path) -> None:
    for count, size in ((4, "small"), (5, "medium"), (19, "medium"), (20, "large")):
        target = np.zeros((10, 10), np.uint8)
        target.flat[:count] = 255
        assert make_phrase("a", 0, "a", target, 1.0).size == size
    sides = {"left": "left", "Right lung": "right", "left and right": None, "leftover": None}
    for text, side in sides.items():
        assert make_phrase("a", 0, text, target, 1.0).side == side
    columns = {0: 1.0, 3: 1.0, 6: 0.0, 9: 0.0}
    for column, left in columns.items():
        target = np.zeros((4, 10), np.uint8)
        target[1, column] = 255
        phrase = make_phrase("a", 0, "a", target, 1.0)
        assert phrase.left == left
        np.testing.assert_array_equal(phrase.target, target)
        np.testing.assert_array_equal(phrase.region, target > 0)
    save_images(tmp_path, 2, (448, 300))
    map_ = Image.fromarray(WIDE).resize((448, 300), Image.Resampling.NEAREST)
    map_.save(tmp_path / "map.png")
    lines = "".join(f"{i}.png,a,map.png\n" for i in range(2))
    (tmp_path / "t.csv").write_text("filepath,title,heatmap\n" + lines)
    phrase = read(str(tmp_path / "t.csv")).phrases[0]
    assert (phrase.shape, phrase.tolerance) == ((150, 224), 7.5)


def test_priors_are_of_other_images_alone() -> None:
    """Three images; of the first there are two phrases, which do not see each other."""
    targets = np.zeros((4, *GRID), np.uint8)
    for i in range(4):
        targets[i, i, : i + 1] = 255
    phrases = [make_phrase(str(i), 0, "a", target, 1.0) for i, target in enumerate(targets)]
    data = SimpleNamespace(
        phrases=phrases, grounded=np.arange(4), groups=np.array(["a", "a", "b", "c"])
    )
    share = targets / targets.sum((1, 2), keepdims=True)
    others = {0: (2, 3), 1: (2, 3), 2: (0, 1, 3), 3: (0, 1, 2)}
    seen = [set() for _ in range(4)]
    for seed in range(20):
        for i, maps in enumerate(prior_maps(data, seed)):
            mean, donor = maps["mean map of the data"], maps["another image's map"]
            np.testing.assert_allclose(mean, share[list(others[i])].mean(0), atol=1e-6)
            seen[i].add(int(np.flatnonzero(donor.any(1))[0]))
    assert [tuple(sorted(found)) for found in seen] == list(others.values())


def test_maps_of_annotators_and_boxes_in_fractions(tmp_path: Path) -> None:
    """All three mark one quarter, one of them a second quarter, which the region does not have."""
    save_images(tmp_path, 2)
    boxes = "".join(f"0.png,a,0,0,0.5,0.5,{name}\n1.png,a,0,0,0.5,0.5,{name}\n" for name in "zxy")
    (tmp_path / "p.csv").write_text(
        f"filepath,phrase,x,y,w,h,reader\n{boxes}0.png,a,0.5,0.5,0.5,0.5,z\n"
    )
    flags = ("--annotations", str(tmp_path / "p.csv"), "--images", str(tmp_path))
    phrase = read(None, *flags).phrases[0]
    expected = np.zeros((40, 60), bool)
    expected[:20, :30] = True
    np.testing.assert_array_equal(phrase.region, expected)
    assert [int((one > 0).sum()) for one in phrase.of_readers] == [1200, 600, 600]


@pytest.mark.parametrize("stated", [(20, 40), (40, 20), None])
def test_regions_of_an_image_that_is_turned(tmp_path: Path, stated: tuple[int, int] | None) -> None:
    """Stored 20 x 40 (height x width), shown 40 x 20: positions count the grid that is stated."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    for i in range(2):
        picture = Image.fromarray(np.full((20, 40, 3), 90 + i, np.uint8))
        picture.save(tmp_path / f"{i}.jpg", exif=exif)
    sizes = {} if stated is None else {"height": stated[0], "width": stated[1]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", **sizes} for i in range(2)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 8, 4]} for i in range(2)
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    flags = ("--annotations", str(tmp_path / "c.json"), "--images", str(tmp_path))
    expected = np.zeros((40, 20), bool)
    if stated == (20, 40):
        expected[:8, 16:] = True  # the corner at the top left of the stored grid
    else:
        expected[:4, :8] = True
    np.testing.assert_array_equal(read(None, *flags).phrases[0].region, expected)
