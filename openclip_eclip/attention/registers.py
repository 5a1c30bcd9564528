"""Test-time registers: Jiang, Dravid, Efros and Gandelsman 2025 (arXiv 2506.08010), §4.

Some ViTs write a large norm on a few positions, which then say little about what is there. A few
neurons of the MLPs do it. They are found, their maximum is moved to an added token of zeros, and
they are 0 at the positions of the image. The map is `similarity` of what the positions are then.

Deviations, so that a map needs no other images and no numbers of a model:
- Neurons are found for each image alone, not as a mean over 500 images. A map does not depend on
  its batch.
- A position is an outlier from OUTLIER times the median norm of the image after the last block,
  not from a number for each model. An image without outliers has the map of `similarity`.
- Neurons are sought up to the block after which the outliers stand out, not up to a given one.
- The score of a neuron is its mean magnitude at outliers less that at the other positions. Of one
  image, the first alone also finds neurons that are high everywhere.
As in the authors' code for CLIP, NEURONS are moved, and the class token keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from open_clip.timm_model import TimmModel
from timm.layers import Mlp
from torch import Tensor, nn

from ..config import UserError
from ..towers.host import HostModel
from ..towers.positions import encode_positions, encode_tokens, project_tokens, similarity_map
from .blocks import blocks_of

OUTLIER = 2.0
NEURONS = 10  # the authors' for ViT-B/16


class Layer(NamedTuple):
    """A block, and the activation of its MLP: its outputs are the neurons."""

    block: nn.Module
    activation: nn.Module


@torch.no_grad()
def maps(model: HostModel, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, h, w) cosines; see `attention_maps`. UserError: a tower that is no plain ViT."""
    visual = model.visual
    layers = _layers(visual)
    norms: list[Tensor] = []  # (B, N) after each block
    neurons: list[Tensor] = []  # (B, N, M) of each block
    keep = [
        partial(_keep, norms, lambda values: values.float().norm(dim=-1)),
        partial(_keep, neurons, lambda values: values),
    ]
    with _hooks([(part, hook) for layer in layers for part, hook in zip(layer, keep)]):
        tokens = encode_tokens(visual, pixels)[1]
    positions = project_tokens(visual, tokens)
    count = tokens.grid.shape[1] * tokens.grid.shape[2]
    found = _register_neurons(
        torch.stack(norms, dim=1)[..., -count:], [one[:, -count:] for one in neurons]
    )
    neurons.clear()
    some = found.flatten(1).any(dim=1)
    if some.any():
        moves = [
            (layer.activation, partial(_move, one, count))
            for layer, one in zip(layers, found[some].unbind(1))
        ]
        first = layers[0].block.register_forward_pre_hook(_add_token)
        last = layers[-1].block.register_forward_hook(lambda _, inputs, output: output[:, :-1])
        try:
            with _hooks(moves):
                positions[some] = encode_positions(visual, pixels[some])
        finally:
            first.remove()
            last.remove()
    return similarity_map(positions[image], text)


def _layers(visual: nn.Module) -> list[Layer]:
    """The blocks in their order. UserError: no ViT, or its MLPs are not known."""
    blocks_of(visual, "registers")
    is_timm = isinstance(visual, TimmModel)
    tower = cast(Any, visual)
    blocks = tower.trunk.blocks if is_timm else tower.transformer.resblocks
    for block in blocks:
        if type(block.mlp) is not (Mlp if is_timm else nn.Sequential):
            raise UserError(
                f"attention method registers: the MLP {type(block.mlp).__name__} of the image tower"
                f" {type(visual).__name__} is not known; expected that of a plain ViT. Try"
                " similarity."
            )
    return [Layer(block, block.mlp.act if is_timm else block.mlp.gelu) for block in blocks]


def _register_neurons(norms: Tensor, neurons: list[Tensor]) -> Tensor:
    """(B, L, M) bool of norms (B, L, P) and neurons (B, P, M) of L blocks; P positions."""
    share = norms / norms.median(dim=-1, keepdim=True).values
    outlier = share[:, -1] > OUTLIER  # (B, P)
    inside = outlier / outlier.sum(dim=1, keepdim=True).clamp(min=1)
    outside = ~outlier / (~outlier).sum(dim=1, keepdim=True)
    scores = torch.stack(
        [torch.einsum("bp,bpm->bm", inside - outside, one.float().abs()) for one in neurons], dim=1
    )
    stands_out = torch.einsum("bp,blp->bl", inside, share) > OUTLIER
    # blocks after the first one in which the outliers stand out
    late = (stands_out.cumsum(dim=1) - stands_out.int()) > 0
    scores = scores.masked_fill(late[..., None], 0).flatten(1)
    best = scores.topk(min(NEURONS, scores.shape[1]), dim=1).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
    chosen &= scores > 0  # without outliers no score is
    return chosen.unflatten(1, (len(neurons), -1))


@contextmanager
def _hooks(pairs: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Each hook on the output of its module, while it lasts."""
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    kept: list[Tensor], read: Callable[[Tensor], Tensor], _: Any, inputs: Any, output: Tensor
) -> None:
    kept.append(read(output))


def _add_token(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x = inputs[0]
    return (torch.cat([x, torch.zeros_like(x[:, :1])], dim=1), *inputs[1:])


def _move(chosen: Tensor, count: int, _: Any, inputs: Any, output: Tensor) -> Tensor:
    """The maximum of the neurons `chosen` (B, M) on the last token, 0 at the `count` before it."""
    mask = chosen[:, None]
    rest, positions, token = output.split([output.shape[1] - count - 1, count, 1], dim=1)
    peak = output.amax(dim=1, keepdim=True)
    moved = torch.where(mask, peak, token)
    return torch.cat([rest, positions.masked_fill(mask, 0), moved], dim=1)
