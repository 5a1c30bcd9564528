"""How long the runs will take, from a short timed probe, and how many steps a budget allows."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...run_flags import CACHE_CROPS
from ..rows import Flags
from ..runner import Workers, count_rows
from .data import Data
from .methods import Choice
from .runs import Runs, Settings

PROBE_BATCHES = 4  # in an epoch of the probe
PROBE_STEPS = 8  # of the longer probe, at least
MOST_EPOCHS = 200  # a budget in minutes buys no more


@dataclass(frozen=True)
class Budget:
    """`minutes` for everything, or `steps` of each run; the other is None."""

    minutes: float | None
    steps: int | None


def read_budget(text: str) -> Budget:
    """ "30m", "2h" or "500 steps". UserError: anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(m|min|minutes|h|hours|steps?)\s*", text)
    if not match or float(match[1]) <= 0:
        raise UserError(
            f"--budget {text!r}: expected minutes in all, as in 30m, hours, as in 2h, or steps of"
            " each run, as in '500 steps'."
        )
    number, unit = float(match[1]), match[2]
    if unit.startswith("step"):
        return Budget(None, max(1, int(number)))
    return Budget(number * (60 if unit.startswith("h") else 1), None)


@dataclass(frozen=True)
class Costs:
    """Seconds of one worker: `start` of any run, `step` {kind of method: one step}, `measure`: all
    tasks of one model; `elapsed`: the probe itself; `fill`: what --cache-tokens keeps, computed
    once."""

    start: float
    step: dict[str, float]
    measure: float
    elapsed: float
    fill: float = 0.0

    def run(self, choice: Choice, steps: int) -> float:
        """Seconds of the training of `choice`, where CLIP has `steps`."""
        return self.start + self.step[choice.kind] * steps * choice.length

    def total(
        self, choices: Sequence[Choice], rates: int, seeds: int, steps: int, jobs: int
    ) -> float:
        """Seconds of all runs on `jobs` workers."""
        trainings = rates + seeds - 1
        return self.fill + sum(
            trainings * self.run(choice, steps) + seeds * self.measure for choice in choices
        ) / min(jobs, len(choices))


def probe(
    out: Path, data: Data, settings: Settings, choices: Sequence[Choice], workers: Workers
) -> Costs:
    """Time short trainings on a few batches, and all tasks on one of their models.

    Every kind of method is timed once, CLIP twice to separate the start of a run from its steps.
    The trainings run side by side, as the real ones will. UserError: one failed.
    """
    began, folder = time.perf_counter(), out / "probe"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    few = _few(data, folder, settings.batch_size)
    epoch = max(1, few.rows // settings.batch_size)
    views = _views(settings.cache)
    settings = dataclasses.replace(settings, cache=_probe_cache(settings.cache, folder / "tokens"))
    steps = epoch * (1 + -(-PROBE_STEPS // epoch))

    def runs(name: str, steps: int) -> Runs:
        return Runs(folder / name, few, dataclasses.replace(settings, steps=steps), workers)

    kinds = {choice.kind: dataclasses.replace(choice, length=1) for choice in choices[::-1]}
    clip, rate = kinds["clip"], settings.rates[0]

    def timed(runs: Runs, choice: Choice) -> float:
        with workers.borrow() as worker:
            start = time.perf_counter()
            runs.bench.train(runs.method(choice, rate), 0, worker)
            return time.perf_counter() - start

    try:
        with ThreadPoolExecutor(workers.jobs) as pool:
            # the first command of a worker imports everything
            warm = [pool.submit(timed, runs(f"warm-{i}", 1), clip) for i in range(workers.jobs)]
            _ = [job.result() for job in warm]
            jobs = {kind: pool.submit(timed, runs(kind, steps), kinds[kind]) for kind in kinds}
            short = pool.submit(timed, runs("short", epoch), clip)
            if views:  # as short, but nothing has been kept yet
                empty = _probe_cache(settings.cache, folder / "no-tokens")
                new = dataclasses.replace(settings, steps=epoch, cache=empty)
                filling = pool.submit(timed, Runs(folder / "fill", few, new, workers), clip)
            times = {kind: job.result() for kind, job in jobs.items()}
        start = time.perf_counter()
        measured = runs("clip", steps)
        measured.bench.make(measured.method(clip, rate), 0, [])
        measure = time.perf_counter() - start
    except RuntimeError as error:
        raise UserError(f"a short trial run failed. {error}") from error
    shutil.rmtree(folder)
    fill = 0.0
    if views:  # validation images pass the tower too, once
        fixed = count_rows(few.validation)
        of_view = max(filling.result() - short.result(), 1e-4) / (few.rows + fixed)
        fill = of_view * (views * data.rows + fixed)
    of_step = max((times["clip"] - short.result()) / (steps - epoch), 1e-4)
    begin = max(times["clip"] - of_step * steps, 0.0)
    step = {kind: max((times[kind] - begin) / steps, of_step) for kind in kinds}
    elapsed = time.perf_counter() - began
    return Costs(begin, step, measure, elapsed, fill)


def _views(cache: Flags) -> int:
    """The number of views of an image that --cache-tokens keeps; 0 without it."""
    if not cache:
        return 0
    return (
        int(str(cache[cache.index("--cache-crops") + 1]))
        if "--cache-crops" in cache
        else CACHE_CROPS
    )


def _probe_cache(cache: Flags, folder: Path) -> Flags:
    """One view in a folder of the probe: its first runs compute all of them, the others none."""
    return [*cache, "--cache-tokens", folder, "--cache-crops", 1] if cache else cache


def steps_of_budget(
    budget: Budget,
    costs: Costs,
    choices: Sequence[Choice],
    rates: int,
    seeds: int,
    data: Data,
    batch_size: int,
    jobs: int,
) -> int:
    """The steps of CLIP that the budget allows, in whole epochs.

    UserError: not even one epoch of every run fits into the minutes.
    """
    if budget.steps is not None:
        return budget.steps
    assert budget.minutes is not None  # one of the two is given
    epoch = max(1, data.rows // batch_size)
    seconds = 60 * budget.minutes - costs.elapsed
    least = costs.total(choices, rates, seeds, epoch, jobs)
    if least > seconds:
        minutes = math.ceil((least + costs.elapsed) / 60)
        raise UserError(
            f"--budget {budget.minutes:g}m: {len(choices)} methods, {seeds} seeds and {rates}"
            f" learning rates take at least {minutes} minutes with one epoch each;"
            " give more minutes, or fewer --methods, --seeds or --lr."
        )
    another = costs.total(choices, rates, seeds, 2 * epoch, jobs) - least  # seconds of an epoch
    return epoch * min(MOST_EPOCHS, 1 + int((seconds - least) / another))


def _few(data: Data, folder: Path, batch_size: int) -> Data:
    """The same data with a few batches of the training data, some of them annotated."""
    rows = min(data.rows, PROBE_BATCHES * batch_size)
    if not data.train.endswith(".csv"):  # an epoch ends after `rows` samples of all shards
        return dataclasses.replace(data, rows=rows)
    table = pd.read_csv(data.train, dtype=str, keep_default_na=False)
    annotated = np.flatnonzero(table["heatmap"] != "")
    share = max(2, round(rows * len(annotated) / len(table)))
    others = np.setdiff1d(np.arange(len(table)), annotated[:share])
    chosen = np.concatenate([annotated[:share], others])[:rows]
    table.iloc[np.sort(chosen)].to_csv(folder / "train.csv", index=False)
    return dataclasses.replace(data, train=str(folder / "train.csv"), rows=len(chosen))
