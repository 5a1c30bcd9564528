"""Invariant 2: model and loss match Algorithm 1 in numpy; their parts match values by hand."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from reference import algorithm1 as reference

from openclip_eclip.batching import curriculum
from openclip_eclip.batching.curriculum import Curriculum, draw_gate, expert_slots
from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import CurriculumConfig, EClipConfig
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from openclip_eclip.mixup import mix_images
from openclip_eclip.priming import reconstruction_errors
from openclip_eclip.streams import EXPERT_ORDER


def build_model(**eclip_cfg) -> torch.nn.Module:
    torch.manual_seed(0)
    model = open_clip.create_model(
        "tiny",
        output_dict=True,
        eclip_cfg={"processor": {"width": 32, "heads": 4, "zero_init": False}, **eclip_cfg},
    )
    return model.double()


def build_batch(
    mixed: list[int], expert: int = 0, priming: bool = False, size: int = 4
) -> tuple[ExpertBatch, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    total = len(mixed) + expert
    heatmap = torch.rand(total, 1, 32, 32, generator=generator, dtype=torch.float64)
    batch = ExpertBatch(
        image=torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64),
        sample_id=torch.arange(size) + 7,
        mix_index=torch.tensor(mixed, dtype=torch.int64),
        heatmap=heatmap,
        lam=torch.rand(total, generator=generator),
        mixed_id=torch.tensor(
            [7 + i for i in mixed] + [100 + i for i in range(expert)], dtype=torch.int64
        ),
        expert_image=torch.randn(expert, 3, 32, 32, generator=generator, dtype=torch.float64),
        expert_text=torch.randint(1, 999, (expert, 16), generator=generator),
        is_priming=priming,
    )
    return batch, torch.randint(1, 999, (size, 16), generator=generator)


def restate(
    model: torch.nn.Module, batch: ExpertBatch, text: torch.Tensor, config: EClipConfig
) -> dict[str, float]:
    """The whole step in numpy; only the two unchanged towers are the model's."""

    def unit(x: torch.Tensor) -> np.ndarray:
        x = x.detach().numpy()
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    weights = {key: value.numpy() for key, value in model.heatmap_processor.state_dict().items()}
    originals = np.concatenate(
        [batch.image.numpy()[batch.mix_index.numpy()], batch.expert_image.numpy()]
    )
    mixed = []
    for image, heatmap, lam in zip(originals, batch.heatmap.numpy(), batch.lam.numpy()):
        expert_image = reference.processor(image, heatmap, weights, 16, 4, "query")
        mixed.append(float(lam) * image + (1 - float(lam)) * expert_image)
    v = unit(model.encode_image(batch.image))
    t = unit(model.encode_text(text))
    owner = batch.sample_id.tolist() + batch.mixed_id.tolist()
    if mixed:
        texts = torch.cat([text[batch.mix_index], batch.expert_text])
        v = np.concatenate([v, unit(model.encode_image(torch.from_numpy(np.stack(mixed))))])
        t = np.concatenate([t, unit(model.encode_text(texts))])
    contrastive = reference.info_nce(v, t, float(model.logit_scale.exp()), owner, config.own_pairs)
    if not batch.is_priming:
        return {"contrastive_loss": contrastive, "priming_loss": 0.0}
    ones = np.ones((1, 32, 32))
    primed = np.stack(
        [reference.processor(image, ones, weights, 16, 4, "query") for image in batch.image.numpy()]
    )
    weight = config.priming_weight
    return {
        "contrastive_loss": (1 - weight) * contrastive,
        "priming_loss": weight * reference.priming_loss(batch.image.numpy(), primed),
    }


@pytest.mark.parametrize("own_pairs", ["diagonal", "multi", "mask"])
@pytest.mark.parametrize(
    "mixed,expert,priming",
    [
        ([], 0, False),
        ([1, 3], 0, False),
        ([2], 3, False),
        ([], 2, False),
        ([], 0, True),
        ([0, 1], 0, True),
    ],
)
def test_step_matches_algorithm_1_in_numpy(
    mixed: list[int], expert: int, priming: bool, own_pairs: str
) -> None:
    model, config = build_model(), EClipConfig(own_pairs=own_pairs)
    batch, text = build_batch(mixed, expert, priming)
    loss = EClipLoss()
    loss.configure(config)
    result = loss(**model(batch, text), output_dict=True)
    expected = restate(model, batch, text, config)
    assert set(result) == set(expected)
    for key, value in expected.items():
        assert float(result[key].detach()) == pytest.approx(value, rel=1e-9, abs=1e-12), key
    assert loss.mixed_pairs == len(mixed) + expert


@pytest.mark.parametrize("own_pairs", ["diagonal", "multi", "mask"])
def test_siglip_loss_matches_numpy(own_pairs: str) -> None:
    model = build_model()
    batch, text = build_batch([1, 3], expert=1)
    out = {**model(batch, text), "logit_bias": torch.tensor(-3.0, dtype=torch.float64)}
    loss = EClipSigLipLoss()
    loss.configure(EClipConfig(own_pairs=own_pairs))
    v, t = (
        torch.cat([out[a], out[b]]).detach().numpy()
        for a, b in (("image_features", "mixed_features"), ("text_features", "mixed_text_features"))
    )
    expected = reference.sigmoid_loss(
        v,
        t,
        float(model.logit_scale.exp()),
        -3.0,
        batch.sample_id.tolist() + batch.mixed_id.tolist(),
        own_pairs,
    )
    assert float(loss(**out, output_dict=True)["contrastive_loss"].detach()) == pytest.approx(
        expected, rel=1e-9
    )


def test_plain_tensor_is_plain_clip() -> None:
    model = build_model()
    batch, text = build_batch([1])
    stock = open_clip.model.CLIP.forward(model, batch.image, text)
    result = model(batch.image, text)
    assert set(result) == set(stock) and all(torch.equal(result[key], stock[key]) for key in stock)
    bias = {"logit_bias": torch.tensor(-3.0, dtype=torch.float64)}
    for ours, host, more in (
        (EClipLoss(), open_clip.ClipLoss(), {}),
        (EClipSigLipLoss(), open_clip.loss.SigLipLoss(), bias),
    ):
        ours.configure(EClipConfig())
        # no mixed_features at all: the loss is open_clip's
        assert torch.equal(ours(**result, **more), host(**stock, **more))


def test_lambda_one_is_the_original_and_zero_the_expert_image() -> None:
    image, expert = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    mixed = mix_images(image, expert, torch.tensor([1.0, 0.0, 0.25]))
    assert torch.equal(mixed[0], image[0]) and torch.equal(mixed[1], expert[1])
    assert torch.allclose(mixed[2], 0.25 * image[2] + 0.75 * expert[2])


def test_priming_error_is_the_mean_square_per_sample() -> None:
    image = torch.randn(2, 3, 8, 8)
    errors = reconstruction_errors(
        lambda i, h: i + 2 * h * torch.tensor([1.0, 3.0])[:, None, None, None], image
    )
    assert torch.allclose(errors, torch.tensor([4.0, 36.0]), rtol=1e-5)


def test_moving_a_batch_keeps_its_draws() -> None:
    batch, _ = build_batch([1, 2])
    moved = batch.to(device="cpu", dtype=torch.bfloat16)
    assert moved.image.dtype == moved.heatmap.dtype == torch.bfloat16
    assert moved.lam.dtype == torch.float32 and moved.sample_id.dtype == torch.int64
    assert len(moved) == 4 and moved.shape == batch.image.shape


@pytest.mark.parametrize(
    "step,expected",
    [
        (0, 0),
        (999, 0),
        (1000, 0.05),
        (2500, 0.275),
        (4000, 0.5),
        (6000, 0.3),
        (8000, 0.1),
        (9999, 0.1),
        (10_500, 0.1),
    ],
)
def test_curriculum_of_ten_thousand_steps(step: int, expected: float) -> None:
    curriculum = Curriculum(10_000, CurriculumConfig())
    assert curriculum.probability(step) == pytest.approx(expected)
    assert curriculum.is_priming(step) == (step < 1000)


def test_curriculum_phases_may_be_empty() -> None:
    always = Curriculum(7, CurriculumConfig(cold=0, warm=0, cool=0, end=1))
    assert [always.probability(step) for step in range(8)] == [1.0] * 8 and not always.is_priming(0)
    with pytest.raises(ValueError, match="0 steps"):
        Curriculum(0, CurriculumConfig())


def test_gate_draws_depend_on_seed_step_and_key_alone() -> None:
    keys = [5, 9, 1 << 62, 3]
    draws = draw_gate(1, 10, keys, 0.5, 0.3)
    back = draw_gate(1, 10, keys[::-1], 0.5, 0.3)
    assert (draws.accepted == back.accepted[::-1]).all() and (draws.lam == back.lam[::-1]).all()
    others = [draw_gate(2, 10, keys, 0.5, 0.3).lam, draw_gate(1, 11, keys, 0.5, 0.3).lam]
    assert all((draws.lam != other).all() for other in others)
    assert len(set(draws.lam.tolist())) == 4
    assert not draw_gate(1, 10, keys, 0.0, 0.3).accepted.any()
    assert draw_gate(1, 10, keys, 1.0, 0.3).accepted.all()


def test_gate_follows_probability_and_beta() -> None:
    draws = draw_gate(0, 0, range(4000), 0.3, 0.3)
    assert draws.accepted.mean() == pytest.approx(0.3, abs=0.03)
    assert draws.lam.mean() == pytest.approx(0.5, abs=0.03)
    assert draws.lam.var() == pytest.approx(0.25 / 1.6, abs=0.01)  # Beta(a, a): 1 / (4 (2a + 1))
    assert abs(np.corrcoef(draws.accepted, draws.lam)[0, 1]) < 0.06


def test_expert_slots_visit_every_sample_equally_and_resume_anywhere() -> None:
    whole = expert_slots(3, 0, 25, 10)
    assert sorted(whole[:10]) == sorted(whole[10:20]) == list(range(10))
    assert whole[:10].tolist() != whole[10:20].tolist()
    assert (expert_slots(3, 7, 9, 10) == whole[7:16]).all()
    assert expert_slots(4, 0, 10, 10).tolist() != whole[:10].tolist()


def test_a_lap_over_the_experts_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permutation of half a million samples takes longer than all else a batch draws."""
    laps: list[int] = []

    class Order:
        def generator(self, seed: int, lap: int) -> np.random.Generator:
            laps.append(lap)
            return EXPERT_ORDER.generator(seed, lap)

    monkeypatch.setattr(curriculum, "EXPERT_ORDER", Order())
    for first in range(0, 40, 4):  # the third and the fifth reach into the next lap
        expert_slots(987654321, first, 4, 10)
    assert laps == [0, 1, 2, 3]
