"""Invariant 14: a run that stops in mid-epoch resumes with the same batches and draws.

Where it cannot, it logs a warning.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, TESTS, environment, write_shard, write_table
from test_resume import png

from openclip_eclip import train
from openclip_eclip.checkpoint import newest_complete
from openclip_eclip.config import Stopped, UserError
from openclip_eclip.data.joint_transform import JointTransform
from training_patches import release, saving
from training_patches.mid_epoch import ResumableLoader, position_from, resumable
from training_patches.resume import random_state
from training_patches.train_data import train_source

pytestmark = pytest.mark.slow

FLAGS = [
    *BASIC,
    *"--batch-size 4 --epochs 2".split(),
    *"--aug-cfg use_timm=True scale=(0.5,1.0) re_prob=0.5 color_jitter=0.3".split(),
    *"--eclip-curriculum 0 0 0 1 1 1".split(),
]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """4 shards of 9 samples; one image cannot be decoded."""
    import numpy as np

    rng = np.random.default_rng(0)
    for shard in range(4):
        members = {}
        for i in range(9):
            content = png(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            members[f"{shard}{i:04d}.png"] = content[:200] if (shard, i) == (1, 4) else content
            members[f"{shard}{i:04d}.txt"] = f"finding {i} of {shard}".encode()
        write_shard(tmp_path / f"{shard}.tar", members)
    return str(tmp_path / "{0..3}.tar")


# ---- the loader: every position, against the uninterrupted epoch


def build(flags: list) -> tuple[Namespace, Any, Any]:
    """A loader as at the start of a run, with the same random state, and its epoch's setter."""
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    args = patches.parse_args([str(flag) for flag in (*FLAGS, "--name", "never", *flags)])
    args.distributed, args.rank, args.world_size = False, 0, 1
    _, preprocess, _ = open_clip.create_model_and_transforms("tiny", aug_cfg=args.aug_cfg)
    info = train_source(
        args, JointTransform(preprocess, 0.1), open_clip.get_tokenizer("tiny"), 0, heatmaps=True
    ).info
    host.random_seed(3)
    return args, info, resumable(info.dataloader, info.shared_epoch)


def begin(info: Any, loader: ResumableLoader, epoch: int, position: Any = None) -> Iterator:
    info.set_epoch(epoch)
    loader.begin_epoch(epoch, position)
    return iter(loader)


def content(batch: Any) -> tuple:
    """Ids, pixels and a draw of the main process (as of dropout): all that training depends on."""
    return (
        batch.sample_id.tolist(),
        batch.image.sum(dtype=torch.float64).item(),
        torch.rand(1).item(),
    )


@pytest.mark.parametrize(
    "source,workers", [("table", 0), ("table", 2), ("shards", 0), ("shards", 2), ("synthetic", 0)]
)
def test_every_position_resumes_with_the_rest_of_the_epoch(
    source: str, workers: int, shards: str, tmp_path: Path
) -> None:
    data = {
        "table": ["--train-data", write_table(tmp_path, 33, annotated=range(0, 33, 3))],
        "shards": ["--train-data", shards, "--train-num-samples", 36, "--on-bad-sample", "skip"],
        "synthetic": ["--dataset-type", "synthetic", "--train-num-samples", 33],
    }[source]
    flags = [*data, "--workers", workers]
    _, info, loader = build(flags)
    expected, kept = [], {}
    for i, batch in enumerate(begin(info, loader, 0), 1):
        expected.append(content(batch))
        kept[i] = random_state(), loader.checkpoint_state()
    # two workers take their shards twice
    assert len(expected) == loader.num_batches and len({pixels for _, pixels, _ in expected}) >= 6
    second = [content(batch) for batch in begin(info, loader, 1)]
    assert second != expected
    for i in (
        (1, len(expected) - 1, len(expected))
        if workers
        else (1, 2, len(expected) // 2, len(expected) - 1, len(expected))
    ):
        _, info, again = build(flags)
        torch.rand(7)  # the state at which the new process arrives is of no account
        now, state = kept[i]
        rest = begin(info, again, 0, position_from(i, now, state))
        assert again.first_batch == i and [content(batch) for batch in rest] == expected[i:], i
        assert [content(batch) for batch in begin(info, again, 1)] == second, (
            f"epoch after position {i}"
        )


def test_consumed_samples_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--train-data", write_table(tmp_path, 33)]
    _, info, loader = build(flags)
    batches = begin(info, loader, 0)
    [next(batches) for _ in range(6)]
    position = position_from(6, random_state(), loader.checkpoint_state())
    _, info, loader = build(flags)
    read, samples = [], loader.parts.samples
    monkeypatch.setattr(
        type(samples),
        "__getitem__",
        lambda self, i, original=type(samples).__getitem__: read.append(i) or original(self, i),
    )
    assert len(list(begin(info, loader, 0, position))) == 2 and len(read) == 8


# ---- whole runs in this process


def run(folder: Path, name: str, *flags: object) -> None:
    train.main([str(flag) for flag in (*FLAGS, "--logs", folder / "logs", "--name", name, *flags)])


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Call `action` after step `step` of the next run."""
    original = saving.MidEpochSaver.after_step

    def after_step(self: Any, now: int, batch: int) -> None:
        if now == step:
            action()
        original(self, now, batch)

    monkeypatch.setattr(saving.MidEpochSaver, "after_step", after_step)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def checkpoints(folder: Path, name: str) -> list[str]:
    return sorted(path.name for path in (folder / "logs" / name / "checkpoints").iterdir())


def weights(folder: Path, name: str, epoch: int = 2) -> dict[str, torch.Tensor]:
    return torch.load(
        folder / "logs" / name / "checkpoints" / f"epoch_{epoch}.pt", weights_only=True
    )["state_dict"]


def assert_same_weights(folder: Path, name: str, other: str) -> None:
    result, expected = weights(folder, name), weights(folder, other)
    assert all(torch.equal(result[key], value) for key, value in expected.items())
    assert set(result) == set(expected)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_patches.run_log.RunLog.draw", lambda *_: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_position_and_stops(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    table = write_table(tmp_path, 24, annotated=range(0, 24, 3))
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        at_step(patch, 8, send(number))
        patch.setattr(
            sys,
            "argv",
            [
                "train",
                *[
                    str(flag)
                    for flag in (
                        *FLAGS,
                        *("--logs", tmp_path / "logs"),
                        "--name",
                        "stopped",
                        *("--train-data", table),
                    )
                ],
            ],
        )
        assert train.run() == 128 + number
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"stopped by {number.name} after batch 3 of 6 in epoch 1" in error
    assert "--resume latest" in error
    assert [
        signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    ] == handlers
    assert checkpoints(tmp_path, "stopped") == ["epoch_1.pt", "epoch_1_batch_00000003.pt"]

    run(tmp_path, "stopped", "--train-data", table, "--resume", "latest")
    run(tmp_path, "whole", "--train-data", table)
    assert_same_weights(tmp_path, "stopped", "whole")
    log = (tmp_path / "logs" / "stopped" / "out.log").read_text()
    assert "epoch 1 resumes after batch 3 of 6" in log
    # no step of the second epoch twice, none left out; some releases count samples anew
    shares = re.findall(r"Train Epoch: 1 \[ *\d+/24 \((\d+)%\)\]", log)
    assert shares == ["17", "33", "50", "67", "83", "100"]
    views = [
        (tmp_path / "logs" / name / "annotated_views.csv").read_text()
        for name in ("stopped", "whole")
    ]
    assert views[0] == views[1] and ",2" in views[0]


def test_a_second_interrupt_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 1, lambda: [send(signal.SIGINT)() for _ in range(2)])
    with pytest.raises(Stopped, match="second SIGINT, without saving") as stopped:
        run(tmp_path, "run", "--train-data", write_table(tmp_path, 24))
    assert stopped.value.exit_code == 130 and checkpoints(tmp_path, "run") == []


def test_a_signal_before_training_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training_patches.session.train_source", lambda *_, **__: send(signal.SIGTERM)()
    )
    with pytest.raises(Stopped, match="by SIGTERM before training, with nothing to save"):
        run(tmp_path, "run", "--train-data", tmp_path / "x.csv")


def test_sigusr1_saves_and_continues_and_the_last_k_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 2, send(signal.SIGUSR1))
    table = write_table(tmp_path, 40)
    folder = tmp_path / "logs" / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ".epoch_9.pt.1.partial").write_bytes(b"of a run that was killed")
    (folder / "epoch_0_batch_00000009.pt").write_bytes(
        b"further than this run, which began its epoch anew"
    )
    run(
        tmp_path,
        "run",
        "--train-data",
        table,
        "--save-every-steps",
        4,
        "--keep-last",
        2,
        "--epochs",
        1,
    )
    assert checkpoints(tmp_path, "run") == [
        "epoch_0_batch_00000004.pt",
        "epoch_0_batch_00000008.pt",
        "epoch_1.pt",
    ]
    assert (
        "batch 3 of 10 in epoch 0: saved in" in (tmp_path / "logs" / "run" / "out.log").read_text()
    )
    assert newest_complete(folder) == folder / "epoch_1.pt"
    (folder / "epoch_1.pt").write_bytes(b"PK")
    assert newest_complete(folder) == folder / "epoch_0_batch_00000008.pt"


def test_save_every_minutes(tmp_path: Path) -> None:
    run(
        tmp_path,
        "run",
        "--train-data",
        write_table(tmp_path, 24),
        "--save-every-minutes",
        1e-9,
        "--keep-last",
        9,
        "--epochs",
        1,
    )
    assert [name for name in checkpoints(tmp_path, "run") if "batch" in name] == [
        f"epoch_0_batch_{i:08d}.pt" for i in range(1, 6)
    ]


@pytest.mark.parametrize(
    "flags,difference",
    [
        (["--workers", 1], "--workers 0, now 1"),
        (["--batch-size", 3], "--batch-size 4, now 3; batches 6, now 8"),
        (["--seed", 2], "--seed 1, now 2"),
    ],
)
def test_other_batches_restart_the_epoch_with_a_warning(
    flags: list, difference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path, 24)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        at_step(patch, 3, send(signal.SIGTERM))
        run(tmp_path, "run", "--train-data", table)
    run(
        tmp_path,
        "run",
        "--train-data",
        table,
        "--resume",
        "latest",
        "--save-every-steps",
        1,
        *flags,
    )
    log = (tmp_path / "logs" / "run" / "out.log").read_text()
    assert (
        f"saved after batch 4 of epoch 0, but its batches cannot be repeated ({difference}" in log
    )
    assert "starts again" in log
    assert len(
        [line for line in log.split("starts again")[1].splitlines() if "Train Epoch: 0 " in line]
    ) == (8 if "3" in map(str, flags) else 6)


def test_another_number_of_processes_restarts_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path, 24)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        at_step(patch, 3, send(signal.SIGTERM))
        run(tmp_path, "run", "--train-data", table)
    path = tmp_path / "logs" / "run" / "checkpoints" / "epoch_0_batch_00000004.pt"
    checkpoint = torch.load(path, weights_only=True)
    position = checkpoint["eclip"]["position"]
    position["made_of"]["processes"], position["ranks"] = 2, position["ranks"] * 2
    checkpoint["eclip"]["random"] *= 2
    torch.save(checkpoint, path)
    run(tmp_path, "other", "--train-data", table, "--resume", path)
    log = (tmp_path / "logs" / "other" / "out.log").read_text()
    assert "(processes 2, now 1): the epoch starts again" in log
    assert log.count("Train Epoch: 0 ") == 6


def test_the_epoch_is_saved_before_a_bad_validation_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, valid = write_table(tmp_path, 24), write_table(tmp_path / "valid", 8)
    common = ["--train-data", table, "--val-data", valid]
    image = tmp_path / "valid" / "images" / "5.png"
    good = image.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="row 6"):
        # after all checks before training
        at_step(patch, 1, lambda: image.write_bytes(good[:200]))
        run(tmp_path, "bad", *common)
    assert checkpoints(tmp_path, "bad") == ["epoch_0_batch_00000006.pt"]
    image.write_bytes(good)
    run(tmp_path, "bad", *common, "--resume", "latest")
    run(tmp_path, "whole", *common)
    assert_same_weights(tmp_path, "bad", "whole")
    results = [
        (tmp_path / "logs" / name / "checkpoints" / "results.jsonl").read_text()
        for name in ("bad", "whole")
    ]
    assert results[0] == results[1]
    assert [json.loads(line)["epoch"] for line in results[0].splitlines()] == [1, 2]
    assert checkpoints(tmp_path, "bad") == ["epoch_1.pt", "epoch_2.pt", "results.jsonl"]
    assert (tmp_path / "logs" / "bad" / "out.log").read_text().count(
        "Train Epoch: 0 "
    ) == 6  # nothing twice


def test_a_signal_in_the_evaluation_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "open_clip_train.train.get_clip_metrics", lambda **_: send(signal.SIGTERM)()
    )
    with pytest.raises(Stopped, match="in the evaluation; --resume latest repeats it"):
        run(
            tmp_path,
            "run",
            "--train-data",
            write_table(tmp_path, 24),
            "--val-data",
            write_table(tmp_path / "valid", 8),
        )
    assert checkpoints(tmp_path, "run") == ["epoch_0_batch_00000006.pt"]


def test_a_trained_epoch_needs_no_batch_in_any_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, common = (
        write_table(tmp_path, 24),
        ["--epochs", 1, "--val-data", write_table(tmp_path / "valid", 8)],
    )
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("open_clip_train.train.get_clip_metrics", lambda **_: send(signal.SIGINT)())
        run(tmp_path, "run", "--train-data", table, *common)
    run(tmp_path, "run", "--train-data", table, *common, "--resume", "latest", "--workers", 1)
    log = (tmp_path / "logs" / "run" / "out.log").read_text()
    assert "epoch 0 is trained" in log
    assert "starts again" not in log
    assert log.count("Train Epoch: 0 ") == 6
    assert checkpoints(tmp_path, "run") == ["epoch_1.pt", "results.jsonl"]


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--save-every-steps", "0"], "--save-every-steps 0: expected at least 1"),
        (["--save-every-minutes", "0"], "expected a number above 0"),
        (["--save-every-minutes", "nan"], "expected a number above 0"),
        (["--keep-last", "0"], "--keep-last 0: expected at least 1"),
        (["--save-every-steps", "5", "--logs", "none"], "nothing is saved there"),
    ],
)
def test_meaningless_saving_flags_are_errors(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, "run", "--train-data", tmp_path / "x.csv", *flags)


# ---- killed from outside, in processes of their own


def test_runs_killed_in_mid_epoch_and_while_writing_resume(tmp_path: Path) -> None:
    """Some of the kills of scripts/reliability_kills.py, to whole process groups.

    SIGKILL, SIGTERM, and SIGKILL while writing.
    """
    settings = ("shards-workers", "expert-accumulated", "align-two-ranks")
    done = subprocess.run(
        [
            sys.executable,
            TESTS / "workers" / "kill_runs.py",
            tmp_path / "kills",
            *"--kills 6 --chain 2".split(),
            "--settings",
            *settings,
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["wrong"] == [] and result["same"] == 3 and result["settings"] == sorted(settings)
    assert result["by_kind"] == {"SIGKILL": 2, "SIGTERM": 2, "writing": 2}
