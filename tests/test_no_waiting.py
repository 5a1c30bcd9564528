"""No part of a step that is ours makes the host wait for the device."""

from __future__ import annotations

import argparse

import open_clip
import pytest
import torch
from fake_device import DEVICE, NoWaiting, Waits, move

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.config import CurriculumConfig
from openclip_eclip.data.sample import Sample, SampleBatch, collate
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from openclip_eclip.params import Method, build_method, eclip_config, eclip_parser

RUNS = {
    "clip": ("clip",),
    "eclip": ("eclip",),
    "eclip without a processor's weights": ("eclip", "--eclip-processor=mask")
    + ("--eclip-priming-weight=0",),
    "siglip": ("eclip",),
    "copies masked": ("eclip", "--eclip-own-pairs=mask"),
    "copies positive": ("eclip", "--eclip-own-pairs=multi"),
    "naive": ("naive",),
    "dacl": ("dacl",),
    "dacl release": ("dacl", "--dacl-form=release"),
    "dacl plus": ("dacl", "--dacl-form=plus"),
    "m3-mix": ("m3-mix",),
    "gloria": ("gloria",),
    "align": ("align", "--align-min-share=0.5", "--align-oversample=0.5"),
    "align windows": ("align", "--align-windows"),
    "align regions": ("align", "--align-windows", "--align-empty=uniform", "--align-contrast=1"),
    "joined": ("eclip+dacl+m3-mix+align",),
    "gloria joined": ("gloria+eclip+align",),
}
SIZE = 6


def samples(first: int, count: int, annotated: int) -> SampleBatch:
    """Noise; the first `annotated` have a heatmap, and two sentences, one without a region."""
    torch.manual_seed(first)
    drawn = []
    for i in range(count):
        sample = Sample(torch.randn(3, 32, 32), torch.randint(1, 999, (16,)), 1 + first + i)
        sample.text[-3:] = torch.tensor([49407, 0, 0])
        if i < annotated:
            sample.heatmap = torch.rand(1, 32, 32)
            sample.sentence_text = torch.randint(1, 999, (2, 16))
            sample.sentence_heatmap = (
                torch.rand(2, 1, 32, 32) * torch.tensor([1, 0])[:, None, None, None]
            )
        drawn.append(sample)
    return collate(drawn)


def set_up(
    *flags: str, siglip: bool = False
) -> tuple[torch.nn.Module, torch.nn.Module, Method, PlannedLoader]:
    """The tiny model, its loss, and a loader that plans batches for it."""
    args = eclip_parser().parse_args([*flags])
    vars(args).update(batch_size=SIZE, siglip=siglip)
    config, method = eclip_config(args, {}), build_method(args)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny", output_dict=True, eclip_cfg=config.to_dict())
    if siglip:
        model.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    for objective in method.objectives:
        objective.use_tokenizer(open_clip.get_tokenizer("tiny"))
    model.objectives = method.objectives
    loss = EClipSigLipLoss() if siglip else EClipLoss(cache_labels=True)
    loss.configure(config, method.objectives)
    source = argparse.Namespace(num_batches=1, num_samples=SIZE)
    curriculum = Curriculum(2, CurriculumConfig(cold=0.5, warm=0, cool=0, end=0.9))
    loader = PlannedLoader(
        source, config, curriculum, seed=0, objectives=method.objectives, mixes=method.mixes
    )
    return model.train(), loss, method, loader


def step(
    model: torch.nn.Module,
    loss: torch.nn.Module,
    batch: ExpertBatch,
    text: torch.Tensor,
    device: torch.device,
) -> torch.Tensor:
    """The loss of open_clip's step, up to the optimiser."""
    images = batch.to(device=device, dtype=torch.float32, non_blocking=True)
    text = text.to(device=device, non_blocking=True)
    total = sum(loss(**model(images, text), output_dict=True).values())
    total.backward()
    return total.detach()


def plan(built: Method, loader: PlannedLoader) -> list[tuple[ExpertBatch, torch.Tensor]]:
    """The batches of two steps: the first primes, the second mixes."""
    again = samples(50, 2, 2) if any(one.oversample for one in built.objectives) else None
    drawn = [samples(10 * number, SIZE, 4) for number in (0, 1)]
    return [(loader.plan(one, i, None, again), one.text) for i, one in enumerate(drawn)]


@pytest.fixture(autouse=True)
def names_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers and autocast of the fake device are those of the CPU."""
    generator, autocast = torch.Generator, torch.autocast
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "autocast", lambda device, **options: autocast("cpu", **options))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("joined" in name)) for name in RUNS]
)
def test_a_step_waits_for_nothing(name: str) -> None:
    """Its losses are those of the CPU; the first step primes, the second mixes."""
    method, *flags = RUNS[name]
    flags = ("--method", method, *flags)
    model, loss, built, loader = set_up(*flags, siglip=name == "siglip")
    batches = plan(built, loader)
    expected = [float(step(model, loss, *batch, torch.device("cpu"))) for batch in batches]
    model, loss, *_ = set_up(*flags, siglip=name == "siglip")
    move(model)
    with NoWaiting():
        found = [step(model, loss, *batch, DEVICE) for batch in batches]
    assert [float(loss.inner) for loss in found] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool(x.any()),
        lambda x: x.unique(),
        lambda x: torch.tensor([1.0], device=x.device) + x,
        lambda x: torch.ones(2).to(x.device) + x,
        lambda x: x.tolist(),
        lambda x: x.cpu(),
    ],
)
def test_a_wait_is_seen(work: object) -> None:
    with NoWaiting(), pytest.raises(Waits):
        work(torch.randn(2).to(device=DEVICE, non_blocking=True))
