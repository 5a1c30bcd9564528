"""The self-attention of ViT blocks, opened: queries, keys and values of the layer that is there.

Works for the blocks of open_clip (nn.MultiheadAttention, from release 4 on its own Attention) and
of timm (Attention). Others, such as rotary positions, are refused: a wrong formula would draw a
wrong map silently.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

from open_clip.timm_model import TimmModel
from open_clip.transformer import Attention as HostAttention
from open_clip.transformer import VisionTransformer
from timm.layers import Attention
from torch import Tensor, nn

from ..config import UserError
from ..towers.frozen import type_of


class Heads(NamedTuple):
    """(B, heads, N, width of a head) each; the query is scaled."""

    query: Tensor
    key: Tensor
    value: Tensor


class Block(NamedTuple):
    """The norm before the attention of a block, and the attention."""

    norm: nn.Module
    attention: nn.Module


def blocks_of(visual: nn.Module, method: str) -> list[Block]:
    """The blocks of a ViT in their order. UserError: another tower, or unknown attention."""
    if isinstance(visual, VisionTransformer):
        found = [Block(one.ln_1, one.attn) for one in cast(Any, visual.transformer.resblocks)]
    elif isinstance(visual, TimmModel) and hasattr(visual.trunk, "patch_embed"):
        found = [
            Block(one.norm1, one.attn)
            for one in cast(Any, getattr(visual.trunk, "blocks", ()))
            if hasattr(one, "norm1") and hasattr(one, "attn")
        ]
    else:
        found = []
    if not found:
        raise UserError(
            f"attention method {method}: the image tower {type_of(visual)} has no blocks of"
            " self-attention over all positions; expected a ViT. Try similarity or gradcam."
        )
    for block in found:
        if not _is_plain(block.attention):
            raise UserError(
                f"attention method {method}: the attention {type(block.attention).__name__} of the"
                f" image tower {type_of(visual)} is not known; expected that of a plain ViT. Try"
                " similarity or gradcam."
            )
    return found


def _is_plain(attention: nn.Module) -> bool:
    """Whether this is softmax attention with one matrix for query, key and value."""
    if type(attention) is HostAttention:
        layer = cast(Any, attention)
        # cosine attention, norms of single heads, and their scale have other formulas
        others = (layer.ln_q, layer.ln_k, layer.ln_inner)
        return (
            layer.logit_scale is None
            and layer.head_scale is None
            and all(isinstance(one, nn.Identity) for one in others)
        )
    return type(attention) in (nn.MultiheadAttention, Attention)


def is_plain_vit(visual: nn.Module) -> bool:
    """Whether `blocks_of` knows this image tower."""
    try:
        blocks_of(visual, "")
    except UserError:
        return False
    return True


def heads_of(attention: nn.Module, x: Tensor) -> Heads:
    """Query, key and value of the tokens `x` (B, N, W) before the attention."""
    layer = cast(Any, attention)
    if isinstance(attention, (nn.MultiheadAttention, HostAttention)):
        packed = nn.functional.linear(x, layer.in_proj_weight, layer.in_proj_bias)
        count, norms = layer.num_heads, (nn.Identity(), nn.Identity())
    else:
        packed, count, norms = layer.qkv(x), layer.num_heads, (layer.q_norm, layer.k_norm)
    query, key, value = (
        part.unflatten(-1, (count, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1)
    )
    query = norms[0](query) / math.sqrt(query.shape[-1])
    return Heads(query, norms[1](key), value)


def joined(attention: nn.Module, value: Tensor, x: Tensor) -> Tensor:
    """Heads (B, heads, N, width) through the last layer of the attention of `x`: (B, N, W)."""
    flat = value.transpose(1, 2).flatten(2)
    layer = cast(Any, attention)
    if isinstance(attention, (nn.MultiheadAttention, HostAttention)):
        return layer.out_proj(flat)
    flat = layer.norm(flat)
    if getattr(layer, "gate", None) is not None:
        flat = flat * layer.gate(x).sigmoid()
    return layer.proj(flat)


def answer(attention: nn.Module, out: Tensor) -> Any:
    """`out` in the form in which the attention answers its block."""
    return (out, None) if isinstance(attention, nn.MultiheadAttention) else out
