"""Runs of a benchmark: worker processes that train, export and measure, and their files."""

from __future__ import annotations

import argparse
import csv
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import product
from pathlib import Path

from tqdm import tqdm

from ..checkpoint_files import BEST, BEST_RECORD
from ..files import write_whole
from ..json_text import read_json
from .anatomy import anatomy_of, check_same_anatomy
from .page import machine_kinds
from .rows import SETTINGS, Flags, Method

MEASURE = "mean-rank"  # of --keep-best: it chooses the epoch of a run with a validation table
VALIDATION = "validation.jsonl"  # in a run folder: a line of scores for each validated epoch


class Worker:
    """A process that runs `python -m` commands one after the other: it imports torch only once.

    `device`: the number of a GPU, or "" for one CPU thread. `cache`: tokens and images are read
    once, for small data sets. `register`: a Python file that is run first and registers models.
    """

    def __init__(self, device: str, cache: bool, register: Path | None = None) -> None:
        self.device, self.options = (
            device,
            [*["--cache"] * cache, *(["--register", str(register)] if register else [])],
        )
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": self.device, "OMP_NUM_THREADS": "1"}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "openclip_eclip.benchmark.worker", *self.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, module: str, flags: Flags, log: Path) -> float:
        """Run a command; returns its seconds. RuntimeError with the end of `log` if it fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        stdin, stdout = self.child.stdin, self.child.stdout
        assert stdin is not None and stdout is not None  # pipes, see `start`
        stdin.write(json.dumps([module, [str(flag) for flag in flags], str(log)]) + "\n")
        stdin.flush()
        code = stdout.readline().strip()
        if not code:  # an error that the command did not handle ended the process
            code = str(self.child.wait())
            self.start()
        if code != "0":
            raise RuntimeError(
                f"{log}: exit code {code}\n"
                + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
            )
        return time.perf_counter() - start


class Workers(queue.Queue):
    """A queue of workers.

    `jobs`: number of workers on each GPU (default 1), or on a machine without a GPU (default 2);
    `gpus`: number of visible GPUs to use, by default all.
    """

    def __init__(
        self, jobs: int | None, cache: bool, gpus: int | None = None, register: Path | None = None
    ) -> None:
        super().__init__()
        import torch

        count = torch.cuda.device_count() if gpus is None else gpus
        for name in [str(i) for i in range(count)] * (jobs or 1) or [""] * (jobs or 2):
            self.put(Worker(name, cache, register))
        self.jobs = self.qsize()
        self.machine = (
            f"{self.jobs} run{'s' * (self.jobs > 1)} at a time on"
            f" {f'{count} x {torch.cuda.get_device_name()}' if count else cpu_name()}"
        )

    @contextmanager
    def borrow(self) -> Iterator[Worker]:
        """Wait for a free worker and lend it to the `with` block."""
        worker = self.get()
        try:
            yield worker
        finally:
            self.put(worker)


class Bench:
    """The paths of a benchmark's files, and how its runs are made.

    `tests`: {name: table}; `tasks`: {task of openclip_eclip.evaluate: flags}; `validation`: a table
    that chooses the epoch of a run by MEASURE, else the last one is taken; `home`: the bench
    of the runs that others start from, by default this one; `settings`: flags as in SETTINGS,
    instead of those that `args.settings` names.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        train_flags: list[str],
        workers: Workers,
        tests: dict[str, str],
        tasks: Mapping[str, Flags],
        validation: Path | None = None,
        home: Bench | None = None,
        settings: tuple[Flags, Flags, Flags] | None = None,
    ) -> None:
        self.args, self.train_flags, self.workers, self.tests, self.tasks, self.validation = (
            args,
            train_flags,
            workers,
            tests,
            tasks,
            validation,
        )
        self.home = home or self
        self.scratch, self.tune, self.evaluate = settings or SETTINGS[args.settings]

    @property
    def table(self) -> Path | str:
        """The training table, as given."""
        return self.args.train_data or self.args.data / "train.csv"

    def name(self, method: Method, seed: int) -> str:
        # the name depends on the method and seed alone: two tables share the run of one method
        words = method.name.replace("^P", " P").lower()
        return re.sub(r"\W+", "-", words).strip("-") + f"-{seed}"

    def result(self, method: Method, seed: int, test: str, task: str = "zero-shot") -> Path:
        return (
            self.args.out / "results" / re.sub(r"\W+", "-", test) / task / self.name(method, seed)
        )

    def make(self, method: Method, seed: int, before: list[Future]) -> None:
        """Train and measure a run if it is missing, after the runs `before`."""
        for run in before:
            run.result()
        results = {
            (test, task): self.result(method, seed, test, task)
            for test, task in product(self.tests, self.tasks)
        }
        missing = {key: out for key, out in results.items() if not (out / "result.json").is_file()}
        with self.workers.borrow() as worker:
            if missing or not self.facts_file(method, seed).is_file():
                self.train(method, seed, worker)
            for (test, task), out in missing.items():
                shutil.rmtree(out, ignore_errors=True)  # files of an interrupted evaluation
                worker.run(
                    "openclip_eclip.evaluate",
                    [
                        *(task, "--model", self.model(method, seed), "--data", self.tests[test]),
                        *("--out", out, "--cache", "none"),
                        *self.tasks[task],
                        *self.evaluate,
                    ],
                    self.log(method, seed, f"-{test}-{task}"),
                )

    def model(self, method: Method, seed: int) -> Path:
        return self.args.out / "models" / self.name(method, seed)

    def student_data(self, method: Method, seed: int) -> Path:
        """The folder of pseudo-heatmaps and results of a method's teacher."""
        return self.args.out / "pseudo-heatmaps" / self.name(method, seed)

    def log(self, method: Method, seed: int, of: str = "") -> Path:
        return self.args.out / "logs" / f"{self.name(method, seed)}{of}.txt"

    def facts_file(self, method: Method, seed: int) -> Path:
        """The file of a finished run: {seconds, views, machine, torch, epoch, last_epoch, anatomy}.

        `epoch`, `last_epoch`: the best by validation, and the last that was trained, else None.
        """
        return self.args.out / "runs" / self.name(method, seed) / "table.json"

    def train(self, method: Method, seed: int, worker: Worker) -> None:
        """Train a run and export its model; an interrupted run starts again."""
        folder, plain = self.args.out / "runs" / self.name(method, seed), self.model(method, seed)
        if self.facts_file(method, seed).is_file() and plain.is_dir():
            return
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(plain, ignore_errors=True)
        flags = [
            *self.training_flags(method, seed),
            *("--train-data", self.training_data(method, seed, worker), "--logs", folder.parent),
            *("--name", folder.name, "--seed", seed),
            *("--device", "cuda" if worker.device else "cpu"),
        ]
        seconds = worker.run(
            "openclip_eclip.train", [*flags, *self.train_flags], self.log(method, seed)
        )
        checkpoints, epoch, last = folder / "checkpoints", None, None
        keeps_best = bool(self.validation or method.validated)
        worker.run(
            "openclip_eclip.export",
            [checkpoints / BEST if keeps_best else folder, plain],
            self.log(method, seed, "-export"),
        )
        if keeps_best:
            epoch = read_json(checkpoints / BEST_RECORD)["epoch"]
        if method.validated:
            lines = (checkpoints / "results.jsonl").read_text(encoding="utf-8").splitlines()
            last = json.loads(lines[-1])["epoch"]
        if self.validation:
            shutil.copy(checkpoints / "results.jsonl", folder / VALIDATION)
            shutil.rmtree(checkpoints)
        facts = {
            "seconds": seconds,
            "views": views(folder),
            "machine": self.workers.machine,
            "torch": version("torch"),
            "epoch": epoch,
            "last_epoch": last,
            "anatomy": anatomy_of(self.table),
        }
        # written last and atomically: a run with this file is finished
        write_whole(self.facts_file(method, seed), json.dumps(facts).encode())

    def training_flags(self, method: Method, seed: int) -> list[str | int | float | Path]:
        args, flags = self.args, list(self.tune if method.start else self.scratch)
        if args.settings == "paper":
            flags += ["--recipe", method.recipe]
        if method.start:
            flags += ["--model", f"local-dir:{self.home.model(Method(method.start), seed)}"]
        elif args.model:
            flags += ["--model", args.model]
        flags += [str(flag).replace("{data}", str(args.data)) for flag in method.flags]
        # the last epoch is saved anyway, and an interrupted run starts again
        flags += ["--save-frequency", 0, *self.length(method)]
        if args.expert_data and method.annotated:
            flags += ["--expert-data", args.expert_data]
        if self.validation:
            flags += ["--val-data", self.validation, "--keep-best", MEASURE, "--keep-last", 1]
        elif method.validated:  # its own flags say how
            flags += ["--val-data", args.validation]
        return flags

    def training_data(self, method: Method, seed: int, worker: Worker) -> Path | str:
        """The training table, with pseudo-heatmaps if the method has a teacher.

        The results of the teacher are copied beside them.
        """
        table = self.table
        if not method.teacher:
            return table
        folder = self.student_data(method, seed)
        shutil.rmtree(folder, ignore_errors=True)
        worker.run(
            "openclip_eclip.prepare",
            [
                *("pseudo-heatmaps", folder, "--data", table),
                *("--model", self.model(Method(method.teacher), seed), "--workers", 0),
                *method.teaching,
            ],
            self.log(method, seed, "-pseudo-heatmaps"),
        )
        for test, task in product(self.tests, self.tasks):
            shutil.copytree(
                self.result(Method(method.teacher), seed, test, task), folder / f"{test}-{task}"
            )
        return folder / Path(table).name

    def length(self, method: Method) -> list[str | int]:
        """Flags for whole epochs with at least the steps of --steps, none for the recipe's length.

        With validation, the run is validated eight to sixteen times, at most once an epoch.
        """
        steps = self.args.tune_steps if method.start else self.args.steps
        if steps is None:
            return []
        batch = int(str(dict(zip(self.scratch, self.scratch[1:])).get("--batch-size", 512)))
        flags = dict(zip(self.train_flags, self.train_flags[1:]))
        samples = int(flags.get("--train-num-samples", 0)) or count_rows(Path(self.table))
        epochs = -(
            -steps * method.length // max(1, samples // int(flags.get("--batch-size", batch)))
        )
        often = ["--val-frequency", max(1, epochs // 8)] if self.validation else []
        return ["--epochs", epochs, *often]

    def facts(self, method: Method, seed: int) -> dict:
        return json.loads(self.facts_file(method, seed).read_text())

    def kinds(self, method: Method, seeds: list[int]) -> list[str]:
        """The kinds of machines of a method's runs."""
        return machine_kinds(self.facts(method, seed) for seed in seeds)

    def compare(self, name: str, groups: dict[str, list[Path]], mixed: bool = False) -> dict:
        """Values of `evaluate compare` of {method: results of its seeds}; the first is the base.

        `mixed`: results of different machines are allowed.
        """
        folder = self.args.out / "compare" / re.sub(r"\W+", "-", name)
        words = [f"{method}={','.join(map(str, folders))}" for method, folders in groups.items()]
        with self.workers.borrow() as worker:
            worker.run(
                "openclip_eclip.evaluate",
                ["compare", *words, "--out", folder, *["--mixed-machines"] * mixed],
                self.args.out / "logs" / f"compare-{folder.name}.txt",
            )
        return json.loads((folder / "result.json").read_text())["values"]


def cpu_name() -> str:
    return next(
        (
            line.split(": ")[1]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "CPU",
    )


def count_rows(table: Path) -> int:
    with open(table, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def views(folder: Path) -> float | None:
    """Mean number of times that an annotated image was used with its heatmap.

    None for a method without heatmaps.
    """
    path = folder / "annotated_views.csv"
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        counts = [int(row["mixed_views"]) for row in csv.DictReader(file)]
    return sum(counts) / len(counts) if counts else 0.0


def make_all(tasks: list[tuple[Bench, Method, int]], jobs: int, title: str) -> None:
    """Make all runs of `tasks` (bench, method, seed).

    Runs that others start from, and teachers, come first. UserError: a finished run had another
    anatomy.
    """
    for bench, method, seed in tasks:
        check_same_anatomy(bench.facts_file(method, seed), bench.table)
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(tasks), desc=title, unit="run", disable=None) as bar,
    ):
        futures: dict[tuple, Future] = {}
        # runs without a start or a teacher first: a run waits for others inside a pool thread
        for bench, method, seed in sorted(
            tasks, key=lambda task: bool(task[1].start or task[1].teacher)
        ):
            before = [
                futures[key]
                for key in ((bench.home, method.start, seed), (bench, method.teacher, seed))
                if key in futures
            ]
            futures[bench, method.name, seed] = pool.submit(bench.make, method, seed, before)
            futures[bench, method.name, seed].add_done_callback(lambda _: bar.update())
        for future in futures.values():
            future.result()
