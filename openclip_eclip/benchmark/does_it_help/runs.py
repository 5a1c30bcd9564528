"""Trainings and measurements of the benchmark: learning-rate search, then all seeds."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ...config import UserError
from ...run_flags import OF_EVALUATION
from ..rows import Flags, Method
from ..runner import MEASURE, VALIDATION, Bench, Workers
from .data import Data
from .methods import Choice

Job = tuple[Choice, float, int]  # method, learning rate, seed


@dataclass(frozen=True)
class Settings:
    """What all runs share.

    `start`: flags of the model and its weights; `rates`: learning rates that are tried; `steps`: of
    CLIP; `extra`: further flags of openclip_eclip.train; `cache`: those of --cache-tokens.
    """

    start: Flags
    rates: Sequence[float]
    steps: int
    batch_size: int
    workers: int
    precision: str
    weight_decay: float
    context_length: int | None
    extra: Sequence[str]
    cache: Flags = ()

    @property
    def flags(self) -> list[str | int | float | Path]:
        """Flags of every training."""
        length: Flags = (
            ["--force-context-length", self.context_length] if self.context_length else []
        )
        return [
            *self.start,
            *("--batch-size", self.batch_size, "--workers", self.workers),
            *("--precision", self.precision, "--wd", self.weight_decay),
            *length,
        ]


class Runs:
    """The runs of one folder. Method and learning rate together are a `Method` of its `bench`."""

    def __init__(self, out: Path, data: Data, settings: Settings, workers: Workers) -> None:
        self.out, self.data, self.settings, self.workers = out, data, settings, workers
        args = argparse.Namespace(
            out=out,
            data=out / "data",
            train_data=data.train,
            expert_data=None,
            settings="own data",
            model=None,
            steps=settings.steps,
            tune_steps=None,
        )
        samples = [] if data.train.endswith(".csv") else ["--train-num-samples", str(data.rows)]
        self.bench = Bench(
            args,
            [*samples, *settings.extra],
            workers,
            {"test": str(data.test)},
            data.tasks,
            data.validation,
            settings=(settings.flags, settings.flags, ["--workers", settings.workers]),
        )

    def method(self, choice: Choice, rate: float) -> Method:
        """The method with this learning rate; its warm-up is a tenth of its steps."""
        flags = [str(flag).replace("{train}", self.data.train) for flag in choice.flags]
        flags += [str(flag) for flag in self.settings.cache if choice.is_cached]
        warmup = max(1, self.settings.steps * choice.length // 10)
        return Method(
            f"{choice.name}, lr {rate:g}",
            [*flags, "--lr", rate, "--warmup", warmup],
            length=choice.length,
        )

    def folder(self, choice: Choice, rate: float, seed: int) -> Path:
        """The folder of a run, without checkpoints once it has ended."""
        return self.bench.facts_file(self.method(choice, rate), seed).parent

    def result(self, choice: Choice, rate: float, seed: int, task: str) -> Path:
        return self.bench.result(self.method(choice, rate), seed, "test", task)

    def model(self, choice: Choice, rate: float, seed: int) -> Path:
        return self.bench.model(self.method(choice, rate), seed)

    def seconds(self, choice: Choice, rate: float, seed: int) -> float:
        return self.bench.facts(self.method(choice, rate), seed)["seconds"]

    def curve(self, choice: Choice, rate: float, seed: int) -> dict[int, float]:
        """{validated epoch: mean rank of both directions; lower is better} of an ended run."""
        text = (self.folder(choice, rate, seed) / VALIDATION).read_text(encoding="utf-8")
        lines = map(json.loads, text.splitlines())
        return {line["epoch"]: OF_EVALUATION[MEASURE](line) for line in lines}

    def validation_rank(self, choice: Choice, rate: float, seed: int) -> float:
        """The mean rank of the chosen epoch on validation."""
        epoch = self.bench.facts(self.method(choice, rate), seed)["epoch"]
        return self.curve(choice, rate, seed)[epoch]

    def is_trained(self, choice: Choice, rate: float, seed: int) -> bool:
        return self.bench.facts_file(self.method(choice, rate), seed).is_file()

    def search(self, choices: Sequence[Choice], seed: int, done: Callable) -> dict[str, float]:
        """{method: the learning rate with the best validation score, with one seed}.

        A rate whose training fails is out; `done` is called with each job and its error or None.
        UserError: every rate of a method failed.
        """
        jobs = [(choice, rate, seed) for choice in choices for rate in self.settings.rates]
        failed: dict[Job, str] = {}

        def train(job: Job) -> None:
            choice, rate, _ = job
            if len(self.settings.rates) > 1 and not self.is_trained(*job):
                with self.workers.borrow() as worker:
                    try:
                        self.bench.train(self.method(choice, rate), seed, worker)
                    except RuntimeError as error:
                        failed[job] = str(error)
            done(job, failed.get(job))

        self._all(jobs, train)
        best = {}
        for choice in choices:
            rates = [rate for rate in self.settings.rates if (choice, rate, seed) not in failed]
            if not rates:
                raise UserError(
                    f"{choice.name}: the training failed with every learning rate. The last error:"
                    f" {failed[choice, self.settings.rates[-1], seed]}"
                )
            best[choice.name] = (
                min(rates, key=lambda rate: self.validation_rank(choice, rate, seed))
                if len(self.settings.rates) > 1
                else rates[0]
            )
            for rate in rates:  # models of other rates are not needed any more
                if rate != best[choice.name]:
                    shutil.rmtree(self.model(choice, rate, seed), ignore_errors=True)
        return best

    def all_seeds(
        self,
        choices: Sequence[Choice],
        rates: dict[str, float],
        seeds: Sequence[int],
        done: Callable,
    ) -> None:
        """Train and measure every method with its rate and every seed. UserError: one failed."""
        jobs = [(choice, rates[choice.name], seed) for seed in seeds for choice in choices]

        def make(job: Job) -> None:
            choice, rate, seed = job
            try:
                self.bench.make(self.method(choice, rate), seed, [])
            except RuntimeError as error:
                raise UserError(f"{choice.name}, seed {seed}: {error}") from error
            done(job, None)

        self._all(jobs, make)

    def _all(self, jobs: Sequence[Job], work: Callable[[Job], None]) -> None:
        """Do all jobs in threads; the first error stops those that have not begun."""
        with ThreadPoolExecutor(self.workers.jobs) as pool:
            waiting: set[Future] = {pool.submit(work, job) for job in jobs}
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                if error := next((job.exception() for job in ended if job.exception()), None):
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise error
