"""Whole runs with LoRA and with a layer decay: export, resume, two processes, errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import BASIC, Launcher, write_table

from openclip_eclip import train
from openclip_eclip.checkpoint import export_plain
from openclip_eclip.config import UserError

LORA = "--lora-image 4 --lora-text 2".split()
DECAY = "--image-layer-decay 0.5 --text-layer-decay 0.7".split()
EVERY = ("--save-every-steps", 1, "--keep-last", 100)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    launcher = Launcher(tmp_path_factory.mktemp("lora"))
    table = write_table(launcher.folder, 12, annotated=range(0, 12, 3))
    data = (*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 2)
    clip = (*data, "--method", "clip")
    launcher.train(
        (*clip, *LORA, *EVERY, "--name", "lora"),
        (*clip, *DECAY, *EVERY, "--name", "decay"),
        (*clip, *LORA, *DECAY, "--name", "both"),
        (*clip, *LORA, "--opt", "timm/lamb", "--eps", 1e-8, *DECAY, "--name", "timm"),
        (*data, *LORA, "--method", "align", "--align-weight", 1, "--name", "align"),
        (*data, *LORA, "--eclip-curriculum", *"0.2 0 0 1 1 1".split(), "--name", "eclip"),
        (*clip, *LORA, "--batch-size", 2, "--accum-freq", 2, "--name", "accumulated"),
        (*clip, *LORA, "--grad-checkpointing", "--name", "checkpointed"),
        (*clip, *LORA, "--precision", "bf16", "--name", "bf16"),
        (*clip, *LORA, "--torchcompile", "--name", "compiled"),
        (*clip, *LORA, "--siglip", "--name", "siglip"),
        timeout=600,
    )
    return launcher


def fork(launcher: Launcher, name: str, batch: int) -> Path:
    """A copy of run `name` that ends in epoch 1 after `batch` batches."""
    source, copy = launcher.folder / "logs" / name, launcher.folder / "logs" / f"{name} resumed"
    (copy / "checkpoints").mkdir(parents=True)
    checkpoint = f"epoch_1_batch_{batch:08d}.pt"
    content = (source / "checkpoints" / checkpoint).read_bytes()
    (copy / "checkpoints" / checkpoint).write_bytes(content)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("flags", [LORA, DECAY], ids=["lora", "decay"])
def test_resuming_in_mid_epoch_continues_weights_and_optimiser(
    runs: Launcher, flags: list[str]
) -> None:
    name = "lora" if flags is LORA else "decay"
    fork(runs, name, 1)
    table = runs.folder / "train.csv"
    words = (*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 2, "--method", "clip")
    runs.train((*words, *flags, *EVERY, "--name", f"{name} resumed", "--resume", "latest"))
    assert "resumes after batch 1 of 3" in runs.log(f"{name} resumed")
    result, expected = runs.checkpoint(f"{name} resumed", 2), runs.checkpoint(name, 2)
    for key, value in expected["state_dict"].items():
        assert torch.equal(result["state_dict"][key], value), key
    assert result["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for index, state in expected["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(result["optimizer"]["state"][index][key], value)
    if name == "decay":
        scales = {group["lr_scale"] for group in expected["optimizer"]["param_groups"]}
        assert scales == {1.0, 0.5, 0.25, 0.125, 0.7, 0.7**2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "align", "eclip", "siglip"])
def test_the_export_of_a_run_computes_what_the_run_trained(
    runs: Launcher, name: str, tmp_path: Path
) -> None:
    from openclip_eclip.towers.low_rank import add_low_rank

    more: dict[str, Any] = {"init_logit_bias": -10} if name == "siglip" else {}
    model = open_clip.create_model("eclip-tiny" if name == "eclip" else "tiny", **more)
    add_low_rank(model, 4, 2)
    model.load_state_dict(runs.weights(name, 2))  # as the run has it, with A and B
    export_plain(runs.folder / "logs" / name, tmp_path / "plain")
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'plain'}")
    assert plain.state_dict().keys() == open_clip.create_model("tiny", **more).state_dict().keys()
    torch.manual_seed(0)
    images, texts = torch.randn(4, 3, 32, 32), torch.randint(1, 900, (4, 16))
    for encode, batch in (("encode_image", images), ("encode_text", texts)):
        with torch.no_grad():
            trained = getattr(model.eval(), encode)(batch, normalize=True)
            exported = getattr(plain.eval(), encode)(batch, normalize=True)
        torch.testing.assert_close(exported, trained, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_is_a_start_for_open_clip_and_for_training(runs: Launcher) -> None:
    path = runs.folder / "logs" / "lora" / "checkpoints" / "epoch_2.pt"
    model = open_clip.create_model("tiny", pretrained=str(path))
    assert not any(".lora_" in key for key in model.state_dict())


@pytest.mark.slow
def test_frozen_weights_are_those_of_the_start(runs: Launcher) -> None:
    first = torch.load(
        runs.folder / "logs" / "lora" / "checkpoints" / "epoch_0_batch_00000001.pt",
        weights_only=True,
    )["state_dict"]
    last = runs.weights("lora", 2)
    moved = {key for key, value in last.items() if not torch.equal(first[key], value)}
    heads = {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj", "text_projection"}
    assert {key for key in moved if ".lora_" not in key} == heads | {"logit_scale"}
    # all of A and B, but for A of the first step, whose gradient is 0 with B = 0
    assert moved >= {key for key in last if ".lora_" in key}
    assert re.search(r"[\d.]+ % of the model's weights are trained: \d+ of \d+", runs.log("lora"))
    assert "--lora-image 4: LoRA on 6 layers of the image tower" in runs.log("lora")


@pytest.mark.slow
def test_accumulation_and_checkpointing_give_the_same_training(runs: Launcher) -> None:
    expected = runs.weights("lora", 2)
    for name in ("accumulated", "checkpointed", "compiled"):
        for key, value in runs.weights(name, 2).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one(runs: Launcher) -> None:
    table = runs.folder / "train.csv"
    words = (*BASIC, "--train-data", table, "--epochs", 3, "--method", "clip", *LORA)
    # Adam would turn rounding errors of gradients near 0 into whole steps
    words += ("--opt", "timm/sgd", "--lr", 1, "--aug-cfg", "scale=(1,1)", "ratio=(1,1)")
    gathered = ("--local-loss", "--gather-with-grad")
    runs.train((*words, "--batch-size", 12, "--name", "one"))
    runs.train((*words, *gathered, "--batch-size", 6, "--name", "two"), processes=2, timeout=300)
    expected = runs.weights("one", 3)
    for key, value in runs.weights("two", 3).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    moved = [value.abs().max() for key, value in expected.items() if ".lora_B" in key]
    assert min(moved) > 1e-4


@pytest.mark.slow
def test_another_rank_or_none_is_an_error_on_resume(runs: Launcher) -> None:
    fork_of = runs.folder / "logs" / "lora"
    checkpoint = fork_of / "checkpoints" / "epoch_1.pt"
    words = [str(w) for w in (*BASIC, "--train-data", runs.folder / "train.csv", "--batch-size", 4)]
    for flags, message in (
        (["--lora-image", "3", "--lora-text", "2"], "trained with --lora-image 4, this run has 3"),
        ([], "trained with --lora-image 4, this run has None"),
    ):
        done = runs.train(
            [*words, *flags, "--method", "clip", "--epochs", "2", "--name", "other"]
            + ["--resume", str(checkpoint)],
            check=False,
        )
        assert message in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lora-image 4 --freeze-image all", "--freeze-image with --lora-image: two ways"),
        ("--lora-text 4 --lock-text", "--lock-text with --lora-text: two ways"),
        (
            "--freeze-image all --cache-tokens x --lora-image 4 --method align",
            "--cache-tokens with --lora-image 4: LoRA changes the tokens",
        ),
        ("--lora-image 0", "--lora-image 0: expected 1 or more"),
        ("--image-layer-decay 0", "--image-layer-decay 0.0: expected a number above 0 and at"),
        ("--text-layer-decay 1.5", "--text-layer-decay 1.5: expected a number above 0 and at"),
        ("--text-layer-decay nan", "--text-layer-decay nan: expected finite numbers"),
    ],
)
def test_bad_flags_are_errors(flags: str, message: str, tmp_path: Path) -> None:
    words = (*BASIC, "--train-data", tmp_path / "never.csv", "--name", "never", *flags.split())
    with pytest.raises(UserError, match=re.escape(message)):
        train.main([str(word) for word in words])


def test_a_missing_peft_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openclip_eclip.flag_conflicts.find_spec", lambda name: None)
    words = (*BASIC, "--train-data", tmp_path / "never.csv", "--name", "never", "--lora-text", 4)
    message = "--lora-text needs peft: pip install 'openclip_eclip[lora]'"
    with pytest.raises(UserError, match=re.escape(message)):
        train.main([str(word) for word in words])
