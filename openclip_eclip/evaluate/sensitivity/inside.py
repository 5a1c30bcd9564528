"""How much of a model's attention is inside the marked region, image by image, for `compare`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...data.enlarge import enlarge
from ...metrics.pointing import marked_region, pointing_scores
from ...objectives.align import AlignConfig, log_attention
from ...towers.positions import Tokens
from ..inputs.eval_set import EvalSet

NAMES = ("attends inside", "share of attention inside")


def attention_inside(visual: nn.Module, tokens: Tokens, text: Tensor, heatmaps: Tensor) -> Tensor:
    """(B, 2) float64: whether the maximum is in the marked region; share of attention in it.

    The attention is that of `--method align`: of the tower's pool, else the similarity to the
    report in `text` (B, D), as a distribution over positions. `heatmaps` (B, 1, H, W).
    """
    device = tokens.grid.device
    attention = log_attention(visual, tokens, lambda: text.to(device), AlignConfig()).exp()
    large = enlarge(attention.float().cpu(), heatmaps.shape[-2:]).double()
    scores = []
    for one, heatmap in zip(large.numpy(), heatmaps[:, 0].numpy(), strict=True):
        region = marked_region(heatmap)
        hit = pointing_scores(one, heatmap)["pointing game"]
        scores.append((hit, float(one[region].sum() / one.sum())))
    return torch.tensor(scores, dtype=torch.float64)


def region_share(heatmaps: Tensor) -> list[float]:
    """The share of the image's area that is marked, for each of `heatmaps` (B, 1, H, W)."""
    return [float(marked_region(heatmap).mean()) for heatmap in heatmaps[:, 0].numpy()]


def predictions(data: EvalSet, inside: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The arrays for `compare`, of kind "means"."""
    return {
        "kind": np.array("means"),
        "id": np.array(data.ids),
        "score": torch.cat(list(inside)).numpy(),
        "classes": np.array(NAMES),
    }
