"""--same-text: the losses against numpy and against open_clip's, and the flags."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import BASIC
from open_clip.loss import ClipLoss, SigLipLoss
from reference import same_text as reference
from test_model import build_batch, build_model
from torch.nn import functional as F

from openclip_eclip import train
from openclip_eclip.config import EClipConfig, UserError
from openclip_eclip.content import content_numbers
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from openclip_eclip.objectives import Dacl
from openclip_eclip.objectives.dacl import DaclConfig
from openclip_eclip.same_text import USES, SameText

SIMILAR = 0.3  # a cosine that some pairs of random features reach


def loss_of(
    siglip: bool, use: str, own_pairs: str = "diagonal", similarity: float | None = None
) -> EClipLoss | EClipSigLipLoss:
    loss = EClipSigLipLoss() if siglip else EClipLoss()
    loss.configure(EClipConfig(own_pairs=own_pairs), (), SameText(use, similarity))
    return loss


def features(
    texts: list[int], seed: int = 0, mixed: tuple[int, ...] = (), **equal: bool
) -> dict[str, torch.Tensor]:
    """The output of a model whose image i has the text `texts[i]`; `mixed`: samples mixed in.

    `equal`: texts of one number have one feature, as in a model without dropout.
    """
    generator = torch.Generator().manual_seed(seed)

    def unit(count: int) -> torch.Tensor:
        return F.normalize(torch.randn(count, 6, generator=generator, dtype=torch.float64), dim=1)

    image, text, table = unit(len(texts)), unit(len(texts)), unit(max(texts) + 1)
    if equal.get("equal"):
        text = table[texts]
    key = torch.tensor(texts)
    out = {
        "image_features": image.requires_grad_(),
        "text_features": text.requires_grad_(),
        "logit_scale": torch.tensor(7.0, dtype=torch.float64, requires_grad=True),
        "sample_id": torch.arange(len(texts)),
        "text_key": key,
    }
    if mixed:
        out |= {
            "mixed_features": unit(len(mixed)).requires_grad_(),
            "mixed_text_features": text.detach()[list(mixed)].requires_grad_(),
            "mixed_id": torch.tensor(mixed),
            "mixed_key": key[list(mixed)],
        }
    return out


def rows_of(out: dict[str, torch.Tensor]) -> list[reference.Row]:
    key = out["text_key"].tolist()
    rows = [reference.Row(i, k, False) for i, k in zip(out["sample_id"].tolist(), key)]
    if "mixed_id" in out:
        keys = zip(out["mixed_id"].tolist(), out["mixed_key"].tolist())
        rows += [reference.Row(i, k, True) for i, k in keys]
    return rows


def arrays(out: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    names = ("image_features", "mixed_features"), ("text_features", "mixed_text_features")
    image, text = (
        torch.cat([out[name] for name in pair if name in out]).detach().numpy() for pair in names
    )
    return image, text


TEXTS = [0, 1, 0, 2, 0, 1]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("own_pairs", ["diagonal", "multi", "mask"])
@pytest.mark.parametrize("mixed", [(), (0, 3), (1, 2, 4)])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("siglip", [False, True])
def test_losses_match_numpy(
    siglip: bool, twice: bool, mixed: tuple[int, ...], own_pairs: str, use: str
) -> None:
    """`twice`: one sample was drawn twice."""
    out = features(TEXTS, mixed=mixed)
    if twice:
        out["sample_id"][4] = 0
    host = {"logit_bias": torch.tensor(-3.0, dtype=torch.float64)} if siglip else {}
    loss = loss_of(siglip, use, own_pairs)
    result = float(loss(**out, **host).detach())
    image, text = arrays(out)
    rows = rows_of(out)
    # without mixed pairs and repeated texts that count, own_pairs has nothing to say
    own = own_pairs if mixed or use != "negative" else "diagonal"
    expected = (
        reference.sigmoid_loss(image, text, 7.0, -3.0, rows, own, use)
        if siglip
        else reference.info_nce(image, text, 7.0, rows, own, use)
    )
    assert result == pytest.approx(expected, rel=1e-9)
    assert loss.repeats.pairs == (0 if use == "negative" else 4)
    assert loss.repeats.repeated == (0 if use == "negative" else 5)


@pytest.mark.parametrize("siglip", [False, True])
@pytest.mark.parametrize("use", ["positive", "ignore"])
def test_similar_texts_match_numpy(use: str, siglip: bool) -> None:
    """Similarity is no equivalence: i may be like j, j like k, and i not like k."""
    out = features(TEXTS)
    key = F.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(5)), dim=1)
    out["text_key"] = key

    class Like:
        def __init__(self, row: np.ndarray) -> None:
            self.row = row

        def __eq__(self, other: object) -> bool:
            return bool(self.row @ other.row >= SIMILAR)

    rows = [reference.Row(i, Like(row), False) for i, row in enumerate(key.numpy())]
    same = [[a.text == b.text for b in rows] for a in rows]
    assert any(a and b and not c for r, s in zip(same, same[1:]) for a, b, c in zip(r, s, s[1:]))
    host = {"logit_bias": torch.tensor(-3.0, dtype=torch.float64)} if siglip else {}
    result = loss_of(siglip, use, similarity=SIMILAR)(**out, **host)
    image, text = arrays(out)
    expected = (
        reference.sigmoid_loss(image, text, 7.0, -3.0, rows, "diagonal", use)
        if siglip
        else reference.info_nce(image, text, 7.0, rows, "diagonal", use)
    )
    assert float(result.detach()) == pytest.approx(expected, rel=1e-9)


def gradients(
    loss: torch.nn.Module, out: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    value = loss(**out)
    inputs = [x for x in out.values() if x.requires_grad]
    return value, torch.autograd.grad(value, inputs)


@pytest.mark.parametrize("mixed", [(), (0, 3)])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("siglip", [False, True])
def test_without_repeated_texts_the_loss_is_bit_for_bit_the_same(
    siglip: bool, use: str, mixed: tuple[int, ...]
) -> None:
    out = {
        name: x.float() if x.is_floating_point() else x
        for name, x in features(list(range(6)), mixed=mixed).items()
    }
    out = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in out.items()}
    if siglip:
        out["logit_bias"] = torch.tensor(-3.0, requires_grad=True)
    value, grads = gradients(loss_of(siglip, use), out)
    plain = {name: x for name, x in out.items() if not name.endswith("_key")}
    stock = loss_of(siglip, "negative")
    if not mixed:
        stock = SigLipLoss() if siglip else ClipLoss()
        plain = {name: x for name, x in plain.items() if name != "sample_id"}
    expected, expected_grads = gradients(stock, plain)
    assert torch.equal(value, expected)
    assert all(torch.equal(one, other) for one, other in zip(grads, expected_grads))


def test_a_target_shared_by_equal_texts_is_stock() -> None:
    """Why L_out is no choice: for equal text features it is CLIP's loss, value and gradient."""
    out = features(TEXTS, equal=True)
    image, text = arrays(out)
    stock = loss_of(False, "negative")(**out)
    assert float(stock.detach()) == pytest.approx(
        reference.l_out(image, text, 7.0, TEXTS), rel=1e-12
    )
    positive = loss_of(False, "positive")(**out)
    assert float(positive.detach()) < float(stock.detach())


@pytest.mark.parametrize("use", ["positive", "ignore"])
@pytest.mark.parametrize("siglip", [False, True])
def test_equal_texts_alone_have_a_finite_gradient(siglip: bool, use: str) -> None:
    out = features([0, 0, 0])
    if siglip:
        out["logit_bias"] = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    value, grads = gradients(loss_of(siglip, use), out)
    assert torch.isfinite(value) and all(torch.isfinite(x).all() for x in grads)
    if not siglip:
        assert float(value) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("use", ["positive", "ignore"])
@pytest.mark.parametrize("siglip", [False, True])
def test_bf16_features_are_scored_in_fp32(siglip: bool, use: str) -> None:
    out = {n: x.bfloat16() if x.is_floating_point() else x for n, x in features(TEXTS).items()}
    wide = {n: x.double() if x.is_floating_point() else x for n, x in out.items()}
    if siglip:
        out["logit_bias"] = wide["logit_bias"] = torch.tensor(-3.0)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss_of(siglip, use)(**out)
    assert float(result) == pytest.approx(float(loss_of(siglip, use)(**wide)), rel=1e-5)


def test_keys_reach_the_loss_of_a_step_with_mixed_pairs() -> None:
    """Of the batch, of its mixed pairs, of the separate stream, and of DACL's second views."""
    model, (batch, text) = build_model(), build_batch([1, 3], expert=2)
    assert not {"text_key", "mixed_key"} & set(model(batch, text))
    batch.text_key = torch.arange(10, 10 + len(batch) + 2)
    out = model(batch, text)
    size = len(batch)
    assert out["text_key"].tolist() == list(range(10, 10 + size))
    assert out["mixed_key"].tolist() == [11, 13, 10 + size, 11 + size]
    assert batch.to("cpu", torch.bfloat16).text_key.dtype == torch.int64
    release = Dacl(DaclConfig(form="release"))
    batch.draws.update(release.draw(0, 0, 0, batch.sample_id))
    model.objectives = (release,)
    out = model(batch, text)
    assert out["mixed_key"].tolist() == [11, 13, 10 + size, 11 + size, *out["text_key"].tolist()]
    assert len(out["mixed_key"]) == len(out["mixed_features"]) == len(out["mixed_id"])


def test_micro_batches_give_the_loss_of_the_large_batch() -> None:
    """As open_clip's loop joins them: a text that repeats in another micro-batch counts."""
    model = build_model()
    parts = [build_batch(mixed, expert, False) for mixed, expert in (([1], 1), ([0, 2], 0))]
    for k, (batch, text) in enumerate(parts):
        batch.sample_id, batch.mixed_id = batch.sample_id + 1000 * k, batch.mixed_id + 1000 * k
        text[2] = parts[0][1][0]
        texts = torch.cat([text, batch.expert_text]) if len(batch.expert_text) else text
        batch.text_key = content_numbers(texts)[0]
    outs = [model(*part) for part in parts]
    joined = {
        name: torch.cat([out[name] for out in outs]) if outs[0][name].ndim else outs[0][name]
        for name in outs[0]
    }
    rows = rows_of(joined)
    image, text = arrays(joined)
    for use in ("positive", "ignore"):
        loss = loss_of(False, use)
        loss.configure(EClipConfig(priming_weight=0.0), (), SameText(use))
        expected = reference.info_nce(
            image, text, float(model.logit_scale.exp()), rows, "diagonal", use
        )
        assert float(loss(**joined).detach()) == pytest.approx(expected, rel=1e-9)
        assert loss.repeats.pairs == 3


def test_plain_outputs_have_open_clips_loss() -> None:
    """As in an evaluation: no key, so every other text is a negative."""
    out = features(TEXTS)
    plain = {name: out[name] for name in ("image_features", "text_features", "logit_scale")}
    assert torch.equal(loss_of(False, "ignore")(**plain), ClipLoss()(**plain))


ALL_FLAGS = ("--same-text", "ignore")


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--same-text-by", "text"], "without --same-text positive or ignore has no effect"),
        (
            ["--same-text", "negative", "--same-text-similarity", "0.9", "--freeze-text", "all"],
            "without --same-text positive or ignore has no effect",
        ),
        (
            [*ALL_FLAGS, "--same-text-by", "a", "--same-text-similarity", "0.9"],
            "two ways to say which texts are the same",
        ),
        ([*ALL_FLAGS, "--same-text-similarity", "0.9"], "without --freeze-text all"),
        ([*ALL_FLAGS, "--same-text-similarity", "0.9", "--lock-text"], "in place of --lock-text"),
        (
            [*ALL_FLAGS, "--same-text-similarity", "1", "--freeze-text", "all"],
            "--same-text-similarity 1.0: expected a number above 0 and below 1",
        ),
        (
            [*ALL_FLAGS, "--same-text-similarity=.9", "--freeze-text=all", "--torchcompile"],
            "a compiled one does not allow",
        ),
        ([*ALL_FLAGS, "--method", "gloria"], "with --method gloria: its own losses"),
        (
            [*ALL_FLAGS, "--method", "m3-mix+eclip", "--pretrained", "x"],
            "with --method m3-mix: its own losses",
        ),
        (
            [*ALL_FLAGS, "--same-text-by", "a", "--dataset-type", "synthetic"],
            "those data have no columns",
        ),
    ],
)
def test_flags_without_meaning_are_errors(flags: list[str], message: str, tmp_path: Path) -> None:
    data = ("--train-data", tmp_path / "never-read.csv", "--name", "run", "--logs", tmp_path)
    with pytest.raises(UserError, match=message):
        train.main([str(flag) for flag in (*BASIC, *data, "--batch-size", 2, *flags)])


def test_stock_models_are_not_changed() -> None:
    """A model with our class, and no processor, gives open_clip's output on the same weights."""
    plain = open_clip.create_model("tiny", output_dict=True)
    ours = open_clip.create_model("tiny", output_dict=True, eclip_cfg={"processor": None})
    ours.load_state_dict(copy.deepcopy(plain.state_dict()))
    (batch, text), images = build_batch([]), torch.randn(4, 3, 32, 32)
    batch.image = images[: len(batch)]
    batch.text_key = content_numbers(text)[0]
    expected, out = plain(batch.image, text), ours(batch, text)
    assert all(torch.equal(out[name], expected[name]) for name in expected)
