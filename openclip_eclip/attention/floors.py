"""Maps without a model: what a method must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.placebo import centre_map
from ..towers.host import HostModel
from ..towers.positions import encode_tokens

CENTRE = (33, 33)  # fine, and with a middle: on a tower of 2 x 2 positions it would be flat


@torch.no_grad()
def floor_maps(name: str, model: HostModel, pixels: Tensor, count: int, seed: int) -> Tensor:
    """(count, h, w) maps `center`, of CENTRE, or `random`, on the grid of the model's positions."""
    if name == "center":
        return torch.from_numpy(centre_map(CENTRE)).expand(count, *CENTRE)
    grid = tuple(encode_tokens(model.visual, pixels[:1])[1].grid.shape[1:3])
    return torch.rand((count, *grid), generator=torch.Generator().manual_seed(seed))
