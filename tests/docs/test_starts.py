"""docs/train/starts.md: the folder of RAD-DINO, with random weights of the same names."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from conftest import BASIC, ROOT, write_table
from page_blocks import blocks
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from openclip_eclip import train

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "nodule", "effusion", "number", "mass")


@pytest.mark.slow
def test_rad_dino_becomes_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (b.code for b in blocks(ROOT / "docs/train/starts.md") if b.language == "python")
    small = code.replace("vit_base_patch14_dinov2", "vit_small_patch14_dinov2")
    trunk = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    state = {name: value.clone() for name, value in trunk.state_dict().items()}
    for folder in ("rad-dino-files", "bert-files"):
        Path(folder).mkdir()
    # a part of DINOv2's training that its own files hold
    mask = {"mask_token": torch.zeros(1, trunk.num_features)}
    save_file(state | mask, "rad-dino-files/backbone_compatible.safetensors")
    seen = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    Path("rad-dino-files/preprocessor_config.json").write_text(json.dumps(seen))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 256}
    layers = {"num_hidden_layers": 12, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes, **layers)).save_pretrained("bert-files")
    Path("words.txt").write_text("\n".join(WORDS))
    BertTokenizerFast("words.txt").save_pretrained("bert-files")

    exec(compile(small, "starts.md", "exec"), {})

    model = open_clip.create_model("local-dir:rad-dino")
    for name, value in model.visual.trunk.state_dict().items():
        assert torch.equal(value, state[name]), name
    table = write_table(tmp_path, 2, annotated=[0])
    words = (*BASIC, "--model", "local-dir:rad-dino", "--train-data", table, "--batch-size", 2)
    frozen = "--freeze-image all --freeze-text blocks:10 --cache-tokens t --cache-crops 1".split()
    flags = ("--image-head", "attention-pool", *frozen, "--method", "align", "--epochs", 1)
    train.main([str(word) for word in (*words, *flags, "--name", "run")])
    log = Path("logs/run/out.log").read_text()
    assert "visual.trunk.attn_pool.latent" in log and "image: 2 computed" in log
