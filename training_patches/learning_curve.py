"""The learning curve of a run with --val-data: its numbers, its figure, a warning of overfitting.

The numbers are lines of learning_curve.jsonl in the run folder, so a resumed run continues them.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openclip_eclip.data.figures import agg_figure
from openclip_eclip.files import write_whole

from .best import LOWER

logger = logging.getLogger(__name__)

NUMBERS, FIGURE = "learning_curve.jsonl", "learning_curve.png"
RISES = 3  # validations above the minimum that are a warning
MARKED = 50  # most points of a curve that are marked one by one
Line = dict[str, Any]


class LearningCurve:
    """Numbers and figure of a run; for its first rank.

    A line of training has step, epoch (both counted from the start of the run, so that 1.5 is the
    middle of the second epoch), train_loss, the mean over `batches` batches (with several ranks
    of the largest loss among them), and train_contrastive_loss, the same of its contrastive term.
    A line of validation has step, epoch and the values of --keep-best.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        # by line: sums of both losses, number, last step + 1
        self.sums: dict[int, tuple[float, float, int, int]] = {}

    @property
    def folder(self) -> Path:
        return Path(self.args.logs, self.args.name)

    def see(self, step: int, loss: float, contrastive: float) -> None:
        """Note the loss of optimiser step `step`, or of one of its accumulated batches."""
        number = step // self.args.log_every_n_steps
        total, part, count, _ = self.sums.get(number, (0.0, 0.0, 0, 0))
        self.sums[number] = total + loss, part + contrastive, count + 1, step + 1

    def write_training(self, steps_per_epoch: int) -> None:
        """Write the losses that were noted since the last call."""
        lines = [
            {
                "step": step,
                "epoch": step / steps_per_epoch,
                "train_loss": total / count,
                "train_contrastive_loss": part / count,
                "batches": count,
            }
            for total, part, count, step in self.sums.values()
        ]
        self.sums.clear()
        self._write(lines)

    def write_validation(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the values of a validation after `epoch` epochs."""
        self._write([{"step": step, "epoch": epoch, **values}])

    def _write(self, lines: list[Line]) -> None:
        if lines:
            with open(self.folder / NUMBERS, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)

    def after_validation(self, best: tuple[str, int] | None) -> None:
        """Draw the figure, and warn of overfitting; `best`: --keep-best and its best epoch."""
        training, validation = read(self.folder / NUMBERS)
        if is_overfitting(training, validation):
            self._warn(validation[-1 - RISES])
        stream = io.BytesIO()
        drawn = figure(training, validation, best, self.args.name)
        drawn.savefig(stream, dpi=100, format="png")
        write_whole(self.folder / FIGURE, stream.getvalue())

    def _warn(self, lowest: Line) -> None:
        advice = {
            "keep the best epoch with --keep-best": self.args.keep_best,
            "end the run with --patience": self.args.patience,
            "give fewer --epochs": None,
        }
        logger.warning(
            "eclip: the validation loss was lowest, %.4g, at epoch %d and is higher since, while "
            "the training loss falls: the model learns its training images by heart; %s",
            lowest["val-loss"],
            lowest["epoch"],
            ", or ".join(text for text, given in advice.items() if given is None),
        )


def read(path: Path) -> tuple[list[Line], list[Line]]:
    """(lines of training, lines of validation), each in the order of steps, up to the last line.

    What was written again after a resume counts as it was written last. Lines of an abandoned run,
    which are of later steps than the last line, are left out. So is a line that is not complete.
    """
    training: dict[int, Line] = {}
    validation: dict[int, Line] = {}
    last = 0
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # the run was killed while writing
            continue
        last = line["step"]
        (training if "train_loss" in line else validation)[last] = line
    kept = (
        [lines[step] for step in sorted(lines) if step <= last] for lines in (training, validation)
    )
    return next(kept), next(kept)


def is_overfitting(training: list[Line], validation: list[Line]) -> bool:
    """Whether the last RISES validations, and no more, follow the minimum of the validation loss.

    All of them must be above it, and the training loss of the last epochs below that before the
    minimum. So a minimum is followed by one warning.
    """
    losses = [line["val-loss"] for line in validation]
    if len(losses) <= RISES or not losses[-1 - RISES] == min(losses) < min(losses[-RISES:]):
        return False
    lowest = validation[-1 - RISES]
    before = _mean(
        training, validation[-2 - RISES]["step"] if len(losses) > RISES + 1 else 0, lowest
    )
    now = _mean(training, validation[-2]["step"], validation[-1])
    return before is not None and now is not None and now < before


def _mean(training: list[Line], after: int, until: Line) -> float | None:
    """The mean training loss of the steps between two validations; None if none is known."""
    lines = [line for line in training if after < line["step"] <= until["step"]]
    count = sum(line["batches"] for line in lines)
    return sum(line["train_loss"] * line["batches"] for line in lines) / count if count else None


def figure(
    training: list[Line], validation: list[Line], best: tuple[str, int] | None, name: str
) -> Any:
    """A matplotlib Figure of the run `name`: both contrastive losses, and below them --keep-best.

    The latter only where it is not the loss. A dashed line marks the best epoch.
    """
    kept = best[0] if best is not None and best[0] != "val-loss" else None
    drawn = agg_figure()
    drawn.set_size_inches(6.4, 5.6 if kept else 3.6)
    axes = drawn.subplots(2 if kept else 1, 1, sharex=True, squeeze=False)[:, 0]
    # the term that validation measures too; other terms would be another quantity
    _curve(axes[0], training, "train_contrastive_loss", "training", "tab:blue")
    _curve(axes[0], validation, "val-loss", "validation", "tab:orange")
    axes[0].set_ylabel("contrastive loss\n(lower is better)")
    title = "\n".join(textwrap.wrap(name, 90))  # letters that fit
    drawn.suptitle(title, fontsize=8, parse_math=False)
    if kept:
        better = "lower" if kept in LOWER else "higher"
        _curve(axes[1], validation, kept, None, "tab:orange")
        measure = "grounding (NSS)" if kept == "grounding" else kept
        axes[1].set_ylabel(f"validation: {measure}\n({better} is better)")
    if best is not None:
        for axis in axes:
            axis.axvline(best[1], color="grey", linestyle="--", linewidth=1)
        axes[0].plot([], [], color="grey", linestyle="--", linewidth=1, label="best epoch")
    drawn.legend(loc="outside lower center", ncols=3, frameon=False)  # covers no point
    axes[-1].set_xlabel("epoch")
    axes[-1].set_xlim(left=0)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return drawn


def _curve(axis: Any, lines: list[Line], name: str, label: str | None, colour: str) -> None:
    known = [line for line in lines if name in line]
    epochs, values = [line["epoch"] for line in known], [line[name] for line in known]
    marker = "o" if len(known) <= MARKED else None
    axis.plot(epochs, values, color=colour, label=label, marker=marker, markersize=4)
