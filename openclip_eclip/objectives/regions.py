"""Phrases and their regions, tensors in and tensors out: targets, losses, and a contrast of both.

T phrases belong to A images, `owner` (T,) int64. Positions are a tower's features by position in
the joint space (`towers.positions.project_tokens`), on a grid (h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..rank_counts import counts_of_ranks
from ..towers.positions import full_precision
from .base import Gather

FACTOR = 6364136223846793005  # of `text_ids`: odd and large, Knuth's multiplier


def region_target(heatmap: Tensor, grid: tuple[int, int], power: float) -> Tensor:
    """The mean of `heatmap` (T, 1, H, W) in each cell of the grid, to the `power`, (T, h, w).

    Each target sums to one. That of a map of zeros is zero everywhere.
    """
    target = F.adaptive_avg_pool2d(heatmap, grid).flatten(1).pow(power)
    total = target.sum(dim=1, keepdim=True).clamp(min=torch.finfo(target.dtype).tiny)
    return (target / total).unflatten(1, grid)


def cross_entropy(heatmap: Tensor, log: Tensor, power: float) -> Tensor:
    """-sum_p target_p log_p, (T,), for `log` (T, h, w) and the `region_target` of `heatmap`."""
    grid = (log.shape[1], log.shape[2])
    target = region_target(heatmap.to(log.dtype), grid, power).flatten(1)
    return -(target * log.flatten(1)).sum(dim=1)


def uniform_cross_entropy(log: Tensor) -> Tensor:
    """-mean_p log_p, (T,), for `log` (T, h, w): for phrases without a region.

    It is smallest, log(h * w), where all positions are equally likely.
    """
    return -log.flatten(1).mean(dim=1)


def is_empty(heatmap: Tensor) -> Tensor:
    """Which of the maps (T, 1, H, W) are zero everywhere: phrases without a region. (T,) bool."""
    return ~heatmap.flatten(1).any(dim=1)


def region_features(positions: Tensor, target: Tensor, owner: Tensor) -> Tensor:
    """The feature of each region, (T, D), of unit length.

    It is the mean of the unit `positions` (A, h, w, D) of its image, weighted by `target`
    (T, h, w). Positions have unit length, as in the alignment: else those of great length, which
    stand for the whole image in many ViTs, would decide.
    """
    with torch.autocast(positions.device.type, enabled=False):
        unit = F.normalize(full_precision(positions), dim=-1)
        pooled = torch.einsum("thw,thwd->td", target.to(unit.dtype), unit[owner])
        return F.normalize(pooled, dim=-1)


def pair_contrast(region: Tensor, text: Tensor, same_text: Tensor, scale: Tensor | float) -> Tensor:
    """The mean of both directions' cross-entropy of each pair, (T,).

    `region`, `text` (T, D): unit features, pair by pair. `same_text` (T, T) bool: phrases with
    equal text, which are no negatives of each other; its diagonal is true. `scale` multiplies the
    cosines.
    """
    with torch.autocast(region.device.type, enabled=False):
        logits = scale * full_precision(region) @ full_precision(text).T
    other = same_text & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(other, float("-inf"))
    own = logits.diagonal()
    return (logits.logsumexp(dim=1) + logits.logsumexp(dim=0)) / 2 - own


def region_phrase_contrast(
    positions: Tensor,
    target: Tensor,
    text: Tensor,
    owner: Tensor,
    same_text: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """`pair_contrast` of the regions, (T,): each against all phrases, and each phrase against all.

    `positions` (A, h, w, D), of any length; `target` (T, h, w) sums to one; `text` (T, D): unit
    features. Other regions of the same image are negatives, too.
    """
    return pair_contrast(region_features(positions, target, owner), text, same_text, scale)


def gathered_contrast(
    region: Tensor,
    text: Tensor,
    ids: Tensor,
    weight: Tensor,
    scale: Tensor | float,
    gather: Gather,
    smallest: float,
) -> Tensor:
    """This rank's part of the weighted mean of `pair_contrast` over the phrases of all ranks.

    `region`, `text` (T, D), `ids` (T,) int64, equal where texts are, and `weight` (T,) are of this
    rank; T differs between ranks. The weighted sum is divided by the sum of all weights, or by
    `smallest` if that is more.
    """
    one = weight.new_ones(1, 1)
    ranks, _, rows = gather(one, one)  # (W, 1)
    counts = [len(region)] if len(ranks) == 1 else counts_of_ranks(len(region))
    slots = max(1, *counts)
    # ranks are padded to equal numbers, so every rank takes part forward and backward
    padding = (0, 0, 0, slots - len(region))
    regions, texts, _ = gather(F.pad(region, padding), F.pad(text, padding))
    all_ids, weights, _ = gather(F.pad(ids[:, None], padding), F.pad(weight[:, None], padding))
    numbers = torch.arange(slots * len(counts), device=region.device)
    phrases = torch.cat([numbers[slots * r : slots * r + count] for r, count in enumerate(counts)])
    is_scored = torch.zeros_like(ranks)
    is_scored[rows] = len(counts) / len(ranks[rows])  # right under DDP's plain average
    share = (is_scored * weights.view(len(counts), -1)).flatten()[phrases]
    all_ids = all_ids[phrases]
    errors = pair_contrast(regions[phrases], texts[phrases], all_ids == all_ids.T, scale)
    return (share * errors).sum() / weights.sum().clamp(min=smallest)


def text_ids(tokens: Tensor) -> Tensor:
    """A number for each text (T, L) int64, (T,) int64: the same for equal tokens on every rank.

    It is a polynomial of the tokens modulo 2**64, so other texts practically never share it. Unlike
    the tokens, it has one width in every batch.
    """
    factors = torch.full((tokens.shape[1],), FACTOR, device=tokens.device).cumprod(0)
    return (tokens * factors).sum(dim=1)


def mean_by_owner(each: Tensor, owner: Tensor, count: int) -> Tensor:
    """The mean over the phrases of each image, (D,): a long dictation does not count more.

    `each` (T,): one value a phrase; `owner` (T,): its image, 0 to D - 1; `count`: D.
    """
    return each.new_zeros(count).index_add(0, owner, each) / phrases_of(owner, count)


def phrases_of(owner: Tensor, count: int) -> Tensor:
    """The number of phrases of each image, (D,) int64. `bincount` would wait for a GPU."""
    return owner.new_zeros(count).index_add(0, owner, torch.ones_like(owner))
