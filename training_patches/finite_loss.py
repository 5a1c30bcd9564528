"""Stop a run at once, on all ranks and without saving, if loss or weights are not finite."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from openclip_eclip.checkpoint_files import newest_complete, non_finite
from openclip_eclip.config import UserError


class FiniteLoss:
    """Checks the loss with a hook on its module.

    The hook changes no value, so the baseline stays bit-for-bit identical to open_clip's. On a GPU
    the loss of a call is checked in the next call, so the device never waits. With several ranks
    the largest value counts, so all of them stop at the same call.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.optimizer: torch.optim.Optimizer | None = None
        self.step, self.epoch, self.calls, self.first_step = 0, 0, 0, 0
        self.on_loss: Callable[[int, float], None] = lambda step, value: None  # of each loss
        # step, learning rate, value of the last loss
        self.waiting: tuple[int, float, Callable[[], float]] | None = None

    def watch(self, loss: torch.nn.Module) -> torch.nn.Module:
        loss.register_forward_hook(lambda _, __, losses: self._seen(losses))
        return loss

    def start_epoch(
        self,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        scheduler: Callable[[int], Any],
        batches: int,
        first_batch: int = 0,
    ) -> Callable[[int], Any]:
        """`scheduler`, wrapped to record the step's number for the message of a stop.

        `batches`: the number in the epoch, which begins, or resumes, at batch `first_batch`.
        """
        self.epoch, self.optimizer, self.calls = epoch, optimizer, first_batch
        self.first_step = epoch * (batches // self.args.accum_freq)

        def scheduled(step: int) -> Any:
            self.step = step
            return scheduler(step)

        return scheduled

    def _seen(self, losses: Any) -> None:
        total = sum(losses.values()) if isinstance(losses, Mapping) else losses
        if not isinstance(total, Tensor) or not total.requires_grad:  # an evaluation
            return
        if self.args.skip_scheduler:
            self.step = self.first_step + self.calls // self.args.accum_freq
        self.calls += 1
        self.check_last_loss()  # of the previous call
        assert self.optimizer is not None, "`start_epoch` comes before the first loss"
        self.waiting = (
            self.step,
            self.optimizer.param_groups[0]["lr"],
            self._start_reading(total.detach()),
        )
        if total.device.type != "cuda":
            self.check_last_loss()

    def _start_reading(self, total: Tensor) -> Callable[[], float]:
        """A function that waits for the value, which is NaN or infinite if any rank's loss is."""
        total, work = total.float().reshape(()).clone(), None
        if self.args.world_size > 1:
            total = torch.where(total.isfinite(), total, torch.full_like(total, math.inf))
            work = dist.all_reduce(total, op=dist.ReduceOp.MAX, async_op=True)
        if total.device.type != "cuda":

            def read() -> float:
                if work is not None:
                    work.wait()
                return float(total)

            return read
        if work is not None:
            work.wait()  # the GPU's stream waits, not this process
        host = torch.empty((), dtype=total.dtype, pin_memory=True)
        host.copy_(total, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def read_when_done() -> float:
            done.synchronize()
            return float(host)

        return read_when_done

    def check_last_loss(self) -> None:
        """UserError if the last loss is not finite."""
        if self.waiting is not None:
            (step, rate, read), self.waiting = self.waiting, None
            value = read()
            if not math.isfinite(value):
                raise UserError(self._sentence(f"the loss is not finite ({value})", step, rate))
            self.on_loss(step, value)

    def check_weights(
        self, state: Mapping[str, Tensor], buffers: frozenset[str] = frozenset()
    ) -> None:
        """UserError if the last loss, or a tensor of `state`, is not finite.

        Call it before a checkpoint is written.
        """
        self.check_last_loss()
        wrong = non_finite(state, buffers)
        if wrong:
            rate = self.optimizer.param_groups[0]["lr"] if self.optimizer is not None else math.nan
            raise UserError(
                self._sentence(
                    f"{len(wrong)} of {len(state)} tensors of the model "
                    f"are not finite, first {wrong[0]}, so no "
                    "checkpoint is written",
                    self.step,
                    rate,
                )
            )

    def _sentence(self, what: str, step: int, rate: float) -> str:
        folder = Path(self.args.logs, self.args.name, "checkpoints")
        good = newest_complete(folder) if folder.is_dir() else None
        last = f"the last good checkpoint is {good}" if good else "no checkpoint was written before"
        return (
            f"{what} at step {step} (epoch {self.epoch}), learning rate {rate:.3g}, "
            f"--precision {self.args.precision}: training stops, {last}; "
            "try a lower --lr, a longer --warmup, --grad-clip-norm 1, or --precision amp_bf16 "
            "or fp32 instead of fp16."
        )
