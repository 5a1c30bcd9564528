"""Task curve: score against amount of data (Fig. 4), with a fitted power law.

Each point is a training and an evaluation of this package. An interrupted curve can resume.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from ..config import UserError
from ..evaluate.options import add_output_argument
from ..evaluate.output.result import Cell, Result, Table, plain
from ..evaluate.output.write import write_result
from ..files import write_whole
from ..flag_checks import current_spelling
from ..metrics.power_law import (
    FLATTEST,
    LEAST_X,
    STEEPEST,
    PowerLaw,
    bootstrap_power_law,
    fit_power_law,
)
from .curve_plan import Plan, Point, evaluation, read_plan, training

AXES = {
    "batches": "training batches",
    "annotations": "share of the annotations",
    "labels": "labelled training samples, %",
}
TAIL = 15  # lines of a log that an error message quotes


class PointError(UserError):
    """A training or an evaluation that failed."""


@dataclass
class Fit:
    """A fitted power law.

    `draws`: laws fitted to resampled seeds; `band` (2, G): 95 % interval of the score at `grid`
    (G,). Both are empty with one seed.
    """

    law: PowerLaw
    draws: list[PowerLaw]
    grid: np.ndarray
    band: np.ndarray


Scores = dict[str, dict[int, dict[float, float]]]  # {method: {seed: {x: score}}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE.yaml",
        help=(
            "YAML file with the plan of the curve: vary (batches, annotations or labels), values,"
            " seeds, methods, train, evaluate, metric"
        ),
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """Make all missing points, then the result.

    UserError: a wrong plan, or failed points; these are named after all others were tried.
    """
    plan = read_plan(args.config)
    points = [
        Point(method, seed, x)
        for x in plan.values
        for seed in plan.seeds
        for method in plan.methods
    ]
    folder = (args.out / "points").absolute()
    scores: Scores = {method: {seed: {} for seed in plan.seeds} for method in plan.methods}
    # an unfinished result marks the folder as one of `curve` before the first point exists
    if not (args.out / "result.json").is_file():
        note = f"Not finished: {len(points)} points are missing."
        write_result(_result(plan, scores, [note]), args.out)
    failed = {}
    with _alone(folder) as lock:
        for point in tqdm(points, desc="points", unit="point", disable=None):
            try:
                x, score = run_point(plan, point, folder, lock)
            except PointError as error:
                failed[point.name] = str(error)
                continue
            if x in scores[point.method][point.seed]:
                raise UserError(
                    f"{point.name}: rounded to whole epochs this is {x} batches, as for an earlier"
                    " value; leave one of them out."
                )
            scores[point.method][point.seed][x] = score
    if failed:
        write_result(
            _result(
                plan,
                scores,
                [f"{len(failed)} of {len(points)} points failed: {'; '.join(failed)}."],
            ),
            args.out,
        )
        reasons = "\n".join(failed.values())
        raise UserError(
            f"{len(failed)} of {len(points)} points failed; the same command tries them"
            f" again.\n{reasons}"
        )
    return _result(plan, scores, [])


def run_point(plan: Plan, point: Point, folder: Path, lock: int) -> tuple[float, float]:
    """(true x, score) of a point; it is trained and evaluated if it is missing.

    UserError: the point was made with other settings before.
    """
    of_seed = folder / point.method / f"seed-{point.seed}"
    of_point = of_seed / f"x-{point.asked}"
    trained = (of_seed if plan.vary == "labels" else of_point) / "training"
    train, x = training(plan, point, trained)
    out = of_point / "evaluation"
    evaluate = evaluation(plan, point, trained / "run", out)
    of_point.mkdir(parents=True, exist_ok=True)
    record = json.dumps({"train": train[1:], "evaluate": evaluate[1:]}, indent=2)
    before = of_point / "point.json"
    if before.is_file() and not _same_commands(before.read_text(encoding="utf-8"), record):
        raise UserError(
            f"{of_point} was made by other commands (see {before}); give a new --out, or remove the"
            " folder."
        )
    write_whole(before, record.encode())
    if not (out / "result.json").is_file():
        if not (trained / "finished").is_file():
            launch(point, train, trained / "train.log", lock)
            (trained / "finished").touch()
        if out.exists():  # an interrupted evaluation
            shutil.rmtree(out)
        launch(point, evaluate, of_point / "evaluate.log", lock)
    values = json.loads((out / "result.json").read_text(encoding="utf-8"))["values"]
    return x, _score(values, plan.metric.replace("{x}", str(point.asked)), out)


def _same_commands(stored: str, record: str) -> bool:
    """Whether two records of a point's commands differ in nothing but old names of flags."""
    if stored == record:
        return True
    try:
        commands = [json.loads(text) for text in (stored, record)]
        first, second = ([current_spelling(words)[0] for words in one.values()] for one in commands)
    except (ValueError, AttributeError, TypeError):  # not a record of ours
        return False
    return first == second


def launch(point: Point, command: list[str], log: Path, lock: int) -> None:
    """Run a command with its output in `log`. PointError with the end of the log if it fails.

    The child process inherits `lock`, so that the folder stays locked if this process is killed.
    """
    with log.open("ab") as stream:
        code = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=[lock],
            check=False,
        ).returncode
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        raise PointError(
            f"{point.name}: exit code {code}, the end of {log}:\n    " + "\n    ".join(tail)
        )


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Lock `folder` for this process.

    UserError: another curve works in it, or a training that a killed curve left running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another curve, or a training of a killed curve, still works in this"
                " folder; wait until it ends, or end it."
            ) from error
        yield stream.fileno()


def _score(values: Any, path: str, out: Path) -> float:
    score = _look_up(values, path)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise UserError(
            f"metric {path}: {score} in {out / 'result.json'}; expected a number from 0 to 1 (err ="
            " 1 - score)."
        )
    return float(score)


def _look_up(values: Any, path: str) -> Any:
    """The entry at a dotted path; keys may contain dots. None if there is no such entry."""
    if not isinstance(values, dict) or path in values:
        return values.get(path) if isinstance(values, dict) else None
    heads = [key for key in values if path.startswith(f"{key}.")]
    return next(
        (
            entry
            for key in heads
            if (entry := _look_up(values[key], path[len(key) + 1 :])) is not None
        ),
        None,
    )


def _result(plan: Plan, scores: Scores, notes: list[str]) -> Result:
    notes, fits = list(notes), {}
    for method, seeds in scores.items():
        whole = {seed: curve for seed, curve in seeds.items() if len(curve) == len(plan.values)}
        if not whole:
            continue
        try:
            fits[method] = _fit(whole)
        except ValueError as error:
            notes.append(f"{method}: no power law fitted: {error}")
            continue
        if len(whole) < len(seeds):
            notes.append(
                f"{method}: the fit uses only the {len(whole)} of {len(seeds)} seeds that have"
                " every point."
            )
        law = fits[method].law
        if law.b == 0 or not 1.01 * FLATTEST < law.c < 0.99 * STEEPEST:
            notes.append(
                f"{method}: the fit is at the end of its range (b = {law.b:.3g}, c ="
                f" {law.c:.3g}), so these points show no power law."
            )
    if len(plan.seeds) < 5:
        few = (
            f"{len(plan.seeds)} seeds: their spread is estimated badly, so the intervals are wide"
            f" (Student's t, {len(plan.seeds) - 1} degrees of freedom)."
        )
        notes.append("ONE SEED: there is no interval." if len(plan.seeds) == 1 else few)
    values = {
        "vary": plan.vary,
        "metric": plan.metric,
        "points": [
            {"method": method, "seed": seed, "x": x, "score": score}
            for method, seeds in scores.items()
            for seed, curve in seeds.items()
            for x, score in curve.items()
        ],
        "fits": {method: _parameters(fit) for method, fit in fits.items()},
    }
    return Result(
        "curve",
        plain(dataclasses.asdict(plan)),
        values,
        _tables(plan, scores, fits),
        {"curve": _figure(plan, scores, fits)},
        {
            "curve": (
                "Each dot is a training. Line: mean over seeds. Dashed: power law with its 95 %"
                " band over seeds."
            )
        },
        notes=notes,
        terms=["power law"],
    )


def _fit(curves: dict[int, dict[float, float]]) -> Fit:
    """Fit a power law to `curves`: {seed: {x: score}}, with the same x in all.

    ValueError: as `fit_power_law`.
    """
    x = np.array(sorted(next(iter(curves.values()))), dtype=np.float64)
    error = 1 - np.array([[curve[value] for value in x] for curve in curves.values()])
    law = fit_power_law(x, error.mean(0))
    grid = np.geomspace(x[0], x[-1], 60)
    if len(error) == 1:
        return Fit(law, [], grid, np.empty((2, 0)))
    draws = bootstrap_power_law(x, error)
    return Fit(
        law,
        draws,
        grid,
        np.quantile([1 - draw.predict(grid) for draw in draws], [0.025, 0.975], axis=0),
    )


def _parameters(fit: Fit) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name in ("a", "b", "c"):
        drawn = [getattr(draw, name) for draw in fit.draws] or [math.nan]
        low, high = np.quantile(drawn, [0.025, 0.975])
        parameters[name] = {"value": getattr(fit.law, name), "low": low, "high": high}
    return {**parameters, "sse": fit.law.sse}


def _tables(plan: Plan, scores: Scores, fits: dict[str, Fit]) -> list[Table]:
    rows: list[list[Cell]] = []
    for method, seeds in scores.items():
        for x in sorted({x for curve in seeds.values() for x in curve}):
            values = [curve[x] for curve in seeds.values() if x in curve]
            mean, sd = float(np.mean(values)), None
            if len(values) > 1:
                sd = float(np.std(values, ddof=1))
            rows.append([method, str(x), mean, sd, min(values), max(values), len(values)])
    columns = ["method", AXES[plan.vary], "mean", "sd over seeds", "least", "most", "seeds"]
    tables = [Table(f"{plan.metric} by {AXES[plan.vary]}", columns, rows)]
    if fits:
        parameters = {method: _parameters(fit) for method, fit in fits.items()}
        tables.append(
            Table(
                "Power law 1 - score = a + b x^-c",
                ["method", "parameter", "value", "low", "high"],
                [
                    [method, name, *(values[name][key] for key in ("value", "low", "high"))]
                    for method, values in parameters.items()
                    for name in ("a", "b", "c")
                ],
                f"Least squares on the mean of the seeds, from at least {LEAST_X} values of x; 95 %"
                " interval over seeds.",
            )
        )
    return tables


def _figure(plan: Plan, scores: Scores, fits: dict[str, Fit]) -> Figure:
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    for i, (method, seeds) in enumerate(scores.items()):
        x = sorted({x for curve in seeds.values() for x in curve})
        for curve in seeds.values():
            axis.plot(list(curve), list(curve.values()), "o", color=f"C{i}", ms=4, alpha=0.45)
        means = [
            np.mean([curve[value] for curve in seeds.values() if value in curve]) for value in x
        ]
        axis.plot(x, means, color=f"C{i}", lw=1.6, label=method)
        if method in fits:
            fit = fits[method]
            axis.plot(fit.grid, 1 - fit.law.predict(fit.grid), "--", color=f"C{i}", lw=1.2)
            if fit.draws:
                axis.fill_between(fit.grid, *fit.band, color=f"C{i}", alpha=0.15, lw=0)
    axis.set_xscale("log")
    axis.set(xlabel=AXES[plan.vary], ylabel=plan.metric)
    axis.grid(color="#dde3ea", lw=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
