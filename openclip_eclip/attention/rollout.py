"""Gradient rollout: Chefer, Gur and Wolf, ICCV 2021 (arXiv 2103.15679), Eq. 5 and 6.

In each block, attention times its gradient, where positive, is averaged over heads and added to
what flows through. The score is the cosine of image and text. What the image feature reads is the
class token, the mean over positions, or the positions weighted by the learned pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..towers.host import HostModel
from ..towers.pool_attention import pool_attention
from ..towers.positions import Tokens, encode_tokens
from .blocks import answer, blocks_of, heads_of, joined


def maps(model: HostModel, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, h, w), at least 0; see `attention_maps`. UserError: a tower that is no ViT."""
    visual, text = model.visual, text.clone()
    attentions: list[Tensor] = []  # (B, heads, N, N) of each block

    def open_up(attention: nn.Module, inputs: Any, output: Any) -> Any:
        heads = heads_of(attention, inputs[0])
        attentions.append((heads.query @ heads.key.transpose(-2, -1)).softmax(dim=-1))
        return answer(attention, joined(attention, attentions[-1] @ heads.value, inputs[0]))

    handles = [
        block.attention.register_forward_hook(open_up) for block in blocks_of(visual, "rollout")
    ]
    try:
        with torch.enable_grad():
            features, tokens = encode_tokens(visual, pixels.clone().requires_grad_())
            features = normalize(features.float(), dim=-1)
    finally:
        for handle in handles:
            handle.remove()
    sides = tokens.grid.shape[1:3]
    read = _read(visual, tokens, attentions[0].shape[-1]).detach()
    found = text.new_zeros(len(text), *sides)
    # an image is encoded once; each pass back has one text of each image, so that they do not mix
    for pairs in _rounds(image):
        with torch.enable_grad():
            score = (features[image[pairs]] * text[pairs]).sum()
        gradients = torch.autograd.grad(score, attentions, retain_graph=True)
        flow = (read @ _flow(attentions, gradients))[:, 0, -sides.numel() :]
        found[pairs] = flow[image[pairs]].unflatten(1, sides).to(found.dtype)
    return found


def _rounds(image: Tensor) -> list[Tensor]:
    """Numbers of pairs by turns: the first of each image, the second of each, and so on."""
    turn, seen = [], Counter[int]()
    for one in image.tolist():
        turn.append(seen[one])
        seen[one] += 1
    number = torch.tensor(turn, device=image.device)
    return [(number == i).nonzero()[:, 0] for i in range(max(turn, default=-1) + 1)]


def _flow(attentions: list[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """(B, N, N): how much of each input token is in each token of the last block."""
    first = attentions[0]
    flow = torch.eye(first.shape[-1], device=first.device).expand(len(first), -1, -1)
    for attention, gradient in zip(attentions, gradients):
        step = (attention.detach() * gradient).float().relu().mean(dim=1)  # Eq. 5
        flow = flow + step @ flow  # Eq. 6
    return flow


def _read(visual: nn.Module, tokens: Tokens, count: int) -> Tensor:
    """(B, 1, N): how much of each token of the last block is in the image feature."""
    positions = tokens.grid.shape[1] * tokens.grid.shape[2]
    weight = torch.zeros(len(tokens.grid), 1, count, device=tokens.grid.device)
    pool = pool_attention(visual, tokens)
    is_average = (
        visual.pool_type == "avg"
        if isinstance(visual, VisionTransformer)
        else getattr(visual.trunk, "global_pool", "token") != "token"
    )
    if pool is not None:
        weight[:, 0, -positions:] = pool.detach().flatten(1).exp().float()
    elif is_average:
        weight[:, 0, -positions:] = 1 / positions
    else:
        weight[:, 0, 0] = 1
    return weight
