"""Checks that training ends for every combination of data, workers and ranks.

A run must train, or stop with one sentence that says why. scripts/reliability.py calls this module.
Runs are forks of one process, like the bad inputs; two ranks are two forks that connect by gloo.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bad_inputs.harness import Outcome, busy, finish, run_command, start
from bad_inputs.world import heat, link_images, pixels, png, sample, shard, train

LIMIT = 60.0  # time limit in seconds of a run, which has at most 40 samples
GRACE = 15.0  # seconds a rank may run after another one failed; torchrun would end it


class Setting(NamedTuple):
    """One combination of data and processes.

    `samples` are the numbers of samples of the shards (with `table`: of the table). `bad` says
    which images are damaged (none, some, all); --on-bad-sample skip leaves them out.
    """

    samples: tuple[int, ...]
    workers: int
    ranks: int
    batch: int
    bad: str = "none"
    table: bool = False
    resampled: bool = False
    expert: bool = False

    @property
    def name(self) -> str:
        source = f"{'table' if self.table else 'shards'} of {'+'.join(map(str, self.samples))}"
        parts = [source, f"batch {self.batch}", f"{self.workers} workers", f"{self.ranks} ranks"]
        parts += [f"{self.bad} bad"] * (self.bad != "none")
        parts += ["resampled"] * self.resampled + ["expert data"] * self.expert
        return ", ".join(parts)


def settings() -> Iterator[Setting]:
    """All combinations: 36 of one rank, 12 of two ranks."""
    for samples, workers, batch in itertools.product(
        ((6,), (3, 3), (9, 1, 9), (8, 8, 8, 8)), (0, 1, 2), (4, 8)
    ):
        yield Setting(samples, workers, 1, batch)
    yield from (
        Setting((8, 8), workers, 1, 4, bad) for bad in ("some", "all") for workers in (0, 2)
    )
    yield from (
        Setting((8,), workers, 1, 4, bad, table=True)
        for bad in ("none", "some", "all")
        for workers in (0, 1)
    )
    yield from (Setting((5, 2), 1, 1, 4, resampled=True), Setting((2,), 0, 1, 4, resampled=True))
    for samples, workers, batch in (
        ((6,), 0, 4),
        ((8, 8), 0, 4),
        ((9, 1), 1, 4),
        ((3, 3), 1, 2),
        ((8, 8, 8, 8), 2, 4),
        ((2, 20), 0, 4),
    ):
        yield Setting(samples, workers, 2, batch)
    yield from (
        Setting((8, 8), 0, 2, 4, "some"),
        Setting((8, 8), 0, 2, 4, "all"),
        Setting((8,), 0, 2, 4, table=True),
        Setting((3,), 0, 2, 4, table=True),
        Setting((8, 8), 0, 2, 4, expert=True),
        Setting((8, 8), 1, 2, 4, resampled=True),
    )


def command(setting: Setting, folder: Path) -> list[object]:
    """Writes the data of a setting; returns the command of a training run of two epochs."""
    bad = {"none": set(), "some": {1, 5}, "all": set(range(99))}[setting.bad]
    numbers, sources = iter(range(99)), []
    flags: list[object] = [
        *("--batch-size", setting.batch),
        *("--workers", setting.workers),
        *("--epochs", 2),
        *("--on-bad-sample", "skip" if bad else "stop"),
        *("--train-num-samples", sum(setting.samples)),
    ]
    if setting.table:
        link_images(folder)
        lines = ["filepath,title,heatmap"]
        for i in range(setting.samples[0]):
            (folder / f"{i}.png").write_bytes(b"damaged" if i in bad else png(pixels(i)))
            lines.append(f"{i}.png,Finding number {i}.,")
        (folder / "train.csv").write_text("\n".join(lines) + "\n")
        return train("--train-data", "train.csv", *flags[:-2])
    for number, count in enumerate(setting.samples):
        members = {}
        for i in itertools.islice(numbers, count):
            content = sample(i) | {f"s{i}.heatmap.png": png(heat(i % 8))}
            members |= content if i not in bad else content | {f"s{i}.png": b"damaged"}
        sources.append(shard(folder / f"s-{number}.tar", members).name)
    if setting.expert:
        shard(
            folder / "expert.tar",
            {name: content for i in (3, 5) for name, content in sample(i).items()},
        )
        flags += ["--expert-data", "expert.tar", "--expert-batch-size", 2]
    return train(
        "--train-data",
        "::".join(sources),
        *flags,
        *(["--dataset-resampled"] if setting.resampled else []),
    )


def _port() -> int:
    """A free port of this machine."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def run(setting: Setting, folder: Path) -> tuple[str, list[Outcome]]:
    """Runs one setting; returns the verdict and the outcome of each rank.

    The verdict is "trained", "a sentence", or what is wrong.
    """
    folders = [folder / f"rank{rank}" for rank in range(setting.ranks)]
    port, began = str(_port()), time.monotonic()
    folder.mkdir(parents=True)
    words = [
        str(word) if not isinstance(word, Path) else str(word.absolute())
        for word in _in(folder, setting)
    ]
    pids = []
    for rank, rank_folder in enumerate(folders):
        rank_folder.mkdir()
        pids.append(start(_rank(words, folder, rank, setting.ranks, port), rank_folder))
    outcomes: list[Outcome] = []
    full_limit = LIMIT * busy()
    for pid, rank_folder in zip(pids, folders, strict=True):
        limit = full_limit
        if any(outcome.code for outcome in outcomes):
            limit = min(limit, time.monotonic() - began + GRACE * busy())
        outcomes.append(finish(pid, rank_folder, began, limit))
    shutil.rmtree(folder, ignore_errors=True)
    return _verdict(outcomes), outcomes


def _in(folder: Path, setting: Setting) -> Sequence[object]:
    """`command` with this folder as the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return command(setting, Path())
    finally:
        os.chdir(before)


def _rank(words: list[str], folder: Path, rank: int, ranks: int, port: str) -> Callable[[], int]:
    def work() -> int:
        os.chdir(folder)
        if ranks > 1:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            )
        return run_command(words)

    return work


def _verdict(outcomes: list[Outcome]) -> str:
    codes = [outcome.code for outcome in outcomes]
    if all(code == 0 for code in codes):
        return "trained"
    failed = [outcome for outcome in outcomes if outcome.code not in (None, 0)]
    if any("Traceback (most recent call last)" in outcome.output for outcome in failed):
        return "traceback"
    # a sentence of one rank is enough: the launcher ends the others
    if any(outcome.answer for outcome in failed):
        return "a sentence"
    return "no end" if None in codes else f"exit codes {codes} without a sentence"


def run_all(folder: Path, say: Callable[[str], object]) -> list[dict]:
    """One record for each setting; `say` gets a line for each wrong outcome."""
    records = []
    for number, setting in enumerate(settings()):
        verdict, outcomes = run(setting, folder / f"{number:03d}")
        right = verdict in ("trained", "a sentence")
        records.append(
            {
                "name": setting.name,
                "right": right,
                "verdict": verdict,
                "seconds": round(max(outcome.seconds for outcome in outcomes), 1),
                "answer": next(
                    (outcome.answer[:300] for outcome in outcomes if outcome.answer),
                    outcomes[0].output[-300:] if not right else "",
                ),
            }
        )
        if not right:
            say(f"wrong: {setting.name}: {verdict}\n")
    return records
