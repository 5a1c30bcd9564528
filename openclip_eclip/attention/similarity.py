"""Cosine of each position with the text.

Each position goes through the tower's head as if the image consisted of it alone. For a learned
pool of positions (CLIP's ResNets) this is the value path of MaskCLIP (arXiv 2112.01071, §3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..towers.host import HostModel
from ..towers.positions import encode_positions, similarity_map


@torch.no_grad()
def maps(model: HostModel, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, h, w) cosines; see `attention_maps`."""
    return similarity_map(encode_positions(model.visual, pixels)[image], text)
