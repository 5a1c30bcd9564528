"""Features of an image tower by position, in the joint space, for any tower of open_clip.

Each position goes through the tower's head as if the image consisted of it alone.
- Average pooling with a linear head: the mean over positions is the image feature.
- Attention pooling: this is the value path (MaskCLIP, arXiv 2112.01071).
- A ViT with a class token: the last block's patch tokens pass through the norm and projection of
  the class token.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler, VisionTransformer
from torch import Tensor, nn

from ..config import UserError
from .host import TimmTrunk


class Tokens(NamedTuple):
    """What a tower computes by position: the input of its pooling."""

    grid: Tensor  # (B, h, w, C)
    # (B, P, C) class and register tokens; None for a tower that has a map (convolutions, Swin)
    prefix: Tensor | None
    stages: list[Tensor]  # (B, C, h, w) each: maps of the last stages, as many as requested

    def rows(self, index: Tensor) -> Tokens:
        """Grid and prefix of the images `index` (K,) int64."""
        return Tokens(self.grid[index], None if self.prefix is None else self.prefix[index], [])


def encode_tokens(visual: nn.Module, pixels: Tensor, stages: int = 0) -> tuple[Tensor, Tokens]:
    """`visual(pixels)`, (B, D), and the tokens, in one pass over `pixels` (B, 3, H, W).

    `visual`: `model.visual` of an open_clip model; `stages`: how many of the last stages to return.
    UserError for a tower without a spatial map.
    """
    if isinstance(visual, TimmModel):
        return _timm(visual, pixels, stages)
    if isinstance(visual, VisionTransformer):
        out = visual.forward_intermediates(
            pixels, indices=max(1, stages), output_fmt="NCHW", output_extra_tokens=True
        )
    elif isinstance(visual, ModifiedResNet):
        out = visual.forward_intermediates(pixels, indices=max(1, stages))
    else:
        raise UserError(
            f"image tower {type(visual).__name__}: its features by position are not known; expected"
            " VisionTransformer, ModifiedResNet or a timm tower."
        )
    # (B, C, h, w) each; those of a ViT are before the last norm
    maps = out["image_intermediates"]
    prefix = out.get("image_intermediates_prefix", [None])
    return out["image_features"], Tokens(maps[-1].permute(0, 2, 3, 1), prefix[-1], maps)


def _timm(visual: TimmModel, pixels: Tensor, stages: int) -> tuple[Tensor, Tokens]:
    trunk = cast(TimmTrunk, visual.trunk)
    maps: list[Tensor] = []
    if stages:
        last, maps = trunk.forward_intermediates(pixels, indices=stages, output_fmt="NCHW")
    else:
        last = trunk.forward_features(pixels)
    features = visual.head(trunk.forward_head(last))

    # a map, (B, h, w, C) or (B, C, h, w)
    if isinstance(last, Tensor) and last.ndim == 4:
        grid = last if is_channels_last(trunk) else last.permute(0, 2, 3, 1)
        return features, Tokens(grid, None, maps)

    # patch tokens, (B, P + h * w, C)
    has_grid = hasattr(getattr(trunk, "patch_embed", None), "dynamic_feat_size")
    if not isinstance(last, Tensor) or last.ndim != 3 or not has_grid:
        raise UserError(
            f"timm tower {type(trunk).__name__}: its features by position are not known; expected a"
            " map or patch tokens."
        )
    prefix = getattr(trunk, "num_prefix_tokens", 0)
    grid = last[:, prefix:].unflatten(1, trunk.patch_embed.dynamic_feat_size(pixels.shape[-2:]))
    return features, Tokens(grid, last[:, :prefix], maps)


def is_channels_last(trunk: TimmTrunk) -> bool:
    """Whether the maps of a timm model are (B, h, w, C), as Swin's are; else (B, C, h, w)."""
    return getattr(trunk, "output_fmt", "NCHW") == "NHWC"


def project_tokens(visual: nn.Module, tokens: Tokens) -> Tensor:
    """Each position through the tower's head, (B, h, w, D), not normalised."""
    grid = tokens.grid
    if isinstance(visual, ModifiedResNet):
        pool = visual.attnpool
        embedding = pool.positional_embedding[1:].unflatten(0, grid.shape[1:3]).to(grid.dtype)
        return pool.c_proj(pool.v_proj(grid + embedding))
    if isinstance(visual, VisionTransformer):
        pool = visual.attn_pool
        if pool is not None and visual.attn_pool_contrastive is None:
            # a pool of one position gives its value, whatever the query
            value = _values(pool, pool.ln_k(grid))
            pooled = visual.ln_post(pool.attn.out_proj(value))
            return pooled if visual.proj is None else pooled @ visual.proj
        # the same token twice: pooling takes the first (class token) or the mean of the others
        # (average), and both are equal
        pooled, _ = visual._pool(grid.reshape(-1, 1, grid.shape[-1]).expand(-1, 2, -1))
        return (pooled if visual.proj is None else pooled @ visual.proj).unflatten(
            0, grid.shape[:3]
        )
    assert isinstance(visual, TimmModel), "`encode_tokens` takes no other tower"
    trunk = cast(TimmTrunk, visual.trunk)
    if tokens.prefix is not None:
        alone = grid.reshape(-1, 1, grid.shape[-1]).expand(-1, tokens.prefix.shape[1] + 1, -1)
    else:
        alone = grid.reshape(-1, 1, 1, grid.shape[-1])
        alone = alone if is_channels_last(trunk) else alone.permute(0, 3, 1, 2)
    return visual.head(trunk.forward_head(alone)).unflatten(0, grid.shape[:3])


def _values(pool: AttentionalPooler, x: Tensor) -> Tensor:
    """The values (..., D) of the pool's attention for inputs `x` (..., C)."""
    attn = pool.attn
    weight = attn.v_proj_weight if attn.in_proj_weight is None else attn.in_proj_weight.chunk(3)[2]
    return nn.functional.linear(x, weight, attn.in_proj_bias.chunk(3)[2])


def encode_positions(visual: nn.Module, pixels: Tensor) -> Tensor:
    """`project_tokens` of `pixels` (B, 3, H, W): (B, h, w, D), not normalised.

    UserError for a tower without a spatial map.
    """
    return project_tokens(visual, encode_tokens(visual, pixels)[1])


def similarity_map(positions: Tensor, text: Tensor) -> Tensor:
    """Cosine of each position (B, h, w, D) with its image's unit text feature (B, D): (B, h, w)."""
    return torch.einsum(
        "bhwd,bd->bhw", nn.functional.normalize(positions.float(), dim=-1), text.float()
    )


def full_precision(x: Tensor) -> Tensor:
    """fp16 and bf16 as fp32; wider types stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
