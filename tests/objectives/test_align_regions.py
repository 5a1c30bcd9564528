"""`--align-empty`, `--align-contrast` and `--align-temperature` through the model, and in training.

The pure functions: test_regions.py. Two ranks: tests/workers/ddp_align.py, in test_align.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from open_clip.transform import image_transform
from PIL import Image
from reference import align as reference
from test_align import aligned, assert_gradient, set_up, tiny
from test_align_windows import samples
from test_flag_checks import run
from workers.ddp_align import add_sentences

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.batching.sentence_draw import MOST, draw_sentences
from openclip_eclip.config import UserError
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.sample import make_sample, seeded_randomness
from openclip_eclip.data.sentence_windows import Windows, decode_windows, encode_windows
from openclip_eclip.objectives import Align
from openclip_eclip.objectives.align import AlignConfig
from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.towers.positions import encode_positions


def with_phrases(batch: ExpertBatch) -> ExpertBatch:
    """Phrases of image 0 (two, the second without a region), of 1 (none has one) and of 2 (three).

    The first phrase of image 2 has the text of the first of image 0.
    """
    add_sentences(batch, {0: 2, 1: 1, 2: 3}, 0)
    batch.sentence_text[3] = batch.sentence_text[0]
    batch.sentence_heatmap[[1, 2]], batch.sentence_region[[1, 2]] = 0, False
    return batch


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_losses_match_numpy(weight: float) -> None:
    """Phrases without a region: uniform in the alignment, and absent from the contrast."""
    model = tiny()
    config = AlignConfig(weight, 0.2, 2, 0.9, windows=True, empty="uniform", contrast=0.3)
    loss, batch, text = set_up(model, (Align(config),), [1], 0)
    with_phrases(batch)
    losses = loss(**model(batch, text), output_dict=True)
    with torch.no_grad():
        # as in the model: one call for all phrases
        said = model.encode_text(batch.sentence_text, normalize=True).numpy()
        positions = encode_positions(model.visual, batch.image).numpy()
        scale = float(model.logit_scale.exp())
    owner, heatmap = batch.sentence_row.tolist(), batch.sentence_heatmap[:, 0].numpy()
    errors: list[list[float]] = [[], [], []]
    for k, i in enumerate(owner):
        attention = reference.attention(positions[i], said[k], 0.2)
        errors[i].append(
            reference.cross_entropy(heatmap[k], attention, 2)
            if heatmap[k].any()
            else reference.uniform_cross_entropy(attention)
        )
    expected = weight * sum(np.mean(one) for one in errors) / 3
    assert float(losses["align_loss"].detach()) == pytest.approx(expected, rel=1e-9)

    found = [k for k in range(6) if heatmap[k].any()]
    each = reference.contrast(
        [reference.region_feature(positions[owner[k]], heatmap[k], 2) for k in found],
        [said[k] for k in found],
        [batch.sentence_text[k].tolist() for k in found],
        scale,
    )
    # image 0 has one phrase with a region, image 2 three; 0.9 of three images is 2.7
    expected = 0.3 * (each[0] + sum(each[1:]) / 3) / 2.7
    assert float(losses["align_contrast_loss"].detach()) == pytest.approx(expected, rel=1e-9)


def test_gradient_matches_finite_differences_and_is_none_in_the_text_tower() -> None:
    """Nor does the contrast train the logit scale."""
    model = tiny()
    config = AlignConfig(windows=True, empty="uniform", contrast=1)
    loss, batch, text = set_up(model, (Align(config),), [], 1)
    with_phrases(batch)

    def value() -> torch.Tensor:
        losses = loss(**model(batch, text), output_dict=True)
        return losses["align_loss"] + 3 * losses["align_contrast_loss"]

    assert_gradient(model, value)


def test_defaults_change_no_bit() -> None:
    """Without contrast there is no entry and no term more."""
    model = tiny()
    result = []
    for config in (
        AlignConfig(windows=True),
        AlignConfig(windows=True, temperature=0.1, empty="ignore", contrast=0),
        AlignConfig(windows=True, empty="uniform", contrast=1),
    ):
        loss, batch, text = set_up(model, (Align(config),), [], 0)
        add_sentences(batch, {0: 2, 2: 3}, 0)
        losses = loss(**model(batch, text), output_dict=True)
        result.append({name: float(one.detach()) for name, one in losses.items()})
    assert result[0] == result[1]
    extra = result[2].pop("align_contrast_loss")
    assert result[2] == result[0] and extra > 0


def test_contrast_without_a_phrase_is_zero() -> None:
    model = tiny()
    loss, batch, text = set_up(model, (Align(AlignConfig(windows=True, contrast=1)),), [1], 0)
    losses = loss(**model(batch, text), output_dict=True)
    assert float(losses["align_contrast_loss"].detach()) == 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_sharper_temperature_trains_another_map() -> None:
    model = tiny()
    values = []
    for temperature in (0.1, 0.01):
        loss, batch, text = set_up(model, (Align(AlignConfig(temperature=temperature)),), [1], 0)
        batch.annotated_heatmap = torch.ones(1, 1, 32, 32, dtype=torch.float64).tril()
        values.append(float(loss(**model(batch, text), output_dict=True)["align_loss"].detach()))
    assert values[0] != values[1]


# ---- data


def test_a_phrase_without_a_region_is_not_one_whose_region_the_crop_lost() -> None:
    """Its map stays zero in every crop; a region outside the crop leaves its phrase out."""
    transform = JointTransform(
        image_transform(
            32, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3, aug_cfg={"scale": (0.3, 0.5)}
        ),
        0.1,
    )
    corner, none = np.zeros((80, 64), np.uint8), np.zeros((80, 64), np.uint8)
    corner[:16, :16] = 255
    windows = Windows(["corner", "none"], [(0, 1), (1, 2)], np.stack([corner, none]))
    counts = []
    for seed in range(12):
        with seeded_randomness([seed]):
            sample = make_sample(
                transform,
                lambda texts: torch.tensor([[len(text)] for text in texts]),
                Image.new("RGB", (64, 80), (seed, 9, 9)),
                "report",
                seed,
                None,
                None,
                windows,
            )
        assert sample.sentence_text[-1].tolist() == [4]  # of "none", which is always there
        assert sample.sentence_heatmap[-1].shape == (1, 32, 32)
        peaks = sample.sentence_heatmap.flatten(1).amax(1).tolist()
        assert peaks == [1, 0][-len(peaks) :]
        counts.append(len(peaks))
    assert {1, 2} == set(counts)


def test_phrases_without_a_region_are_drawn_on_request() -> None:
    """They take no place of others where they are left out."""
    fields = samples([0, 3, MOST + 4])
    fields.sentence_heatmap[[1, 4, 5, 6, 7]] = 0
    drawn = draw_sentences(fields, 0, 0)
    assert drawn.row.tolist() == [1, 1] + [2] * MOST
    assert drawn.text[:, 0].tolist() == [10, 12, 20, *range(25, 25 + MOST - 1)]
    everything = draw_sentences(fields, 0, 0, empty=True)
    assert everything.row.tolist() == [1] * 3 + [2] * MOST
    assert not everything.heatmap[1].any()


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--align-contrast", "1"], "expected --align-windows with"),
        (["--align-empty", "uniform"], "expected --align-windows with"),
        (["--align-temperature", "0"], "temperature=0.0; expected a positive number"),
        (["--align-temperature", "nan"], "--align-temperature nan"),
        (["--align-windows", "--align-contrast", "-1"], "contrast=-1.0; expected 0 or more"),
    ],
)
def test_bad_flags_are_errors_before_training(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        run(tmp_path, "--method", "align", *flags, table=write_table(tmp_path, 6, annotated=[1]))


# ---- from drawn regions to training


def draw_regions(folder: Path) -> list[str]:
    """Twelve images, 0 to 7 with a box of one class and an outline of another; how to prepare them.

    Images 8 to 11 have no annotation.
    """
    (folder / "images").mkdir()
    draws, images, regions = np.random.default_rng(0), [], []
    for i in range(12):
        pixels = draws.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 48, "height": 48})
        if i < 8:
            drawn = (
                {"bbox": [4, 4, 16, 16], "category_id": 1 + i % 2},
                {"segmentation": [[28, 28, 44, 28, 44, 44]], "category_id": 3},
            )
            regions += [{"id": 10 * i + k, "image_id": i} | one for k, one in enumerate(drawn)]
    content = {
        "images": images,
        "annotations": regions,
        "categories": [
            {"id": k, "name": name} for k, name in ((1, "mass"), (2, "scar"), (3, "node"))
        ],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    reports = [f"{i}.png,report {i}\n" for i in range(12)]
    (folder / "reports.csv").write_text("".join(["image,report\n", *reports]))
    return [
        *("annotations", str(folder / "coco.json")),
        *("--images", str(folder / "images"), "--texts", str(folder / "reports.csv")),
        *("--phrases", "a {c}", "--size", "original", "--workers", "1"),
    ]


def add_absent(folder: Path) -> None:
    """To every file of windows, a phrase without a region."""
    for path in folder.rglob("*.windows.json"):
        windows = decode_windows(path.read_bytes(), path.with_suffix(".npz").read_bytes(), "x")
        spoken = [(text, *times) for text, times in zip(windows.sentences, windows.times)]
        maps = [*(windows.heatmaps / 255), np.zeros(windows.heatmaps.shape[1:])]
        content, arrays = encode_windows([*spoken, ("a tube", np.nan, np.nan)], maps)
        path.write_bytes(content)
        path.with_suffix(".npz").write_bytes(arrays)


@pytest.mark.slow
def test_boxes_and_outlines_are_trained_phrase_by_phrase(launcher: Launcher) -> None:
    """`prepare annotations` and `--align-windows`, from a table and from a shard."""
    folder = launcher.folder
    command = draw_regions(folder)
    for name, form in (("table", "csv"), ("absent", "csv"), ("shard", "webdataset")):
        assert prepare([*command[:2], str(folder / name), *command[2:], "--format", form]) == 0
    add_absent(folder / "absent")
    table, absent = folder / "table" / "train.csv", folder / "absent" / "train.csv"
    (shard,) = (folder / "shard").glob("*.tar")
    common = (*BASIC, "--batch-size", 4, "--epochs", 1, "--train-data")
    align = ("--method", "align", "--align-windows", "--align-min-share", 0.25)
    regions = ("--align-empty", "uniform", "--align-contrast", 0.5, "--align-temperature", 0.05)
    still = (*common, absent, *align, *regions, "--lr", 0)
    launcher.train(
        (*common, table, "--method", "clip", "--name", "clip"),
        (*common, absent, *align, *regions[:2], "--align-weight", 0, "--name", "zero"),
        (*common, table, "--method", "align", "--name", "reports"),
        (*common, table, *align, "--name", "table"),
        (*common, shard, *align, "--train-num-samples", 12, "--name", "shard"),
        (*common, absent, *align, "--name", "ignored"),
        (*common, absent, *align, *regions[:2], "--name", "uniform"),
        (*common, absent, *align, *regions, "--name", "regions"),
        (*common, absent, *align, *regions, "--precision", "amp_bf16", "--name", "amp"),
        (*common, absent, *align, *regions, "--align-weight", 0, "--name", "contrast"),
        (*still, "--batch-size", 12, "--name", "one"),
        (*still, "--accum-freq", 3, "--name", "three"),
    )
    for name in ("table", "shard", "ignored", "uniform", "regions", "amp", "contrast"):
        assert "eclip: 8 samples with sentence windows" in launcher.log(name)
        assert len(launcher.losses(name)) == 3 and np.isfinite(launcher.losses(name)).all()
    assert any(aligned(launcher, "table")) and any(aligned(launcher, "shard"))
    assert aligned(launcher, "table") != aligned(launcher, "reports")

    # phrases without a region change nothing where they are left out
    for one, other in (("zero", "clip"), ("ignored", "table")):
        weights, expected = launcher.weights(one, 1), launcher.weights(other, 1)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert launcher.losses("ignored") == launcher.losses("table")
    assert aligned(launcher, "ignored") == aligned(launcher, "table")
    assert aligned(launcher, "uniform") != aligned(launcher, "table")

    terms = {name: contrasts(launcher, name) for name in ("regions", "amp", "one", "three")}
    assert all(any(values) for values in terms.values())
    assert terms["amp"][0] == pytest.approx(terms["regions"][0], rel=0.05)
    assert terms["three"] == pytest.approx(terms["one"], rel=1e-4)
    assert aligned(launcher, "three") == pytest.approx(aligned(launcher, "one"), rel=1e-4)
    assert any(contrasts(launcher, "contrast")) and not any(aligned(launcher, "contrast"))
    assert not contrasts(launcher, "uniform")


def contrasts(launcher: Launcher, name: str) -> list[float]:
    return launcher.losses(name, "Align_contrast_loss")
