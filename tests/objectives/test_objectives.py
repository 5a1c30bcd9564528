"""Each objective matches its numpy version and has its mathematical properties."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import open_clip
import pytest
import torch
from reference import algorithm1
from reference import objectives as reference

from openclip_eclip.batching.curriculum import Curriculum, draw_gate
from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import CurriculumConfig, EClipConfig, UserError
from openclip_eclip.loss import EClipLoss
from openclip_eclip.objectives import Dacl, M3Mix, Objective
from openclip_eclip.objectives.dacl import DaclConfig, binary_mask, nt_xent
from openclip_eclip.objectives.m3_mix import M3MixConfig, geodesic, parse_settings
from openclip_eclip.objectives.naive import naive_config

LAMS = (0.0, 1e-6, 0.3, 0.5, 1.0)


def unit(
    size: int, width: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(size, width, generator=generator, dtype=torch.float64), dim=1
    ).to(dtype)


def alone(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, slice]:
    """The gather of a single process."""
    return first, second, slice(None)


# ---- geodesic


@pytest.mark.parametrize("lam", LAMS)
def test_geodesic_is_the_arc(lam: float) -> None:
    a, b = unit(20, seed=1), unit(20, seed=2)
    expected = np.stack([reference.slerp(x, y, lam) for x, y in zip(a.numpy(), b.numpy())])
    np.testing.assert_allclose(geodesic(a, b, lam).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(geodesic(a, b, lam), geodesic(b, a, 1 - lam))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["equal", "opposite", "near", "nearly opposite", "apart"])
def test_geodesic_at_its_edges(case: str, dtype: torch.dtype) -> None:
    """Unit length, end points, symmetry, and finite gradients for any two vectors."""
    a = unit(64, 32, dtype=dtype)
    b = {
        "equal": a,
        "opposite": -a,
        "near": a + 1e-5 * unit(64, 32, 3).to(dtype),
        "nearly opposite": -a + 1e-5 * unit(64, 32, 3).to(dtype),
        "apart": unit(64, 32, 4, dtype),
    }[case].clone()
    a.requires_grad_(), b.requires_grad_()
    rounding = {torch.float64: 1e-8}.get(dtype, 2e-4)
    for lam in LAMS:
        mixed, back = (
            geodesic(a, b, torch.tensor(lam).double()),
            geodesic(b, a, 1 - torch.tensor(lam).double()),
        )
        assert mixed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(
            mixed.norm(dim=1), torch.ones(64, dtype=mixed.dtype), atol=3e-7, rtol=0
        )
        torch.testing.assert_close(
            mixed, back, atol=max(rounding, 1e-4 if "opposite" in case else 0), rtol=0
        )
        a.grad = b.grad = None
        (mixed * unit(64, 32, 5).to(mixed.dtype)).sum().backward()
        assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()
        assert a.grad.abs().max() < 100 or case == "nearly opposite"
    for lam, end in ((1.0, a), (0.0, b)):
        expected = torch.nn.functional.normalize(end.detach().to(mixed.dtype), dim=1)
        torch.testing.assert_close(
            geodesic(a, b, lam).detach(), expected, atol=max(rounding, 1e-4), rtol=0
        )


def test_geodesic_is_linear_between_close_vectors() -> None:
    a = unit(10)
    b = torch.nn.functional.normalize(a + 1e-3 * unit(10, seed=1), dim=1)
    torch.testing.assert_close(
        geodesic(a, b, 0.3),
        torch.nn.functional.normalize(0.3 * a + 0.7 * b, dim=1),
        atol=1e-9,
        rtol=0,
    )


# ---- m3-mix


def m3_terms(
    v: torch.Tensor,
    t: torch.Tensor,
    lams: list[float],
    scale: float = 9.0,
    rho: float = 1.0,
    **settings,
) -> dict[str, float]:
    config = dataclasses.replace(
        M3MixConfig(weight_v=1, weight_l=1, weight_vl=1, weight_m2=1), **settings
    )
    out = {
        "image_features": v,
        "text_features": t,
        "logit_scale": torch.tensor(scale, dtype=v.dtype),
        "m3_mix_draws": torch.tensor([[*lams, rho]], dtype=v.dtype).repeat(len(v), 1),
    }
    return {name: float(value) for name, value in M3Mix(config).losses(out, alone).items()}


@pytest.mark.parametrize(
    "vl_target,weights", [("both", (0.5, 0.5)), ("both-sum", (1, 1)), ("diagonal", (1, 0))]
)
def test_m3_mix_matches_numpy(vl_target: str, weights: tuple[float, float]) -> None:
    v, t, lams = unit(6, seed=1), unit(6, seed=2), [0.2, 0.9, 0.4, 0.7]
    expected = reference.m3_mix(v.numpy(), t.numpy(), 9.0, lams, 0.07, weights)
    result = m3_terms(v, t, lams, vl_target=vl_target)
    assert result == pytest.approx(
        {f"m3_{name}_loss": value for name, value in expected.items()}, rel=1e-10
    )
    weighted = m3_terms(v, t, lams, rho=0.25, vl_target=vl_target, weight_v=3, weight_m2=0)
    assert weighted == pytest.approx(
        {
            "m3_v_loss": 0.75 * expected["v"],
            "m3_l_loss": 0.25 * expected["l"],
            "m3_vl_loss": 0.25 * expected["vl"],
        },
        rel=1e-10,
    )


@pytest.mark.parametrize("size", [6, 7])
def test_m3_mix_with_lambda_one_is_clip(size: int) -> None:
    v, t = unit(size, seed=1), unit(size, seed=2)
    clip = algorithm1.info_nce(v.numpy(), t.numpy(), 9.0, list(range(size)), "diagonal")
    result = m3_terms(v, t, [1, 1, 1, 1], vl_target="diagonal")
    assert [result[f"m3_{name}_loss"] for name in ("v", "l", "vl")] == pytest.approx(
        [clip] * 3, rel=1e-9
    )


def test_m2_negatives_are_texts_at_lambda_zero_and_images_at_one() -> None:
    v, t, index = unit(5, seed=1), unit(5, seed=2), torch.arange(5)
    for lam, negatives in ((0.0, t), (1.0, v)):
        total = 0.0
        for x, y in ((v, t), (t, v)):
            logits = x @ negatives.T
            logits[index, index] = (x * y).sum(dim=1)
            total += float(torch.nn.functional.cross_entropy(logits / 0.07, index))
        assert m3_terms(v, t, [0.5, 0.5, 0.5, lam])["m3_m2_loss"] == pytest.approx(total, rel=1e-9)


def test_m3_mix_normalises_and_survives_duplicates_and_bf16() -> None:
    """All gradients are finite with two equal reports and an odd batch.

    In an odd batch the middle row is its own partner.
    """
    v, t = unit(5, seed=1), unit(5, seed=2)
    t[4] = t[0]
    assert m3_terms(3 * v, 7 * t, [0.2, 0.9, 0.4, 0.7]) == pytest.approx(
        m3_terms(v, t, [0.2, 0.9, 0.4, 0.7]), rel=1e-9
    )
    v, t = (x.to(torch.bfloat16).requires_grad_() for x in (v, t))
    out = {
        "image_features": v,
        "text_features": t,
        "logit_scale": torch.tensor(9.0),
        "m3_mix_draws": torch.full((5, 5), 0.4),
    }
    sum(M3Mix().losses(out, alone).values()).backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().max() > 0 for x in (v, t))


@pytest.mark.slow
def test_m3_mix_is_independent_of_batch_order_on_average() -> None:
    """The mean over all orders depends on the set alone; the loss of a fixed order does not."""
    v, t = unit(16, seed=1), unit(16, seed=2)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(16) for _ in range(400)]
    means = []
    for shuffle in (np.arange(16), rng.permutation(16)):
        values = [
            m3_terms(v[shuffle][order], t[shuffle][order], [0.3] * 4)["m3_v_loss"]
            for order in orders
        ]
        means.append(float(np.mean(values)))
        spread = float(np.std(values))
    assert spread > 0 and abs(means[0] - means[1]) < 4 * spread * math.sqrt(2 / len(orders))


def test_m3_mix_draws_by_step_alone_and_decays_by_epoch() -> None:
    objective, ids = M3Mix(), torch.arange(3)
    first, again = (
        objective.draw(1, 5, 0, ids)["m3_mix_draws"],
        objective.draw(1, 5, 2, ids + 9)["m3_mix_draws"],
    )
    assert first.shape == (3, 5)
    assert (first == first[0]).all()
    assert (first[:, :4] == again[:, :4]).all()
    assert first[0, 4] == 1 and again[0, 4] == pytest.approx(1 / 3)
    other = objective.draw(1, 6, 0, ids)["m3_mix_draws"]
    assert (other[0, :4] != first[0, :4]).all() and len(set(first[0, :4].tolist())) == 4
    assert M3Mix(M3MixConfig(decay=False)).draw(1, 5, 2, ids)["m3_mix_draws"][0, 4] == 1
    many = torch.stack(
        [objective.draw(0, step, 0, ids[:1])["m3_mix_draws"][0] for step in range(3000)]
    )
    variance = many.var(dim=0)[:4]
    # 1 / (4 (2 b + 1))
    torch.testing.assert_close(
        variance, torch.tensor([0.125, 0.125, 0.125, 0.25 / 1.4]), atol=0.01, rtol=0
    )


def test_m3_mix_settings_from_key_value_words() -> None:
    result = parse_settings(["weight_v=0.2", "decay=False", "vl_target=diagonal"])
    assert result == M3MixConfig(weight_v=0.2, decay=False, vl_target="diagonal")
    assert parse_settings([]) == M3MixConfig()
    for word in ("gamma=1", "decay=maybe", "beta"):
        with pytest.raises(
            UserError, match=f"--m3-mix-cfg {word}: expected KEY=VALUE with one of weight_v"
        ):
            parse_settings([word])


# ---- DACL


def model_with(*objectives: Objective, experts: bool = False, **eclip_cfg) -> torch.nn.Module:
    torch.manual_seed(0)
    processor = {"width": 32, "heads": 4, "zero_init": False} if experts else None
    model = open_clip.create_model(
        "tiny", output_dict=True, eclip_cfg={"processor": processor, **eclip_cfg}
    ).double()
    model.objectives = objectives
    return model


def batch_for(
    model: torch.nn.Module, mixed: Sequence[int] = (), size: int = 5, step: int = 3
) -> tuple[ExpertBatch, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids, rows = torch.arange(size) + 7, torch.tensor(mixed, dtype=torch.int64)
    draws = {}
    for objective in model.objectives:
        draws.update(objective.draw(0, step, 0, ids))
    image = torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64)
    heatmap = torch.rand(len(mixed), 1, 32, 32, generator=generator, dtype=torch.float64)
    batch = ExpertBatch(
        image,
        ids,
        rows,
        heatmap,
        torch.rand(len(mixed), generator=generator),
        ids[rows],
        image[:0],
        torch.zeros(0, 16, dtype=torch.int64),
        draws=draws,
    )
    return batch, torch.randint(1, 999, (size, 16), generator=generator)


def losses_of(model: torch.nn.Module, batch: ExpertBatch, text: torch.Tensor) -> dict[str, float]:
    loss = EClipLoss()
    loss.configure(model.eclip_config, model.objectives)
    return {
        name: float(value.detach())
        for name, value in loss(**model(batch, text), output_dict=True).items()
    }


def step_of(kind: str) -> int:
    return next(
        s
        for s in range(99)
        if Dacl(DaclConfig("plus")).draw(0, s, 0, torch.arange(2))["dacl_kind"] == kind
    )


@pytest.mark.parametrize(
    "form,kind",
    [("original", "linear"), ("plus", "linear"), ("plus", "geometric"), ("plus", "binary")],
)
def test_dacl_matches_numpy(form: str, kind: str) -> None:
    """The whole step, without the towers."""
    model = model_with(Dacl(DaclConfig(form, weight=0.7, alpha=0.4)))
    batch, text = batch_for(model, step=step_of(kind))
    partner, lam = batch.draws["dacl_partner"].numpy(), batch.draws["dacl_lam"].numpy()
    image, mean, std = (
        batch.image.numpy(),
        np.array(model.visual.image_mean),
        np.array(model.visual.image_std),
    )
    views = []
    for which in range(2):
        view = []
        for i, key in enumerate(batch.draws.get("dacl_seed", np.zeros((5, 2)))[:, which]):
            if kind == "binary":
                mask = (
                    torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(int(key))).numpy()
                    < lam[i, which]
                )
                view.append(np.where(mask, image[i], image[partner[i, which]]))
            else:
                view.append(
                    reference.mix(
                        image[i], image[partner[i, which]], float(lam[i, which]), kind, mean, std
                    )
                )
        with torch.no_grad():
            views.append(
                model.encode_image(torch.from_numpy(np.stack(view)), normalize=True).numpy()
            )
    with torch.no_grad():
        v, t = (
            model.encode_image(batch.image, normalize=True).numpy(),
            model.encode_text(text, normalize=True).numpy(),
        )
    expected = {
        "contrastive_loss": algorithm1.info_nce(
            v, t, float(model.logit_scale.detach().exp()), list(range(5)), "diagonal"
        ),
        "dacl_loss": 0.7 * reference.nt_xent(*views, 0.1),
    }
    assert losses_of(model, batch, text) == pytest.approx(expected, rel=1e-9)


def test_dacl_release_is_a_contrastive_loss_of_two_mixed_batches() -> None:
    model = model_with(Dacl(DaclConfig("release")))
    batch, text = batch_for(model)
    lam, partner = batch.draws["dacl_lam"], batch.draws["dacl_partner"]
    assert (lam == lam[0]).all()
    assert sorted(partner[:, 0].tolist()) == sorted(partner[:, 1].tolist()) == list(range(5))
    views = [
        w * batch.image + (1 - w) * batch.image[partner[:, i]]
        for i, w in enumerate(lam[0].double())
    ]
    with torch.no_grad():
        v = torch.cat([model.encode_image(view, normalize=True) for view in views]).numpy()
        t = model.encode_text(text, normalize=True).repeat(2, 1).numpy()
    expected = algorithm1.info_nce(
        v, t, float(model.logit_scale.detach().exp()), list(range(5)) * 2, "diagonal"
    )
    assert losses_of(model, batch, text) == pytest.approx({"contrastive_loss": expected}, rel=1e-9)


def test_dacl_release_has_the_floor_of_ln_2() -> None:
    """Perfect pairs without mixing: each text occurs twice."""
    loss = EClipLoss()
    loss.configure(EClipConfig(processor=None), (Dacl(DaclConfig("release")),))
    v = torch.eye(4)
    out = {
        "image_features": v,
        "text_features": v,
        "sample_id": torch.arange(4),
        "dacl_second": v,
        "logit_scale": torch.tensor(100.0),
    }
    Dacl(DaclConfig("release")).complete(out, None)
    assert float(loss(**out)) == pytest.approx(math.log(2), rel=1e-6)


def test_dacl_without_noise_is_nt_xent_of_equal_views() -> None:
    model = model_with(Dacl(DaclConfig(alpha=1.0)))
    batch, text = batch_for(model)
    out = model(batch, text)
    torch.testing.assert_close(out["dacl_u"], out["image_features"])
    torch.testing.assert_close(out["dacl_w"], out["dacl_u"])
    v = out["image_features"].detach()
    assert losses_of(model, batch, text)["dacl_loss"] == pytest.approx(
        reference.nt_xent(v.numpy(), v.numpy(), 0.1), rel=1e-9
    )
    assert float(nt_xent(torch.eye(3), torch.eye(3), slice(None), 0.01)) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("size", [2, 3, 8])
def test_dacl_partners_are_never_the_sample_and_lambdas_belong_to_it(size: int) -> None:
    objective, ids = Dacl(), torch.arange(size) * 3
    offsets = set()
    for step in range(60):
        draws = objective.draw(4, step, 0, ids)
        shift = (draws["dacl_partner"] - torch.arange(size)[:, None]) % size
        assert (shift == shift[0]).all() and (shift > 0).all()
        offsets.update(shift[0].tolist())
        assert (draws["dacl_lam"] >= 0.9).all() and (draws["dacl_lam"] <= 1).all()
        back = objective.draw(4, step, 0, ids.flip(0))
        assert (back["dacl_lam"].flip(0) == draws["dacl_lam"]).all()
        assert len(set(draws["dacl_lam"].flatten().tolist())) == 2 * size
    assert offsets == set(range(1, size))


def test_binary_masks_depend_on_the_sample_alone() -> None:
    image, lam, seed = torch.zeros(3, 3, 64, 64), torch.tensor([0.9, 0.5, 0.1]), np.array([3, 4, 5])
    mask = binary_mask(image, lam, seed)
    torch.testing.assert_close(mask.float().mean(dim=(1, 2, 3)), lam, atol=0.02, rtol=0)
    assert torch.equal(binary_mask(image[1:], lam[1:], seed[1:]), mask[1:])


def test_dacl_with_weight_0_has_no_effect() -> None:
    model = model_with(Dacl(DaclConfig(weight=0)))
    batch, text = batch_for(model)
    plain = open_clip.create_model("tiny", output_dict=True).double()
    plain.load_state_dict(model.state_dict())  # no key of its own
    assert losses_of(model, batch, text)["contrastive_loss"] == float(
        open_clip.ClipLoss()(**plain(batch.image, text)).detach()
    )
    assert not [name for name in model(batch, text) if name.startswith("dacl")]


# ---- together


@pytest.mark.parametrize("form", ["original", "release"])
def test_objectives_compose_with_mixed_pairs_in_one_pass(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contrastive loss is unchanged, each objective adds its term, and each tower runs once."""
    model = model_with(Dacl(DaclConfig(form)), M3Mix(), experts=True)
    batch, text = batch_for(model, mixed=[1, 4])
    passes = []
    encode = model.encode_image
    monkeypatch.setattr(
        model,
        "encode_image",
        lambda images, normalize: passes.append(len(images)) or encode(images, normalize),
    )
    result = losses_of(model, batch, text)
    assert passes == [5 + 2 + 10 if form == "original" else 5 + 2 + 5]
    monkeypatch.undo()
    model.objectives = (M3Mix(),)
    if form == "original":
        expected = losses_of(model, batch, text)
        model.objectives = (Dacl(),)
        expected |= losses_of(model, batch, text)
        assert result == pytest.approx(expected, rel=1e-12) and len(result) == 2 + 1 + 4
    else:
        assert set(result) == {
            "contrastive_loss",
            "priming_loss",
            "m3_v_loss",
            "m3_l_loss",
            "m3_vl_loss",
            "m3_m2_loss",
        }
        model.objectives = (Dacl(DaclConfig(form)),)
        out = model(batch, text)
        assert out["mixed_id"].tolist() == [8, 11, 7, 8, 9, 10, 11]
        assert torch.equal(out["mixed_text_features"][2:], out["text_features"])


# ---- naive


def test_naive_pairs_enter_every_step_unmixed() -> None:
    config = EClipConfig(curriculum=CurriculumConfig(cold=0.2))
    for form, kind, lam, weight in (
        ("processor", "mha", 0.0, 0.1),
        ("multiply", "mask", 0.0, 0.0),
        ("plain", "mask", 1.0, 0.0),
    ):
        naive = naive_config(config, form)
        assert (naive.processor.kind, naive.lam, naive.priming_weight) == (kind, lam, weight)
        curriculum = Curriculum(100, naive.curriculum)
        assert {curriculum.probability(step) for step in range(101)} == {1.0}
        assert [step for step in range(100) if curriculum.is_priming(step)] == list(range(20))
        draws = draw_gate(0, 3, range(50), 1.0, naive.alpha, naive.lam)
        assert draws.accepted.all() and (draws.lam == lam).all()


def test_naive_pairs_are_the_processed_images() -> None:
    model = model_with(experts=True)
    batch, text = batch_for(model, mixed=[0, 2])
    batch.lam = torch.zeros(2)
    out = model(batch, text)
    with torch.no_grad():
        expert = model.heatmap_processor(batch.image[[0, 2]], batch.heatmap)
        torch.testing.assert_close(
            out["mixed_features"].detach(), model.encode_image(expert, normalize=True)
        )


@pytest.mark.parametrize(
    "build",
    [
        lambda: DaclConfig("mixup"),
        lambda: DaclConfig(alpha=1.5),
        lambda: DaclConfig(weight=-1),
        lambda: DaclConfig(temperature=0),
        lambda: M3MixConfig(beta=0),
        lambda: M3MixConfig(weight_v=-1),
        lambda: M3MixConfig(vl_target="diag"),
        lambda: EClipConfig(lam=2.0),
    ],
)
def test_bad_settings_are_errors(build) -> None:
    with pytest.raises(UserError, match="expected"):
        build()
