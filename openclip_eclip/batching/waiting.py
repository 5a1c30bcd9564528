"""How long a training loop waits for its data, and what helps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")
MUCH = 0.05  # share of the time from which on waiting is worth advice


class Waiting:
    """The seconds of an epoch, and those of them in which the loop waited for a batch.

    Both count from the first batch on. What comes before is mostly the start of the workers, which
    more of them would not shorten.
    """

    def __init__(self) -> None:
        self.seconds = self.total = 0.0

    @property
    def share(self) -> float:
        """Of the time; 0 before the second batch."""
        return self.seconds / self.total if self.total else 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch, and measure the time until each of them is there."""
        self.seconds = self.total = 0.0
        source, first = iter(batches), None
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            now = time.perf_counter()
            if first is None:
                first = now
            else:
                self.seconds, self.total = self.seconds + now - asked, now - first
            yield batch

    def workers(self, now: int) -> int:
        """About how many worker processes would keep up, where `now` of them do not."""
        busy = max(self.total - self.seconds, 1e-9)
        # without a worker, the loop reads while it waits and does nothing else
        wanted = self.seconds / busy if now == 0 else now * self.total / busy
        return max(now + 1, math.ceil(min(wanted, 1e6)))


def advice(waiting: Waiting, workers: int, cores: int, fast_jpeg: bool) -> str:
    """What helps against the waiting, "" if it is short; `cores`: those for this rank."""
    if waiting.share <= MUCH:
        return ""
    wanted = waiting.workers(workers)
    if wanted <= cores:
        return f"give about --workers {wanted} instead of {workers}"
    smaller = "save the images at a smaller size" + ("" if fast_jpeg else ", or give --fast-jpeg")
    if workers >= cores:
        return f"there is a worker for each of the {cores} cores already; {smaller}"
    return f"give --workers {cores} instead of {workers}, one for each core, and {smaller}"
