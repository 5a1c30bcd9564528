"""Runs that cannot train, diverge, resume from a wrong checkpoint, or share a folder.

Each is an error of one sentence, which is the log's last line, and nothing is lost.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

from openclip_eclip import train
from openclip_eclip.config import EClipConfig, Stopped, UserError
from openclip_eclip.flag_checks import schedule_warnings
from openclip_eclip.params import eclip_parser
from training_patches import release, run_folder, run_settings
from training_patches.before_training import _check_image_size, optimiser_note
from training_patches.finite_loss import FiniteLoss
from training_patches.run_folder import lock


def parse(*argv: object) -> argparse.Namespace:
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    return patches.parse_args(
        [str(flag) for flag in ("--model", "tiny", "--train-data", "train.csv", *argv)]
    )


@pytest.mark.parametrize("name, beta2", [("start", "0.999"), ("vit-start", "0.98")])
def test_adamw_depends_on_the_name_of_the_folder(name: str, beta2: str) -> None:
    flags = ["--model", f"local-dir:{name}", "--train-data", "train.csv"]
    note = optimiser_note(host.parse_args(flags))
    assert note is not None and f"beta2 {beta2} and eps" in note
    assert optimiser_note(host.parse_args(["--model", "ViT-B-16"])) is None
    assert optimiser_note(host.parse_args([*flags, "--opt", "timm/lamb"])) is None


def test_timm_tower_of_another_size_is_named() -> None:
    cfg = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    for size in (64, 224):
        vision = {**cfg, "image_size": size}
        model = CustomTextCLIP(16, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
        if size == 224:
            _check_image_size("tiny", model.visual)
            continue
        with pytest.raises(UserError, match="images are 64 x 64 pixels .* takes 224 x 224 alone"):
            _check_image_size("tiny", model.visual)


def run(folder: Path, *flags: object, name: str = "run") -> Path:
    """A run in this process, with two steps an epoch."""
    table = folder / "train.csv"
    if not table.exists():
        write_table(folder, 4, annotated=[0, 2])
    train.main(
        [
            str(flag)
            for flag in (
                *BASIC,
                *("--logs", folder / "logs"),
                *("--train-data", table),
                *("--name", name),
                *"--batch-size 2 --epochs 1".split(),
                *flags,
            )
        ]
    )
    return folder / "logs" / name


# ---- flags


@pytest.mark.parametrize(
    "flags",
    [
        "--lr -1",
        "--lr nan",
        "--lr inf",
        "--wd nan",
        "--wd -0.1",
        "--wd inf",
        "--beta1 1",
        "--beta1 -0.1 --beta2 0.9",
        "--beta2 1.5",
        "--eps -1",
        "--eps nan",
        "--eps 0",
        "--epochs 0",
        "--epochs -1",
        "--epochs -2 --recipe clip",
        "--batch-size 0",
        "--batch-size -4",
        "--accum-freq 0",
        "--warmup -5",
        "--workers -1",
        "--seed -1",
        "--seed 99999999999",
        "--save-frequency -1",
        "--val-frequency -2",
        "--zeroshot-frequency -1",
        "--log-every-n-steps 0",
        "--force-image-size 0",
        "--force-image-size 32 0",
        "--force-image-size 1 2 3",
        "--force-context-length 0",
        "--force-patch-dropout 1",
        "--force-patch-dropout nan",
        "--grad-clip-norm 0",
        "--grad-clip-norm nan",
        "--grad-clip-norm -1",
        "--lr-cooldown-end -1",
        "--lr-cooldown-power 0",
        "--lr-scheduler cosin",
        "--lr-scheduler const-cooldown",
        "--epochs-cooldown 3",
        "--epochs-cooldown 9 --lr-scheduler const-cooldown --epochs 3",
        "--opt sgd",
        "--opt timm/lamm --lr 1 --eps 1",
        "--opt timm/lamb",
        "--opt timm/lamb --lr 1",
        "--momentum 0.9",
        "--device cdua",
        "--image-std 0 1 1",
        "--image-mean 0.5 0.5",
        "--image-mean nan",
        "--train-num-samples 0",
        "--aug-cfg scale=(1.0,0.5)",
        "--aug-cfg scale=2",
        "--aug-cfg scale",
        "--aug-cfg scale=(0.5",
        "--aug-cfg scael=(0.5,1)",
        "--expert-batch-size 0 --expert-data x.csv",
        "--eclip-alpha inf",
        "--eclip-alpha nan",
        "--eclip-priming-weight nan",
        "--eclip-curriculum 0.1 nan 0 0 0 0",
        "--eclip-crop-threshold nan",
        "--align-weight nan --method align",
        "--lock-image-unlocked-groups -1 --lock-image",
        "--lock-text-unlocked-layers -1 --lock-text",
        "--batch-size 1 --method clip",
        "--loss-dist-impl gather",
        "--runs-dir a --logs b",
        "--resume latest",
        *("--name=", "--name ../out"),
        "--name /tmp/out",
        "--report-to tensorbord",
    ],
)
def test_error_names_a_value_that_no_run_can_work_with(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        parse(*flags.split())
    message, flag = str(caught.value), flags.split()[0].split("=")[0]
    assert "\n" not in message, message
    assert flag in message or flag.removeprefix("--eclip-") in message, message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values",
    [
        {"alpha": math.inf},
        {"alpha": "0.3"},
        {"priming_weight": math.nan},
        {"lam": math.nan},
        {"processor": {"patch": 1.5}},
        {"processor": {"zero_init": "yes"}},
        {"curriculum": {"cold": "a"}},
        {"curriculum": {"warm": math.nan}},
        {"own_pairs": 3},
        {"regions": 1},
        {"curriculum": None},
        {"processor": {"width": -256}},
    ],
)
def test_model_configs_with_other_than_numbers_are_errors(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="eclip"):
        EClipConfig.from_dict(values)


def schedule(**changes: Any) -> tuple[argparse.Namespace, int]:
    args = argparse.Namespace(
        **{
            "accum_freq": 1,
            "epochs": 2,
            "lr": 5e-4,
            "warmup": 10_000,
            "skip_scheduler": False,
            "batch_size": 32,
            "siglip": False,
            **changes,
        }
    )
    return args, 8


@pytest.mark.parametrize(
    "changes,expected",
    [
        (
            {},
            (
                "warm-up of 10000 steps, the run has 16: the learning rate will not pass 8e-07 of"
                " --lr 0.0005; give --warmup, e.g. 1, or --recipe"
            ),
        ),
        (
            {"accum_freq": 4},
            (
                "the run has 4: the learning rate will not pass 2e-07 of --lr 0.0005; give"
                " --warmup, e.g. 0"
            ),
        ),
        ({"warmup": 16}, "the run has 16"),
        ({"warmup": 15}, None),
        ({"skip_scheduler": True}, None),
        ({"lr": 0}, "--lr 0: nothing"),
        ({"batch_size": 1, "warmup": 0}, "--batch-size 1"),
        ({"batch_size": 1, "warmup": 0, "siglip": True}, None),
    ],
)
def test_schedule_that_trains_nothing_is_a_warning(
    changes: dict[str, Any], expected: str | None
) -> None:
    warnings = schedule_warnings(*schedule(**changes), 1)
    assert expected in warnings[0] if expected else not warnings


def test_accumulation_beyond_an_epoch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--accum-freq 9 is more than the 8 batches"):
        schedule_warnings(*schedule(accum_freq=9), 1)
    with pytest.raises(UserError, match="--accum-freq 3 is more than the 2 batches"):
        run(tmp_path, "--accum-freq", 3)


# ---- the owner's commands


def test_missing_data_flags_are_an_error_with_a_remedy(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--model", "ViT-B-16"])
    assert train.run() == 2
    assert "error: no data: give --train-data FILE, e.g." in capsys.readouterr().err


def test_runs_dir_is_logs_and_torchrun_does_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("--runs-dir", "r").logs == "r"
    assert parse("--runs-dir", "r", "--logs", "r").logs == "r"
    assert parse("--logs", "s").logs == "s"
    from torch.distributed.run import get_args_parser

    taken = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    own = [flag for action in eclip_parser()._actions for flag in action.option_strings]
    assert "--logs-specs" in taken
    assert not [(mine, flag) for mine in own for flag in taken if flag.startswith(mine)]
    assert get_args_parser().parse_args(
        ["-m", "openclip_eclip.train", "--runs-dir", "r"]
    ).training_script_args == ["--runs-dir", "r"]


# ---- one folder, one process, one run

HOLD = (
    "import fcntl, sys\nfile = open(sys.argv[1], 'a+')\nfcntl.lockf(file,"
    " fcntl.LOCK_EX)\nfile.write(sys.argv[2])\nfile.flush()\nprint('held',"
    " flush=True)\nsys.stdin.read()\n"
)


def test_second_process_in_a_run_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs" / "run").mkdir(parents=True)
    facts = '{"pid": 4711, "host": "here", "start": "2026-11-28T04:00:00"}'
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "logs" / "run" / ".lock"), facts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    for flags in ([], ["--resume", "latest"]):
        with pytest.raises(
            UserError, match="in use by process 4711 on here, started 2026-11-28T04:00:00"
        ):
            run(tmp_path, *flags)
    assert not (tmp_path / "logs" / "run" / "out.log").exists()
    holder.communicate(b"")
    lock(tmp_path / "logs" / "run").close()
    assert f'"pid": {os.getpid()}' in (tmp_path / "logs" / "run" / ".lock").read_text()


def test_without_support_for_locks_the_run_continues_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("training_patches.run_folder.fcntl.lockf", unsupported)
    assert lock(tmp_path) is None and "cannot be locked" in caplog.text


@pytest.mark.slow
def test_rejected_run_logs_its_reason_and_leaves_its_name_free(tmp_path: Path) -> None:
    table = write_table(tmp_path, 4, annotated=[0])
    text = table.read_text()
    for _ in range(2):
        table.write_text(text.replace("images/0.npy", "images/gone.npy"))
        with pytest.raises(UserError, match="gone.npy"):
            run(tmp_path)
        last = (tmp_path / "logs" / "run" / "out.log").read_text().splitlines()[-1]
        assert "eclip: stopped: " in last and "gone.npy" in last
    table.write_text(text)
    folder = run(tmp_path)
    assert "stopped" not in (folder / "out.log").read_text()
    assert (folder / "checkpoints" / "epoch_1.pt").is_file()
    assert all("gone.npy" in (folder / f"out.attempt-{i}.log").read_text() for i in (1, 2))
    with pytest.raises(UserError, match="already exists"):
        run(tmp_path)


def test_unexpected_error_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr("training_patches.session.fill_schedule", broken)
    with pytest.raises(KeyError):
        run(tmp_path)
    assert (
        (tmp_path / "logs" / "run" / "out.log")
        .read_text()
        .splitlines()[-1]
        .endswith("eclip: stopped: KeyError: 'of ours'")
    )


# ---- losses that are no numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [[], ["--method", "clip"], ["--accum-freq", "2", "--epochs", "3"], ["--skip-scheduler"]],
)
def test_training_stops_at_the_first_loss_that_is_not_finite(
    flags: list[str], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=(
            r"the loss is not finite \(nan\) at step [1-3] \(epoch [012]\), learning rate .*e\+\d+,"
            r" --precision fp32"
        ),
    ) as caught:
        run(tmp_path, "--lr", 1e30, "--warmup", 0, "--epochs", 3, "--save-most-recent", *flags)
    folder = tmp_path / "logs" / "run"
    assert str(caught.value) in (folder / "out.log").read_text().splitlines()[-1]
    kept = list((folder / "checkpoints").glob("*.pt"))
    assert all(
        all(
            value.isfinite().all()
            for value in torch.load(path, weights_only=True)["state_dict"].values()
        )
        for path in kept
    )


@pytest.mark.slow
def test_weights_that_are_not_finite_do_not_overwrite_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the last step is finite and its update is not."""
    folder = run(tmp_path, "--save-most-recent")
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    step = torch.optim.AdamW.step

    def spoil(self: torch.optim.AdamW, *args: Any) -> None:
        step(self, *args)
        if self.state and next(iter(self.state.values()))["step"] == 4:
            self.param_groups[1]["params"][0].data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(
        UserError,
        match=(
            "tensors of the model are not finite, first .* no checkpoint is written at step 3"
            " .*last good checkpoint is .*epoch_1.pt"
        ),
    ):
        run(tmp_path, "--save-most-recent", "--resume", "latest", "--epochs", 2)
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


def test_finite_loss_changes_no_value_and_allows_infinite_buffers(tmp_path: Path) -> None:
    args = argparse.Namespace(
        world_size=1,
        skip_scheduler=False,
        accum_freq=1,
        logs=str(tmp_path),
        name="x",
        precision="fp32",
    )
    watcher, weight = FiniteLoss(args), torch.nn.Parameter(torch.tensor(2.0))
    watcher.start_epoch(0, torch.optim.SGD([weight], lr=1), lambda step: None, 3)(7)

    class Loss(torch.nn.Module):
        def forward(self, factor: float) -> dict[str, torch.Tensor]:
            return {"a_loss": weight * factor, "b_loss": weight * 0}

    loss = watcher.watch(Loss())
    assert loss(2.0)["a_loss"] == 4
    with pytest.raises(UserError, match="at step 7"):
        loss(math.inf)
    with torch.no_grad():
        loss(math.nan)  # an evaluation
    mask = {"mask": torch.tensor([-math.inf, 0])}
    watcher.check_weights(mask, frozenset(mask))
    with pytest.raises(UserError, match="first mask"):
        watcher.check_weights(mask)


# ---- going on from a checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 'clip', 'eclip' and 'align' of one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("clip", "eclip", "align"):
        run(folder, "--method", method, name=method)
    return folder


def checkpoint(runs: Path, method: str) -> Path:
    return runs / "logs" / method / "checkpoints" / "epoch_1.pt"


@pytest.mark.slow
@pytest.mark.parametrize(
    "source,method,flags",
    [
        ("clip", "eclip", []),
        ("eclip", "clip", []),
        ("align", "clip", []),
        ("clip", "align", []),
        ("eclip", "eclip+align", []),
        ("clip", "eclip", ["--pretrained", "{clip}"]),
    ],
)
def test_checkpoint_of_another_method_is_an_error_that_names_pretrained(
    source: str, method: str, flags: list[str], runs: Path, tmp_path: Path
) -> None:
    path = checkpoint(runs, source)
    with pytest.raises(
        UserError,
        match=(
            f"is of --method {source}, this run trains {method.replace('+', '.')}: give it as"
            " --pretrained to fine-tune, or the same"
        ),
    ):
        run(
            tmp_path,
            "--method",
            method,
            "--epochs",
            2,
            "--resume",
            path,
            *[flag.format(clip=path) for flag in flags],
        )
    # what it says works
    run(tmp_path, "--method", method, "--epochs", 1, "--pretrained", path, name="tuned")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ["--epochs", 1],
            "all 1 epochs are done, the checkpoint has 1, so there is nothing to train",
        ),
        (["--lock-image"], "--lock-image False, this run has True"),
        (["--opt", "timm/lamb", "--eps", 1e-6], "--opt adamw"),
        (["--force-image-size", 48], "visual.positional_embedding is"),
        (["--force-custom-text"], "another model"),
        (["--resume", "gone.pt"], "no such checkpoint"),
        (["--resume", "."], "is a folder"),
    ],
)
def test_checkpoints_that_cannot_be_resumed_are_errors(
    flags: list[object], message: str, runs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(
            tmp_path,
            "--method",
            "clip",
            "--epochs",
            2,
            "--resume",
            checkpoint(runs, "clip"),
            *flags,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag,value", [("--pretrained", math.nan), ("--pretrained", math.inf), ("--resume", math.nan)]
)
def test_pretrained_weights_that_are_not_finite_are_an_error(
    flag: str, value: float, runs: Path, tmp_path: Path
) -> None:
    """The error does not blame the learning rate."""
    content = torch.load(checkpoint(runs, "clip"), weights_only=True)
    content["state_dict"]["visual.proj"][0] = value
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(
        UserError, match=r"bad.pt: 1 of \d+ tensors hold NaN or infinite weights, first visual.proj"
    ):
        run(tmp_path, "--method", "clip", "--epochs", 2, flag, tmp_path / "bad.pt")


@pytest.mark.slow
def test_changed_settings_are_a_warning_and_older_checkpoints_resume(
    runs: Path, tmp_path: Path
) -> None:
    common = ("--method", "eclip", "--epochs", 2, "--seed", 5, "--lr", 1e-4, "--eclip-alpha", 0.7)
    folder = run(tmp_path, *common, "--resume", checkpoint(runs, "eclip"))
    log = (folder / "out.log").read_text()
    for change in (
        "--lr 0.001 -> 0.0001",
        "--seed 1 -> 5",
        "--epochs 1 -> 2",
        "eclip_cfg alpha 0.3 -> 0.7",
        "--train-data ",
    ):
        assert f"eclip: resuming with another setting: {change}" in log
    assert "--batch-size 2" not in log.split("resuming with", 1)[1]
    older = torch.load(checkpoint(runs, "eclip"), weights_only=True)
    # none in a checkpoint of release 0.1, which is of open_clip 3.3
    older["eclip"]["settings"] = {"open_clip_train": release().Patches.RELEASE}
    if release().Patches.RELEASE == "3.3":
        del older["eclip"]["settings"]
    torch.save(older, tmp_path / "older.pt")
    log = (
        run(tmp_path, *common, "--resume", tmp_path / "older.pt", name="older") / "out.log"
    ).read_text()
    assert "Train Epoch: 1" in log and "another setting" not in log
    with pytest.raises(
        UserError,
        match="holds a heatmap processor, as of --method eclip or naive, this run trains clip",
    ):
        run(
            tmp_path,
            "--method",
            "clip",
            "--epochs",
            2,
            "--resume",
            tmp_path / "older.pt",
            name="other",
        )


@pytest.mark.slow
def test_resume_latest_of_a_finished_run_says_that_nothing_is_trained(tmp_path: Path) -> None:
    folder = run(tmp_path)
    run(tmp_path, "--resume", "latest")
    assert (
        "all 1 epochs are done, the checkpoint has 1: nothing is trained"
        in (folder / "out.log").read_text().splitlines()[-1]
    )


@pytest.mark.slow
def test_save_most_recent_resumes_from_numbered_checkpoints_too(tmp_path: Path) -> None:
    """open_clip considers epoch_latest.pt alone, and would start again."""
    folder = run(tmp_path, "--epochs", 1)
    run(tmp_path, "--epochs", 2, "--resume", "latest", "--save-most-recent")
    log = (folder / "out.log").read_text()
    assert log.count("Start epoch 0") == 1
    assert "Start epoch 1" in log
    assert "save_most_recent: True" in log
    newest = folder / "checkpoints" / "epoch_latest.pt"
    newest.write_bytes(newest.read_bytes()[:-50])
    (folder / "checkpoints" / "epoch_2.pt").unlink()
    run(tmp_path, "--epochs", 2, "--resume", "latest", "--save-most-recent")
    log = (folder / "out.log").read_text()
    assert log.count("Start epoch 1") == 2
    assert "epoch_latest.pt is truncated, taking the one before it" in log


@pytest.mark.slow
def test_resume_latest_with_only_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    folder = run(tmp_path)
    newest = folder / "checkpoints" / "epoch_1.pt"
    newest.write_bytes(newest.read_bytes()[:-50])
    with pytest.raises(UserError, match="no complete checkpoint is left in"):
        run(tmp_path, "--resume", "latest")


@pytest.mark.slow
def test_a_run_without_a_name_is_locked_too(tmp_path: Path) -> None:
    write_table(tmp_path, 4, annotated=[0])
    train.main(
        [
            str(flag)
            for flag in (
                *BASIC,
                *("--logs", tmp_path / "logs"),
                *("--train-data", tmp_path / "train.csv"),
                *"--batch-size 2 --epochs 1".split(),
            )
        ]
    )
    assert f'"pid": {os.getpid()}' in next((tmp_path / "logs").glob("*/.lock")).read_text()


def test_settings_are_plain_values() -> None:
    old = {"lr": 1.0, "ranks": 2, "eclip_config": {"alpha": 0.3}, "gone": 1}
    assert run_settings.differences(
        old, {"lr": 1.0, "ranks": 4, "eclip_config": {"alpha": 0.3}, "seed": 1}
    ) == ["number of ranks 2 -> 4"]
    assert run_settings.differences({}, {"lr": 1.0}) == []


@pytest.mark.slow
def test_two_ranks_stop_together_with_a_single_message(launcher: Launcher) -> None:
    table = write_table(launcher.folder, 8, annotated=[0])
    flags = [
        *BASIC,
        *("--train-data", table),
        *"--batch-size 2 --epochs 3 --lr 1e+30 --warmup 0 --name nan".split(),
    ]
    done = launcher.train(flags, processes=2, check=False, timeout=120)
    assert done.returncode and done.stderr.count("error: the loss is not finite") == 1
    assert "Traceback (most recent call last)" not in done.stderr.split("error: the loss")[0]
    assert "the loss is not finite" in launcher.log("nan").splitlines()[-1]


@pytest.mark.parametrize(
    "last,error,expected",
    [
        (
            "| ERROR | eclip: stopped: row 3: not an image",
            torch.distributed.DistNetworkError("Connection reset by peer"),
            True,
        ),
        (
            "| ERROR | eclip: stopped on rank 1: row 3",
            RuntimeError("[gloo/pair.cc:534] Connection closed"),
            True,
        ),
        ("| ERROR | eclip: stopped on rank 1: row 3", Stopped("by SIGTERM", 15), True),
        ("| ERROR | eclip: stopped: row 3", RuntimeError("CUDA out of memory"), False),
        ("| ERROR | eclip: stopped: row 3", UserError("row 4"), False),
        ("| INFO | Train Epoch: 0", RuntimeError("Connection closed by peer"), False),
    ],
)
def test_consequence_of_another_ranks_stop_is_not_the_reported_reason(
    last: str, error: Exception, expected: bool, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "out.log").write_text(f"first\n2026-11-28,05:57:13 {last}\n")
    args = argparse.Namespace(logs=str(tmp_path), name="run", world_size=2)
    assert run_folder.is_consequence(args, error) == expected
    args.world_size = 1
    assert not run_folder.is_consequence(args, error)


@pytest.mark.slow
def test_logging_is_restored_after_a_run(tmp_path: Path) -> None:
    before = list(logging.root.handlers)
    run(tmp_path)
    assert logging.root.handlers == before
