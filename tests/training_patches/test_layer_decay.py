"""--image-layer-decay, --text-layer-decay: groups of the optimiser, their rates, and the errors."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip_train import scheduler
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import AdamW, Optimizer

from openclip_eclip.config import UserError
from openclip_eclip.towers.depth import image_layers, rate_scales, text_layers
from openclip_eclip.towers.frozen import freeze_image_tower
from training_patches.layer_decay import assign_learning_rate, with_layer_decay

LR = 0.01


def model() -> Any:
    torch.manual_seed(0)
    return CLIP(32, CLIPVisionCfg(**TINY["vision_cfg"]), CLIPTextCfg(**TINY["text_cfg"]))


def adamw(clip: nn.Module) -> Optimizer:
    """As open_clip builds it."""
    weights = [p for p in clip.parameters() if p.requires_grad]
    return AdamW(
        [
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": 0.2},
        ],
        lr=LR,
    )


OPTIMISERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": adamw,
    "timm": lambda clip: create_optimizer_v2(clip, "lamb", lr=LR, weight_decay=0.2),
    "timm lookahead": lambda clip: create_optimizer_v2(clip, "lookahead_adam", lr=LR),
}


def decays(image: float | None = None, text: float | None = None) -> argparse.Namespace:
    return argparse.Namespace(image_layer_decay=image, text_layer_decay=text)


def rates(optimizer: Optimizer) -> dict[int, float]:
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_weight_has_the_rate_of_its_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = model()
    stock = {
        id(p): group["weight_decay"]
        for group in OPTIMISERS[name](clip).param_groups
        for p in group["params"]
    }
    optimizer = with_layer_decay(OPTIMISERS[name](clip), decays(0.5, 0.8), clip)
    scales = rate_scales(image_layers(clip.visual), 0.5) | rate_scales(text_layers(clip), 0.8)
    assert len(set(scales.values())) == 3 + 2  # embeddings and blocks of each tower

    def check(rate: float) -> None:
        expected = {id(p): rate * scales.get(id(p), 1.0) for p in clip.parameters()}
        assert rates(optimizer) == pytest.approx(expected, rel=1e-12)

    check(LR)  # as with --skip-scheduler
    monkeypatch.setattr(scheduler, "assign_learning_rate", assign_learning_rate)
    schedule = scheduler.cosine_lr(optimizer, LR, 2, 10)
    check(schedule(0))
    check(schedule(5))
    assert optimizer.param_groups[0]["lr"] == schedule(5)  # what open_clip logs
    decayed = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decayed == stock


@pytest.mark.parametrize("flags", [decays(), decays(1.0, 1.0)])
def test_without_decay_the_groups_are_the_stock_ones(flags: argparse.Namespace) -> None:
    clip = model()
    optimizer = adamw(clip)
    before = [dict(group) for group in optimizer.param_groups]
    with_layer_decay(optimizer, flags, clip)
    assert len(optimizer.param_groups) == len(before)
    for group, expected in zip(optimizer.param_groups, before, strict=True):
        assert group.keys() == expected.keys()
        assert all(group[key] is value for key, value in expected.items())


def test_a_step_is_scaled_by_the_decay() -> None:
    """Adam's first step is lr times the sign of the gradient."""
    clip = model()
    optimizer = with_layer_decay(AdamW(clip.parameters(), lr=LR, weight_decay=0), decays(0.5), clip)
    before = copy.deepcopy(clip.state_dict())
    for parameter in clip.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {key: (before[key] - value).abs().mean() for key, value in clip.named_parameters()}
    for key, scale in (
        ("visual.conv1.weight", 0.125),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", 0.25),
        ("visual.transformer.resblocks.1.mlp.c_fc.weight", 0.5),
        ("visual.proj", 1.0),
        ("transformer.resblocks.0.mlp.c_fc.weight", 1.0),
        ("logit_scale", 1.0),
    ):
        assert float(moved[key]) == pytest.approx(LR * scale, rel=1e-4), key


def test_a_decay_without_effect_is_an_error() -> None:
    clip = model()
    freeze_image_tower(clip.visual)
    optimizer = adamw(clip)
    with pytest.raises(UserError, match="no weight before the head of the image tower is trained"):
        with_layer_decay(optimizer, decays(0.5), clip)
