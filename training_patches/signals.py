"""Handling of SIGTERM, SIGINT and SIGUSR1: a run saves its position at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openclip_eclip.config import Stopped

STOPPING = (signal.SIGTERM, signal.SIGINT)
CHECK_EVERY = 2  # seconds between checks of a data worker whether the main process lives


class Signals:
    """Requests by signal: `save`, and `stop`, the number of the signal or 0.

    A second SIGINT stops at once.
    """

    def __init__(self) -> None:
        self.stop, self.save = 0, False
        self._nothing_to_save: str | None = "before training, with nothing to save"

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Set our handlers for the block; Python allows it in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {
            number: signal.signal(number, self._handle) for number in (*STOPPING, signal.SIGUSR1)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGUSR1:
            self.save = True
            return
        again = self.stop == signal.SIGINT == number
        self.stop = self.stop or number
        if again:
            raise Stopped(
                "by a second SIGINT, without saving; --resume latest continues from the "
                "newest checkpoint.",
                number,
            )
        self._stop_if_nothing_to_save()

    def _stop_if_nothing_to_save(self) -> None:
        if self.stop and self._nothing_to_save is not None:
            name = signal.Signals(self.stop).name
            raise Stopped(f"by {name} {self._nothing_to_save}.", self.stop)

    def stop_now(self, why: str) -> None:
        """Raise Stopped where the run can no longer finish its step."""
        name = signal.Signals(self.stop).name
        raise Stopped(
            f"by {name} before a position was saved {why}; --resume latest continues "
            "from the newest checkpoint.",
            self.stop,
        )

    def training_begins(self) -> None:
        """Let signals wait for the end of a step from now on."""
        self._nothing_to_save = None

    @contextmanager
    def all_is_saved(self, when: str) -> Iterator[None]:
        """In this block a signal stops the run at once; `when` is part of its message."""
        before, self._nothing_to_save = self._nothing_to_save, when
        try:
            self._stop_if_nothing_to_save()
            yield
        finally:
            self._nothing_to_save = before


def ignore_in_worker(worker: int) -> None:
    """In a data worker, ignore signals to the whole process group.

    The main process handles them and still needs the worker's batches. A SIGTERM from the main
    process ends the worker, and so does the death of the main process: otherwise a worker would
    wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, CHECK_EVERY)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
