"""Small Localized Narratives: traces as fixations, sentence windows, names of images, bad lines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openclip_eclip.gaze import render
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.localized_narratives import (
    add_arguments,
    join_points,
    make_plan,
)


def narrative(dataset: str, identity: str, **fields: object) -> dict:
    """A mouse in the left half for two seconds, then in the right half, a little off the image."""
    left = [{"x": 0.2, "y": 0.5, "t": t} for t in (0.0, 1.0, 2.0)]
    right = [{"x": x, "y": 0.5, "t": t} for x, t in ((0.8, 2.1), (0.8, 3.0), (1.02, 3.5), (0.8, 4))]
    words = [("A cat", 0.0, 1.0), ("sits.", 1.0, 2.0), ("Beside it", 2.1, 3.0), ("a dog.", 3, 4)]
    return {
        "dataset_id": dataset,
        "image_id": identity,
        "annotator_id": 93,
        "caption": "A cat sits. Beside it a dog.",
        "timed_caption": [
            {"utterance": text, "start_time": start, "end_time": end} for text, start, end in words
        ],
        "traces": [left, right],
    } | fields


NARRATIVES = [
    narrative("mscoco_val2017", "139"),
    narrative("mscoco_val2017", "139", annotator_id=94),
    narrative("mscoco_val2017", "140"),  # no image
    narrative("Flickr30k_train", "1000092795"),
    narrative("open_images_test", "0004c9478eeda995"),
]
IMAGES = ["val2017/000000000139.jpg", "1000092795.jpg", "test/0004c9478eeda995.jpg"]


def write_tree(root: Path) -> Path:
    for name in IMAGES:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.full((60, 100, 3), (200, 30, 30), dtype=np.uint8)
        values[:5] = 0
        Image.fromarray(values).save(path)
    write_lines(root, NARRATIVES)
    return root


def write_lines(root: Path, records: list[dict]) -> None:
    lines = "\n".join(json.dumps(record) for record in records)
    (root / "coco_val_localized_narratives.jsonl").write_text(lines + "\n")


def plan_of(root: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = [str(root), "out", "--images", str(root / "images"), *flags]
    return make_plan(parser.parse_args(argv))


def test_images_are_found_by_their_ids(tmp_path: Path) -> None:
    plan = plan_of(write_tree(tmp_path))
    assert {name: [item.key for item in items] for name, items in plan.splits.items()} == {
        "val": ["mscoco_val2017_139_1", "mscoco_val2017_139_2"],
        "train": ["Flickr30k_train_1000092795_1"],
        "test": ["open_images_test_0004c9478eeda995_1"],
    }
    assert plan.left_out == {"no image file": 1}
    item = plan.splits["val"][0]
    assert item.colour and item.size == (60, 100)
    assert item.columns == {"patient": "mscoco-139", "annotator": "93", "source": "mscoco_val2017"}


def test_sentences_have_the_trace_of_their_words(tmp_path: Path) -> None:
    item = plan_of(write_tree(tmp_path)).splits["val"][0]
    assert [(window.sentence, window.start, window.end) for window in item.windows] == [
        ("A cat sits.", 0.0, 2.0),
        ("Beside it a dog.", 2.1, 4.0),
    ]
    left, right = (window.annotation for window in item.windows)
    assert left.x.tolist() == [20.0] and left.duration.tolist() == [2.0]
    assert left.y.tolist() == [30.0]
    assert np.allclose(right.x, [80, 102]) and np.allclose(right.duration, [1.4, 0.5])
    assert np.allclose(right.start, [2.1, 3.5])
    usable, dropped = right.usable(item.size)
    assert len(usable) == 1 and dropped == {"off image": 1}
    maps = [render(window.annotation, item.size, 60, item.config).values for window in item.windows]
    assert maps[0][:, :50].sum() > 10 * maps[0][:, 50:].sum()
    assert maps[1][:, 50:].sum() > 10 * maps[1][:, :50].sum()


def test_joined_positions_keep_their_time_and_mean() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.random((400, 2)) * 0.05, np.sort(rng.random(400)) * 9])
    rows = join_points(points)
    assert len(rows) < len(points)
    duration = np.diff(points[:, 2])
    assert np.isclose(rows[:, 3].sum(), duration.sum())
    mean = (points[:-1, :2] * duration[:, None]).sum(axis=0) / duration.sum()
    assert np.allclose((rows[:, :2] * rows[:, 3:]).sum(axis=0) / rows[:, 3].sum(), mean)
    ends = rows[:, 2] + rows[:, 3]
    assert np.allclose(ends[:-1], rows[1:, 2])


def test_written_in_colour_with_windows(tmp_path: Path) -> None:
    root, out = write_tree(tmp_path / "raw"), tmp_path / "out"
    flags = ["--images", str(root / "images"), "--workers", "1", "--format", "csv", "--limit", "1"]
    assert main(["localized-narratives", str(root), str(out), *flags]) == 0
    assert len(list(out.rglob("*.jpg"))) == 3
    assert all(Image.open(path).mode == "RGB" for path in out.rglob("*.jpg"))
    assert len(list(out.rglob("*.npz"))) == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (narrative("mscoco_val2017", "139", traces=[[{"x": 0.2, "y": "a", "t": 0}]]), "'y'"),
        (narrative("mscoco_val2017", "139", traces=[{"x": 0.2}]), "expected lists"),
        (
            narrative(
                "mscoco_val2017", "139", traces=[[{"x": 9, "y": 40, "t": i} for i in (0, 1)]]
            ),
            "expected fractions of the image",
        ),
        (narrative("mscoco_dev", "139"), "dataset_id 'mscoco_dev'"),
        (narrative("mscoco_val2017", "../1"), "image_id '../1'"),
        (narrative("mscoco_val2017", "139", timed_caption=[{"utterance": "a"}]), "start_time"),
        (narrative("mscoco_val2017", "139", caption=3), "'caption'"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, record: dict, message: str
) -> None:
    root = write_tree(tmp_path)
    write_lines(root, [NARRATIVES[0], record])
    argv = ["localized-narratives", str(root), "out", "--images", str(root / "images"), "--dry-run"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "narratives.jsonl, line 2" in error and message in error


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_tree(tmp_path)
    argv = ["localized-narratives", str(root), "out", "--images", str(tmp_path), "--dry-run"]
    assert main(argv) == 2
    assert "no image of any of 5 narratives" in capsys.readouterr().err
    path = root / "coco_val_localized_narratives.jsonl"
    path.write_text('{"dataset_id"')
    assert main(argv) == 2
    assert "line 1: not JSON" in capsys.readouterr().err
    path.unlink()
    assert main(argv) == 2
    assert "no *localized_narratives*.jsonl" in capsys.readouterr().err
