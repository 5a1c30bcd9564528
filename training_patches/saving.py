"""When a run saves its position within an epoch, how all ranks agree on it, and what is kept."""

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

SAVE, STOP = 1, 2  # what a rank asks for; STOP + the number of the signal


class MidEpochSaver:
    """Asked after every optimiser step and at the end of each epoch.

    `write(batch, path)` writes the checkpoint; all ranks take part.
    """

    def __init__(self, args: argparse.Namespace, signals: Signals) -> None:
        self.args, self.signals = args, signals
        self.group: Any = None  # of CPU processes, whatever the training's own is
        self.pending: tuple[Any, torch.Tensor] | None = None
        self.saved_at: float | None = None  # by the monotonic clock, in seconds
        self.at_end = 0  # asked for in the last step of an epoch
        self.is_epoch_saved = False  # the current one, to its end

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
        """`step` of the run is done, and `batch` batches of the epoch.

        Stopped, after saving, where a signal asked for it.
        """
        if not self.is_on:
            return
        asked = self._agree()
        every = self.args.save_every_steps
        if every and (step + 1) % every == 0:
            asked = max(asked, SAVE)
        if not asked:
            return
        self._forget_wish()
        if batch + self.args.accum_freq > self.num_batches:
            self.at_end = asked  # the batches that fill no step come first
            return
        self._save(batch, asked)

    def end_epoch(self, is_evaluated: bool) -> None:
        """Before the evaluation: a bad validation image must not cost the epoch."""
        if not self.is_on:
            return
        asked = max(self.at_end, self._agree(wait=True))
        if asked:
            self._forget_wish()
        if is_evaluated or asked >= STOP or (asked and not self._is_saved_by_open_clip()):
            self._save(self.num_batches, asked)
            self.is_epoch_saved = True

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """A signal stops at once in here, where the epoch is saved."""
        if not self.is_epoch_saved:
            yield
            return
        when = "in the evaluation; --resume latest begins it again and goes on"
        with self.signals.all_is_saved(when):
            yield

    def epoch_saved(self, completed: int) -> None:
        """open_clip's own checkpoint is there: ours of the end of that epoch says nothing more."""
        for path in self.folder.glob("epoch_*_batch_*.pt"):
            order = progress_in_name(path)
            if order is not None and order[0] == completed - 1 and order[1] >= self.num_batches:
                path.unlink(missing_ok=True)

    def _is_saved_by_open_clip(self) -> bool:
        args, completed = self.args, self.epoch + 1
        return (
            completed == args.epochs
            or args.save_most_recent
            or (args.save_frequency > 0 and completed % args.save_frequency == 0)
        )

    def _save(self, batch: int, asked: int) -> None:
        began = time.monotonic()
        path = self.folder / f"epoch_{self.epoch}_batch_{batch:08d}.pt"
        self.write(batch, path)
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
        if asked >= STOP:
            if self.group is not None:
                dist.barrier(self.group)  # torchrun ends the rank that writes once another is gone
            name = signal.Signals(asked - STOP).name
            where = f"after batch {batch} of {self.num_batches} in epoch {self.epoch}"
            raise Stopped(
                f"by {name} {where}; the position is saved in {path}: continue with "
                "--resume latest.",
                asked - STOP,
            )

    def _keep_last(self, written: Path) -> None:
        """Delete all but the last --keep-last, and those of a later position.

        They are of a course that this run has left: it was resumed from an older checkpoint, or
        began its epoch anew.
        """
        orders = {
            path: order
            for path in self.folder.glob("epoch_*_batch_*.pt")
            if (order := progress_in_name(path))
        }
        passed = sorted(
            (path for path, order in orders.items() if order <= orders[written]), key=orders.get
        )
        for path in set(orders) - set(passed[-self.args.keep_last :]):
            path.unlink(missing_ok=True)
        sync_folder(self.folder)

    # ---- what is asked for

    def _wish(self) -> int:
        if self.signals.stop:
            return STOP + self.signals.stop
        minutes, passed = self.args.save_every_minutes, time.monotonic() - self.saved_at
        is_due = minutes is not None and is_master(self.args) and passed >= 60 * minutes
        return SAVE if self.signals.save or is_due else 0

    def _forget_wish(self) -> None:
        self.signals.save = False
        self.saved_at = time.monotonic()

    def _agree(self, wait: bool = False) -> int:
        """The largest wish of all ranks.

        As of the step before, so that no step waits for another rank; with `wait` as of now.
        """
        if self.group is None:
            return self._wish()
        agreed = self._received()
        if agreed:
            self._forget_wish()
        wish = torch.tensor([self._wish()])
        work = dist.all_reduce(wish, dist.ReduceOp.MAX, group=self.group, async_op=True)
        self.pending = work, wish
        return max(agreed, self._received()) if wait else agreed

    def _received(self) -> int:
        if self.pending is None:
            return 0
        (work, value), self.pending = self.pending, None
        work.wait()
        return int(value)
