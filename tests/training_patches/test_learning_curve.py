"""The learning curve: its numbers over resumes, its figure, the warning of overfitting."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import write_table
from PIL import Image
from test_mid_epoch import at_step, run, send, signal

from openclip_eclip.config import Stopped
from training_patches.finite_loss import FiniteLoss
from training_patches.learning_curve import (
    FIGURE,
    NUMBERS,
    LearningCurve,
    figure,
    is_overfitting,
    read,
)


def trained(step: int, loss: float) -> dict:
    return {"step": step, "epoch": step / 4, "train_loss": loss, "batches": 4}


def validated(step: int, loss: float) -> dict:
    return {"step": step, "epoch": step // 4, "val-loss": loss}


def test_overfitting_is_said_once_a_minimum() -> None:
    training = [trained(4 * i, 5 - 0.5 * i) for i in range(1, 9)]

    def warnings(losses: list[float], training: list[dict] = training) -> list[int]:
        lines = [validated(4 * i, loss) for i, loss in enumerate(losses, 1)]
        return [n for n in range(1, len(lines) + 1) if is_overfitting(training, lines[:n])]

    assert warnings([3, 2, 2.5, 2.1, 2.2, 2.6, 2.7]) == [5]
    assert warnings([2, 3, 3, 3]) == [4]  # the first one may be the lowest
    assert warnings([2, 3, 3, 1.9, 2, 2, 2]) == [7]  # a new minimum
    assert warnings([2, 3, 2, 3, 2]) == []  # not above the minimum
    assert warnings([2, 3, 2, 3, 3, 3]) == [6]  # equal minima: the last one counts
    assert warnings([4, 3, 2, 1]) == []
    rising = [trained(4 * i, 1 + 0.5 * i) for i in range(1, 9)]
    assert warnings([2, 3, 3, 3], rising) == []  # diverging, not overfitting
    assert warnings([2, 3, 3, 3], []) == []


@pytest.mark.parametrize("patience", [None, 3])
def test_the_warning_advises_what_is_not_given(
    patience: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = SimpleNamespace(logs=tmp_path, name="", keep_best="val-loss", patience=patience)
    args.log_every_n_steps = 1
    curve = LearningCurve(args)
    for epoch, loss in enumerate((2.0, 3.0, 3.0, 3.0), 1):
        curve.see(epoch - 1, 5.0 - epoch, 4.0 - epoch)
        curve.write_training(1)
        curve.write_validation(epoch, epoch, {"val-loss": loss})
        curve.after_validation(None)
    (record,) = caplog.records
    text = record.getMessage()
    assert "was lowest, 2, at epoch 1 and is higher since" in text
    assert ("--patience" in text) == (patience is None) and "--keep-best" not in text
    assert "give fewer --epochs" in text


def test_numbers_are_means_of_log_steps_and_the_last_attempt_counts(tmp_path: Path) -> None:
    args = SimpleNamespace(logs=str(tmp_path), name="run", log_every_n_steps=3)
    (tmp_path / "run").mkdir()
    curve = LearningCurve(args)
    for step, loss in enumerate((4.0, 3.0, 2.0, 1.0)):
        curve.see(step, loss, loss - 1)
        curve.see(step, loss + 1, loss)  # a second accumulated batch
    curve.write_training(4)
    curve.write_validation(4, 1, {"val-loss": 2.0})
    first = {"step": 3, "epoch": 0.75, "train_loss": 3.5, "batches": 6}
    second = {"step": 4, "epoch": 1.0, "train_loss": 1.5, "batches": 2}
    first["train_contrastive_loss"], second["train_contrastive_loss"] = 2.5, 0.5
    valid = {"step": 4, "epoch": 1, "val-loss": 2.0}
    path = tmp_path / "run" / NUMBERS
    assert read(path) == ([first, second], [valid])
    curve.see(7, 0.5, 0.5)
    curve.write_training(4)
    with path.open("a") as file:
        file.write('{"step": 8, "epo')  # killed while writing
    assert len(read(path)[0]) == 3
    path.write_text(path.read_text().rsplit("\n", 1)[0] + "\n")
    curve.see(3, 9.0, 8.0)  # resumed from step 3
    curve.write_training(4)
    again = {"train_loss": 9.0, "train_contrastive_loss": 8.0, "batches": 1}
    assert read(path) == ([first, second | again], [valid])
    assert read(tmp_path / "none") == ([], [])


def test_both_curves_are_contrastive_and_the_legend_covers_no_point() -> None:
    training = [trained(4 * i, 5 / i) | {"train_contrastive_loss": 3 / i} for i in range(1, 9)]
    validation = [validated(4 * i, 4.0) | {"recall@5": i / 9} for i in range(1, 9)]
    drawn = figure(training, validation, ("recall@5", 3), "run $a")
    drawn.draw_without_rendering()
    losses, kept = drawn.axes
    assert drawn.get_suptitle() == "run $a"
    assert list(losses.lines[0].get_ydata()) == [3 / i for i in range(1, 9)]
    assert losses.get_ylabel().endswith("(lower is better)")
    assert kept.get_ylabel() == "validation: recall@5\n(higher is better)"
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.texts] == ["training", "validation", "best epoch"]
    for axis in drawn.axes:
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())


def test_the_contrastive_term_is_seen_beside_the_sum() -> None:
    watcher = FiniteLoss(SimpleNamespace(world_size=1, skip_scheduler=False, accum_freq=1))
    watcher.start_epoch(0, SimpleNamespace(param_groups=[{"lr": 0.1}]), lambda step: None, 1)
    seen = []
    watcher.on_loss = lambda *values: seen.append(values)
    one, two = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0))
    for losses in ({"contrastive_loss": one, "align_loss": two}, {"other_loss": two}, one):
        module = watcher.watch(torch.nn.Identity())
        module(losses)
    assert seen == [(0, 3.0, 1.0), (0, 2.0, 2.0), (0, 1.0, 1.0)]


@pytest.mark.slow
def test_a_run_draws_its_curve_and_a_resumed_one_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, valid = write_table(tmp_path, 24), write_table(tmp_path / "valid", 8)
    data = ["--train-data", table, "--val-data", valid, "--keep-best", "mean-rank"]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        at_step(patch, 8, send(signal.SIGTERM))
        run(tmp_path, "run", *data)
    assert (tmp_path / "logs" / "run" / FIGURE).is_file()
    run(tmp_path, "run", *data, "--resume", "latest")
    run(tmp_path, "whole", *data)
    run(tmp_path, "plain", *data[:2])
    texts = [(tmp_path / "logs" / name / NUMBERS).read_text() for name in ("run", "whole")]
    assert texts[0] == texts[1]
    training, validation = read(tmp_path / "logs" / "run" / NUMBERS)
    assert [line["step"] for line in training] == list(range(1, 13))
    losses = [
        float(line.split(" Loss: ")[1].split()[0])
        for line in (tmp_path / "logs" / "whole" / "out.log").read_text().splitlines()
        if " Loss: " in line and "Train" in line
    ]
    assert [line["train_loss"] for line in training] == pytest.approx(losses, rel=1e-4)
    results = (tmp_path / "logs" / "run" / "checkpoints" / "results.jsonl").read_text()
    expected = [json.loads(line)["clip_val_loss"] for line in results.splitlines()]
    assert [line["val-loss"] for line in validation] == expected
    assert [line["epoch"] for line in validation] == [1, 2]
    with Image.open(tmp_path / "logs" / "run" / FIGURE) as picture:
        assert picture.size == (640, 560) and len(picture.convert("RGB").getcolors(10**6)) > 10
    assert not (tmp_path / "logs" / "plain" / NUMBERS).exists()  # nothing is validated
