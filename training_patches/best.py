"""--keep-best and --patience: the best epoch by validation, its checkpoint, and when to stop."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip_train.distributed import broadcast_object, is_master

from openclip_eclip.checkpoint_files import BEST, BEST_RECORD
from openclip_eclip.files import write_whole

from .resume import PARTIAL, sync_folder

logger = logging.getLogger(__name__)

LOWER = ("val-loss", "mean-rank")  # lower is better


class Best:
    """The best epoch of a run by `args.keep_best`.

    `state` is None before the first validation, then {measure, value, epoch: complete epochs,
    since: validations without a better value}. It is part of every checkpoint, so a resumed run
    continues with it.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.measure = args, args.keep_best
        self.state: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        return Path(self.args.checkpoint_path)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Continue with the state of a checkpoint. Call it on all ranks, before the first epoch.

        Without the best epoch's checkpoint, or with another measure, the next validated epoch
        counts as the best.
        """
        if state is not None and is_master(self.args):
            if state["measure"] != self.measure:
                logger.warning(
                    "eclip: --keep-best %s, the checkpoint was kept by %s: the best epoch is chosen"
                    " among the next ones",
                    self.measure,
                    state["measure"],
                )
                state = None
            elif not self._has_file(state):
                logger.warning(
                    "eclip: the checkpoint of the best epoch, %d, is no longer there: the best "
                    "epoch is chosen among the next ones",
                    state["epoch"],
                )
                state = None
        self.state = None if state is None else dict(state)
        self.share()

    def _has_file(self, state: Mapping[str, Any]) -> bool:
        """Whether BEST is of this epoch; it is brought back from elsewhere if it can be."""
        came_from = Path(self.args.resume).parent
        for folder in dict.fromkeys((self.folder, came_from)):
            if _recorded_epoch(folder) == state["epoch"]:
                if folder != self.folder:
                    self._keep(folder / BEST, state)
                return True
        same = came_from / f"epoch_{state['epoch']}.pt"
        if same.is_file():
            self._keep(same, state)
        return same.is_file()

    def take(self, value: float, epoch: int, checkpoint: Path) -> None:
        """Note the value after `epoch` complete epochs, whose weights `checkpoint` holds.

        Call it on the first rank, then `share` on all. Equal values keep the earlier epoch, and one
        that is not finite is no improvement.
        """
        state = self.state
        sign = -1 if self.measure in LOWER else 1
        if math.isfinite(value) and (state is None or sign * value > sign * state["value"]):
            state = {"measure": self.measure, "value": value, "epoch": epoch, "since": 0}
            self._keep(checkpoint, state)
        elif state is not None:
            state = {**state, "since": state["since"] + 1}
        self.state = state
        if state is not None:
            logger.info(
                "eclip: %s %.4g at epoch %d; the best is %.4g at epoch %d, in %s",
                self.measure,
                value,
                epoch,
                state["value"],
                state["epoch"],
                self.folder / BEST,
            )

    def share(self) -> None:
        """Give every rank the state of the first one, so that all of them stop together."""
        if self.args.world_size > 1:
            self.state = broadcast_object(self.args, self.state)

    def why_over(self) -> str | None:
        """Why --patience ends the run; None if it does not."""
        state, patience = self.state, self.args.patience
        if state is None or patience is None or state["since"] < patience:
            return None
        return (
            f"--patience {patience}: {self.measure} was best, {state['value']:.4g}, at epoch "
            f"{state['epoch']}, and no better in {state['since']} validations since; "
            f"{self.folder / BEST} holds that epoch"
        )

    def _keep(self, checkpoint: Path, state: Mapping[str, Any]) -> None:
        """Make BEST the same file as `checkpoint`; a kill leaves the old one or the new one."""
        temporary = self.folder / f".{BEST}.{os.getpid()}{PARTIAL}"
        temporary.unlink(missing_ok=True)
        try:
            try:
                os.link(checkpoint, temporary)  # needs no space, whatever becomes of the other name
            except OSError:  # a file system without hard links, or another one
                with open(checkpoint, "rb") as source, open(temporary, "wb") as copy:
                    shutil.copyfileobj(source, copy)
                    copy.flush()
                    os.fsync(copy.fileno())
            os.replace(temporary, self.folder / BEST)
        finally:
            temporary.unlink(missing_ok=True)  # still there where both were one file
        facts = {name: state[name] for name in ("measure", "value", "epoch")}
        write_whole(self.folder / BEST_RECORD, (json.dumps(facts) + "\n").encode())
        sync_folder(self.folder)


def _recorded_epoch(folder: Path) -> int | None:
    """The epoch of BEST in `folder`; None without it."""
    try:
        epoch = json.loads((folder / BEST_RECORD).read_text(encoding="utf-8"))["epoch"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return epoch if (folder / BEST).is_file() else None
