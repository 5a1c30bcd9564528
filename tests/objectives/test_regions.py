"""Targets and losses of phrases and their regions, against loops and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import align as reference

from openclip_eclip.objectives.regions import (
    cross_entropy,
    is_empty,
    pair_contrast,
    region_features,
    region_phrase_contrast,
    region_target,
    text_ids,
    uniform_cross_entropy,
)

TEXTS = ["a dog", "a cat", "a dog", "a ball", "a cat"]
OWNER = torch.tensor([0, 0, 1, 2, 2])
SAME = torch.tensor([[a == b for a in TEXTS] for b in TEXTS])


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions (3, 2, 4, 6), heatmaps (5, 1, 8, 8) and unit texts (5, 6), equal where TEXTS are"""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(3, 2, 4, 6, generator=generator, dtype=torch.float64)
    heatmap = torch.rand(5, 1, 8, 8, generator=generator, dtype=torch.float64)
    words = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    words = words[[TEXTS.index(text) for text in TEXTS]]
    return positions, heatmap, torch.nn.functional.normalize(words, dim=-1)


def log_probabilities(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    return scores.log_softmax(dim=1).unflatten(1, (2, 4))


def test_cross_entropies_match_numpy() -> None:
    _, heatmap, _ = data()
    log = log_probabilities()
    probabilities = log.exp().numpy()
    assert cross_entropy(heatmap, log, 3).tolist() == pytest.approx(
        [reference.cross_entropy(one[0].numpy(), p, 3) for one, p in zip(heatmap, probabilities)]
    )
    assert uniform_cross_entropy(log).tolist() == pytest.approx(
        [reference.uniform_cross_entropy(p) for p in probabilities]
    )


def test_uniform_cross_entropy_is_smallest_where_all_positions_are_equally_likely() -> None:
    """It is log(h * w) there, and its gradient by the scores is 0."""
    scores = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    value = uniform_cross_entropy(scores.log_softmax(dim=1).unflatten(1, (2, 4)))
    assert float(value.detach()) == pytest.approx(np.log(8))
    value.sum().backward()
    assert torch.allclose(scores.grad, torch.zeros(1, 8, dtype=torch.float64), atol=1e-15)
    assert (uniform_cross_entropy(log_probabilities()) > np.log(8)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_map_of_zeros_has_no_target_and_no_error(dtype: torch.dtype) -> None:
    """Others are scaled as ever, also a region that is a pixel of a large cell."""
    heatmap = torch.zeros(3, 1, 256, 256, dtype=dtype)
    heatmap[0, :, 3, 3] = 1
    heatmap[1] = 0.5
    target = region_target(heatmap, (2, 2), 3.0)
    assert target[0].tolist() == [[1, 0], [0, 0]]
    assert target[1].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert not target[2].any()
    assert is_empty(heatmap).tolist() == [False, False, True]
    log = torch.full((3, 2, 2), 0.25, dtype=dtype).log().requires_grad_()
    error = cross_entropy(heatmap, log, 3.0)
    assert error.tolist() == pytest.approx([np.log(4), np.log(4), 0])
    error.sum().backward()
    assert log.grad.isfinite().all() and not log.grad[2].any()


def test_region_features_match_numpy_whatever_the_length_of_positions() -> None:
    positions, heatmap, _ = data()
    target = region_target(heatmap, (2, 4), 2)
    lengths = torch.linspace(0.1, 40, 24, dtype=torch.float64).view(3, 2, 4, 1)
    expected = [
        reference.region_feature(positions[i].numpy(), one[0].numpy(), 2)
        for i, one in zip(OWNER, heatmap)
    ]
    for scaled in (positions, lengths * positions):
        result = region_features(scaled, target, OWNER)
        np.testing.assert_allclose(result.numpy(), np.stack(expected), rtol=1e-12)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_contrast_matches_numpy(scale: float) -> None:
    positions, heatmap, text = data()
    regions = [
        reference.region_feature(positions[i].numpy(), one[0].numpy(), 3)
        for i, one in zip(OWNER, heatmap)
    ]
    errors = region_phrase_contrast(
        positions, region_target(heatmap, (2, 4), 3), text, OWNER, SAME, scale
    )
    assert errors.tolist() == pytest.approx(
        reference.contrast(regions, list(text.numpy()), TEXTS, scale), rel=1e-9
    )


def test_contrast_by_hand() -> None:
    """Regions at their phrases, which are orthogonal; equal texts are no negatives."""
    text = torch.eye(3, dtype=torch.float64)[[0, 1, 0]]
    same = (text @ text.T).bool()
    right = np.log(1 + np.exp(-2.0))  # one negative at cosine 0, scale 2
    twice = np.log(1 + 2 * np.exp(-2.0))  # two of them
    assert pair_contrast(text, text, same, 2.0).tolist() == pytest.approx([right, twice, right])
    none = torch.ones(3, 3, dtype=torch.bool)
    assert pair_contrast(text, text, none, 2.0).tolist() == pytest.approx([0, 0, 0])
    assert pair_contrast(text[:0], text[:0], same[:0, :0], 2.0).tolist() == []


def test_gradient_of_the_contrast_matches_finite_differences() -> None:
    positions, heatmap, text = data()
    target = region_target(heatmap, (2, 4), 3)
    assert torch.autograd.gradcheck(
        lambda x: region_phrase_contrast(x, target, text, OWNER, SAME, 5.0),
        (positions.requires_grad_(),),
    )


def test_text_ids_differ_exactly_where_tokens_do() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 49408, (2000, 77), generator=generator)
    tokens[1000:] = tokens[:1000]
    tokens[1500:, 7] += 1
    ids = text_ids(tokens)
    assert torch.equal(ids[:500], ids[1000:1500]) and len(ids.unique()) == 1500
    assert torch.equal(text_ids(tokens[5:9]), ids[5:9])  # whatever else is in the batch
    assert text_ids(torch.zeros(0, 1, dtype=torch.int64)).tolist() == []
