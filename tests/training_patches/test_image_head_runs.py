"""Runs with --image-head attention-pool: what they start from, resume, and export."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import BASIC, TINY, Launcher, environment, fast_python, write_table
from open_clip.model import _build_vision_tower
from safetensors.torch import save_file

from openclip_eclip import train
from openclip_eclip.checkpoint import export_plain, load_weights
from openclip_eclip.config import UserError
from openclip_eclip.towers.image_head import with_attention_pool

pytestmark = pytest.mark.slow
HEAD = ("--image-head", "attention-pool")
ALIGN = ("--method", "align", "--align-weight", 1)
CNN = {
    "timm_model_name": "resnet10t",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "image_size": 64,
}
LOAD = """\
import sys, torch, open_clip
for name in sys.argv[1:]:
    model = open_clip.create_model(f"local-dir:{name}").eval()
    with torch.no_grad():
        torch.save(model.encode_image(torch.load(f"{name}.image")), f"{name}.out")
assert not [m for m in sys.modules if m.split('.')[0] == 'openclip_eclip']
"""


def folder_of(vision: dict[str, Any], folder: Path) -> str:
    """A start of random weights, as a `local-dir:` model."""
    folder.mkdir()
    model_cfg = {**TINY, "vision_cfg": vision}
    preprocess = {"size": vision["image_size"]}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    launcher = Launcher(tmp_path_factory.mktemp("heads"))
    table = write_table(launcher.folder, 8, annotated=range(0, 8, 2), size=64)
    data = (*BASIC, "--train-data", table, "--batch-size", 4)
    # open_clip takes other settings of Adam for a name with "vit" in it
    own, cnn = (
        folder_of(vision, launcher.folder / name)
        for name, vision in (("own", TINY["vision_cfg"]), ("cnn", CNN))
    )
    once = ("--epochs", 1)
    first = launcher.folder / "own" / "open_clip_model.safetensors"
    trained = launcher.folder / "logs" / "file" / "checkpoints" / "epoch_1.pt"
    launcher.train(
        (*data, *once, *ALIGN, *HEAD, "--pretrained", first, "--name", "file"),
        (*data, *once, *ALIGN, *HEAD, "--model", own, "--name", "own"),
        (*data, *once, *ALIGN, *HEAD, "--model", cnn, "--name", "cnn"),
        (*data, *once, *ALIGN, *HEAD, "--model", f"eclip-{cnn}", "--name", "eclip"),
        (
            *data,
            "--epochs",
            2,
            *ALIGN,
            *HEAD,
            "--model",
            own,
            "--name",
            "own",
            "--resume",
            "latest",
        ),
        (*data, *once, *ALIGN, *HEAD, "--pretrained", trained, "--lr", 0, "--name", "again"),
        (*data, *once, "--method", "clip", *HEAD, "--name", "fresh", "--precision", "pure_bf16"),
        timeout=400,
    )
    return launcher


def fresh(launcher: Launcher, name: str) -> set[str]:
    (line,) = re.findall("--image-head: the pool begins.*fresh weights: (.*)", launcher.log(name))
    return set(line.split(", "))


def test_the_log_names_what_the_start_has_not_brought(runs: Launcher) -> None:
    pool = {
        "visual.head.pool.pos_embed",
        "visual.head.pool.qkv.weight",
        "visual.head.pool.qkv.bias",
    }
    assert fresh(runs, "cnn") == fresh(runs, "eclip") == pool
    assert fresh(runs, "own") == fresh(runs, "file")
    assert "visual.attn_pool.query" in fresh(runs, "own")
    assert "visual.attn_pool.ln_k.weight" not in fresh(runs, "own")
    # without a start, all that is behind the tower
    assert fresh(runs, "own") < fresh(runs, "fresh")


def test_a_file_and_a_folder_are_the_same_start(runs: Launcher) -> None:
    one, other = (runs.weights(name, 1) for name in ("file", "own"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_of_a_run_with_the_pool_are_a_start(runs: Launcher) -> None:
    assert "fresh weights" not in runs.log("again")
    before, after = runs.weights("file", 1), runs.weights("again", 1)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_run_resumes(runs: Launcher) -> None:
    assert runs.checkpoint("own", 2)["epoch"] == 2


def test_stock_open_clip_gives_the_same_embeddings(runs: Launcher, tmp_path: Path) -> None:
    expected = {}
    for name, start in {"own": TINY["vision_cfg"], "cnn": CNN, "eclip": CNN}.items():
        checkpoint = export_plain(runs.folder / "logs" / name, tmp_path / name)
        vision = with_attention_pool(start, TINY["embed_dim"])
        visual = _build_vision_tower(TINY["embed_dim"], vision).eval()
        weights = load_weights(checkpoint)
        visual.load_state_dict(
            {k.removeprefix("visual."): v for k, v in weights.items() if k.startswith("visual.")}
        )
        image = torch.randn(2, 3, start["image_size"], start["image_size"])
        torch.save(image, tmp_path / f"{name}.image")
        with torch.no_grad():
            expected[name] = visual(image)
    command = [fast_python(), "-c", LOAD, *(str(tmp_path / name) for name in expected)]
    subprocess.run(command, check=True, timeout=400, env=environment())
    for name, features in expected.items():
        assert torch.equal(torch.load(tmp_path / f"{name}.out"), features)


def test_an_exported_model_has_its_pool_already(runs: Launcher, tmp_path: Path) -> None:
    export_plain(runs.folder / "logs" / "own", tmp_path / "plain")
    table = runs.folder / "train.csv"
    words = (*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 1, *HEAD)
    flags = (*words, "--method", "clip", "--logs", tmp_path / "logs", "--name", "kept")
    train.main([str(word) for word in (*flags, "--model", f"local-dir:{tmp_path / 'plain'}")])
    log = (tmp_path / "logs" / "kept" / "out.log").read_text()
    assert "--image-head: the image tower has an attention pool, which is kept" in log


def test_a_start_with_a_pool_asks_for_the_flag(runs: Launcher, tmp_path: Path) -> None:
    trained = runs.folder / "logs" / "own" / "checkpoints" / "epoch_1.pt"
    words = (*BASIC, "--train-data", runs.folder / "train.csv", "--logs", tmp_path / "logs")
    with pytest.raises(UserError, match="for a pool that was added give --image-head attention-p"):
        train.main([str(word) for word in (*words, "--pretrained", trained, "--name", "x")])


def test_resuming_without_the_flag_is_an_error(runs: Launcher) -> None:
    words = (*BASIC, "--train-data", runs.folder / "train.csv", "--logs", runs.folder / "logs")
    flags = ("--model", f"local-dir:{runs.folder / 'own'}", *ALIGN, "--name", "own")
    with pytest.raises(UserError, match="was trained with --image-head attention-pool, this"):
        train.main([str(word) for word in (*words, *flags, "--resume", "latest", "--epochs", 3)])


def test_a_tower_without_a_way_is_an_error_before_training(tmp_path: Path) -> None:
    words = (*BASIC, "--train-data", tmp_path / "never.csv", "--logs", tmp_path / "logs", *HEAD)
    with pytest.raises(UserError, match="channels last.*take a ViT or a ConvNeXt or ResNet"):
        train.main([str(word) for word in (*words, "--model", "eclip-swin-tiny", "--name", "x")])
