"""MaskCLIP (Zhou, Loy and Dai, ECCV 2022, arXiv 2112.01071, §3.2): values of the last block.

In the last block each position attends to itself alone: its value takes the place of the weighted
mean. Residual, MLP and head follow as always, as in the authors' code for ViT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..towers.host import HostModel
from ..towers.positions import encode_positions, similarity_map
from .blocks import answer, blocks_of, heads_of, joined


@torch.no_grad()
def maps(model: HostModel, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, h, w) cosines; see `attention_maps`. UserError: a tower that is no ViT."""
    last = blocks_of(model.visual, "maskclip")[-1].attention
    handle = last.register_forward_hook(_values_alone)
    try:
        return similarity_map(encode_positions(model.visual, pixels)[image], text)
    finally:
        handle.remove()


def _values_alone(attention: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    x = inputs[0]
    return answer(attention, joined(attention, heads_of(attention, x).value, x))
