"""Maps in a batch: float32 in [0, 1], or uint8 with 255 for 1 until they are on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_levels(maps: Tensor) -> Tensor:
    """Maps in [0, 1] as uint8; each value is off by up to 1 / 510."""
    return (maps * 255).round_().to(torch.uint8)


def to_unit(maps: Tensor) -> Tensor:
    """Maps as floating-point numbers in [0, 1], on their device."""
    if maps.is_floating_point():
        return maps
    # by a tensor: a GPU would multiply by the rounded inverse of a plain number
    return maps.float() / torch.full((), 255.0, device=maps.device)


def join_maps(parts: Sequence[Tensor]) -> Tensor:
    """Join maps (N, 1, H, W): uint8 if all are, else floating-point numbers in [0, 1].

    Parts without a map count neither for the type nor for the sides.
    """
    parts = [part for part in parts if len(part)] or parts[:1]
    if len({part.dtype for part in parts}) > 1:
        parts = [to_unit(part) for part in parts]
    return torch.cat(list(parts))
