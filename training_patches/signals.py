"""SIGTERM, SIGINT and SIGUSR1 while a run lasts: it saves its position at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openclip_eclip.config import Stopped

STOPPING = (signal.SIGTERM, signal.SIGINT)
CHECK_EVERY = 2  # seconds in which a data worker notices that the main process is gone


class Signals:
    """What was asked for by signal: `save`, and `stop`, its number or 0.

    A second SIGINT stops at once.
    """

    def __init__(self) -> None:
        self.stop, self.save = 0, False
        self._nothing_to_save: str | None = "before training, with nothing to save"

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Our handlers, then the previous ones; Python sets them in the main thread only."""
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
        """Stopped, where the run cannot come to the end of its step any more."""
        name = signal.Signals(self.stop).name
        raise Stopped(
            f"by {name} before a position was saved {why}; --resume latest continues "
            "from the newest checkpoint.",
            self.stop,
        )

    def training_begins(self) -> None:
        """From now on a signal waits for the end of a step."""
        self._nothing_to_save = None

    @contextmanager
    def all_is_saved(self, when: str) -> Iterator[None]:
        """A signal stops at once in here."""
        before, self._nothing_to_save = self._nothing_to_save, when
        try:
            self._stop_if_nothing_to_save()
            yield
        finally:
            self._nothing_to_save = before


def ignore_in_worker(worker: int) -> None:
    """In a data worker: signals to the whole process group are for the main process to answer.

    It still needs the worker's batches then. Its own SIGTERM ends the worker, as it expects, and
    so does its death: a worker whose batches nobody takes would else wait for ever.
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
