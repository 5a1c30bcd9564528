"""Coarse maps on the pixels of an image."""

from __future__ import annotations

import pytest
import torch

from openclip_eclip.data.enlarge import enlarge


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_linear_between_middles_and_constant_beyond(kind: torch.dtype) -> None:
    maps = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]], dtype=kind)
    large = enlarge(maps, (2, 8))
    assert large.dtype == kind
    # the middles of the two cells are at pixels 1.5 and 5.5
    row = torch.tensor([0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4], dtype=kind)
    assert torch.equal(large, torch.stack([row.expand(2, 8), torch.ones(2, 8, dtype=kind)]))
