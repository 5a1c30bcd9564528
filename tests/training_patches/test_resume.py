"""Invariants 4 and 5: accumulation and resume.

Accumulation has the same draws, and a killed and resumed run ends like an uninterrupted one.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASIC, Launcher, environment, write_shard, write_table
from PIL import Image

pytestmark = pytest.mark.slow

EPOCHS = 3


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, shards: int = 2, count: int = 12) -> str:
    """webdataset shards with every third sample annotated, and sizes.json."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = []
    for shard in range(shards):
        name = f"train-{shard:06d}.tar"
        members = {}
        for i in range(count):
            key = f"{shard}{i:04d}"
            members[f"{key}.png"] = png(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            members[f"{key}.txt"] = f"finding {i} of {shard}".encode()
            if i % 3 == 0:
                members[f"{key}.heatmap.png"] = png(
                    rng.integers(1, 65536, (20, 20), dtype=np.uint16)
                )
        write_shard(folder / name, members)
        sizes.append(f'"{name}": {count}')
    (folder / "sizes.json").write_text("{" + ", ".join(sizes) + "}")
    return str(folder / f"train-{{000000..{shards - 1:06d}}}.tar")


def kill_in_epoch(launcher: Launcher, run: list, name: str, epoch: int, step: str) -> None:
    """Start a run and SIGKILL it once its log shows `step` of `epoch`."""
    log = launcher.folder / "logs" / name / "out.log"
    _, *words = launcher.command("openclip_eclip.train", [run])
    # the real Python: a kill of the fast one would end its client first, and the run a moment later
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        cwd=launcher.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (log.exists() and f"Train Epoch: {epoch} [{step}" in log.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended by itself"


def assert_same_end(launcher: Launcher, name: str, other: str) -> None:
    result, expected = launcher.checkpoint(name, EPOCHS), launcher.checkpoint(other, EPOCHS)
    for key, value in expected["state_dict"].items():
        assert torch.equal(result["state_dict"][key], value), key
    assert result["eclip"]["views"] == expected["eclip"]["views"]
    assert sum(expected["eclip"]["views"].values()) > 0
    views = [
        (launcher.folder / "logs" / run / "annotated_views.csv").read_text()
        for run in (name, other)
    ]
    assert views[0] == views[1]


@pytest.mark.parametrize("source", ["csv", "webdataset"])
def test_killed_and_resumed_run_equals_the_uninterrupted_run(
    launcher: Launcher, source: str
) -> None:
    """A table with the separate stream, and shards; both with a data worker.

    The second kill leaves a truncated checkpoint.
    """
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 3))
    data = table if source == "csv" else write_shards(launcher.folder / "shards")
    extra = ("--expert-data", table, "--expert-batch-size", 2) if source == "csv" else ()
    run = [
        *BASIC,
        *("--train-data", data),
        "--batch-size",
        4,
        *("--epochs", EPOCHS),
        "--workers",
        1,
        *extra,
        *"--aug-cfg scale=(0.5,1.0) --eclip-curriculum 0.2 0.3 0.3 0.5 1 0.5".split(),
    ]
    kill_in_epoch(launcher, [*run, "--name", "killed"], "killed", 1, " 8/24")
    resume = [*run, "--name", "killed", "--resume", "latest"]
    launcher.train([*run, "--name", "whole"], resume)
    assert "resuming checkpoint" in launcher.log("killed")
    assert_same_end(launcher, "killed", "whole")

    folder = launcher.folder / "logs" / "killed" / "checkpoints"
    (folder / "epoch_3.pt").unlink()
    content = (folder / "epoch_2.pt").read_bytes()
    (folder / "epoch_2.pt").write_bytes(content[: len(content) // 2])
    (folder / ".epoch_3.pt.partial").write_bytes(content[:100])
    launcher.train(resume)
    assert "epoch_2.pt is truncated, taking the one before it" in launcher.log("killed")
    assert_same_end(launcher, "killed", "whole")


def test_accumulation_has_the_draws_of_the_whole_batch(launcher: Launcher) -> None:
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 2))
    common = [
        *BASIC,
        *("--train-data", table),
        *"--epochs 2 --lr 0 --eclip-curriculum 0.2 0 0 0 0 0.7".split(),
        *("--expert-data", table),
    ]
    launcher.train(
        [*common, "--name", "one", "--batch-size", 12, "--expert-batch-size", 4],
        [*common, *"--name three --batch-size 4 --accum-freq 3 --expert-batch-size 4".split()],
        [*common, *"--name matched --batch-size 4 --accum-freq 3 --expert-batch-size 2".split()],
        [*common, "--name", "whole", "--batch-size", 12, "--expert-batch-size", 6],
    )
    assert launcher.losses("matched") == pytest.approx(launcher.losses("whole"), rel=2e-5)
    assert len(launcher.losses("whole")) == 4
    # other experts: the test can fail
    assert launcher.losses("three") != pytest.approx(launcher.losses("one"), rel=2e-5)
