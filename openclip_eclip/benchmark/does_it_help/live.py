"""The table that is printed while the benchmark runs: plain text, redrawn on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from .methods import Choice

QUIET = 30.0  # seconds between two tables where the output is not a terminal


@dataclass
class Row:
    """What is known of a method: runs that ended, seconds of each, best validation rank."""

    total: int
    ended: int = 0
    seconds: list[float] = field(default_factory=list)
    rank: float | None = None
    rate: float | None = None
    failed: int = 0


class LiveTable:
    """Prints the state of all methods, and the time that is left.

    `expected` {method: seconds of one of its runs}: the forecast, used until a run has ended.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        runs: int,
        expected: dict[str, float],
        jobs: int,
        stream: TextIO | None = None,
    ) -> None:
        self.rows = {choice.name: Row(runs) for choice in choices}
        self.expected, self.jobs, self.stream = expected, jobs, stream or sys.stderr
        self.lock, self.lines, self.printed = threading.Lock(), 0, 0.0

    def update(
        self,
        name: str,
        rate: float,
        seconds: float | None,
        rank: float | None,
        error: str | None = None,
    ) -> None:
        """A run of a method has ended: its seconds and rank, or the error that ended it."""
        with self.lock:
            row = self.rows[name]
            row.ended += 1
            row.failed += error is not None
            row.seconds += [] if seconds is None else [seconds]
            if rank is not None and (row.rank is None or rank < row.rank):
                row.rank, row.rate = rank, rate
            self._draw()

    def left(self) -> float:
        """Seconds until all runs have ended."""
        seconds = 0.0
        for name, row in self.rows.items():
            each = sum(row.seconds) / len(row.seconds) if row.seconds else self.expected[name]
            seconds += each * (row.total - row.ended)
        return seconds / self.jobs

    def text(self) -> str:
        """The table."""
        width = max(map(len, self.rows))
        lines = [f"{'method':<{width}}  runs   s/run  validation mean rank (lower is better)"]
        for name, row in self.rows.items():
            each = f"{sum(row.seconds) / len(row.seconds):.0f}" if row.seconds else "-"
            best = "-" if row.rank is None else f"{row.rank:.1f} at lr {row.rate:g}"
            failed = f", {row.failed} failed" if row.failed else ""
            lines.append(
                f"{name:<{width}}  {row.ended:>2}/{row.total:<2}  {each:>5}  {best}{failed}"
            )
        lines.append(f"about {duration(self.left())} left")
        return "\n".join(lines)

    def _draw(self) -> None:
        terminal, now = self.stream.isatty(), time.monotonic()
        ended = all(row.ended == row.total for row in self.rows.values())
        if not terminal and now - self.printed < QUIET and not ended:
            return
        text = self.text()
        if terminal and self.lines:
            self.stream.write(f"\033[{self.lines}F\033[J")  # back to its first line, and clear
        self.stream.write(f"{text}\n")
        self.stream.flush()
        self.lines, self.printed = text.count("\n") + 1, now


def duration(seconds: float) -> str:
    """ "40 seconds", "12 minutes" or "3.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
