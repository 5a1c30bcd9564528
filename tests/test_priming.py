"""Priming in `--method eclip`, as the flag's help describes it.

With the default processor its loss is exactly 0, with the authors' it is not.
"""

from __future__ import annotations

import dataclasses

import open_clip
import pytest
import torch
from workers.ddp_loss import make_part

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.config import AUTHORS_PROCESSOR, EClipConfig, ProcessorConfig
from openclip_eclip.loss import EClipLoss
from openclip_eclip.params import eclip_config, eclip_parser
from openclip_eclip.processor import HeatmapProcessor


def prime(
    processor: ProcessorConfig, dtype: torch.dtype = torch.float32, steps: int = 5
) -> tuple[torch.nn.Module, list[float], list[float]]:
    """A cold start of `--method eclip`.

    Returns the model, the logged priming losses and the largest gradients of the processor.
    """
    torch.manual_seed(0)
    model = open_clip.create_model(
        "tiny", output_dict=True, eclip_cfg={"processor": dataclasses.asdict(processor)}
    ).to(dtype)
    loss = EClipLoss()
    loss.configure(model.eclip_config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.2)
    values, gradients = [], []
    for _ in range(steps):
        batch, text = make_part(0, [], 0, True)
        optimizer.zero_grad()
        terms = loss(**model(batch.to(dtype=dtype), text), output_dict=True)
        sum(terms.values()).backward()
        values.append(float(terms["priming_loss"].detach()))
        gradients.append(
            max(float(p.grad.abs().max()) for p in model.heatmap_processor.parameters())
        )
        optimizer.step()
    return model, values, gradients


def test_no_mixed_pair_in_the_cold_start() -> None:
    """So priming alone changes the processor in this phase."""
    config = eclip_config(eclip_parser().parse_args(["--method", "eclip"]), {})
    curriculum = Curriculum(1000, config.curriculum)
    primed = [step for step in range(1000) if curriculum.is_priming(step)]
    assert len(primed) == 100
    assert {curriculum.probability(step) for step in primed} == {0}
    assert config == EClipConfig()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [256, 32])
def test_priming_loss_of_the_default_processor_is_exactly_0(width: int, dtype: torch.dtype) -> None:
    """Error and gradient are 0 in every step, and the processor stays the identity under ones.

    Weight decay does not change that.
    """
    model, values, gradients = prime(ProcessorConfig(width=width), dtype)
    assert values == [0.0] * 5 and gradients == [0.0] * 5
    image = torch.randn(2, 3, 32, 32, dtype=dtype)
    assert torch.equal(model.heatmap_processor(image, torch.ones(2, 1, 32, 32, dtype=dtype)), image)


@pytest.mark.slow
def test_priming_loss_of_the_authors_processor_is_above_0() -> None:
    _, values, gradients = prime(AUTHORS_PROCESSOR)
    assert values[0] > 0.05
    assert values[-1] < values[0]
    assert all(gradient > 0 for gradient in gradients)


def test_authors_processor_can_be_selected_by_flag() -> None:
    """It overrides all settings of the model; the other kinds override the kind alone."""
    base = {"processor": {"width": 64, "positions": "sincos"}}
    chosen = {
        kind: eclip_config(eclip_parser().parse_args(["--eclip-processor", kind]), base).processor
        for kind in ("authors", "cnn")
    }
    assert chosen == {
        "authors": AUTHORS_PROCESSOR,
        "cnn": ProcessorConfig(kind="cnn", width=64, positions="sincos"),
    }
    # decision 0001
    assert sum(p.numel() for p in HeatmapProcessor(chosen["authors"]).parameters()) == 722_435
