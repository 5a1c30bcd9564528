"""The attention of a learned pool over the positions of an image.

It works for the towers of open_clip that have such a pool.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import torch
from open_clip.modified_resnet import AttentionPool2d as ResNetPool
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler, VisionTransformer
from timm.layers import (
    AttentionPool2d,
    AttentionPoolLatent,
    RotAttentionPool2d,
    apply_rot_embed_cat,
    resample_abs_pos_embed,
)
from torch import Tensor, nn

from .positions import Tokens, full_precision

POOLS = (AttentionPoolLatent, AttentionPool2d, RotAttentionPool2d)


class MapPool(Protocol):
    """timm's AttentionPool2d and RotAttentionPool2d."""

    num_heads: int
    feat_size: list[int]  # of the absolute positions
    cls_token: nn.Parameter | None
    qkv: nn.Linear | None  # one layer for query and key, or one each
    q: nn.Linear
    k: nn.Linear
    pos_embed: Any  # absolute: a parameter (P, W); rotary: one of timm's embeddings
    rotate_half: bool  # of a rotary one; missing before timm 1.0.31


def pool_attention(visual: nn.Module, tokens: Tokens) -> Tensor | None:
    """Log of the attention over positions, (B, h, w), in fp32 or more.

    None for a tower without such a pool. It is the mean over heads, and over queries where the
    tower averages several. Attention to class or mean tokens is left out, and the rest is scaled to
    sum to one.
    """
    if isinstance(visual, ModifiedResNet):
        scores = _modified_resnet(visual.attnpool, tokens.grid)
    elif isinstance(visual, VisionTransformer):
        if visual.attn_pool is None or visual.attn_pool_contrastive is not None:
            return None
        assert tokens.prefix is not None, "a ViT has class tokens or an empty prefix"
        scores = _queries(
            visual.attn_pool, torch.cat([tokens.prefix, tokens.grid.flatten(1, 2)], dim=1)
        )
        scores = scores[:, :, 1:] if visual.pool_type == "avg" else scores[:, :, :1]
    else:
        assert isinstance(visual, TimmModel), "`encode_tokens` takes no other tower"
        trunk = visual.trunk
        pool = _timm_pool(visual)
        if pool is None:
            return None
        if isinstance(pool, AttentionPoolLatent):
            flat = tokens.grid.flatten(1, 2)
            if tokens.prefix is not None and getattr(trunk, "pool_include_prefix", True):
                flat = torch.cat([tokens.prefix, flat], dim=1)
            scores = _latent(pool, flat)
        else:
            is_rotary, grid = isinstance(pool, RotAttentionPool2d), tokens.grid
            if pool is getattr(visual.head, "pool", None):
                # what timm's own head leaves of the map: ConvNeXt has a norm there
                grid = trunk.forward_head(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            scores = _timm_2d(cast(MapPool, pool), grid, is_rotary)
    # (B, heads, Q, L) -> (B, L): the sum over heads and queries; the positions are the last tokens
    sides = tokens.grid.shape[1:3]
    log = scores.log_softmax(dim=-1).flatten(1, 2).logsumexp(dim=1)[:, -sides.numel() :]
    return log.log_softmax(dim=-1).unflatten(1, sides)


def has_pool(visual: nn.Module) -> bool:
    """Whether `pool_attention` has an answer for this tower."""
    if isinstance(visual, VisionTransformer):
        return visual.attn_pool is not None and visual.attn_pool_contrastive is None
    if isinstance(visual, TimmModel):
        return _timm_pool(visual) is not None
    return isinstance(visual, ModifiedResNet)


def _timm_pool(
    visual: TimmModel,
) -> AttentionPoolLatent | AttentionPool2d | RotAttentionPool2d | None:
    """The learned pool of a timm tower; None for another pool."""
    places = (
        getattr(visual.head, "pool", None),
        getattr(visual.trunk, "attn_pool", None),
        getattr(visual.trunk, "head", None),
    )
    return next((module for module in places if isinstance(module, POOLS)), None)


def _scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Scores (B, heads, Q, L) in fp32 or more, from query (B, Q, W) and key (B, L, W)."""
    query, key = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    return _scaled(query, key)


def _scaled(query: Tensor, key: Tensor) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        query, key = full_precision(query), full_precision(key)
        return query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])


def _modified_resnet(pool: ResNetPool, grid: Tensor) -> Tensor:
    """Scores of open_clip's ResNet: the query is the mean token."""
    flat = grid.flatten(1, 2)
    x = torch.cat([flat.mean(dim=1, keepdim=True), flat], dim=1)
    x = x + pool.positional_embedding.to(x.dtype)
    return _scores(pool.q_proj(x[:, :1]), pool.k_proj(x), pool.num_heads)


def _queries(pool: AttentionalPooler, x: Tensor) -> Tensor:
    """Scores of open_clip's AttentionalPooler, which has learnt queries."""
    attn, x = pool.attn, pool.ln_k(x)
    width = attn.out_proj.out_features
    weights = (
        (attn.q_proj_weight, attn.k_proj_weight)
        if attn.in_proj_weight is None
        else attn.in_proj_weight[: 2 * width].split(width)
    )
    query, key = (
        nn.functional.linear(value, weight, bias)
        for value, weight, bias in zip(
            (pool.ln_q(pool.query), x), weights, attn.in_proj_bias[: 2 * width].split(width)
        )
    )
    return _scores(query.expand(len(x), -1, -1), key, attn.num_heads)


def _latent(pool: AttentionPoolLatent, x: Tensor) -> Tensor:
    """Scores of timm's pool of SigLIP, which has latent queries."""
    if pool.pos_embed is not None:
        x = x + pool.pos_embed.to(x.dtype)
    query, key = (
        y.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for y in (pool.q(pool.latent), pool.kv(x)[..., : pool.num_heads * pool.head_dim])
    )
    scores = _scaled(pool.q_norm(query).expand(len(x), -1, -1, -1), pool.k_norm(key))
    return scores if pool.pool == "avg" else scores[:, :, :1]


def _timm_2d(pool: MapPool, grid: Tensor, rotary: bool) -> Tensor:
    """Scores of timm's pools of a map, with absolute or rotary positions.

    The query is the mean token or a class token.
    """
    flat, side = grid.flatten(1, 2), list(grid.shape[1:3])
    first = (
        flat.mean(dim=1, keepdim=True)
        if pool.cls_token is None
        else pool.cls_token.expand(len(flat), -1, -1)
    )
    x = torch.cat([first, flat], dim=1)
    if not rotary:
        x = x + resample_abs_pos_embed(
            pool.pos_embed.unsqueeze(0), side, old_size=pool.feat_size, num_prefix_tokens=1
        )
    query, key = (
        pool.qkv(x).chunk(3, dim=-1)[:2] if pool.qkv is not None else (pool.q(x), pool.k(x))
    )
    query, key = (
        y.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for y in (query[:, :1], key)
    )
    if rotary:
        turn = pool.pos_embed.get_embed(side)
        turn = torch.cat(turn, dim=-1) if isinstance(turn, tuple) else turn
        half = getattr(pool, "rotate_half", False)  # timm before 1.0.31 has one form, not this
        turned = apply_rot_embed_cat(key[:, :, 1:], turn, half=half)
        key = torch.cat([key[:, :, :1], turned], dim=2)
    return _scaled(query, key)
