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

CONTRASTIVE = "contrastive_loss"  # the name of this term in open_clip and here


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
        # of each loss: its step, its value, and that of its contrastive term
        self.on_loss: Callable[[int, float, float], None] = lambda *_: None
        # step, learning rate, values of the last loss
        self.waiting: tuple[int, float, Callable[[], list[float]]] | None = None

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
        contrastive = losses.get(CONTRASTIVE, total) if isinstance(losses, Mapping) else total
        if self.args.skip_scheduler:
            self.step = self.first_step + self.calls // self.args.accum_freq
        self.calls += 1
        self.check_last_loss()  # of the previous call
        assert self.optimizer is not None, "`start_epoch` comes before the first loss"
        self.waiting = (
            self.step,
            self.optimizer.param_groups[0]["lr"],
            self._start_reading(total.detach(), contrastive.detach()),
        )
        if total.device.type != "cuda":
            self.check_last_loss()

    def _start_reading(self, total: Tensor, contrastive: Tensor) -> Callable[[], list[float]]:
        """A function that waits for both values; NaN or infinite if any rank's loss is."""
        both, work = torch.stack([total.float().reshape(()), contrastive.float().reshape(())]), None
        if self.args.world_size > 1:
            both = torch.where(both.isfinite(), both, torch.full_like(both, math.inf))
            work = dist.all_reduce(both, op=dist.ReduceOp.MAX, async_op=True)
        if both.device.type != "cuda":

            def read() -> list[float]:
                if work is not None:
                    work.wait()
                return both.tolist()

            return read
        if work is not None:
            work.wait()  # the GPU's stream waits, not this process
        host = torch.empty(2, dtype=both.dtype, pin_memory=True)
        host.copy_(both, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def read_when_done() -> list[float]:
            done.synchronize()
            return host.tolist()

        return read_when_done

    def check_last_loss(self) -> None:
        """UserError if the last loss is not finite."""
        if self.waiting is not None:
            (step, rate, read), self.waiting = self.waiting, None
            value, contrastive = read()
            if not math.isfinite(value):
                raise UserError(self._sentence(f"the loss is not finite ({value})", step, rate))
            self.on_loss(step, value, contrastive)

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
