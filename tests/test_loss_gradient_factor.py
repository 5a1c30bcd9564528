"""`gradient_factor` is the share of its gradient that open_clip's contrastive loss keeps.

It is tested for several numbers of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip.loss
import pytest
import torch
from torch import Tensor

from openclip_eclip.loss import EClipLoss, EClipSigLipLoss

SIZE = 16  # samples a rank


def unit(seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(size, 24, generator=generator, dtype=torch.float64), dim=1
    ).requires_grad_()


def gather_of(rank: int, image: Tensor, text: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """The result of open_clip's `gather_features` on `rank`, computed in one process."""

    def gather(
        *_: Any, local_loss: bool = False, gather_with_grad: bool = False, **__: Any
    ) -> tuple[Tensor, ...]:
        own = torch.zeros(len(image), 1, dtype=torch.bool)
        own[rank * SIZE : (rank + 1) * SIZE] = True
        on_graph = torch.ones_like(own) if gather_with_grad else own & (not local_loss)
        return tuple(torch.where(on_graph, x, x.detach()) for x in (image, text))

    return gather


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_gradient_factor_matches_open_clip(
    world: int, local: bool, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact in three of four cases; for rows alone only where the softmax is flat.

    There the gradient of pairs as columns equals that as rows.
    """
    features = unit(1, world * SIZE), unit(2, world * SIZE)
    rows_alone = world > 1 and local and not grad
    for scale in (1e-6,) if rows_alone else (1e-6, 14.0):
        full = torch.autograd.grad(open_clip.loss.ClipLoss()(*features, scale), features)
        mean = torch.zeros((), dtype=torch.float64)
        for rank in range(world):
            monkeypatch.setattr(open_clip.loss, "gather_features", gather_of(rank, *features))
            loss = open_clip.loss.ClipLoss(
                local_loss=local, gather_with_grad=grad, rank=rank, world_size=world
            )
            # DDP's average
            mean = (
                mean + loss(*(x[rank * SIZE : (rank + 1) * SIZE] for x in features), scale) / world
            )
        factor = EClipLoss(
            local_loss=local, gather_with_grad=grad, world_size=world
        ).gradient_factor
        for ours, one in zip(torch.autograd.grad(mean, features), full):
            torch.testing.assert_close(
                ours,
                factor * one,
                rtol=0,
                atol=float(one.abs().max()) * (1e-5 if rows_alone else 1e-10),
            )


@pytest.mark.parametrize("implementation", ["bidir", "shift", "reduce", "gather"])
def test_siglip_gradient_factor_is_1(implementation: str) -> None:
    assert EClipSigLipLoss(world_size=4, dist_impl=implementation).gradient_factor == 1
