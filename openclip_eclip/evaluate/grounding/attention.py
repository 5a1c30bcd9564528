"""Attention maps of a model for texts, by the name of the method."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...config import UserError
from ...data.placebo import centre_map
from ...towers.pool_attention import pool_attention
from ...towers.positions import project_tokens, similarity_map
from ..inputs.encoder import Encoder, tokenize

METHODS = ("similarity", "pool")
FLOORS = ("center", "random")  # need no model
FLOOR_GRID = (14, 14)


def default_methods(encoder: Encoder, pixels: Tensor) -> tuple[str, ...]:
    """The methods that the tower offers; `pixels` (1, 3, H, W). UserError: no positions."""
    has_pool = pool_attention(encoder.model.visual, encoder.encode_tokens(pixels)) is not None
    return METHODS if has_pool else METHODS[:1]


@torch.inference_mode()
def attention_maps(encoder: Encoder, pixels: Tensor, texts: Sequence[str], method: str) -> Tensor:
    """Maps (B, h, w) float32 on the CPU, one for each image and its text; any range of values.

    `pixels` (B, 3, H, W) float32; `method`: one of METHODS or FLOORS. UserError: an image tower
    without positions, or, for "pool", without an attention pool.
    """
    if method == "center":
        return torch.from_numpy(centre_map(FLOOR_GRID)).expand(len(texts), -1, -1)
    if method == "random":
        return torch.stack([_noise(one, text) for one, text in zip(pixels, texts, strict=True)])
    visual, tokens = encoder.model.visual, encoder.encode_tokens(pixels)
    if method == "similarity":
        positions = project_tokens(visual, tokens).float().cpu()
        return similarity_map(positions, encoder.encode_texts(tokenize(encoder, texts)))
    attention = pool_attention(visual, tokens)
    if attention is None:
        raise UserError("--methods pool: the image tower has no attention pool; expected another.")
    return attention.exp().float().cpu()


def _noise(pixels: Tensor, text: str) -> Tensor:
    """Noise that depends on image and text alone, not on the batch."""
    digest = hashlib.blake2b(pixels.numpy().tobytes() + text.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return torch.from_numpy(rng.random(FLOOR_GRID, dtype=np.float32))
