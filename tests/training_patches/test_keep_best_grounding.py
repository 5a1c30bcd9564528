"""--keep-best grounding: attention on heatmaps of --val-data; no number of training changes."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import encode_array, write_shard, write_table
from PIL import Image
from test_mid_epoch import run
from test_stopping import assert_equal

from openclip_eclip.attention.attend import attend
from openclip_eclip.config import DataError, UserError
from openclip_eclip.metrics.saliency import nss
from training_patches import grounding
from training_patches.learning_curve import NUMBERS, read

KEEP = ("--keep-best", "grounding")
ARGS = Namespace(
    dataset_type="auto",
    csv_img_key="filepath",
    csv_caption_key="title",
    csv_heatmap_key=None,
    csv_label_key="finding",  # columns of the training table, which validation need not have
    same_text_by="study",
    csv_separator=None,
    on_bad_sample="stop",
    image_range=None,
    max_pixels=10**8,
    max_bytes=10**9,
    rank=0,
    world_size=1,
    local_rank=0,
    log_local=False,
    batch_size=3,
    workers=0,
    device="cpu",
    precision="fp32",
)


def build(val_data: Path | str, windows: bool = False, **changes: Any) -> Any:
    """(the measure, model, transform, tokenizer) with the tiny model."""
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("tiny")
    tokenizer = open_clip.get_tokenizer("tiny")
    args = Namespace(**{**vars(ARGS), **changes, "val_data": str(val_data)})
    measure = grounding.build(args, model, transform, tokenizer, windows)
    return measure, model, transform, tokenizer


def wide_table(folder: Path, count: int = 5) -> Path:
    """Images of 64 x 32 pixels with a heatmap each, of which a square crop loses both ends."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["filepath,title,heatmap"]
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        np.save(folder / f"{i}.npy", rng.random((32, 64), dtype=np.float32))
        lines.append(f"{i}.png,finding {i},{i}.npy")
    (folder / "valid.csv").write_text("\n".join(lines) + "\n")
    return folder / "valid.csv"


def test_it_is_the_mean_nss_of_the_attention_in_the_crop(tmp_path: Path) -> None:
    table = wide_table(tmp_path)
    measure, model, transform, tokenizer = build(table)
    scores = []
    for i in range(5):
        with Image.open(tmp_path / f"{i}.png") as image:
            maps = attend(model, transform(image)[None], tokenizer([f"finding {i}"]), "similarity")
        crop = np.load(tmp_path / f"{i}.npy")[:, 16:48]  # 32 px, as the model's images are
        large = torch.nn.functional.interpolate(maps.double(), size=(32, 32), mode="bilinear")
        scores.append(nss(large[0, 0].numpy(), crop.astype(np.float64)))
    before = torch.get_rng_state()
    assert measure.measure() == pytest.approx(np.mean(scores), rel=1e-5)
    assert torch.equal(torch.get_rng_state(), before)
    assert measure.measure() == pytest.approx(
        build(table, batch_size=2)[0].measure(), rel=1e-5
    )  # whatever the batches


def write_windows(table: Path) -> Path:
    """A table of the same images with sentence windows: one on the left, one without a region."""
    rows = ["filepath,title,windows"]
    for i in range(2):
        maps = np.zeros((2, 32, 64), np.uint8)
        maps[0, :, :32] = 1
        np.savez(table.parent / f"{i}.windows.npz", heatmaps=maps)
        text = [
            {"sentence": sentence, "start": 0, "end": 1} for sentence in ("left part", "the rest")
        ]
        (table.parent / f"{i}.windows.json").write_text(json.dumps(text))
        rows.append(f"{i}.png,finding {i},{i}.windows.json")
    path = table.parent / "windows.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_sentences_are_measured_on_their_own_maps(tmp_path: Path) -> None:
    measure, model, transform, tokenizer = build(write_windows(wide_table(tmp_path)))
    assert measure.windows
    scores = []
    for i in range(2):
        with Image.open(tmp_path / f"{i}.png") as image:
            maps = attend(model, transform(image)[None], tokenizer(["left part"]), "similarity")
        large = torch.nn.functional.interpolate(maps.double(), size=(32, 32), mode="bilinear")
        left = np.zeros((32, 32))
        left[:, :16] = 1
        scores.append(nss(large[0, 0].numpy(), left))
    assert measure.measure() == pytest.approx(np.mean(scores), abs=0.02)  # edges are interpolated


def test_shards_and_tables_give_the_same(tmp_path: Path) -> None:
    table = wide_table(tmp_path)
    members = {}
    for i in range(5):
        members[f"{i}.png"] = (tmp_path / f"{i}.png").read_bytes()
        members[f"{i}.txt"] = f"finding {i}".encode()
        members[f"{i}.heatmap.npy"] = encode_array(np.load(tmp_path / f"{i}.npy"), ".npy")
    shard = write_shard(tmp_path / "valid-000.tar", members)
    expected = build(table)[0].measure()
    assert build(shard, workers=1)[0].measure() == pytest.approx(expected, rel=1e-5)


def test_errors_come_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no heatmap in --val-data .*; expected a column 'heatmap'"):
        build(write_table(tmp_path / "none", 4))
    bare = {"0.png": (tmp_path / "none" / "images" / "0.png").read_bytes(), "0.txt": b"a finding"}
    with pytest.raises(DataError, match=r"expected members heatmap\.png"):
        build(write_shard(tmp_path / "valid.tar", bare))
    table = wide_table(tmp_path)
    edge = np.zeros((32, 64), np.float32)
    edge[:, :4] = 1
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", edge)
    with pytest.raises(UserError, match="no heatmap of .* lies within the centre crop"):
        build(table)[0].measure()
    np.save(tmp_path / "3.npy", np.zeros((32, 64), np.float32))
    with pytest.raises(DataError, match="row 4"):
        build(table)


@pytest.mark.slow
def test_what_cannot_be_measured_stops_before_the_first_step(tmp_path: Path) -> None:
    table, valid = write_table(tmp_path, 8), wide_table(tmp_path / "valid", 1)
    edge = np.zeros((32, 64), np.float32)
    edge[:, :4] = 1
    np.save(valid.parent / "0.npy", edge)
    with pytest.raises(UserError, match="no heatmap of .* lies within the centre crop"):
        run(tmp_path, "run", "--train-data", table, "--val-data", valid, *KEEP)
    assert "Start epoch" not in (tmp_path / "logs" / "run" / "out.log").read_text()


@pytest.mark.slow
def test_it_changes_no_number_of_the_training(tmp_path: Path) -> None:
    table, valid = write_table(tmp_path, 24, annotated=range(24)), wide_table(tmp_path / "valid")
    data = ["--train-data", table, "--val-data", valid, *"--method align --workers 1".split()]
    run(tmp_path, "stock", *data)
    run(tmp_path, "kept", *data, *KEEP)
    files = [
        torch.load(tmp_path / "logs" / name / "checkpoints" / "epoch_2.pt", weights_only=True)
        for name in ("stock", "kept")
    ]
    assert_equal(files[1]["state_dict"], files[0]["state_dict"])
    assert_equal(files[1]["eclip"]["random"], files[0]["eclip"]["random"])
    validation = read(tmp_path / "logs" / "kept" / NUMBERS)[1]
    best = max(validation, key=lambda line: line["grounding"])
    state = files[1]["eclip"]["best"]
    assert (state["value"], state["epoch"]) == (best["grounding"], best["epoch"])
    text = (tmp_path / "logs" / "kept" / "out.log").read_text()
    assert "5 samples of --val-data with a heatmap" in text and "before training" in text
    assert "best" not in files[0]["eclip"]
