"""The plan of a curve, from a YAML file, and the training table and flags of each of its points."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..config import UserError
from ..data.tables.csv_source import CsvColumns, CsvTable, read_csv_table
from ..files import write_whole

# tasks of `evaluate` that evaluate one model
MEASURES = (
    "zero-shot",
    "linear-probe",
    "retrieval",
    "embedding-quality",
    "sensitivity",
    "reports",
)
VARY = ("batches", "annotations", "labels")
OURS = ("seed", "logs", "name", "resume")  # flags that the curve sets itself
Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The entries of the YAML file.

    `vary`: the quantity x; `train` and each of `methods`: flags of openclip_eclip.train;
    `evaluate`: `task` and its flags.
    """

    vary: str
    values: list[float]
    seeds: list[int]
    methods: dict[str, Flags]
    train: Flags
    evaluate: Flags
    # path in "values" of result.json, such as headline.macro_f1; {x} is replaced by the value
    metric: str
    processes: int = 1


@dataclass(frozen=True)
class Point:
    """A training and an evaluation. With `vary` labels all x share one training."""

    method: str
    seed: int
    asked: float

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}, {self.asked}"


def read_plan(path: Path) -> Plan:
    """Read and check a plan. UserError: an unreadable file; an unknown, missing or wrong entry."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: not a readable YAML file ({error}).") from error
    known = [field.name for field in fields(Plan)]
    needed = set(known) - {"processes"}
    if not isinstance(entries, dict) or set(entries) - set(known) or needed - set(entries):
        present = sorted(map(str, entries)) if isinstance(entries, dict) else type(entries).__name__
        raise UserError(
            f"--config {path}: found {present}; expected the entries {', '.join(known)} (processes"
            " may be left out)."
        )
    plan = Plan(**entries)
    _require(
        path, isinstance(plan.vary, str) and plan.vary in VARY, "vary", plan.vary, f"one of {VARY}"
    )
    top = {"batches": math.inf, "annotations": 1, "labels": 100}[plan.vary]
    _require(
        path,
        _numbers(plan.values) and all(0 < x <= top for x in plan.values),
        "values",
        plan.values,
        {
            "batches": "distinct numbers of steps above 0",
            "annotations": "distinct shares above 0, at most 1",
            "labels": "distinct percentages above 0, at most 100",
        }[plan.vary],
    )
    _require(
        path,
        _numbers(plan.seeds) and all(isinstance(seed, int) and seed >= 0 for seed in plan.seeds),
        "seeds",
        plan.seeds,
        "distinct whole numbers of at least 0",
    )
    _require(
        path,
        isinstance(plan.metric, str),
        "metric",
        plan.metric,
        "a path into the values of result.json, such as headline.macro_f1",
    )
    _require(
        path, _is_count(plan.processes), "processes", plan.processes, "a whole number of at least 1"
    )
    named = isinstance(plan.methods, dict) and all(
        re.fullmatch(r"[\w.+-]+", str(name)) for name in plan.methods
    )
    _require(
        path,
        named and bool(plan.methods),
        "methods",
        plan.methods,
        "{name: {flag: value}}, names of letters, digits and - _ . +",
    )
    for name, flags in {"train": plan.train, **plan.methods}.items():
        _require(path, isinstance(flags, dict), name, flags, "{flag: value}, {} for none")
        ours = {*OURS, *(["epochs"] if plan.vary == "batches" else [])} & set(flags)
        _require(path, not ours, name, sorted(ours), "no flag that the curve sets itself")
    for method in plan.methods:
        _require(
            path,
            "train-data" in train_flags(plan, method) and "batch-size" in train_flags(plan, method),
            "train",
            plan.train,
            "train-data and batch-size among the flags",
        )
        _check_numbers(path, method, train_flags(plan, method))
    task = plan.evaluate.get("task") if isinstance(plan.evaluate, dict) else None
    _require(
        path,
        task in MEASURES,
        "evaluate",
        plan.evaluate,
        f"{{task: NAME, flag: value}} with one of the tasks {', '.join(MEASURES)}",
    )
    return plan


def _check_numbers(path: Path, method: str, flags: Flags) -> None:
    """UserError: a wrong value of a flag that the curve computes with."""
    for name in ("batch-size", "accum-freq", "epochs"):
        _require(
            path,
            _is_count(flags.get(name, 1)),
            f"{method}: {name}",
            flags.get(name),
            "a whole number of at least 1",
        )
    warmup = flags.get("warmup", 1)
    _require(
        path,
        isinstance(warmup, (int, float)) and 0 <= warmup < math.inf,
        f"{method}: warmup",
        warmup,
        "steps, or a share of all of them",
    )
    for name in ("train-data", "expert-data"):
        _require(
            path,
            isinstance(flags.get(name, ""), str),
            f"{method}: {name}",
            flags.get(name),
            "a path",
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and len(set(map(str, values))) == len(values)
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    )


def _require(path: Path, ok: bool, name: str, value: Any, expected: str) -> None:
    if not ok:
        raise UserError(f"--config {path}: {name}: {value}; expected {expected}.")


def train_flags(plan: Plan, method: str) -> dict[str, Any]:
    """The flags of all methods, overridden by those of `method`."""
    return {**plan.train, **plan.methods[method]}


def to_argv(flags: Flags) -> list[str]:
    """Words of a command line: `--key=value`, or `--key a b` for a list.

    True gives `--key` alone, False gives nothing.
    """
    words: list[str] = []
    for key, value in flags.items():
        if isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        elif value is True:
            words.append(f"--{key}")
        elif value is not False:
            words.append(f"--{key}={value}")
    return words


def training(plan: Plan, point: Point, folder: Path) -> tuple[list[str], float]:
    """(training command, true x); writes the tables that it reads to `folder`.

    Batches: up to one epoch, the first x batches of the seed's permutation of the rows, for one
    epoch; above, the number of whole epochs of all rows that is nearest to x. Annotations: all
    rows, with the heatmaps of the first share x of the seed's permutation of the annotated rows.
    In both cases a smaller set is part of every larger one, and all methods have the same sets.
    UserError: no table, or too few rows.
    """
    flags, x = train_flags(plan, point.method), point.asked
    folder.mkdir(parents=True, exist_ok=True)
    table = None
    if plan.vary != "labels" or 0 < float(flags.get("warmup", 1)) < 1:
        table = _table(flags, "train-data")
        per_step = int(flags["batch-size"]) * int(flags.get("accum-freq", 1)) * plan.processes
        steps = len(table) // per_step
        if not steps:
            raise UserError(
                f"{table.path}: {len(table)} rows do not fill one step of {per_step} samples;"
                " expected at least one full step."
            )
    if plan.vary == "batches":
        assert table is not None  # read above
        flags["epochs"] = max(1, round(x / steps))
        x = flags["epochs"] * steps if x > steps else int(x)
        rows = np.random.default_rng(point.seed).permutation(len(table))[
            : x // flags["epochs"] * per_step
        ]
        flags["train-data"], steps = (
            _write(folder / "train.csv", table.keep(rows.tolist()), flags),
            x // flags["epochs"],
        )
    if plan.vary == "annotations":
        for key in ("train-data", "expert-data"):
            if key in flags:
                flags[key] = _write(
                    folder / f"{key}.csv", _less_annotated(_table(flags, key), x, point.seed), flags
                )
    if 0 < float(flags.get("warmup", 1)) < 1:
        if "epochs" not in flags:
            raise UserError(
                f"warmup {flags['warmup']} is a share of all steps; also give the number of epochs,"
                " or give the warm-up in steps."
            )
        flags["warmup"] = round(float(flags["warmup"]) * steps * int(flags["epochs"]))
    launch = ["-m", "openclip_eclip.train"]
    if plan.processes > 1:
        launch = [
            *("-m", "torch.distributed.run"),
            *("--standalone", f"--nproc_per_node={plan.processes}", "-m"),
            *("--", "openclip_eclip.train"),
        ]
    fixed = {"seed": point.seed, "logs": folder, "name": "run", "resume": "latest"}
    return [sys.executable, *launch, *to_argv({**flags, **fixed})], x


def evaluation(plan: Plan, point: Point, run: Path, out: Path) -> list[str]:
    """The evaluation command; `{x}` in a flag is replaced by the value."""
    flags = {
        key: value.replace("{x}", str(point.asked)) if isinstance(value, str) else value
        for key, value in plan.evaluate.items()
        if key != "task"
    }
    words = to_argv({"model": run, **flags, "out": out})
    return [sys.executable, "-m", "openclip_eclip.evaluate", str(plan.evaluate["task"]), *words]


def _table(flags: Flags, key: str) -> CsvTable:
    path = Path(flags[key])
    if path.suffix not in (".csv", ".tsv"):
        raise UserError(
            f"{key} {path}: expected a .csv or .tsv table, because the curve varies its rows or"
            " heatmaps."
        )
    if not path.is_file():
        raise UserError(f"{key} {path}: no such file.")
    return read_csv_table(
        path,
        CsvColumns(
            flags.get("csv-img-key", "filepath"),
            flags.get("csv-caption-key", "title"),
            flags.get("csv-heatmap-key", "heatmap"),
            flags.get("csv-separator"),
        ),
    )


def _less_annotated(table: CsvTable, share: float, seed: int) -> CsvTable:
    annotated = table.annotated
    if not annotated:
        raise UserError(
            f"{table.path}: no row has a heatmap; expected some, because the curve varies their"
            " share."
        )
    chosen = set(
        np.random.default_rng(seed)
        .permutation(annotated)[: max(1, round(share * len(annotated)))]
        .tolist()
    )
    table.heatmaps = [heatmap if i in chosen else None for i, heatmap in enumerate(table.heatmaps)]
    return table


def _write(path: Path, table: CsvTable, flags: Flags) -> Path:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=str(flags.get("csv-separator") or ","))
    writer.writerow([table.columns.image, table.columns.caption, table.columns.heatmap])
    writer.writerows(
        [table.image(row).absolute(), caption, heatmap.absolute() if heatmap else ""]
        for row, (caption, heatmap) in enumerate(zip(table.captions, table.heatmaps, strict=True))
    )
    write_whole(path, stream.getvalue().encode())
    return path
