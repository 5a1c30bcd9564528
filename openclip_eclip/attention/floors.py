"""Maps without a model: what a method must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.placebo import centre_map
from ..towers.host import HostModel
from ..towers.positions import encode_tokens


@torch.no_grad()
def floor_maps(name: str, model: HostModel, pixels: Tensor, count: int, seed: int) -> Tensor:
    """(count, h, w) maps `center` or `random`, on the grid of the model's positions."""
    grid = tuple(encode_tokens(model.visual, pixels[:1])[1].grid.shape[1:3])
    if name == "center":
        return torch.from_numpy(centre_map(grid)).expand(count, *grid)
    return torch.rand((count, *grid), generator=torch.Generator().manual_seed(seed))
