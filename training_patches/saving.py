"""Checkpoints within an epoch: when they are saved, how ranks agree on it, which are kept.

Also the end of a run after --minutes.
"""

from __future__ import annotations

import argparse
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from open_clip_train.distributed import is_master

from openclip_eclip.checkpoint_files import progress_in_name
from openclip_eclip.config import Stopped

from .resume import remove_partial, sync_folder
from .signals import Signals

logger = logging.getLogger(__name__)

# requests of a rank; END: --minutes are over; a stop is STOP + the number of the signal
SAVE, END, STOP = 1, 2, 3


class TimeIsUp(Exception):
    """--minutes are over within an epoch, and the position is saved."""


class MidEpochSaver:
    """Saves after an optimiser step, or at the end of an epoch, where it is due or requested.

    `write(batch, path)` writes the checkpoint; all ranks take part.
    """

    def __init__(self, args: argparse.Namespace, signals: Signals) -> None:
        self.args, self.signals = args, signals
        self.group: Any = None  # process group on the CPU, whatever that of the training is
        self.pending: tuple[Any, torch.Tensor] | None = None
        self.saved_at: float | None = None  # by the monotonic clock, in seconds
        self.began = time.monotonic()
        self.reached: str | None = None  # what was trained when --minutes were over
        self.at_end = 0  # request in the last step of an epoch
        self.written: Path  # the last checkpoint
        self.is_epoch_saved = False  # whether the end of the current epoch is saved

    @property
    def is_on(self) -> bool:
        """Whether the run leaves checkpoints at all."""
        return bool(self.args.logs) and self.args.logs.lower() != "none"

    @property
    def folder(self) -> Path:
        return Path(self.args.checkpoint_path)

    def begin_epoch(self, epoch: int, num_batches: int, write: Callable[[int, Path], None]) -> None:
        """`epoch` counts from 0."""
        if not self.is_on:
            return
        self.epoch, self.num_batches, self.write = epoch, num_batches, write
        self.at_end, self.is_epoch_saved = 0, False
        if self.saved_at is None:
            self.saved_at = time.monotonic()
            if self.args.world_size > 1:
                self.group = dist.new_group(backend="gloo")
            if is_master(self.args):
                remove_partial(self.folder)
        if self.args.save_most_recent and is_master(self.args):
            self.epoch_saved(epoch)
        self.signals.training_begins()

    def after_step(self, step: int, batch: int) -> None:
        """Call it after optimiser step `step` of the run and `batch` batches of the epoch.

        Raises Stopped, after saving, if a signal asked for it; TimeIsUp after --minutes.
        """
        if not self.is_on:
            return
        request = self._agree()
        every = self.args.save_every_steps
        if every and (step + 1) % every == 0:
            request = max(request, SAVE)
        if not request:
            return
        self._clear_request()
        if batch + self.args.accum_freq > self.num_batches:
            self.at_end = request  # first come the remaining batches, which fill no step
            return
        self._save(batch, request)
        if request == END:
            self.end_run(batch)
            raise TimeIsUp

    def end_epoch(self, is_evaluated: bool) -> None:
        """Save before the evaluation, so that a bad validation image does not lose the epoch."""
        if not self.is_on:
            return
        request = max(self.at_end, self._agree(wait=True))
        if request:
            self._clear_request()
        if request == END:
            self.end_run(self.num_batches)
        if is_evaluated or request >= STOP or (request and not self._is_saved_by_open_clip()):
            self._save(self.num_batches, request)
            self.is_epoch_saved = True

    def is_late(self) -> bool:
        """Whether --minutes are over, by the clock of this rank."""
        minutes = self.args.minutes
        return minutes is not None and time.monotonic() - self.began >= 60 * minutes

    def end_run(self, batch: int) -> None:
        """Begin no further epoch: --minutes are over after `batch` batches of this one."""
        args, steps = self.args, self.num_batches // self.args.accum_freq
        if batch == self.num_batches and self.epoch + 1 == args.epochs:
            return  # all is trained
        done, total = self.epoch * steps + batch // args.accum_freq, steps * args.epochs
        self.reached = (
            f"--minutes {args.minutes:g} are over after batch {batch} of {self.num_batches} in "
            f"epoch {self.epoch}: {done} of {total} steps, {100 * done / total:.3g} %, are "
            f"trained. The learning rate was planned for all {args.epochs} epochs: --resume "
            "latest continues, or start again with fewer --epochs"
        )

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """In this block a signal stops the run at once, if the epoch is saved."""
        if not self.is_epoch_saved:
            yield
            return
        when = "in the evaluation; --resume latest repeats it and continues"
        with self.signals.all_is_saved(when):
            yield

    def epoch_saved(self, completed: int) -> None:
        """Delete our checkpoint of the end of an epoch once open_clip's own is written.

        After the last epoch, those of the ends of earlier ones too: nothing will continue them.
        """
        is_last = completed == self.args.epochs
        for path in self.folder.glob("epoch_*_batch_*.pt"):
            order = progress_in_name(path)
            if order is None or order[1] < self.num_batches:
                continue
            if is_last or order[0] == completed - 1:
                path.unlink(missing_ok=True)

    def _is_saved_by_open_clip(self) -> bool:
        args, completed = self.args, self.epoch + 1
        return (
            completed == args.epochs
            or args.save_most_recent
            or (args.save_frequency > 0 and completed % args.save_frequency == 0)
        )

    def _save(self, batch: int, request: int) -> None:
        began = time.monotonic()
        path = self.folder / f"epoch_{self.epoch}_batch_{batch:08d}.pt"
        self.write(batch, path)
        self.written = path
        if is_master(self.args):
            self._keep_last(path)
            logger.info(
                "eclip: batch %d of %d in epoch %d: saved in %s (%.1f s)",
                batch,
                self.num_batches,
                self.epoch,
                path,
                time.monotonic() - began,
            )
        self.saved_at = time.monotonic()
        if request >= STOP:
            if self.group is not None:
                dist.barrier(
                    self.group
                )  # torchrun ends the writing rank if another rank ends first
            name = signal.Signals(request - STOP).name
            where = f"after batch {batch} of {self.num_batches} in epoch {self.epoch}"
            raise Stopped(
                f"by {name} {where}; the position is saved in {path}: continue with "
                "--resume latest.",
                request - STOP,
            )

    def _keep_last(self, written: Path) -> None:
        """Delete all but the last --keep-last checkpoints, and those of a later position.

        A later position is of an abandoned run: this one was resumed from an older checkpoint, or
        began its epoch again.
        """
        orders = {
            path: order
            for path in self.folder.glob("epoch_*_batch_*.pt")
            if (order := progress_in_name(path))
        }
        passed = sorted(
            (path for path, order in orders.items() if order <= orders[written]),
            key=orders.__getitem__,
        )
        for path in set(orders) - set(passed[-self.args.keep_last :]):
            path.unlink(missing_ok=True)
        sync_folder(self.folder)

    # ---- requests to save or stop

    def _request(self) -> int:
        if self.signals.stop:
            return STOP + self.signals.stop
        assert self.saved_at is not None, "`begin_epoch` comes first"
        if is_master(self.args) and self.is_late():
            return END
        minutes, passed = self.args.save_every_minutes, time.monotonic() - self.saved_at
        is_due = minutes is not None and is_master(self.args) and passed >= 60 * minutes
        return SAVE if self.signals.save or is_due else 0

    def _clear_request(self) -> None:
        self.signals.save = False
        self.saved_at = time.monotonic()

    def _agree(self, wait: bool = False) -> int:
        """The largest request of all ranks.

        It is that of the previous step, so no step waits for another rank; with `wait` that of now.
        """
        if self.group is None:
            return self._request()
        agreed = self._received()
        if agreed:
            self._clear_request()
        request = torch.tensor([self._request()])
        work = dist.all_reduce(request, dist.ReduceOp.MAX, group=self.group, async_op=True)
        self.pending = work, request
        return max(agreed, self._received()) if wait else agreed

    def _received(self) -> int:
        if self.pending is None:
            return 0
        (work, value), self.pending = self.pending, None
        work.wait()
        return int(value)
