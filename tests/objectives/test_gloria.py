"""GLoRIA's losses against numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import gloria as reference
from torch import Tensor

from openclip_eclip.config import UserError
from openclip_eclip.objectives.gloria import GloriaConfig, local_loss, local_similarity

LENGTHS = (5, 1, 3, 7)


def example(
    size: int = 4, places: int = 6, width: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Regions, words with arbitrary values in the padding, mask; float64."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(9) < torch.tensor(LENGTHS[:size])[:, None]
    return (
        torch.randn(size, places, width, generator=generator, dtype=torch.float64),
        torch.randn(size, 9, width, generator=generator, dtype=torch.float64),
        mask,
    )


def unpadded(words: Tensor, mask: Tensor) -> list[np.ndarray]:
    return [row[valid].numpy() for row, valid in zip(words, mask)]


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize("size", [4, 1])
def test_local_loss_matches_numpy_loops(aggregate: str, size: int) -> None:
    """Reports of 5, 1, 3 and 7 words; also a single pair, whose loss is 0."""
    regions, words, mask = example(size)
    result = float(local_loss(regions, words, mask, GloriaConfig(aggregate=aggregate)))
    assert result == pytest.approx(
        reference.local_loss(list(regions.numpy()), unpadded(words, mask), aggregate), abs=1e-12
    )
    assert (result == 0) == (size == 1)


def test_temperatures_have_the_papers_roles() -> None:
    regions, words, mask = example()
    config = GloriaConfig(attention=3.0, word=2.0, contrast=6.0)
    expected = reference.local_loss(
        list(regions.numpy()), unpadded(words, mask), "sum", 3.0, 2.0, 6.0
    )
    assert float(local_loss(regions, words, mask, config)) == pytest.approx(expected, abs=1e-12)
    assert (GloriaConfig().attention, GloriaConfig().word, GloriaConfig().contrast) == (4, 5, 10)


@pytest.mark.parametrize("chunk", [1, 40, 100, 200, 10**9])
def test_chunks_change_nothing(chunk: int) -> None:
    """Values and gradients are equal for chunks of one pair, some reports, some images and all."""
    results = []
    for size in (chunk, 10**9):
        regions, words, mask = (x.clone() for x in example())
        regions.requires_grad_()
        words.requires_grad_()
        scores = local_similarity(regions, words, mask, GloriaConfig(), chunk=size)
        (scores * torch.arange(16).view(4, 4)).sum().backward()
        results.append((scores.detach(), regions.grad, words.grad))
    assert all(
        torch.allclose(result, expected, rtol=1e-10, atol=1e-12)
        for result, expected in zip(*results)
    )


def test_order_of_regions_and_padding_have_no_effect() -> None:
    regions, words, mask = example()
    config = GloriaConfig()
    expected = local_loss(regions, words, mask, config)
    assert torch.allclose(
        local_loss(regions[:, torch.randperm(6)], words, mask, config), expected, rtol=1e-12
    )
    order = torch.randperm(9)  # words need not come first
    assert torch.allclose(
        local_loss(regions, words[:, order], mask[:, order], config), expected, rtol=1e-12
    )
    padded = torch.cat([words, torch.full((4, 20, 5), 1e6, dtype=torch.float64)], dim=1)
    further = torch.zeros(4, 20, dtype=torch.bool)
    result = local_loss(regions, padded, torch.cat([mask, further], dim=1), config)
    assert torch.allclose(result, expected, rtol=1e-12)
    changed = words.masked_fill(~mask[..., None], -77.0)
    changed.requires_grad_()
    loss = local_loss(regions, changed, mask, config)
    assert torch.allclose(loss, expected, rtol=1e-12)
    loss.backward()
    assert not changed.grad[~mask].any() and changed.grad[mask].all()


def test_the_sum_over_words_favours_long_reports() -> None:
    """A repeated report scores log 2 more with 'sum'; with 'mean' only its attention differs."""
    regions, words, mask = example(1)
    twice = torch.cat([words[:, :5], words[:, :5]], dim=1)
    ones = torch.ones(1, 10, dtype=torch.bool)
    gains = {}
    for aggregate in ("sum", "mean"):
        # attention everywhere alike: it no longer depends on length
        config = GloriaConfig(aggregate=aggregate, attention=1e-9)
        gains[aggregate] = float(
            local_similarity(regions, twice, ones, config)
            - local_similarity(regions, words, mask, config)
        )
    assert gains["sum"] == pytest.approx(np.log(2), abs=1e-7)
    assert gains["mean"] == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
def test_gradients() -> None:
    regions, words, mask = example(3, places=4, width=3)
    assert torch.autograd.gradcheck(
        lambda c, t: local_loss(c, t, mask, GloriaConfig()),
        (regions.requires_grad_(), words.requires_grad_()),
    )


def test_gradient_is_finite_where_a_norm_is_zero() -> None:
    regions, words, mask = example()
    regions = torch.zeros_like(regions).requires_grad_()
    words = (words * torch.tensor([1, 0, 1, 1.0])[:, None, None]).requires_grad_()
    loss = local_loss(regions, words, mask, GloriaConfig())
    loss.backward()
    assert loss.isfinite() and regions.grad.isfinite().all() and words.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_is_computed_in_fp32(dtype: torch.dtype) -> None:
    """Sums of four layers make large products, which half precision would overflow or round."""
    regions, words, mask = example()
    regions, words = (30 * regions).to(dtype), (30 * words).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        result = local_loss(regions, words, mask, GloriaConfig())
    expected = reference.local_loss(list(regions.double().numpy()), unpadded(words.double(), mask))
    assert result.dtype == torch.float32 and float(result) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"word": 0}, "word=0; expected a positive"),
        ({"local_weight": -1}, "local_weight"),
        ({"aggregate": "max"}, "one of"),
        ({"local_negatives": "all"}, "one of"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GloriaConfig(**settings)


def test_widths_must_agree() -> None:
    regions, words, mask = example()
    with pytest.raises(ValueError, match="regions of width 4, words of width 5"):
        local_loss(regions[..., :4], words, mask, GloriaConfig())
