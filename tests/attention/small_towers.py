"""Image towers small enough for tests, of every kind that attention is read from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from conftest import TINY
from open_clip.model import _build_vision_tower
from torch import Tensor
from torch.nn.functional import normalize

TIMM = {"timm_model_pretrained": False, "timm_proj": "linear", "timm_pool": "avg"}
VIT = {**TINY["vision_cfg"], "image_size": 48}
SMALL_VIT = {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
TOWERS: dict[str, tuple[dict[str, Any], tuple[int, int], str]] = {  # configuration, grid, without
    "vit-class": (VIT, (3, 3), "pool"),
    "vit-average": ({**VIT, "pool_type": "avg", "image_size": [32, 64]}, (2, 4), "pool"),
    "vit-pool": (
        {**VIT, "attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
        (3, 3),
        "",
    ),
    "modified-resnet": (
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        (2, 2),
        "maskclip registers rollout",
    ),
    "resnet": (
        {**TIMM, "timm_model_name": "resnet10t", "image_size": 96},
        (3, 3),
        "pool maskclip registers rollout",
    ),
    "swin": (
        {**TIMM, "timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224},
        (7, 7),
        "pool maskclip registers rollout",
    ),
    "timm-class": ({**SMALL_VIT, "timm_pool": "token"}, (14, 14), "pool"),
    "timm-average": (SMALL_VIT, (14, 14), "pool"),
    "siglip": ({**SMALL_VIT, "timm_pool": "map", "timm_proj": "none"}, (14, 14), ""),
}


def tower(name: str) -> tuple[Any, Tensor, Tensor]:
    """(a model with this image tower, pixels of 2 images, unit features of 4 texts)."""
    config, _, _ = TOWERS[name]
    torch.manual_seed(4)
    visual = _build_vision_tower(32, dict(config)).eval()
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "blocks"):  # two of twelve
        visual.trunk.blocks = visual.trunk.blocks[:2]
    for value in visual.parameters():  # attention of untrained towers is flat
        value.data += 0.05 * torch.randn_like(value)
    side = config["image_size"]
    height, width = side if isinstance(side, list) else (side, side)
    pixels = torch.randn(2, 3, height, width)
    features = visual(pixels[:1])
    text = normalize(torch.randn(4, features.shape[-1]), dim=-1)
    return SimpleNamespace(visual=visual), pixels, text
