"""The patches fit the installed open_clip_train; what fits no release is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, write_table

from openclip_eclip import train
from openclip_eclip.config import UserError
from training_patches import release

HAS_TASKS = hasattr(host, "create_task")
needs_tasks = pytest.mark.skipif(not HAS_TASKS, reason="the installed open_clip trains no tasks")


def flags_of(folder: Path, name: str, *flags: object) -> list[str]:
    common = (*BASIC, "--batch-size", 4, "--epochs", 1, "--logs", folder / "logs", "--name", name)
    return [str(flag) for flag in (*common, *flags)]


def test_what_main_has_decides_and_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "release_4" if HAS_TASKS else "release_3_3"
    assert release().__name__ == f"training_patches.{expected}"
    monkeypatch.setattr("open_clip.__version__", "99.0")
    assert release().Patches.RELEASE == ("4" if HAS_TASKS else "3.3")
    for name in ("create_task", "create_loss"):
        monkeypatch.delattr(host, name, raising=False)
    with pytest.raises(RuntimeError, match="neither create_task nor create_loss, one of which"):
        release()


@pytest.mark.slow
def test_a_checkpoint_of_another_release_is_an_error(tmp_path: Path) -> None:
    table = write_table(tmp_path, 8, annotated=[1, 2])
    train.main(flags_of(tmp_path, "run", "--train-data", table))
    path = tmp_path / "logs" / "run" / "checkpoints" / "epoch_1.pt"
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    own = checkpoint["eclip"]["settings"]["open_clip_train"]
    assert own == release().Patches.RELEASE
    checkpoint["eclip"]["settings"]["open_clip_train"] = "2"
    torch.save(checkpoint, tmp_path / "other.pt")
    more = ("--train-data", table, "--epochs", 2, "--resume", tmp_path / "other.pt")
    with pytest.raises(UserError, match=f"trained with open_clip 2, this is {own}: .*--pretrained"):
        train.main(flags_of(tmp_path, "more", *more))


@needs_tasks
@pytest.mark.parametrize(
    "flags,message",
    [
        (["--use-naflex"], "images of one size"),
        (["--text-key", "caption"], "name the members of shards as"),
        (["--json-text-key", "report"], "name the members of shards as"),
        (["--max-image-pixels", "9"], "give --max-pixels"),
        (["--torchcompile", "--torchcompile-strategy", "step"], "our losses are not compiled"),
        (["--model", "CLAP-HTSAT-tiny"], "CLAP-HTSAT-tiny .* expected a contrastive model"),
        (
            ["--model", "naflexgenlip_b16"],
            "naflexgenlip_b16 .* expected a contrastive",
        ),
        (["--dataset-type", "webdataset-audio"], "webdataset-audio: expected a contrastive model"),
    ],
)
def test_flags_of_release_4_that_do_not_work_are_errors(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train.main(flags_of(tmp_path, "run", "--train-data", tmp_path / "never-read.csv", *flags))
    assert not (tmp_path / "logs").exists()


@needs_tasks
@pytest.mark.parametrize("name", ["CLAP-HTSAT-tiny", "naflexgenlip_b16"])
def test_models_of_release_4_that_are_no_clip_are_errors(name: str) -> None:
    with pytest.raises(ValueError, match=f"needs a contrastive model .* {name} is another"):
        open_clip.create_model(f"eclip-{name}")


@needs_tasks
def test_another_name_of_a_flag_of_ours_counts() -> None:
    """Release 4 calls --image-layer-decay --visual-layer-decay too."""
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    common = ["--model", "tiny", "--train-data", "train.csv"]
    decays = [
        patches.parse_args([*common, *flags]).image_layer_decay
        for flags in ([], ["--visual-layer-decay", "0.5"], ["--image-layer-decay", "0.5"])
    ]
    assert decays == [None, 0.5, 0.5]


@needs_tasks
def test_the_last_epoch_is_not_deleted() -> None:
    """Release 4 would delete what it has just saved: the epoch that is --save-frequency before."""
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    common = ["--model", "tiny", "--train-data", "train.csv", "--delete-previous-checkpoint"]
    for every in (0, 1):
        args = patches.parse_args([*common, "--save-frequency", str(every)])
        assert args.delete_previous_checkpoint == bool(every)
