"""Where an image tower sees what: its features position by position, in the joint space, for any tower of open_clip.

Each position goes through the tower's own head as if the image consisted of it alone. For an average-pooled tower with a
linear head the mean over positions is the image feature; for attention pooling it is the value path (MaskCLIP,
arXiv 2112.01071); for a class-token ViT the last block's patch tokens pass through the norm and projection of the class token.
"""
from __future__ import annotations

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from .config import UserError


def encode_positions(visual: nn.Module, pixels: Tensor) -> Tensor:
    """(B, h, w, D), not normalised, from `pixels` (B, 3, H, W). UserError: a tower that has no spatial map.

    `visual`: `model.visual` of an open_clip model.
    """
    if isinstance(visual, VisionTransformer):
        return _open_clip_vit(visual, pixels)
    if isinstance(visual, ModifiedResNet):
        return _modified_resnet(visual, pixels)
    if isinstance(visual, TimmModel):
        return _timm(visual, pixels)
    raise UserError(f"image tower {type(visual).__name__}: its features by position are not known; expected VisionTransformer, "
                    "ModifiedResNet or a timm tower.")


def _open_clip_vit(visual: VisionTransformer, pixels: Tensor) -> Tensor:
    found = visual.forward_intermediates(pixels, indices=1, output_fmt="NCHW", intermediates_only=True)
    grid = found["image_intermediates"][-1].permute(0, 2, 3, 1)  # (B, h, w, C), before the last norm
    # twice the same token: the pooling takes the first (class token) or the mean of the others (average), which are equal
    pooled, _ = visual._pool(grid.reshape(-1, 1, grid.shape[-1]).expand(-1, 2, -1))
    if visual.proj is not None:
        pooled = pooled @ visual.proj
    return pooled.unflatten(0, grid.shape[:3])


def _modified_resnet(visual: ModifiedResNet, pixels: Tensor) -> Tensor:
    found = visual.forward_intermediates(pixels, indices=1, intermediates_only=True)["image_intermediates"][-1]
    pool = visual.attnpool
    grid = found.permute(0, 2, 3, 1)
    places = pool.positional_embedding[1:].unflatten(0, grid.shape[1:3]).to(grid.dtype)
    return pool.c_proj(pool.v_proj(grid + places))


def _timm(visual: TimmModel, pixels: Tensor) -> Tensor:
    trunk = visual.trunk
    features = trunk.forward_features(pixels)
    if features.ndim == 4:
        grid = features if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else features.permute(0, 2, 3, 1)
        alone = grid.reshape(-1, 1, 1, grid.shape[-1])
        alone = alone if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else alone.permute(0, 3, 1, 2)
    elif features.ndim == 3:
        prefix = getattr(trunk, "num_prefix_tokens", 0)
        rows, columns = trunk.patch_embed.dynamic_feat_size(pixels.shape[-2:])
        grid = features[:, prefix:].unflatten(1, (rows, columns))
        alone = grid.reshape(-1, 1, grid.shape[-1]).expand(-1, prefix + 1, -1)  # see _open_clip_vit
    else:
        raise UserError(f"timm tower {type(trunk).__name__}: features of shape {tuple(features.shape)}; expected a grid or tokens.")
    return visual.head(trunk.forward_head(alone)).unflatten(0, grid.shape[:3])


def similarity_map(positions: Tensor, text: Tensor) -> Tensor:
    """(B, h, w): cosine of each position (B, h, w, D) with the image's own unit text feature (B, D)."""
    return torch.einsum("bhwd,bd->bhw", nn.functional.normalize(positions.float(), dim=-1), text.float())
