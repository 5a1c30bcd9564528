"""Where an image tower sees what: its features position by position, in the joint space, for any
tower of open_clip.

Each position goes through the tower's own head as if the image consisted of it alone. For an
average-pooled tower with a linear head the mean over positions is the image feature; for attention
pooling it is the value path (MaskCLIP, arXiv 2112.01071); for a class-token ViT the last block's
patch tokens pass through the norm and projection of the class token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..config import UserError


class Tokens(NamedTuple):
    """What a tower computes by position, up to what its own pooling reads."""

    grid: Tensor  # (B, h, w, C)
    # (B, P, C) class and register tokens before them; None for a map (convolutions, Swin)
    prefix: Tensor | None
    stages: list[Tensor]  # each (B, C, h, w): maps of the last stages, as many as asked for

    def rows(self, index: Tensor) -> Tokens:
        """Grid and prefix of the images `index` (K,) int64."""
        return Tokens(self.grid[index], None if self.prefix is None else self.prefix[index], [])


def encode_tokens(visual: nn.Module, pixels: Tensor, stages: int = 0) -> tuple[Tensor, Tokens]:
    """Of `pixels` (B, 3, H, W), in one pass: what `visual(pixels)` returns, (B, D), and the tokens
    behind it.

    `visual`: `model.visual` of an open_clip model. UserError: a tower that has no spatial map.
    """
    if isinstance(visual, TimmModel):
        return _timm(visual, pixels, stages)
    if isinstance(visual, VisionTransformer):
        found = visual.forward_intermediates(
            pixels, indices=max(1, stages), output_fmt="NCHW", output_extra_tokens=True
        )
    elif isinstance(visual, ModifiedResNet):
        found = visual.forward_intermediates(pixels, indices=max(1, stages))
    else:
        raise UserError(
            f"image tower {type(visual).__name__}: its features by position are not known; expected"
            " VisionTransformer, ModifiedResNet or a timm tower."
        )
    # of a ViT before the last norm
    maps, prefix = (
        found["image_intermediates"],
        found.get("image_intermediates_prefix", [None]),
    )
    return found["image_features"], Tokens(maps[-1].permute(0, 2, 3, 1), prefix[-1], maps)


def _timm(visual: TimmModel, pixels: Tensor, stages: int) -> tuple[Tensor, Tokens]:
    trunk, maps = visual.trunk, []
    if stages:
        found, maps = trunk.forward_intermediates(pixels, indices=stages, output_fmt="NCHW")
    else:
        found = trunk.forward_features(pixels)
    features = visual.head(trunk.forward_head(found))
    if isinstance(found, Tensor) and found.ndim == 4:
        return features, Tokens(
            found if _channels_last(trunk) else found.permute(0, 2, 3, 1), None, maps
        )
    if (
        not isinstance(found, Tensor)
        or found.ndim != 3
        or not hasattr(getattr(trunk, "patch_embed", None), "dynamic_feat_size")
    ):
        raise UserError(
            f"timm tower {type(trunk).__name__}: its features by position are not known; expected a"
            " map or patch tokens."
        )
    prefix = getattr(trunk, "num_prefix_tokens", 0)
    grid = found[:, prefix:].unflatten(1, trunk.patch_embed.dynamic_feat_size(pixels.shape[-2:]))
    return features, Tokens(grid, found[:, :prefix], maps)


def _channels_last(trunk: nn.Module) -> bool:
    return getattr(trunk, "output_fmt", "NCHW") == "NHWC"


def project_tokens(visual: nn.Module, tokens: Tokens) -> Tensor:
    """(B, h, w, D), not normalised: each position through the tower's own head."""
    grid = tokens.grid
    if isinstance(visual, ModifiedResNet):
        pool = visual.attnpool
        places = pool.positional_embedding[1:].unflatten(0, grid.shape[1:3]).to(grid.dtype)
        return pool.c_proj(pool.v_proj(grid + places))
    if isinstance(visual, VisionTransformer):
        # twice the same token: the pooling takes the first (class token) or the mean of the others
        # (average), which are equal
        pooled, _ = visual._pool(grid.reshape(-1, 1, grid.shape[-1]).expand(-1, 2, -1))
        return (pooled if visual.proj is None else pooled @ visual.proj).unflatten(
            0, grid.shape[:3]
        )
    if tokens.prefix is not None:
        alone = grid.reshape(-1, 1, grid.shape[-1]).expand(-1, tokens.prefix.shape[1] + 1, -1)
    else:
        alone = grid.reshape(-1, 1, 1, grid.shape[-1])
        alone = alone if _channels_last(visual.trunk) else alone.permute(0, 3, 1, 2)
    return visual.head(visual.trunk.forward_head(alone)).unflatten(0, grid.shape[:3])


def encode_positions(visual: nn.Module, pixels: Tensor) -> Tensor:
    """(B, h, w, D), not normalised, from `pixels` (B, 3, H, W). UserError: a tower that has no
    spatial map.
    """
    return project_tokens(visual, encode_tokens(visual, pixels)[1])


def similarity_map(positions: Tensor, text: Tensor) -> Tensor:
    """(B, h, w): cosine of each position (B, h, w, D) with the image's own unit text feature (B,
    D).
    """
    return torch.einsum(
        "bhwd,bd->bhw", nn.functional.normalize(positions.float(), dim=-1), text.float()
    )


def full_precision(x: Tensor) -> Tensor:
    """fp16 and bf16 as fp32; anything wider stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
