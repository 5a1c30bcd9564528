"""The best epoch is kept; training ends by --patience and --minutes; a resume changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import BASIC, Launcher, write_table
from test_mid_epoch import at_step, checkpoints, send, signal

from openclip_eclip import run_flags, train
from openclip_eclip.checkpoint import export_plain, newest_complete
from openclip_eclip.config import Stopped, UserError
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from training_patches import saving
from training_patches.best import Best

pytestmark = pytest.mark.slow

VALUES = [3, 1, 2, 1, 2, 2, 2, 2]  # of validations, lower is better: the second epoch is the best
FLAGS = [*BASIC, *"--method clip --batch-size 4 --epochs 8".split()]
KEEP = "--keep-best val-loss --patience 3".split()


def run(folder: Path, name: str, *flags: object) -> None:
    train.main([str(flag) for flag in (*FLAGS, "--logs", folder / "logs", "--name", name, *flags)])


@pytest.fixture
def data(tmp_path: Path) -> list[object]:
    """12 images, so 3 steps an epoch, and 4 of validation."""
    table, valid = write_table(tmp_path, 12), write_table(tmp_path / "valid", 4, seed=1)
    return ["--train-data", table, "--val-data", valid]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation losses are VALUES."""
    monkeypatch.setitem(
        run_flags.OF_EVALUATION, "val-loss", lambda found: float(VALUES[found["epoch"] - 1])
    )


def log(folder: Path, name: str) -> str:
    return (folder / "logs" / name / "out.log").read_text()


def load(folder: Path, name: str, file: str = "epoch_best.pt") -> dict[str, Any]:
    return torch.load(folder / "logs" / name / "checkpoints" / file, weights_only=True)


def assert_equal(result: Any, expected: Any, where: str = "") -> None:
    """Equality of nested dicts and lists with tensors."""
    assert type(result) is type(expected), where
    if isinstance(expected, dict):
        assert result.keys() == expected.keys(), where
        for key in expected:
            assert_equal(result[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(result) == len(expected), where
        for i, pair in enumerate(zip(result, expected)):
            assert_equal(*pair, f"{where}[{i}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(result, expected), where
    else:
        assert result == expected, where


# ---- the best epoch


def test_the_best_epoch_is_kept_whatever_else_is_deleted(
    tmp_path: Path, data: list, scripted: None
) -> None:
    run(
        tmp_path,
        "kept",
        *data,
        *KEEP,
        *"--delete-previous-checkpoint --save-frequency 0 --keep-last 1".split(),
    )
    assert checkpoints(tmp_path, "kept") == [
        "epoch_4_batch_00000003.pt",
        "epoch_best.json",
        "epoch_best.pt",
        "results.jsonl",
    ]
    folder = tmp_path / "logs" / "kept" / "checkpoints"
    facts = {"measure": "val-loss", "value": 1.0, "epoch": 2}
    assert json.loads((folder / "epoch_best.json").read_text()) == facts
    kept = load(tmp_path, "kept")
    assert kept["epoch"] == 1 and kept["eclip"]["position"]["batch"] == 3
    assert newest_complete(folder) == folder / "epoch_4_batch_00000003.pt"
    text = log(tmp_path, "kept")
    assert "val-loss 2 at epoch 3; the best is 1 at epoch 2, in " in text
    assert "training ends: --patience 3: val-loss was best, 1, at epoch 2" in text
    assert text.count("Start epoch") == 5


def test_the_best_file_holds_the_weights_of_the_best_epoch(
    tmp_path: Path, data: list, scripted: None
) -> None:
    run(tmp_path, "run", *data, *KEEP, "--save-most-recent")
    assert_equal(
        load(tmp_path, "run")["state_dict"], load(tmp_path, "run", "epoch_2.pt")["state_dict"]
    )
    after = load(tmp_path, "run", "epoch_3.pt")["eclip"]["best"]
    assert after == {"measure": "val-loss", "value": 1.0, "epoch": 2, "since": 1}
    file = tmp_path / "logs" / "run" / "checkpoints" / "epoch_best.pt"
    assert export_plain(file, tmp_path / "plain") == file
    assert load_encoder(str(file)).facts["pretrained"] == "epoch_best.pt"
    weights = load_encoder(f"local-dir:{tmp_path / 'plain'}").model.state_dict()
    assert_equal(dict(weights), dict(load_encoder(str(file)).model.state_dict()))
    (tmp_path / "alone.pt").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="not in a run folder with open_clip_config.json"):
        load_encoder(str(tmp_path / "alone.pt"))


def test_a_run_that_ended_by_patience_ends_again_unless_it_gets_more(
    tmp_path: Path, data: list, scripted: None
) -> None:
    run(tmp_path, "run", *data, *KEEP)
    run(tmp_path, "run", *data, *KEEP, "--resume", "latest")
    assert log(tmp_path, "run").count("Start epoch") == 5
    assert log(tmp_path, "run").count("training ends: --patience 3") == 2
    run(tmp_path, "run", *data, *KEEP, "--patience", 5, "--resume", "latest")
    assert log(tmp_path, "run").count("Start epoch") == 7
    assert "training ends: --patience 5" in log(tmp_path, "run")


@pytest.mark.parametrize("when", ["mid-epoch", "evaluation of the best", "evaluation after it"])
def test_a_resumed_run_keeps_the_same_epoch_and_ends_at_the_same_time(
    when: str, tmp_path: Path, data: list, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        if when == "mid-epoch":
            at_step(patch, 10, send(signal.SIGTERM))
        else:
            epoch = 2 if when == "evaluation of the best" else 3
            original = Best.take

            def take(self: Best, value: float, now: int, checkpoint: Path) -> None:
                original(self, value, now, checkpoint)
                if now == epoch:
                    send(signal.SIGTERM)()

            patch.setattr(Best, "take", take)
        run(tmp_path, "run", *data, *KEEP)
    run(tmp_path, "run", *data, *KEEP, "--resume", "latest")
    os.rename(tmp_path / "logs", tmp_path / "interrupted")
    run(tmp_path, "run", *data, *KEEP)
    os.rename(tmp_path / "interrupted" / "run", tmp_path / "logs" / "again")
    for file in ("epoch_best.pt", "epoch_5.pt"):
        result, expected = load(tmp_path, "again", file), load(tmp_path, "run", file)
        for state in (
            result,
            expected,
        ):  # of a trained epoch, the random state of its start is void
            state["eclip"].get("position", {}).pop("ranks", None)
        assert_equal(result, expected)
    records = [
        (tmp_path / "logs" / name / "checkpoints" / "epoch_best.json").read_text()
        for name in ("run", "again")
    ]
    assert records[0] == records[1]
    assert newest_complete(tmp_path / "logs" / "again" / "checkpoints").name == "epoch_5.pt"


def test_a_best_epoch_of_an_abandoned_attempt_is_replaced(
    tmp_path: Path, data: list, scripted: None
) -> None:
    """Resumed before the best epoch, the run has another best one until it comes again."""
    run(tmp_path, "run", *data, *KEEP)
    folder = tmp_path / "logs" / "run" / "checkpoints"
    for path in folder.glob("epoch_[2-9]*.pt"):
        path.unlink()
    run(tmp_path, "run", *data, *KEEP, "--resume", "latest", "--epochs", 1)
    again = Best(SimpleNamespace(keep_best="val-loss", resume=str(folder / "epoch_1.pt")))
    again.args.checkpoint_path, again.args.world_size, again.args.rank = str(folder), 1, 0
    again.restore({"measure": "val-loss", "value": 3.0, "epoch": 1, "since": 0})
    assert again.state["epoch"] == 1  # brought back from epoch_1.pt
    assert_equal(load(tmp_path, "run"), load(tmp_path, "run", "epoch_1.pt"))
    again.restore({"measure": "val-loss", "value": 1.0, "epoch": 2, "since": 0})
    assert again.state is None  # nothing is left of it
    again.measure = "mean-rank"
    again.restore({"measure": "val-loss", "value": 3.0, "epoch": 1, "since": 0})
    assert again.state is None


def test_means_of_both_directions_and_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"clip_val_loss": 0.5}
    for way, rank, recall in (("image_to_text", 3.0, 0.2), ("text_to_image", 4.0, 0.6)):
        found |= {f"{way}_mean_rank": rank, f"{way}_R@5": recall}
    values = {name: value(found) for name, value in run_flags.OF_EVALUATION.items()}
    assert values == {"val-loss": 0.5, "mean-rank": 3.5, "recall@5": pytest.approx(0.4)}
    kept: list[int] = []
    monkeypatch.setattr(Best, "_keep", lambda self, path, state: kept.append(state["epoch"]))
    args = SimpleNamespace(keep_best="recall@5", patience=2, checkpoint_path=tmp_path, rank=0)
    higher = Best(args)
    for epoch, value in enumerate((float("nan"), 0.3, 0.3, float("nan"), 0.4), 1):
        higher.take(value, epoch, tmp_path)
        if epoch == 4:
            assert "best, 0.3, at epoch 2, and no better in 2" in higher.why_over()
    assert kept == [2, 5] and higher.why_over() is None


def test_a_copy_is_made_where_files_cannot_be_linked(
    tmp_path: Path, data: list, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", link)
    run(tmp_path, "run", *data, *KEEP, "--epochs", 2)
    assert_equal(
        load(tmp_path, "run")["state_dict"], load(tmp_path, "run", "epoch_2.pt")["state_dict"]
    )
    assert not list((tmp_path / "logs" / "run" / "checkpoints").glob(".*"))


# ---- --minutes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("step", [4, 5])
def test_minutes_end_a_run_that_resumes_as_if_it_had_not_ended(
    step: int, tmp_path: Path, data: list, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*data, *"--epochs 3 --minutes 2 --save-most-recent --save-frequency 0".split()]
    flags.append("--delete-previous-checkpoint")

    def later() -> None:
        clock[0] += 121

    with monkeypatch.context() as patch:
        at_step(patch, step, later)
        run(tmp_path, "run", *flags)
    text, files = log(tmp_path, "run"), checkpoints(tmp_path, "run")
    assert text.count("Start epoch") == 2
    if step == 4:  # within the second epoch
        expected = "batch 2 of 3 in epoch 1: 5 of 9 steps, 55.6 %, are trained"
        assert files == ["epoch_1_batch_00000002.pt", "epoch_latest.pt", "results.jsonl"]
        assert "Eval Epoch: 2" not in text
    else:  # with its last step: it ends as always
        expected = "batch 3 of 3 in epoch 1: 6 of 9 steps, 66.7 %, are trained"
        assert "epoch_latest.pt" in files and "Eval Epoch: 2" in text
    assert f"training ends: --minutes 2 are over after {expected}" in text
    assert "planned for all 3 epochs" in text
    clock[0] = 0
    run(tmp_path, "run", *flags, "--resume", "latest")
    run(tmp_path, "whole", *flags)
    for name in ("run", "whole"):
        assert "epoch_3.pt" in checkpoints(tmp_path, name)
    assert_equal(
        load(tmp_path, "run", "epoch_3.pt")["state_dict"],
        load(tmp_path, "whole", "epoch_3.pt")["state_dict"],
    )


def test_minutes_that_pass_in_an_evaluation_begin_no_epoch(
    tmp_path: Path, data: list, clock: list[float], scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Best.take

    def take(self: Best, *args: Any) -> None:
        original(self, *args)
        clock[0] += 61

    monkeypatch.setattr(Best, "take", take)
    run(tmp_path, "run", *data, *KEEP, "--minutes", 1)
    assert log(tmp_path, "run").count("Start epoch") == 1
    assert "epoch_1.pt" in checkpoints(tmp_path, "run")
    # all is trained: nothing to say
    run(tmp_path, "one", *data, *KEEP, "--minutes", 1, "--epochs", 1)
    assert "training ends" not in log(tmp_path, "one")


def test_minutes_that_pass_in_the_last_step_begin_no_epoch(
    tmp_path: Path, data: list, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def later() -> None:
        clock[0] += 61

    at_step(monkeypatch, 2, later)
    run(tmp_path, "run", *data[:2], *"--minutes 1 --save-frequency 0".split())
    assert log(tmp_path, "run").count("Start epoch") == 1
    assert checkpoints(tmp_path, "run") == ["epoch_0_batch_00000003.pt"]


def test_two_ranks_stop_together(launcher: Launcher) -> None:
    table = write_table(launcher.folder, 16)
    data = [*BASIC, "--train-data", table, "--val-data", table, "--batch-size", 4, "--epochs", 5]
    patient = [*data, *"--lr 0 --keep-best mean-rank --patience 2 --name patience".split()]
    short = [*data, *"--minutes 1e-9 --name minutes".split()]
    launcher.train(patient, short, [*short, "--resume", "latest"], [*patient, *RESUME], processes=2)
    assert launcher.log("patience").count("Start epoch") == 3
    assert launcher.log("patience").count("at epoch 1, and no better in 2") == 2
    # two steps an epoch: all ranks know of the first one's clock a step later
    assert "after batch 2 of 2 in epoch 0: 2 of 10 steps, 20 %" in launcher.log("minutes")
    assert "4 of 10 steps, 40 %" in launcher.log("minutes")


RESUME = ("--resume", "latest")


# ---- errors before training


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--keep-best val-loss", "--keep-best without --val-data has no effect"),
        ("--patience 2", "--patience without --keep-best has no effect"),
        ("--keep-best val-loss --val-data x.csv --val-frequency 0", "no epoch is validated"),
        ("--keep-best val-loss --val-data x.csv --patience 0", "--patience 0: expected 1 or more"),
        ("--keep-best val-loss --val-data x.csv --logs none", "nothing is saved there"),
        ("--minutes 0", "--minutes 0.0: expected a number above 0"),
        ("--minutes 5 --logs none", "--minutes with --logs none"),
        ("--minutes nan", "--minutes nan: expected"),
        (
            "--method eclip --keep-best grounding --val-data x.csv --eclip-placebo random",
            "true heatmaps would choose",
        ),
    ],
)
def test_meaningless_flags_are_errors(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, "run", "--train-data", tmp_path / "x.csv", *flags.split())


def test_the_best_epoch_needs_a_run_that_trains(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--keep-best without --train-data"):
        run(tmp_path, "run", "--val-data", tmp_path / "x.csv", "--keep-best", "val-loss")
