"""The attention of the tower's learned pool; it is the same for every text."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import UserError
from ..towers.host import HostModel
from ..towers.pool_attention import pool_attention
from ..towers.positions import encode_tokens


@torch.no_grad()
def maps(model: HostModel, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, h, w), each a distribution; see `attention_maps`. UserError: a tower without a pool."""
    log = pool_attention(model.visual, encode_tokens(model.visual, pixels)[1])
    if log is None:
        raise UserError(
            f"attention method pool: the image tower {type(model.visual).__name__} has no learned"
            " attention pool. Try similarity."
        )
    return log.exp()[image]
