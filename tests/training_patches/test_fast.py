"""--fast: what it sets, and that its losses are those of the plain run."""

from __future__ import annotations

import argparse
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from open_clip.modified_resnet import ModifiedResNet

from training_patches.fast import choose_fast, is_cnn, optimiser_options, prepare_towers

DEFAULTS = {
    **{"fast": True, "device": "cuda", "precision": "amp", "torchcompile": False, "rank": 0},
    **{"cache_tokens": None, "same_text_similarity": None, "torchscript": False, "opt": "adamw"},
}


@pytest.mark.parametrize(
    "given,words,has_bf16,expected",
    [
        ({}, [], True, ("amp_bf16", True)),
        ({}, [], False, ("amp", True)),
        ({"precision": "fp32"}, ["--precision", "fp32"], True, ("fp32", True)),
        ({"precision": "amp"}, ["--precision=amp"], True, ("amp", True)),
        ({"cache_tokens": "kept"}, [], True, ("amp_bf16", False)),
        ({"same_text_similarity": 0.9}, [], True, ("amp_bf16", False)),
        ({"device": "cpu"}, [], True, ("amp", False)),
        ({"fast": False}, [], True, ("amp", False)),
    ],
)
def test_it_sets_what_is_not_given_and_fits(
    monkeypatch: pytest.MonkeyPatch, given: dict, words: list, has_bf16: bool, expected: tuple
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    args = argparse.Namespace(**{**DEFAULTS, **given})
    choose_fast(args, words)
    assert (args.precision, args.torchcompile) == expected
    assert optimiser_options(args) == ({"fused": True} if args.fast else {})


def test_a_cnn_gets_channels_last_and_computes_the_same() -> None:
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.visual = ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=4, image_size=32, width=8)
    image, visual = torch.randn(2, 3, 32, 32), model.visual.eval()
    with torch.no_grad():
        expected = visual(image)
        prepare_towers(argparse.Namespace(**DEFAULTS), model)
        torch.testing.assert_close(visual(image), expected, rtol=1e-4, atol=1e-5)
    assert visual.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert is_cnn(visual) and not is_cnn(open_clip.create_model("tiny").visual)


@pytest.mark.slow
def test_losses_are_those_of_the_plain_run(tmp_path: Path) -> None:
    """Also of a run that resumes with --fast from the plain one."""
    launcher = Launcher(tmp_path)
    table = write_table(tmp_path, 24, annotated=range(0, 24, 3))
    flags = (*BASIC, "--train-data", table, "--method", "eclip+align", "--batch-size", 6)
    flags += (*"--eclip-curriculum .2 0 0 0 0 .6 --epochs 2 --lr 1e-2".split(),)
    resumed = ("--name", "resumed", "--fast", "--resume", "logs/plain/checkpoints/epoch_1.pt")
    launcher.train(
        (*flags, "--name", "plain"),
        (*flags, "--name", "fast", "--fast"),
        (*flags, *resumed),
    )
    plain = launcher.losses("plain")
    assert len(plain) == 8 and len(set(plain)) == 8
    assert launcher.losses("fast") == pytest.approx(plain, rel=1e-4)
    assert launcher.losses("resumed") == pytest.approx(plain[4:], rel=1e-4)
    assert "eclip: --fast: --precision fp32, fused AdamW" in launcher.log("fast")
    groups = launcher.checkpoint("fast", 2)["optimizer"]["param_groups"]
    assert all(group["fused"] for group in groups)
