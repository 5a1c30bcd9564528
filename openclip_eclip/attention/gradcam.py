"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391, Eq. 1 and 2) of the similarity.

The score is the cosine of image and text. The map is that before the pool of a convolutional tower,
and the input of the last block's attention of a ViT: behind it, a class token no longer reads the
positions. Attention pools of ViTs read them, and are treated in the same way.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..towers.host import HostModel, TimmTrunk
from ..towers.positions import encode_tokens, is_channels_last
from .blocks import blocks_of


def maps(model: HostModel, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, h, w), at least 0; see `attention_maps`. UserError: a tower that has neither."""
    text = text.clone()  # no tensor of inference mode, which cannot have a gradient
    with torch.no_grad():
        tokens = encode_tokens(model.visual, pixels)[1]
    with torch.enable_grad():
        if tokens.prefix is None:
            grid, features = _pooled(model.visual, tokens.grid[image].clone())
        else:
            grid, features = _last_block(model.visual, pixels[image], tokens.grid.shape[1:3])
        score = (normalize(features.float(), dim=-1) * text).sum()
        (gradient,) = torch.autograd.grad(score, grid)
    positions = tokens.grid.shape[1] * tokens.grid.shape[2]
    here, slope = (x.detach().float()[:, -positions:] for x in (grid, gradient))
    weight = slope.mean(dim=1, keepdim=True)  # Eq. 1
    return (weight * here).sum(dim=-1).relu().unflatten(1, tokens.grid.shape[1:3])  # Eq. 2


def _pooled(visual: nn.Module, grid: Tensor) -> tuple[Tensor, Tensor]:
    """(the map as (T, h * w, C), which has a gradient; image features) of a tower with a map."""
    leaf = grid.flatten(1, 2).detach().requires_grad_()
    again = leaf.unflatten(1, grid.shape[1:3])
    if isinstance(visual, ModifiedResNet):
        return leaf, visual.attnpool(again.permute(0, 3, 1, 2))
    assert isinstance(visual, TimmModel), "`encode_tokens` takes no other tower with a map"
    trunk = cast(TimmTrunk, visual.trunk)
    again = again if is_channels_last(trunk) else again.permute(0, 3, 1, 2)
    return leaf, visual.head(trunk.forward_head(again))


def _last_block(visual: nn.Module, pixels: Tensor, sides: torch.Size) -> tuple[Tensor, Tensor]:
    """(the tokens (T, N, C) before the last attention, which have a gradient; image features)."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = blocks_of(visual, "gradcam")[-1].norm.register_forward_hook(keep)
    try:
        features = visual(pixels)
    finally:
        handle.remove()
    return kept[0], features[0] if isinstance(features, tuple) else features
