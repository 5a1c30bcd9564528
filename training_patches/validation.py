"""What follows each validation: the best epoch, the end by --patience, the learning curve."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_clip_train.distributed import broadcast_object, is_master
from torch import nn

from openclip_eclip.run_flags import OF_EVALUATION

from . import grounding
from .best import Best
from .learning_curve import LearningCurve
from .saving import MidEpochSaver

logger = logging.getLogger(__name__)


class Validation:
    """State of a run that only its validations change; every rank has one."""

    def __init__(self, args: argparse.Namespace, saver: MidEpochSaver) -> None:
        self.args, self.saver = args, saver
        self.best, self.curve = Best(args), LearningCurve(args)
        self.grounding: grounding.Grounding | None = None

    @property
    def has_curve(self) -> bool:
        """Whether this rank writes a learning curve."""
        args = self.args
        is_validated = bool(args.val_data and args.val_frequency)
        return is_validated and self.saver.is_on and is_master(args)

    def build(self, model: nn.Module, transform: Any, tokenizer: Callable, windows: bool) -> None:
        """Check what `--keep-best grounding` needs; as `grounding.build`."""
        if self.args.keep_best == "grounding":
            self.grounding = grounding.build(self.args, model, transform, tokenizer, windows)

    def before_training(self) -> None:
        """Measure once on the first rank: what fails later fails now."""
        if self.grounding is not None:
            value = self.grounding.measure()
            logger.info("eclip: --keep-best grounding: NSS %.4g before training", value)

    def begin(self, restored: Mapping[str, Any] | None) -> None:
        """Call it before the first epoch; `restored`: our part of the checkpoint to resume."""
        if self.args.keep_best:
            self.best.restore((restored or {}).get("best"))

    def checkpoint_state(self) -> dict[str, Any]:
        """Our part of a checkpoint, in texts and numbers."""
        return {"best": self.best.state} if self.best.state is not None else {}

    def end_training(self, steps_per_epoch: int) -> None:
        """Call it after the training of an epoch, or where it was stopped."""
        if self.has_curve:
            self.curve.write_training(steps_per_epoch)

    def after(self, found: Mapping[str, float], steps: int, epoch: int, writer: Any) -> None:
        """Call it on all ranks after open_clip's evaluation of `epoch` complete epochs.

        `found`: its result, on the first rank; `steps`: optimiser steps until now; `writer`:
        tensorboard's.
        """
        if "clip_val_loss" in found:  # not after a zero-shot evaluation alone
            self._take(found, steps, epoch, writer)
        if self.args.keep_best:
            self.best.share()
        if self.args.minutes is not None:
            is_late = self.saver.is_late()
            if self.args.world_size > 1:
                is_late = broadcast_object(self.args, is_late)
            if is_late:
                self.saver.end_run(self.saver.num_batches)

    def _take(self, found: Mapping[str, float], steps: int, epoch: int, writer: Any) -> None:
        values = {name: float(value(found)) for name, value in OF_EVALUATION.items()}
        if self.grounding is not None:
            values["grounding"] = self.grounding.measure()
            _report(self.args, values["grounding"], steps, epoch, writer)
        if self.args.keep_best:
            self.best.take(values[self.args.keep_best], epoch, Path(self.saver.written))
        if self.has_curve:
            self.curve.write_validation(steps, epoch, values)
            best = self.best.state
            self.curve.after_validation((best["measure"], best["epoch"]) if best else None)

    def why_over(self) -> str | None:
        """Why no further epoch is trained, the same on all ranks; None if training goes on."""
        return self.saver.reached or self.best.why_over()


def _report(args: argparse.Namespace, value: float, steps: int, epoch: int, writer: Any) -> None:
    """Log a value beside those of open_clip's evaluation."""
    if writer is not None:
        writer.add_scalar("val/grounding", value, epoch)
    if args.wandb:
        import wandb

        wandb.log({"val/grounding": value, "epoch": epoch}, step=steps)
