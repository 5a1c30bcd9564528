"""The attention inside the marked region, against a direct count."""

from __future__ import annotations

import open_clip
import pytest
import torch
from conftest import TINY

from openclip_eclip.evaluate.sensitivity.inside import attention_inside, region_share
from openclip_eclip.towers.positions import encode_tokens


def test_shares_of_the_region_and_of_the_rest_add_up_to_one() -> None:
    """A tower without a pool: its attention is the similarity to the report."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY).eval()
    pixels, text = torch.randn(3, 3, 32, 32), torch.randn(3, 32)
    left = torch.zeros(3, 1, 32, 32)
    left[..., :16] = 1
    with torch.inference_mode():
        tokens = encode_tokens(model.visual, pixels)[1]
        inside = attention_inside(model.visual, tokens, text, left)
        outside = attention_inside(model.visual, tokens, text, 1 - left)
        everywhere = attention_inside(model.visual, tokens, text, torch.ones(3, 1, 32, 32))
    assert inside.shape == (3, 2) and inside.dtype == torch.float64
    assert (inside + outside).flatten().tolist() == pytest.approx([1.0] * 6)
    assert everywhere.flatten().tolist() == pytest.approx([1.0] * 6)


def test_region_share_is_the_marked_area() -> None:
    heatmaps = torch.zeros(2, 1, 10, 10)
    heatmaps[0, 0, :5], heatmaps[1, 0, :2] = 0.6, 1.0
    heatmaps[1, 0, 2:6] = 0.4  # below half of the maximum
    assert region_share(heatmaps) == pytest.approx([0.5, 0.2])
