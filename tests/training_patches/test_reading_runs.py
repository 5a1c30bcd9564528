"""--fast-jpeg and the log of waiting, in runs and in the log alone."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

import pytest
from conftest import BASIC, Launcher, write_table
from PIL import Image

from openclip_eclip import train
from openclip_eclip.batching.waiting import Waiting
from openclip_eclip.config import UserError
from openclip_eclip.params import Method
from openclip_eclip.same_text import SameText
from training_patches.run_log import RunLog


def jpeg_table(folder: Path) -> Path:
    """24 smooth JPEGs of 200 px, every third with a heatmap."""
    table = write_table(folder, 24, annotated=range(0, 24, 3))
    for path in (folder / "images").glob("*.png"):
        image = Image.open(path).resize((200, 200), Image.Resampling.BICUBIC)
        image.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    table.write_text(table.read_text().replace(".png", ".jpg"))
    return table


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    launcher = Launcher(tmp_path_factory.mktemp("reading"))
    common = (*BASIC, "--train-data", jpeg_table(launcher.folder), "--batch-size", 4)
    common = (*common, "--epochs", 2, "--eclip-curriculum", 0, 0, 0, 1, 1, 1)
    launcher.train(
        (*common, "--name", "plain"),
        (*common, "--name", "fast", "--fast-jpeg"),
        (*common, "--name", "clip", "--fast-jpeg", "--method", "clip"),
        (
            *(*common, "--name", "resumed", "--fast-jpeg"),
            *("--resume", "logs/fast/checkpoints/epoch_1.pt"),
        ),
    )
    return launcher


@pytest.mark.slow
def test_fast_jpeg_trains_on_nearly_the_same_pixels(runs: Launcher) -> None:
    plain, fast = runs.losses("plain"), runs.losses("fast")
    assert len(fast) == len(plain) >= 12 and fast != plain
    assert fast == pytest.approx(plain, rel=2e-2)
    assert runs.losses("resumed") == fast[len(fast) // 2 :]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "clip"])
def test_each_epoch_logs_how_long_it_waited(runs: Launcher, name: str) -> None:
    lines = re.findall(
        r"eclip: epoch (\d+) waited for data ([\d.e+-]+) % of the time \(([\d.]+) of ([\d.]+) s\)$",
        runs.log(name),
        re.MULTILINE,
    )
    assert [line[0] for line in lines] == ["0", "1"]
    # without workers, the loop waits while it reads; on a CPU nothing is advised
    assert all(0 < float(share) < 100 for _, share, *_ in lines)


def test_the_log_gives_advice_where_a_gpu_waits(caplog: pytest.LogCaptureFixture) -> None:
    drawn = []
    log = RunLog(
        argparse.Namespace(
            **{"rank": 0, "log_local": False, "world_size": 1, "wandb": False},
            **{"device": "cuda:0", "workers": 1, "fast_jpeg": False},
        ),
        Method(("clip",), None, (), False, SameText()),
    )
    log.writer = argparse.Namespace(add_scalar=lambda *values: drawn.append(values))
    waiting = Waiting()
    with caplog.at_level(logging.INFO):
        log.waiting(waiting, 0, 5)
        assert not caplog.records  # an epoch of one batch
        waiting.seconds, waiting.total = 40, 100
        log.waiting(waiting, 3, 5)
    assert drawn == [("train/waiting_share", 0.4, 5)]
    told = caplog.records[-1].getMessage()
    assert told.startswith("eclip: epoch 3 waited for data 40 % of the time (40.0 of 100.0 s): ")
    assert "--workers 2 instead of 1" in told or "for each of the 1 cores already" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fast-jpeg"], "--fast-jpeg without --train-data has no effect"),
        (
            "--fast-jpeg --train-data x --freeze-image all --method align --cache-tokens x".split(),
            "--fast-jpeg with --cache-tokens: ",
        ),
    ],
)
def test_bad_combinations_are_errors(flags: list[str], message: str) -> None:
    words = [str(word) for word in (*BASIC, "--name", "never", *flags)]
    with pytest.raises(UserError, match=re.escape(message)):
        train.main([*words, *(() if "--train-data" in flags else ("--val-data", "x.csv"))])
