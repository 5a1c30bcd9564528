r"""Do expert annotations help on your data? Trains several methods and writes one report.

    python -m openclip_eclip.benchmark --train-data train.csv --val-data validation.csv \
        --test-data test.csv --model ViT-B-32 --budget 30m --out benchmark

Every method has the same data order, the same initial weights of a seed, and its own learning rate,
chosen on the validation data. A second call resumes. Flags that are not listed here are passed to
openclip_eclip.train.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...checkpoint import export_plain
from ...config import UserError
from ...data.tables.csv_source import add_column_arguments
from ...evaluate.output.write import write_result
from ...files import write_whole
from ...json_text import read_json
from ...run_flags import add_cache
from ..runner import Workers
from .data import Data, read_data
from .forecast import Budget, Costs, probe, read_budget, steps_of_budget
from .live import LiveTable, duration
from .methods import CHOICES, DEFAULT, Choice, choose
from .report import make_result
from .runs import Runs, Settings
from .scores import score_task

# learning rates of new weights, also those behind a frozen tower, and of trained ones
SCRATCH_RATES, TUNE_RATES = (3e-4, 1e-3, 3e-3), (1e-5, 3e-5, 1e-4)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")  # files that open_clip loads from a folder
FREE = ("methods", "seeds")  # settings that a second call may extend
FILE = "settings.json"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openclip-eclip benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="`benchmark table1|table4|align --help`: tables of the paper.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--train-data", required=True, help="training table, or .tar shards")
    data.add_argument(
        "--train-num-samples", type=int, metavar="N", help="number of samples in the shards"
    )
    data.add_argument(
        "--val-data", required=True, help="validation table; it chooses checkpoints and rates"
    )
    data.add_argument("--test-data", required=True, help="test table; it chooses nothing")
    add_column_arguments(data)  # type: ignore[arg-type]  # a group adds arguments like a parser
    data.add_argument(
        "--label-column", metavar="COLUMN", help="classes of the test images, for zero-shot"
    )
    data.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="prompt of a class, with {c} for its name; may be repeated (default: {c})",
    )
    data.add_argument(
        "--patient-column",
        metavar="COLUMN",
        help="patients of the test images; with it, intervals draw patients instead of images",
    )
    start = parser.add_argument_group("start: either --start or --model")
    start.add_argument(
        "--start",
        metavar="MODEL",
        help=(
            "trained model that all methods fine-tune: a run folder, local-dir:FOLDER, or an"
            " open_clip name with --pretrained"
        ),
    )
    start.add_argument(
        "--pretrained", metavar="TAG_OR_FILE", help="weights of --start, as in open_clip"
    )
    start.add_argument("--model", help="model that is trained from scratch")
    _add_run_arguments(parser)
    add_cache(parser.add_argument_group("a frozen tower, as in --freeze-image all"))
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--methods",
        nargs="+",
        default=DEFAULT,
        metavar="NAME",
        help=f"some of {', '.join(CHOICES)} (default: all but the last)",
    )
    runs.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    runs.add_argument(
        "--budget",
        default="30m",
        help=(
            "minutes or hours for everything, as in 30m or 2h, or steps of each run, as in '500"
            " steps' (default: %(default)s)"
        ),
    )
    runs.add_argument(
        "--lr",
        type=float,
        nargs="+",
        metavar="RATE",
        help=(
            "learning rates that every method tries on the validation data (default: "
            f"{' '.join(f'{rate:g}' for rate in TUNE_RATES)} from --start,"
            f" {' '.join(f'{rate:g}' for rate in SCRATCH_RATES)} from scratch or with"
            " --freeze-image)"
        ),
    )
    runs.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    runs.add_argument("--wd", type=float, default=0.1, help="weight decay (default: %(default)s)")
    runs.add_argument(
        "--force-context-length", type=int, metavar="TOKENS", help="length of texts in tokens"
    )
    runs.add_argument("--precision", help="default: fp32 on CPU, amp_bf16 on a GPU")
    runs.add_argument(
        "--workers",
        type=int,
        help=(
            "number of processes that decode images (default: 0 for small data, else 4, or one a"
            " shard if that is less)"
        ),
    )
    runs.add_argument(
        "--jobs",
        type=int,
        help="number of runs at a time on each GPU (default: 1), or without a GPU (default: 2)",
    )
    runs.add_argument("--out", type=Path, required=True, help="folder of all runs and the report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 and one line on stderr for a user's error."""
    args, extra = build_parser().parse_known_args(argv)
    try:
        run(args, extra)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def run(args: argparse.Namespace, extra: list[str]) -> None:
    """Forecast, train, measure, report. UserError: wrong flags or data, or a failed run."""
    began = time.time()
    choices = choose(args.methods)
    budget = read_budget(args.budget)
    given = {word.split("=")[0] for word in extra}
    if "--minutes" in given:
        raise UserError(
            "--minutes: runs that the clock ends have different lengths and cannot be compared;"
            " give --budget, e.g. --budget 30m for all runs together."
        )
    is_frozen = "--freeze-image" in given
    is_tuned = args.start and not is_frozen
    rates = tuple(args.lr or (TUNE_RATES if is_tuned else SCRATCH_RATES))
    _check_numbers(args, rates)
    args.out.mkdir(parents=True, exist_ok=True)
    start = start_flags(args)
    data = read_data(args, start[1])
    if data.rows < 2 * args.batch_size:
        args.batch_size = max(2, data.rows // 2)
    record = _record(args, data, rates, extra)
    earlier = check_settings(args.out, record)
    workers = Workers(args.jobs, cache=data.is_small)
    settings = Settings(
        start=start,
        rates=rates,
        steps=earlier.get("steps", 1),
        batch_size=args.batch_size,
        workers=args.workers if args.workers is not None else data.loader_processes,
        precision=args.precision or ("fp32" if _on_cpu(workers) else "amp_bf16"),
        weight_decay=args.wd,
        context_length=args.force_context_length,
        extra=extra,
        cache=cache_flags(args, is_frozen, choices),
    )
    seeds = list(range(args.seeds))
    costs = _read_costs(earlier)
    if costs is None:
        _say(f"{len(choices)} methods, {len(seeds)} seeds, {len(rates)} learning rates.")
        _say(f"{workers.machine}. A short trial run measures their speed ...")
        costs = probe(args.out, data, settings, choices, workers)
        settings = _with_steps(settings, budget, costs, choices, seeds, data, workers)
    missing = [choice for choice in choices if choice.kind not in costs.step]
    if missing:  # a method that was added later, of a kind that was not timed
        costs.step.update({choice.kind: max(costs.step.values()) for choice in missing})
    record |= {"steps": settings.steps, "costs": vars(costs)}
    write_whole(args.out / FILE, json.dumps(record, indent=2).encode())
    expected = costs.total(choices, len(rates), len(seeds), settings.steps, workers.jobs)
    _say(
        f"{settings.steps} steps a run ({settings.steps * args.batch_size / data.rows:.0f} epochs)."
        f" Forecast: {duration(expected)} for all runs."
    )
    runs = Runs(args.out, data, settings, workers)
    best = _make_all(runs, choices, seeds, costs)
    scores = [
        score_task(
            task,
            {
                choice.name: [runs.result(choice, best[choice.name], seed, task) for seed in seeds]
                for choice in choices
            },
            data.test,
            args.patient_column is not None,
        )
        for task in data.tasks
    ]
    facts = {"forecast": expected, "seconds": time.time() - began, "resumed": bool(earlier)}
    result = make_result(runs, choices, seeds, best, scores, record | facts)
    write_result(result, args.out)
    _say("\n" + "\n".join(result.answer) + f"\n\nReport: {args.out / 'report.html'}")


def _make_all(
    runs: Runs, choices: Sequence[Choice], seeds: Sequence[int], costs: Costs
) -> dict[str, float]:
    """Search the rates and make all runs. Returns {method: its learning rate}."""
    rates = len(runs.settings.rates)
    per_method = rates + len(seeds) - 1  # the first seed's run is one of the search
    expected = {choice.name: costs.run(choice, runs.settings.steps) for choice in choices}
    table = LiveTable(choices, per_method, expected, runs.workers.jobs)
    reported: set[tuple] = set()

    def done(job: tuple, error: str | None) -> None:
        if job in reported:
            return
        reported.add(job)
        choice, rate, _ = job
        if error is None:
            table.update(choice.name, rate, runs.seconds(*job), runs.validation_rank(*job))
        else:
            table.update(choice.name, rate, None, None, error)

    best = runs.search(choices, seeds[0], done if rates > 1 else lambda *_: None)
    runs.all_seeds(choices, best, seeds, done)
    return best


def _with_steps(
    settings: Settings,
    budget: Budget,
    costs: Costs,
    choices: Sequence[Choice],
    seeds: Sequence[int],
    data: Data,
    workers: Workers,
) -> Settings:
    """The settings with the steps that the budget allows."""
    count = (len(settings.rates), len(seeds))
    steps = steps_of_budget(budget, costs, choices, *count, data, settings.batch_size, workers.jobs)
    return replace(settings, steps=steps)


def start_flags(args: argparse.Namespace) -> list[str]:
    """--model and --pretrained of all trainings; a run folder is exported to OUT/start first.

    UserError: not exactly one of --start and --model, or a --start without weights.
    """
    if (args.start is None) == (args.model is None):
        raise UserError(
            "expected either --start, a trained model that all methods fine-tune, or --model, a"
            " model that is trained from scratch."
        )
    if args.model:
        if args.pretrained:
            raise UserError(
                f"--model {args.model} with --pretrained: --model is trained from scratch; name the"
                " trained model with --start."
            )
        return ["--model", args.model]
    folder = Path(args.start.removeprefix("local-dir:"))
    if args.start.startswith("local-dir:") or (folder / "open_clip_config.json").is_file():
        if not any(path.suffix in WEIGHTS for path in folder.glob("*")):
            raise UserError(
                f"--start {args.start}: no weights in this folder (a file"
                f" {', '.join(WEIGHTS)}); expected a trained model. --model trains from scratch."
            )
        return ["--model", f"local-dir:{folder.absolute()}"]
    if folder.is_dir():
        if not (args.out / "start").is_dir():
            export_plain(folder, args.out / "start")
        return ["--model", f"local-dir:{(args.out / 'start').absolute()}"]
    if not args.pretrained:
        raise UserError(
            f"--start {args.start}: no such folder, and no --pretrained; expected a run folder,"
            " local-dir:FOLDER, or a name of open_clip with --pretrained."
        )
    return ["--model", args.start, "--pretrained", args.pretrained]


def cache_flags(
    args: argparse.Namespace, is_frozen: bool, choices: Sequence[Choice]
) -> list[str | int]:
    """The flags of --cache-tokens, for the methods that can take them.

    UserError: nothing is frozen.
    """
    if not args.cache_tokens:
        if args.cache_crops or args.cache_tokens_dtype:
            raise UserError("--cache-crops and --cache-tokens-dtype belong to --cache-tokens.")
        return []
    if not is_frozen:
        raise UserError(
            "--cache-tokens without --freeze-image has no effect: give both, or drop it."
        )
    others = [choice.name for choice in choices if not choice.is_cached]
    if others:
        _say(
            f"{', '.join(others)}: without --cache-tokens, since new images are mixed in each"
            " step; these runs take longer."
        )
    given = [("--cache-crops", args.cache_crops), ("--cache-tokens-dtype", args.cache_tokens_dtype)]
    flags: list[str | int] = ["--cache-tokens", str(Path(args.cache_tokens).absolute())]
    return flags + [word for pair in given if pair[1] for word in pair]


def _check_numbers(args: argparse.Namespace, rates: Sequence[float]) -> None:
    for flag, value, right in (
        ("--seeds", args.seeds, args.seeds >= 1),
        ("--batch-size", args.batch_size, args.batch_size >= 2),
        ("--lr", rates, min(rates) > 0 and len(set(rates)) == len(rates)),
    ):
        if not right:
            raise UserError(f"{flag} {value}: expected different numbers above 0, 2 for a batch.")


def _record(
    args: argparse.Namespace, data: Data, rates: Sequence[float], extra: Sequence[str]
) -> dict[str, Any]:
    """The settings that decide what the runs are, as JSON types."""
    given = {
        name: getattr(args, name)
        for name in (
            *("methods", "seeds", "budget", "start", "pretrained", "model", "batch_size", "wd"),
            *("precision", "force_context_length", "label_column", "template", "patient_column"),
            *("cache_tokens", "cache_crops", "cache_tokens_dtype"),
        )
    }
    record = {**given, "lr": rates, "data": data.facts, "further_flags": extra}
    return json.loads(json.dumps(record))


def check_settings(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The settings of an earlier call in this folder, {} if there is none.

    UserError: one of them differs; only --methods and --seeds may.
    """
    path = out / FILE
    if not path.is_file():
        return {}
    earlier = read_json(path)
    for name, value in record.items():
        if name in FREE or earlier.get(name) == value:
            continue
        before = earlier.get(name)
        if name == "data":
            changed = [key for key in value if value[key] != (before or {}).get(key)]
            raise UserError(
                f"{out} was made with other data ({', '.join(changed) or 'shards'}); give a new"
                " --out, or the same data."
            )
        flag = f"--{name.replace('_', '-')}"
        raise UserError(
            f"{out} was made with {flag} {before}, now it is {value}; give a new --out, or the same"
            f" {flag}. Only --methods and --seeds may change."
        )
    return earlier


def _read_costs(earlier: dict[str, Any]) -> Costs | None:
    return Costs(**earlier["costs"]) if "costs" in earlier else None


def _on_cpu(workers: Workers) -> bool:
    return all(not worker.device for worker in list(workers.queue))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
