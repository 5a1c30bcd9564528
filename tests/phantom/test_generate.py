"""Synthetic chest X-rays: deterministic, and image, gaze, box and report agree.

The files on disk are complete, and gaze leaks the class as much as the documentation says.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import read_shard
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

import openclip_eclip
from openclip_eclip.phantom import command as phantom
from openclip_eclip.phantom import images as phantom_images
from openclip_eclip.phantom.anatomy import NORMAL
from openclip_eclip.phantom.batch import PhantomBatch
from openclip_eclip.phantom.chest import CHEST
from openclip_eclip.phantom.generate import generate
from openclip_eclip.phantom.reports import compose_report, zero_shot_prompts
from openclip_eclip.phantom.scenes import Knobs, draw_scenes
from openclip_eclip.prepare.__main__ import main

WORDS = CHEST.words
CLASS_NAMES, FINDING_WORDS = WORDS.classes, WORDS.synonyms
FIELDS = ("images", "labels", "reports", "heatmaps", "annotated", "boxes")
SMALL = "--train 70 --test 40 --annotated 0.3 --seed 7 --size 32 --shard-size 25".split()


def assert_same(
    a: PhantomBatch, b: PhantomBatch, count: int | None = None, fields: tuple = FIELDS
) -> None:
    for field in fields:
        np.testing.assert_array_equal(
            getattr(a, field)[:count], getattr(b, field)[:count], err_msg=field
        )


def gaze_score(train: PhantomBatch, test: PhantomBatch) -> tuple[float, float, float]:
    """Macro-F1, balanced accuracy and accuracy of logistic regression on the gaze alone.

    The features are heatmaps averaged to 8 x 8; no pixel of an image is used.
    """

    def pooled(batch: PhantomBatch) -> np.ndarray:
        n, size, _ = batch.heatmaps.shape
        return (
            batch.heatmaps.reshape(n, 8, size // 8, 8, size // 8).mean(axis=(2, 4)).reshape(n, 64)
        )

    scale = pooled(train).std()
    model = LogisticRegression(max_iter=3000).fit(pooled(train) / scale, train.labels)
    guess = model.predict(pooled(test) / scale)
    return (
        f1_score(test.labels, guess, average="macro"),
        balanced_accuracy_score(test.labels, guess),
        accuracy_score(test.labels, guess),
    )


@pytest.fixture(scope="module")
def batch() -> PhantomBatch:
    return generate(320, seed=3, split="train", annotated=0.1)


@pytest.fixture(scope="module")
def csv_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "csv"
    assert main(["phantom", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def tar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "tar"
    assert main(["phantom", str(out), *SMALL, "--format", "webdataset"]) == 0
    return out


@pytest.fixture(scope="module")
def leak_pairs() -> dict[float, tuple[PhantomBatch, PhantomBatch]]:
    """Small train and test batches by `gaze_leak`, for the two probes: 1.0 and 0.0."""
    return {
        leak: (
            generate(700, seed=0, split="train", annotated=1, size=32, gaze_leak=leak),
            generate(500, seed=0, split="test", annotated=0, size=32, gaze_leak=leak),
        )
        for leak in (1.0, 0.0)
    }


# --- generate
# ------------------------------------------------------------------------------------------


def test_shapes_and_types():
    generated = generate(37, seed=0, split="train", annotated=0.5, size=48)
    assert generated.images.shape == generated.heatmaps.shape == (37, 48, 48)
    assert generated.labels.shape == generated.annotated.shape == (
        37,
    ) and generated.boxes.shape == (37, 4)
    assert len(generated.reports) == 37 and all(
        isinstance(report, str) for report in generated.reports
    )
    dtypes = [
        getattr(generated, field).dtype
        for field in ("images", "heatmaps", "labels", "annotated", "boxes")
    ]
    assert dtypes == [np.uint8, np.float32, np.int64, np.bool_, np.int32]


def test_same_arguments_same_samples_and_others_differ():
    arguments = dict(seed=5, split="train", annotated=0.2, size=32)
    generated = generate(40, **arguments)
    assert_same(generated, generate(40, **arguments))
    for other in (
        generate(40, **{**arguments, "seed": 6}),
        generate(40, **{**arguments, "split": "test", "annotated": 0}),
    ):
        assert not (generated.images == other.images).all(axis=(1, 2)).any()
        assert (generated.labels != other.labels).any() and generated.reports != other.reports


def test_a_smaller_n_is_a_prefix():
    few, many = (generate(n, seed=1, split="train", annotated=0, size=32) for n in (40, 75))
    assert_same(few, many, 40)


def test_size_and_leak_keep_the_rest_of_the_scene():
    small, large, no_leak = (
        generate(64, seed=1, split="train", annotated=0.1, size=size, gaze_leak=leak)
        for size, leak in ((64, 1.0), (128, 1.0), (64, 0.0))
    )
    assert_same(small, large, fields=("labels", "reports", "annotated"))
    assert_same(small, no_leak, fields=("labels", "annotated"))
    found = small.labels != NORMAL
    assert np.abs(2 * small.boxes[found] - large.boxes[found]).max() <= 4
    # without the leak the lesion lies elsewhere, and the images of normal scenes are the same
    assert not (small.boxes[found] == no_leak.boxes[found]).all(axis=1).any()
    normal = small.labels == NORMAL
    np.testing.assert_array_equal(small.images[normal], no_leak.images[normal])
    assert not (small.heatmaps[normal] == no_leak.heatmaps[normal]).all(axis=(1, 2)).any()


@pytest.mark.parametrize("share, expected", [(0, 0), (0.05, 10), (0.333, 67), (1, 200)])
def test_annotated_share_is_exact(share, expected):
    assert (
        generate(200, seed=2, split="train", annotated=share, size=32).annotated.sum() == expected
    )


def test_more_annotation_only_adds():
    few, many = (
        generate(200, seed=2, split="train", annotated=share, size=32).annotated
        for share in (0.1, 0.4)
    )
    assert many[few].all() and 0 < many[:100].sum() < 80  # scattered, not the first ones


def test_class_shares(leak_pairs):
    labels = leak_pairs[1.0][0].labels
    np.testing.assert_allclose(np.bincount(labels) / len(labels), [0.30] + [0.14] * 5, atol=0.05)


def test_images_use_the_whole_grey_range(batch):
    assert batch.images.min() == 0 and batch.images.max() == 255
    assert 70 < batch.images.mean() < 160
    assert (batch.images.std(axis=(1, 2)) > 20).all()


# --- gaze and boxes
# ------------------------------------------------------------------------------------------


def test_boxes_are_inside_the_image_and_minus_one_for_normals(batch):
    normal = batch.labels == NORMAL
    assert (batch.boxes[normal] == -1).all()
    x0, y0, x1, y1 = batch.boxes[~normal].T
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 64).all() and (y1 <= 64).all()
    widths, heights = x1 - x0, y1 - y0
    assert widths.min() >= 3 and heights.min() >= 1 and widths.max() <= 24 and heights.max() <= 24


def test_box_holds_the_lesion(batch, monkeypatch):
    """Without its finding, the image changes inside the box and hardly outside."""
    monkeypatch.setattr(phantom_images, "_lesions", lambda scenes, x, y: np.zeros_like(x))
    without = generate(320, seed=3, split="train", annotated=0.1)
    change = np.abs(batch.images.astype(int) - without.images)
    shares = []
    for difference, (x0, y0, x1, y1), label in zip(change, batch.boxes, batch.labels):
        if label == NORMAL:
            assert not difference.any()
            continue
        inside = difference[y0:y1, x0:x1]
        assert inside.mean() > 8
        shares.append(inside.sum() / difference.sum())
        far = difference.copy()
        far[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = 0
        assert far.sum() < 0.1 * difference.sum()
    assert min(shares) > 0.45 and np.mean(shares) > 0.75  # the rest is the lesion's soft edge


@pytest.mark.parametrize("leak", [1.0, 0.0])
def test_gaze_peaks_at_the_lesion(leak):
    generated = generate(320, seed=3, split="train", annotated=0, gaze_leak=leak)
    assert (generated.heatmaps.max(axis=(1, 2)) == 1).all() and generated.heatmaps.min() >= 0
    found = generated.labels != NORMAL
    y, x = np.divmod(generated.heatmaps[found].reshape(found.sum(), -1).argmax(axis=1), 64)
    x0, y0, x1, y1 = generated.boxes[found].T
    # pixels; <= 0 is inside
    outside = np.maximum.reduce([x0 - x, x - (x1 - 1), y0 - y, y - (y1 - 1)])
    assert outside.max() <= 4 and (outside <= 0).mean() > 0.9


def test_image_and_anatomy_frames_are_inverses():
    scenes = draw_scenes(np.random.default_rng(0), 50, Knobs())
    points = phantom_images._to_image(scenes, scenes.position[:, None])[:, 0]
    back = phantom_images._to_anatomy(scenes, points[:, 0, None, None], points[:, 1, None, None])
    np.testing.assert_allclose(np.stack(back, axis=-1)[:, 0, 0], scenes.position, atol=1e-6)
    assert np.abs(points - 0.5 - scenes.position).max() > 0.02  # the frames do differ


def test_normals_are_searched_and_get_a_decoy_only_without_the_leak():
    spread = {}
    for leak in (1.0, 0.0):
        generated = generate(320, seed=3, split="train", annotated=0, size=32, gaze_leak=leak)
        mass = generated.heatmaps.mean(axis=(1, 2))
        spread[leak] = (
            mass[generated.labels == NORMAL].mean() / mass[generated.labels != NORMAL].mean()
        )
    assert spread[1.0] > 1.3 and abs(spread[0.0] - 1) < 0.1


def test_gaze_alone_predicts_the_class_only_with_the_leak(leak_pairs):
    f1, balanced, _ = gaze_score(*leak_pairs[1.0])
    assert f1 > 0.55 and balanced > 0.55
    f1, balanced, accuracy = gaze_score(*leak_pairs[0.0])
    assert f1 < 0.22 and 0.10 < balanced < 0.23 and accuracy < 0.37


def test_findings_are_visible_in_the_images(leak_pairs):
    """Logistic regression on 16 x 16 pixels is well above chance (0.17) and far from solved."""
    train, test = leak_pairs[1.0]
    x_train, x_test = (
        generated.images.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)).reshape(-1, 256) / 64
        for generated in (train, test)
    )
    model = LogisticRegression(max_iter=1000, C=0.1).fit(
        x_train - x_train.mean(axis=0), train.labels
    )
    guess = model.predict(x_test - x_train.mean(axis=0))
    assert 0.5 < f1_score(test.labels, guess, average="macro") < 0.85


# --- reports
# ------------------------------------------------------------------------------------------


def test_reports_name_the_finding_and_vary(batch):
    for report, label in zip(batch.reports, batch.labels):
        name = CLASS_NAMES[label]
        if name == "normal":
            assert any(
                word in report.lower()
                for word in ("lungs are", "lungs on both sides", "both lung fields")
            )
        else:
            assert any(words in report.lower() for words in FINDING_WORDS[name]), (name, report)
    assert len(set(batch.reports)) > 0.95 * len(batch.reports)
    for name, words in FINDING_WORDS.items():
        mine = " ".join(
            report.lower()
            for report, label in zip(batch.reports, batch.labels)
            if CLASS_NAMES[label] == name
        )
        assert all(word in mine for word in words)  # every synonym is used


def test_reports_deny_only_what_is_absent(batch):
    denied = 0
    for report, label in zip(batch.reports, batch.labels):
        for sentence in report.lower().split(". "):
            if sentence.startswith(("no ", "there is no ")) or "is not seen" in sentence:
                denied += 1
                words = FINDING_WORDS.get(CLASS_NAMES[label], ("lung",))
                assert not any(word in sentence for word in words), report
    assert denied > 100


def test_reports_name_side_and_zone_of_the_box(batch):
    heights = {"upper": [], "mid": [], "lower": []}
    names = {"upper": "upper", "mid": "mid", "middle": "mid", "lower": "lower", "base": "lower"}
    for report, label, (x0, y0, x1, y1) in zip(batch.reports, batch.labels, batch.boxes):
        if label == NORMAL:
            continue
        sentences = [
            s
            for s in report.lower().split(".")
            if any(w in s for w in FINDING_WORDS[CLASS_NAMES[label]])
        ]
        words = sentences[0].replace("-", " ").split()
        # radiological convention: the patient's right is on the left of the image
        assert ("right" in words) == ((x0 + x1) / 2 < 32)
        assert ("right" in words) != ("left" in words)
        zone = {names[word] for word in words if word in names}
        assert len(zone) == 1
        heights[zone.pop()].append((y0 + y1) / 2)
    upper, mid, lower = (np.array(heights[zone]) for zone in heights)
    assert upper.mean() + 5 < mid.mean() < lower.mean() - 5
    assert np.quantile(upper, 0.9) < np.quantile(lower, 0.1)


def test_sentence_order_is_shuffled_and_only_present_devices_are_mentioned():
    rng = np.random.default_rng(0)
    nodule = (CLASS_NAMES.index("nodule"), 0, 0, 0)
    with_all, without = (
        [compose_report(rng, WORDS, nodule, np.full(4, worn)) for _ in range(60)]
        for worn in (True, False)
    )
    for word in ("leads", "pacemaker", "carina|endotracheal", "feeding|nasogastric"):
        mentions = [any(w in report.lower() for w in word.split("|")) for report in with_all]
        assert 0.5 < np.mean(mentions) < 1
        assert not any(w in report.lower() for report in without for w in word.split("|"))
    first = [
        any(word in report.lower().split(".")[0] for word in FINDING_WORDS["nodule"])
        for report in with_all
    ]
    assert 0.05 < np.mean(first) < 0.5


def test_devices_are_independent_of_the_class(leak_pairs):
    generated = leak_pairs[1.0][0]
    has_pacemaker = np.array(["pacemaker" in report.lower() for report in generated.reports])
    share = [has_pacemaker[generated.labels == label].mean() for label in range(len(CLASS_NAMES))]
    assert 0.04 < min(share) and max(share) < 0.22
    # the region of the pacemaker at 32 pixels
    bright = generated.images[:, 6:9, 22:26].mean(axis=(1, 2))
    assert bright[has_pacemaker].mean() > bright[~has_pacemaker].mean() + 15


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_prompts_are_distinct_and_cover_side_and_zone(name):
    prompts = zero_shot_prompts(WORDS, name)
    assert len(set(prompts)) == 6
    assert all(prompt[0].isupper() and prompt.endswith(".") for prompt in prompts)
    if name != "normal":
        for side in ("right", "left"):
            for zone in ("upper", "mid", "lower"):
                assert sum(f"{side} {zone}" in prompt for prompt in prompts) == 1


# --- files
# ------------------------------------------------------------------------------------------


def test_csv_holds_what_generate_returns(csv_folder):
    train = generate(70, seed=7, split="train", annotated=0.3, size=32)
    table = pd.read_csv(csv_folder / "train.csv", keep_default_na=False)
    assert list(table.columns) == ["filepath", "title", "heatmap", "label"]
    assert list(table.title) == train.reports
    assert list(table.label) == list(train.labels)
    stored = np.stack([np.asarray(Image.open(csv_folder / path)) for path in table.filepath])
    np.testing.assert_array_equal(stored, train.images)
    np.testing.assert_array_equal(table.heatmap != "", train.annotated)
    assert len(list((csv_folder / "heatmaps").iterdir())) == train.annotated.sum() == 21
    for path, heatmap in zip(table.heatmap, train.heatmaps):
        if path:
            pixels = np.asarray(Image.open(csv_folder / path))
            assert pixels.dtype == np.uint8 and pixels.max() == 255
            assert np.abs(pixels / 255 - heatmap).max() < 0.003


def test_test_table_has_labels_boxes_and_no_heatmap(csv_folder):
    test = generate(40, seed=7, split="test", annotated=0, size=32)
    table = pd.read_csv(csv_folder / "test.csv", keep_default_na=False, dtype=str)
    assert list(table.columns) == ["filepath", "title", "label", "x0", "y0", "x1", "y1"]
    assert list(table.title) == test.reports
    assert list(table.label.astype(int)) == test.labels.tolist()
    blank = ["", "", "", ""]  # the box of a normal image
    expected = [blank if box[0] < 0 else [str(side) for side in box] for box in test.boxes]
    assert table[["x0", "y0", "x1", "y1"]].values.tolist() == expected
    assert blank in expected
    gaze = pd.read_csv(csv_folder / "test_gaze.csv")
    assert list(gaze.columns) == ["filepath", "gaze"]
    assert list(gaze.filepath) == list(table.filepath)
    stored = np.stack([np.asarray(Image.open(csv_folder / path)) for path in gaze.gaze])
    assert np.abs(stored / 255 - test.heatmaps).max() < 0.003


def test_webdataset_and_csv_agree(csv_folder, tar_folder):
    sizes = json.loads((tar_folder / "sizes.json").read_text())
    assert sizes == {
        "train-000000.tar": 25,
        "train-000001.tar": 25,
        "train-000002.tar": 20,
        "test-000000.tar": 25,
        "test-000001.tar": 15,
    }
    assert {path.name for path in tar_folder.glob("*.tar")} == set(sizes)
    for split in ("train", "test"):
        samples = {}
        for shard in sorted(name for name in sizes if name.startswith(split)):
            for name, content in read_shard(tar_folder / shard).items():
                key, kind = name.split(".", 1)
                samples.setdefault(key, {})[kind] = content
        rows = pd.read_csv(csv_folder / f"{split}.csv", keep_default_na=False, dtype=str).to_dict(
            "records"
        )
        assert len(rows) == len(samples)
        for row, (key, sample) in zip(rows, samples.items()):
            facts = json.loads(sample["json"])
            assert row["filepath"] == f"images/{key}.png" and row["title"] == sample["txt"].decode()
            assert (csv_folder / row["filepath"]).read_bytes() == sample["png"]
            assert facts["class"] == CLASS_NAMES[facts["label"]]
            if split == "train" and row["heatmap"]:
                assert (csv_folder / row["heatmap"]).read_bytes() == sample["heatmap.png"]
            else:
                assert set(sample) == {"png", "txt", "json"}
            if split == "test":
                assert int(row["label"]) == facts["label"]
                box = [str(side) for side in facts["box"] or [""] * 4]
                assert [row[name] for name in ("x0", "y0", "x1", "y1")] == box
    gaze = pd.read_csv(tar_folder / "test_gaze.csv")
    assert list(gaze.filepath) == [f"{key}.png" for key in samples]
    assert all((tar_folder / path).is_file() for path in gaze.gaze)


@pytest.mark.parametrize("kind", ["csv", "webdataset"])
def test_same_command_same_bytes(kind, csv_folder, tar_folder, tmp_path):
    first = csv_folder if kind == "csv" else tar_folder
    assert main(["phantom", str(tmp_path / "again"), *SMALL, "--format", kind]) == 0
    names = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    assert names == {
        p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()
    }
    assert len(names) > 40
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_shard_members_carry_no_time_or_owner(tar_folder):
    with tarfile.open(tar_folder / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {
        (0, 0, 0, "")
    }


def test_recipe_and_classes(csv_folder, tar_folder):
    recipe = json.loads((csv_folder / "recipe.json").read_text())
    assert recipe["package_version"] == openclip_eclip.__version__
    assert recipe["parameters"] == {
        "train": 70,
        "test": 40,
        "annotated": 0.3,
        "seed": 7,
        "size": 32,
        "format": "csv",
        "gaze_leak": 1.0,
        "gaze_noise": 0.0,
        "gaze_shift": 0.0,
        "shortcut": 0.0,
        "shard_size": 25,
    }
    assert set(recipe["sha256"]) == {"train.csv", "test.csv", "test_gaze.csv"}
    tar_recipe = json.loads((tar_folder / "recipe.json").read_text())
    assert len(tar_recipe["sha256"]) == 6 and tar_recipe["class_counts"] == recipe["class_counts"]
    for folder, digests in ((csv_folder, recipe["sha256"]), (tar_folder, tar_recipe["sha256"])):
        for name, digest in digests.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    labels = pd.read_csv(csv_folder / "test.csv").label
    assert recipe["class_counts"]["test"] == {
        name: (labels == i).sum() for i, name in enumerate(CLASS_NAMES)
    }
    assert sum(recipe["class_counts"]["train"].values()) == 70
    classes = json.loads((csv_folder / "classes.json").read_text())
    assert classes == {
        "classes": list(CLASS_NAMES),
        "prompts": {name: zero_shot_prompts(WORDS, name) for name in CLASS_NAMES},
    }


# --- errors
# ------------------------------------------------------------------------------------------

GOOD = {"n": 4, "seed": 0, "split": "train", "annotated": 0.5, "size": 32, "gaze_leak": 0.5}


@pytest.mark.parametrize(
    "bad, match",
    [
        ({"n": 0}, "n = 0 train samples: expected at least 1"),
        ({"seed": -1}, "seed -1: expected an integer >= 0"),
        ({"split": "val"}, "split 'val': expected one of train, test"),
        ({"annotated": 1.1}, "annotated 1.1: expected a share in 0 .. 1"),
        ({"annotated": -0.1}, "annotated -0.1: expected a share in 0 .. 1"),
        ({"annotated": float("nan")}, "annotated nan: expected a share in 0 .. 1"),
        ({"gaze_leak": 2}, "gaze_leak 2: expected a share in 0 .. 1"),
        ({"gaze_noise": 0.95}, "gaze_noise 0.95: expected a share in 0 .. 0.9"),
        ({"gaze_shift": -0.1}, "gaze_shift -0.1: expected a share in 0 .. 0.5"),
        ({"shortcut": 3}, "shortcut 3: expected a share in 0 .. 1"),
        ({"size": 31}, "size 31: expected at least 32 pixels"),
        ({"split": "test"}, "Test samples never carry heatmaps"),
    ],
)
def test_bad_arguments_are_errors(bad, match):
    generate(**GOOD)
    with pytest.raises(ValueError, match=match):
        generate(**{**GOOD, **bad})


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--size", 16),
        ("--annotated", 5),
        ("--test", 0),
        ("--shard-size", 0),
        ("--gaze-leak", -1),
        ("--seed", -3),
    ],
)
def test_command_reports_errors_in_one_line_and_writes_nothing(flag, value, tmp_path, capsys):
    sizes = ["--train", "4", "--test", "4"]
    assert main(["phantom", str(tmp_path / "out"), *sizes, flag, str(value)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert str(value) in captured.err
    assert not list(tmp_path.iterdir())


def test_all_arguments_are_checked_before_the_first_image(tmp_path, monkeypatch, capsys):
    def fail(folder, split, blocks):
        raise AssertionError("wrote before checking")

    monkeypatch.setattr(phantom, "write_csv", fail)
    assert main(["phantom", str(tmp_path / "out"), "--train", "4", "--test", "0"]) == 2
    assert "n = 0 test samples" in capsys.readouterr().err


def test_a_folder_with_files_is_an_error_and_stays_unchanged(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    assert main(["phantom", str(tmp_path / "out"), "--train", "2", "--test", "2"]) == 2
    message = "holds files: expected an absent or empty folder. Name another one"
    assert message in capsys.readouterr().err
    assert main(["phantom", str(tmp_path / "out" / "precious"), "--train", "2", "--test", "2"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]


def test_an_empty_folder_is_used_and_the_command_prints_one_line(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    assert main(["phantom", str(out), "--train", "3", "--test", "2", "--size", "32"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and "3 train, 2 test" in captured.out
    assert captured.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "recipe.json").is_file()


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(folder, split, blocks):
        (folder / "half").write_text("written")
        raise OSError("disk full")

    monkeypatch.setattr(phantom, "write_csv", fail)
    assert main(["phantom", str(tmp_path / "out"), "--train", "2", "--test", "2"]) == 2
    assert capsys.readouterr().err == "error: disk full\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["nothing", "out"]])
def test_an_unknown_or_missing_data_set_is_an_error(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and "NAME" in capsys.readouterr().err


@pytest.mark.slow
def test_prepare_imports_no_torch():
    """`prepare --help` works if the parent package, which imports open_clip, is an empty module.

    The module of a data set is imported only when its name is given.
    """
    folder = Path(openclip_eclip.__file__).parent
    code = f"""
import sys, types
parent = types.ModuleType("openclip_eclip"); parent.__path__ = [{str(folder)!r}]
sys.modules["openclip_eclip"] = parent
from openclip_eclip.prepare.__main__ import main
for words, loaded in ((["--help"], False), (["phantom", "--help"], True)):
    try:
        main(words)
    except SystemExit:
        pass
    assert ("openclip_eclip.phantom.command" in sys.modules) == ("numpy" in sys.modules) == loaded
print(sorted({{"torch", "open_clip", "sklearn"}} & set(sys.modules)))
"""
    generated = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=400, check=True
    )
    assert "--gaze-leak" in generated.stdout and generated.stdout.endswith("[]\n")


# ---- settings that degrade the training split


def mass_near(generated: PhantomBatch, chosen: np.ndarray) -> np.ndarray:
    """Share of each heatmap's mass within the lesion's box, extended by its sides all round."""
    shares = []
    for heat, (x0, y0, x1, y1) in zip(generated.heatmaps[chosen], generated.boxes[chosen]):
        w, h = x1 - x0, y1 - y0
        near = heat[max(0, y0 - h) : y1 + h, max(0, x0 - w) : x1 + w]
        shares.append(near.sum() / heat.sum())
    return np.array(shares)


def test_gaze_noise_and_shift_change_the_training_heatmaps_alone() -> None:
    """Noise lowers the mass near the lesion by its share; a shift moves each map by its length.

    Images, reports and the test split do not change.
    """
    base = {"n": 160, "seed": 3, "split": "train", "annotated": 0.1}
    clean = generate(**base)
    with_lesion = np.flatnonzero(clean.boxes[:, 0] >= 0)
    noisy, moved = generate(**base, gaze_noise=0.5), generate(**base, gaze_shift=0.1)
    for generated in (noisy, moved):
        assert np.array_equal(generated.images, clean.images)
        assert generated.reports == clean.reports
        assert np.array_equal(generated.annotated, clean.annotated)
    before, after = mass_near(clean, with_lesion).mean(), mass_near(noisy, with_lesion).mean()
    # half of the mass lies at random positions, some of it near the lesion by chance
    assert 0.45 * before < after < 0.75 * before
    peaks = [
        np.stack(np.unravel_index(generated.heatmaps.reshape(160, -1).argmax(1), (64, 64)), axis=1)
        for generated in (clean, moved)
    ]
    distance = np.hypot(*(peaks[1] - peaks[0]).T)
    assert abs(np.median(distance) - 6.4) < 1
    test = {"n": 40, "seed": 3, "split": "test", "annotated": 0}
    knobs = {"gaze_noise": 0.5, "gaze_shift": 0.1, "shortcut": 1.0}
    assert_same(generate(**test), generate(**test, **knobs))


def test_a_shortcut_gives_each_class_its_own_devices() -> None:
    knobs = Knobs(shortcut=1.0)
    scenes = draw_scenes(np.random.default_rng(0), 400, knobs)
    sets = {
        label: {tuple(row) for row in scenes.devices[scenes.label == label]} for label in range(6)
    }
    assert all(len(of_class) == 1 for of_class in sets.values())
    assert len(set.union(*sets.values())) == 6
    plain = draw_scenes(np.random.default_rng(0), 400, Knobs())
    assert len({tuple(row) for row in plain.devices[plain.label == 1]}) > 3
    assert np.array_equal(plain.position, scenes.position)
