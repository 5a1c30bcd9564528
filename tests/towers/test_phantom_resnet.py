"""The tower of the demo is known wherever a model is built: export, attend, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from openclip_eclip.attend_command import main as attend
from openclip_eclip.benchmark.align_cells import MODEL
from openclip_eclip.checkpoint import plain_config
from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.export import main as export


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the demo's model, untrained."""
    folder = tmp_path_factory.mktemp("runs") / "clip"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL)
    weights = {"epoch": 1, "state_dict": model.state_dict()}
    torch.save(weights, folder / "checkpoints" / "epoch_1.pt")
    config = plain_config(MODEL, {}, model.visual.preprocess_cfg)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_attend_export_and_evaluate_read_a_run_of_the_demo(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["filepath,title,heatmap"]
    for i in range(2):
        values = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
        Image.fromarray(np.uint8(255 * np.eye(64))).save(tmp_path / f"map{i}.png")
        rows.append(f"{i}.png,a nodule,map{i}.png")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    out, plain, table = tmp_path / "attention", tmp_path / "plain", str(tmp_path / "t.csv")
    assert attend([table, "--model", str(run), "--device", "cpu", "--out", str(out)]) == 0
    assert np.load(out / "maps" / "0-pool.npy").shape == (1, 8, 8)
    assert export([str(run), str(plain)]) == 0
    assert "\nimport openclip_eclip  # for phantom_resnet\n" in (plain / "README.md").read_text()
    words = ["grounding", "--model", str(plain), "--data", table, "--device", "cpu"]
    assert evaluate([*words, "--out", str(tmp_path / "result")]) == 0
    assert (tmp_path / "result" / "report.html").is_file()
