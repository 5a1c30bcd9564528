"""Coarse maps on the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import interpolate


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, h, w) on images of `size` (height, width), bilinear: (B, height, width).

    The dtype stays. Beyond the middles of the outer cells a map is constant.
    """
    return interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
