"""The head is a second anatomy, true to its reports, and the knobs of images do what they say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from test_generate import gaze_score

from openclip_eclip.phantom import images as phantom_images
from openclip_eclip.phantom.anatomy import NORMAL
from openclip_eclip.phantom.batch import PhantomBatch
from openclip_eclip.phantom.chest import CHEST
from openclip_eclip.phantom.generate import generate
from openclip_eclip.phantom.head import HEAD
from openclip_eclip.phantom.reports import zero_shot_prompts
from openclip_eclip.phantom.scenes import Knobs, draw_scenes
from openclip_eclip.prepare.__main__ import main

WORDS = HEAD.words


def head(n: int = 320, **knobs: float) -> PhantomBatch:
    return generate(n, seed=3, split="train", annotated=0.1, anatomy="head", **knobs)


@pytest.fixture(scope="module")
def batch() -> PhantomBatch:
    return head()


def test_the_chest_draws_what_it_drew_before_there_was_a_head() -> None:
    """Reports and labels; images are not compared, because they depend on numpy's build."""
    drawn = generate(40, seed=0, split="train", annotated=0.1)
    told = "\n".join(drawn.reports) + str(drawn.labels.tolist()) + str(drawn.annotated.tolist())
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "b4d32bddd3da9795"


def test_the_head_shares_nothing_with_the_chest_of_the_same_seed(batch: PhantomBatch) -> None:
    chest = generate(320, seed=3, split="train", annotated=0.1)
    for field in ("labels", "annotated"):
        equal = getattr(batch, field) == getattr(chest, field)
        assert equal.mean() < 0.9
    assert not set(batch.reports) & set(chest.reports)
    assert set(batch.classes) & set(chest.classes) == {"normal"}
    assert not (batch.images == chest.images).all(axis=(1, 2)).any()
    few = head(40)
    np.testing.assert_array_equal(few.images, batch.images[:40])
    assert few.reports == batch.reports[:40]


def test_folds_and_clouds_differ_between_heads_and_not_with_the_size() -> None:
    small, large = (
        generate(64, seed=1, split="train", annotated=0, size=size, anatomy="head", noise=0)
        for size in (64, 128)
    )
    halved = large.images.reshape(64, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(halved - small.images).mean() < 8
    # beside the ventricles, two brains have little in common
    scenes = draw_scenes(np.random.default_rng(0), 32, Knobs(anatomy="head"))
    lateral, along = (
        np.linspace(*ends, 24, dtype=np.float32) for ends in ((0.1, 0.25), (-0.2, 0.2))
    )
    x, y = (np.broadcast_to(grid, (32, 24, 24)) for grid in np.meshgrid(lateral, along))
    brains = HEAD.draw(scenes, x, y)[0].reshape(32, -1)
    others = np.corrcoef(brains)[~np.eye(32, dtype=bool)]
    assert np.abs(others).mean() < 0.3


def test_box_holds_the_finding(batch: PhantomBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom_images, "_lesions", lambda scenes, x, y: np.zeros_like(x))
    change = np.abs(batch.images.astype(int) - head().images)
    for difference, (x0, y0, x1, y1), label in zip(change, batch.boxes, batch.labels):
        if label == NORMAL:
            assert not difference.any()
            continue
        # visible: changed strongly in the box, hardly far from it
        assert np.quantile(difference[y0:y1, x0:x1], 0.9) > 25
        far = difference.copy()
        far[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = 0
        assert far.sum() < 0.1 * difference.sum()
        assert max(x1 - x0, y1 - y0) <= 24


@pytest.mark.parametrize("leak", [1.0, 0.0])
def test_gaze_peaks_at_the_finding(leak: float) -> None:
    drawn = head(gaze_leak=leak)
    found = drawn.labels != NORMAL
    y, x = np.divmod(drawn.heatmaps[found].reshape(found.sum(), -1).argmax(axis=1), 64)
    x0, y0, x1, y1 = drawn.boxes[found].T
    outside = np.maximum.reduce([x0 - x, x - (x1 - 1), y0 - y, y - (y1 - 1)])
    assert outside.max() <= 4 and (outside <= 0).mean() > 0.9


def test_gaze_alone_predicts_the_class_only_with_the_leak() -> None:
    for leak, low, high in ((1.0, 0.5, 1.0), (0.0, 0.0, 0.22)):
        pair = [
            generate(
                count, seed=0, split=split, annotated=0, size=32, gaze_leak=leak, anatomy="head"
            )
            for split, count in (("train", 700), ("test", 500))
        ]
        assert low < gaze_score(*pair)[0] < high


def test_findings_are_visible_in_the_images_without_their_place() -> None:
    """Logistic regression on 16 x 16 pixels, positions free of the class: above chance (0.1)."""
    x, labels = [], []
    for split, count in (("train", 1500), ("test", 500)):
        drawn = generate(
            count, seed=0, split=split, annotated=0, size=32, gaze_leak=0, anatomy="head"
        )
        x.append(drawn.images.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)).reshape(-1, 256) / 64)
        labels.append(drawn.labels)
    model = LogisticRegression(max_iter=1000, C=0.1).fit(x[0] - x[0].mean(axis=0), labels[0])
    guess = model.predict(x[1] - x[0].mean(axis=0))
    assert 0.18 < f1_score(labels[1], guess, average="macro") < 0.5


def test_reports_name_finding_side_and_zone_and_deny_only_what_is_absent(
    batch: PhantomBatch,
) -> None:
    heights: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for report, label, box in zip(batch.reports, batch.labels, batch.boxes):
        sentences = report.lower().split(". ")
        denied = [
            s
            for s in sentences
            if s.startswith(("no sign", "negative")) or "absent" in s or "excluded" in s
        ]
        if label == NORMAL:
            assert any(word in report for word in ("parenchyma", "grey-white", "Both hemispheres"))
            continue
        synonyms = WORDS.synonyms[WORDS.classes[label]]
        assert not any(word in sentence for word in synonyms for sentence in denied)
        (sentence,) = (s for s in sentences if any(word in s for word in synonyms))
        # radiological convention: the patient's right is on the left of the image
        x0, y0, x1, y1 = box
        assert ("right" in sentence) == ((x0 + x1) / 2 < 32)
        assert ("right" in sentence) != ("left" in sentence)
        (zone,) = (z for z in range(3) if any(word in sentence for word in WORDS.zones[z]))
        heights[zone].append((y0 + y1) / 2)
    upper, mid, lower = (np.array(heights[zone]) for zone in range(3))
    assert upper.mean() + 5 < mid.mean() < lower.mean() - 5
    assert np.quantile(upper, 0.9) < np.quantile(lower, 0.1)


@pytest.mark.parametrize("name", WORDS.classes)
def test_prompts_are_distinct_and_cover_side_and_zone(name: str) -> None:
    prompts = zero_shot_prompts(WORDS, name)
    assert len(set(prompts)) == 6
    assert all(prompt[0].isupper() and prompt.endswith(".") for prompt in prompts)
    if name != "normal":
        for side in ("right", "left"):
            for zones in WORDS.zones:
                covered = [side in p.lower() and zones[0] in p for p in prompts]
                assert sum(covered) == 1


def test_several_findings_of_the_head_lie_apart_and_have_their_own_gaze() -> None:
    drawn = head(96, findings=2)
    several = [findings for findings in drawn.described if len(findings) == 2]
    assert len(several) > 15
    for findings in several:
        for finding in findings:
            y, x = np.unravel_index(finding.heatmap.argmax(), finding.heatmap.shape)
            x0, y0, x1, y1 = finding.box
            assert x0 - 6 <= x < x1 + 6 and y0 - 6 <= y < y1 + 6
            assert any(word in finding.sentence for word in WORDS.synonyms[finding.name])


# ---- knobs of the images


@pytest.mark.parametrize("anatomy", [CHEST, HEAD], ids=("chest", "head"))
def test_contrast_scales_the_findings_and_nothing_else(anatomy, monkeypatch) -> None:
    name = "head" if anatomy is HEAD else "chest"
    added = {}
    for contrast in (1.0, 0.5):
        scenes = draw_scenes(np.random.default_rng(0), 64, Knobs(anatomy=name, contrast=contrast))
        x = np.linspace(-0.5, 0.5, 64, dtype=np.float32)
        grid = np.broadcast_to(x, (64, 64, 64)), np.broadcast_to(x[:, None], (64, 64, 64))
        added[contrast] = phantom_images._lesions(scenes, *grid)
    np.testing.assert_allclose(added[0.5], 0.5 * added[1.0], atol=1e-6)
    usual, weak = (
        generate(64, seed=2, split="test", annotated=0, anatomy=name, contrast=contrast)
        for contrast in (1.0, 0.5)
    )
    assert usual.reports == weak.reports
    normal = usual.labels == NORMAL
    np.testing.assert_array_equal(usual.images[normal], weak.images[normal])
    assert (usual.images[~normal] != weak.images[~normal]).any(axis=(1, 2)).all()


def test_noise_scales_the_noise_of_both_splits() -> None:
    for split in ("train", "test"):
        none, usual, strong = (
            generate(64, seed=2, split=split, annotated=0, noise=noise).images.astype(float)
            for noise in (0, 1, 2)
        )
        inner = np.s_[:, 20:44, 20:44]  # away from grey 0 and 255
        once, twice = (np.std(drawn[inner] - none[inner]) for drawn in (usual, strong))
        assert once > 3
        assert twice == pytest.approx(2 * once, rel=0.05)


def test_devices_scale_how_often_devices_are_shown() -> None:
    scenes = {
        factor: draw_scenes(np.random.default_rng(0), 2000, Knobs(devices=factor))
        for factor in (0, 1, 2)
    }
    assert not scenes[0].devices.any()
    for factor in (1, 2):
        shares = scenes[factor].devices.mean(axis=0)
        np.testing.assert_allclose(shares, factor * np.array(CHEST.device_shares), atol=0.04)
    np.testing.assert_array_equal(scenes[0].label, scenes[2].label)
    assert (scenes[2].devices | ~scenes[1].devices).all()  # more devices only adds


def test_the_recipe_names_what_is_not_the_default(tmp_path: Path) -> None:
    flags = "--train 8 --test 8 --annotated 0.5 --size 32".split()
    knobs = "--anatomy head --contrast 0.7 --noise 1.5 --devices 2".split()
    for name, more in (("plain", []), ("head", knobs)):
        assert main(["phantom", str(tmp_path / name), *flags, *more]) == 0
    plain, other = (
        json.loads((tmp_path / name / "recipe.json").read_text()) for name in ("plain", "head")
    )
    added = {"anatomy": "head", "contrast": 0.7, "noise": 1.5, "devices": 2.0}
    assert other["parameters"] == plain["parameters"] | added
    assert list(other["class_counts"]["train"]) == list(WORDS.classes)
    classes = json.loads((tmp_path / "head" / "classes.json").read_text())
    assert classes["classes"] == list(WORDS.classes)
    assert classes["prompts"]["infarct"] == zero_shot_prompts(WORDS, "infarct")
    shards = tmp_path / "shards"
    assert main(["phantom", str(shards), *flags, *knobs, "--format", "webdataset"]) == 0
    drawn = generate(
        8,
        seed=0,
        split="test",
        annotated=0,
        size=32,
        anatomy="head",
        contrast=0.7,
        noise=1.5,
        devices=2,
    )
    table = (tmp_path / "head" / "test.csv").read_text()
    assert all(report in table for report in drawn.reports)


@pytest.mark.parametrize(
    "bad, match",
    [
        ({"anatomy": "knee"}, "anatomy 'knee': expected one of chest, head"),
        ({"contrast": 0.0}, "contrast 0.0: expected a factor in 0.1 .. 3"),
        ({"noise": -1}, "noise -1: expected a factor in 0 .. 5"),
        ({"noise": float("nan")}, "noise nan: expected a factor in 0 .. 5"),
        ({"devices": 4}, "devices 4: expected a factor in 0 .. 3"),
    ],
)
def test_bad_knobs_are_errors(bad, match) -> None:
    with pytest.raises(ValueError, match=match):
        generate(4, seed=0, split="train", annotated=0.5, size=32, **bad)
