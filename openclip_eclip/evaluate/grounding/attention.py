"""Attention maps of a model for the phrase of each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...attention import methods
from ...attention.floors import floor_maps
from ...towers.pool_attention import has_pool
from ..inputs.encoder import Encoder, tokenize

FLOORS = methods.FLOORS  # need no model, and are always measured
METHODS = tuple(name for name in methods.METHODS if name not in FLOORS)


def default_methods(encoder: Encoder) -> tuple[str, ...]:
    """The methods without a gradient that every tower offers, and its learned pool."""
    return ("similarity", "pool") if has_pool(encoder.model.visual) else ("similarity",)


def attention_maps(encoder: Encoder, pixels: Tensor, texts: Sequence[str], method: str) -> Tensor:
    """Maps (B, h, w) float32 on the CPU, one for each image and its text; any range of values.

    `pixels` (B, 3, H, W) float32; `method`: one of METHODS or FLOORS. UserError: an image tower
    that does not have it.
    """
    image = torch.arange(len(texts), device=encoder.device)
    if method in FLOORS:  # the same for all models of one image size
        return floor_maps(method, pixels, [text.encode() for text in texts], image)
    text = encoder.encode_texts(tokenize(encoder, texts)).to(encoder.device)
    inputs = encoder.to_input(pixels)
    return methods.attention_maps(method, encoder.model, inputs, text, image).cpu()
