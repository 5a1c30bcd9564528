"""Each loss term in bf16 and fp16, pure and under autocast, against fp64.

Value and gradient over the same rounded inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openclip_eclip.config import EClipConfig
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from openclip_eclip.objectives import Align, Dacl, Gloria, M3Mix, Objective
from openclip_eclip.objectives.align import AlignConfig, cross_entropy, log_text_attention
from openclip_eclip.objectives.gloria import GloriaConfig
from openclip_eclip.objectives.m3_mix import M3MixConfig
from openclip_eclip.priming import reconstruction_errors
from openclip_eclip.towers.positions import Tokens

HALVES = (torch.bfloat16, torch.float16)
Out = dict[str, Tensor]


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        dim=-1,
    )


def model_output() -> Out:
    """Outputs as of a trained model: partners are close, the scale is high.

    A mixed pair is close to its original.
    """
    image = unit(1, 6, 32)
    text = F.normalize(image + 0.4 * unit(2, 6, 32), dim=1)
    return {
        "image_features": image,
        "text_features": text,
        "mixed_features": F.normalize(image[:2] + 0.5 * unit(3, 2, 32), dim=1),
        "mixed_text_features": text[:2],
        "dacl_u": F.normalize(image + 0.5 * unit(4, 6, 32), dim=1),
        "dacl_w": F.normalize(image + 0.5 * unit(5, 6, 32), dim=1),
        "regions": 2 * unit(6, 8, 4, 16),
        "words": 2 * unit(7, 8, 5, 16),
        "priming_error": torch.rand(
            6, generator=torch.Generator().manual_seed(8), dtype=torch.float64
        ),
    }


RUNS: dict[str, tuple[type, str, tuple[Objective, ...]]] = {
    **{f"contrastive, {pairs}": (EClipLoss, pairs, ()) for pairs in ("diagonal", "multi", "mask")},
    **{f"siglip, {pairs}": (EClipSigLipLoss, pairs, ()) for pairs in ("diagonal", "multi", "mask")},
    "dacl": (EClipLoss, "diagonal", (Dacl(),)),
    "gloria": (EClipLoss, "diagonal", (Gloria(GloriaConfig()),)),
    "m3-mix": (
        EClipLoss,
        "diagonal",
        (M3Mix(M3MixConfig(weight_v=1, weight_l=1, weight_vl=1, weight_m2=1)),),
    ),
}


def terms_of(name: str, values: Out) -> dict[str, Tensor]:
    kind, own_pairs, objectives = RUNS[name]
    loss = kind()
    loss.configure(EClipConfig(own_pairs=own_pairs), objectives)
    out = {
        **values,
        "sample_id": torch.arange(6),
        "mixed_id": torch.arange(2),
        "word_mask": torch.ones(8, 5, dtype=torch.bool),
        "word_count": torch.tensor([5]),
        "m3_mix_draws": torch.tensor([[0.2, 0.7, 0.6, 0.4, 1.0]]).repeat(6, 1),
        "logit_scale": torch.tensor(60.0),
    }
    if "siglip" in name:
        out["logit_bias"] = torch.tensor(-50.0)
    return loss(**out, output_dict=True)


def check(
    compute: Callable[[Out], dict[str, Tensor]], inputs: Out, half: torch.dtype, autocast: bool
) -> None:
    """Compare with fp64 over the same rounded inputs: value to 1e-4, gradient to its rounding."""
    rounded = {name: value.to(half) for name, value in inputs.items()}
    exact = {name: value.double().requires_grad_() for name, value in rounded.items()}
    given = {
        name: (value.float() if autocast else value).requires_grad_()
        for name, value in rounded.items()
    }
    with torch.autocast("cpu", dtype=half, enabled=autocast):
        result = compute(given)
    for term, expected in compute(exact).items():
        assert float(result[term].detach()) == pytest.approx(
            float(expected.detach()), rel=1e-4, abs=1e-7
        ), term
        if not expected.requires_grad:
            continue
        ours, theirs = (
            torch.autograd.grad(value, tuple(leaves.values()), retain_graph=True, allow_unused=True)
            for value, leaves in ((result[term], given), (expected, exact))
        )
        for name, own, full in zip(inputs, ours, theirs):
            assert (own is None) == (full is None), (term, name)
            if own is not None:
                assert float((own.double() - full).norm()) <= 6e-3 * float(full.norm()) + 1e-6, (
                    term,
                    name,
                )


@pytest.mark.parametrize("autocast", [False, True], ids=["pure", "autocast"])
@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("name", RUNS)
def test_loss_terms_in_half_precision(name: str, half: torch.dtype, autocast: bool) -> None:
    check(lambda values: terms_of(name, values), model_output(), half, autocast)


@pytest.mark.parametrize("autocast", [False, True], ids=["pure", "autocast"])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_priming_error_in_half_precision(half: torch.dtype, autocast: bool) -> None:
    """A processor near the identity: its error is smaller than the resolution of a bf16 mean."""
    image = torch.randn(
        4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    output = image + 0.03 * torch.randn(
        4, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )

    def compute(values: Out) -> dict[str, Tensor]:
        errors = reconstruction_errors(lambda *_: values["output"], values["image"])
        assert errors.dtype == torch.promote_types(values["image"].dtype, torch.float32)
        return {f"priming {i}": error for i, error in enumerate(errors)}

    check(compute, {"image": image, "output": output}, half, autocast)


class Projection(nn.Module):
    """A tower whose tokens already lie in the joint space."""

    def forward(self, tokens: Tokens) -> Tensor:
        return tokens.grid


@pytest.mark.parametrize("autocast", [False, True], ids=["pure", "autocast"])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_alignment_in_half_precision(
    half: torch.dtype, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "openclip_eclip.objectives.align.project_tokens", lambda visual, tokens: visual(tokens)
    )
    heatmap = torch.rand(
        3, 1, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    objective = Align(AlignConfig(min_share=0.9))

    def compute(values: Out) -> dict[str, Tensor]:
        grid = values["grid"]
        log = log_text_attention(
            Projection(), Tokens(grid, None, []), values["text"].detach(), torch.arange(3), 0.1
        )
        error = cross_entropy(heatmap.to(half).to(grid.dtype), log, 3.0)
        out = {"align_error": error, "sample_id": torch.arange(4)}
        return objective.losses(out, lambda first, second: (first, second, slice(None)))

    check(compute, {"grid": 3 * unit(4, 3, 6, 6, 32), "text": unit(5, 3, 32)}, half, autocast)
