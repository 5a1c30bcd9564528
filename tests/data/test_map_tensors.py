"""Maps of a batch in 8 bits: their values on the device, and joining them with others."""

from __future__ import annotations

import torch

from openclip_eclip.data.map_tensors import join_maps, to_levels, to_unit


def test_levels_become_numbers_between_0_and_1() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(levels), torch.arange(256) / 255)
    assert to_unit(levels)[255] == 1
    assert torch.equal(to_levels(to_unit(levels)), levels)
    values = torch.rand(4000, generator=torch.manual_seed(0))
    assert (to_unit(to_levels(values)) - values).abs().max() <= 1 / 510 + 1e-7
    halves = values.to(torch.bfloat16)
    assert to_unit(halves) is halves


def test_joined_maps_keep_their_values() -> None:
    eight = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    whole, none = torch.full((1, 1, 4, 4), 0.5), torch.zeros(0, 1, 1, 1)
    assert join_maps([eight, eight]).dtype == torch.uint8
    assert join_maps([none, eight]).dtype == torch.uint8
    assert join_maps([none, none]).shape == (0, 1, 1, 1)
    assert join_maps([eight, whole]).flatten(1).mean(1).tolist() == [1, 1, 0.5]
