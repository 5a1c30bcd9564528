r"""Reproduce a table of the paper: train each method with several seeds, measure and compare it.

    python -m openclip_eclip.benchmark table1 --data phantoms --seeds 5 --steps 500 \
        --tune-steps 150 --out tables  # two processes on the CPU
    python -m openclip_eclip.benchmark table1 --settings paper --data DATA \
        --test "CheXpert 5x200=DATA/chexpert_5x200.csv" --model ViT-B-16 --out tables

Runs of one seed begin with the same weights and see the same data in the same order. Each visible
GPU trains one run at a time, or several small models with --jobs. A second call resumes with the
missing runs. Tables with the same --out share their runs. Flags that are not listed here are passed
to openclip_eclip.train.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..config import UserError
from ..phantom.scenes import ANATOMIES
from .align import run_align
from .align_cells import ALIGN_METHODS, ALIGN_SETTINGS
from .anatomy import anatomy_of
from .page import OTHER_MACHINE, change, draw_differences, machine_kinds, spread
from .rows import SETTINGS, TABLES, Method
from .runner import Bench, Workers, make_all

METRIC = "macro-F1"


def compare(bench: Bench, methods: list[Method], seeds: list[int], test: str) -> dict[str, dict]:
    """{method: {value, sd, low, high, base, difference: {value, low, high, p}, other_machine}}.

    The difference is from the base of the method. It is None for the base itself, and for a method
    that ran on another kind of machine than its base, unless --mixed-machines is given.
    """
    results: dict[str, dict] = {}
    for base in dict.fromkeys(method.base for method in methods):
        family = [method for method in methods if method.base == base]
        family.sort(key=lambda method: method.name != base)
        if len(family) < 2:
            continue
        groups = {
            method.name: [bench.result(method, seed, test) for seed in seeds] for method in family
        }
        other_machine = {
            method.name: (
                not bench.args.mixed_machines
                and len({*bench.kinds(method, seeds), *bench.kinds(family[0], seeds)}) > 1
            )
            for method in family
        }
        values = bench.compare(
            f"{bench.args.table}-{base}-{test}",
            groups,
            mixed=bench.args.mixed_machines or any(other_machine.values()),
        )
        for method in family:
            difference = (
                None
                if other_machine[method.name]
                else values["differences"].get(method.name, {}).get(METRIC)
            )
            results[method.name] = values["methods"][method.name][METRIC] | {
                "difference": difference,
                "base": base,
                "other_machine": other_machine[method.name],
            }
    return {method.name: results[method.name] for method in methods if method.name in results}


def summary(facts: list[dict]) -> dict:
    """{seconds, views, machines, kinds} of a method, from the facts of its runs."""
    views = [run["views"] for run in facts if run["views"] is not None]
    return {
        "seconds": float(np.mean([run["seconds"] for run in facts])),
        "views": float(np.mean(views)) if views else None,
        "machines": sorted({run["machine"] for run in facts}),
        "kinds": machine_kinds(facts),
    }


def markdown(table: str, record: dict) -> str:
    """The Markdown page of the content of {table}.json."""
    scores, facts = record["scores"], record["facts"]
    title = table.replace("table", "Table ")
    machines = ", ".join(sorted({name for entry in facts.values() for name in entry["machines"]}))
    mixed = (
        " Methods of different machines are compared (--mixed-machines): a difference may be that"
        " of the machines." * record.get("mixed_machines", False)
    )
    anatomy = record.get("anatomy") or "chest"
    images = f" Phantoms: {ANATOMIES[anatomy].title}." * (anatomy != "chest")
    lines = [
        f"# {title}\n",
        (
            f"`python -m openclip_eclip.benchmark {table}`: {METRIC}, seeds"
            f" {' '.join(map(str, record['seeds']))}. {record['note']}.{images}"
            f" {machines}.{mixed}\n"
        ),
        (
            "Mean ± sd over seeds. The difference is to the base of the method, paired by seed."
            " The 95 % intervals are over seeds (Student's t) and"
            f" images.{record.get('intervals', '')}\n"
        ),
        f"{limits(facts)}\n",
        f"![Differences with their intervals]({table}.png)\n",
    ]
    for test, methods in scores.items():
        lines += [
            f"## Test set: {test}\n",
            (
                f"| method | {METRIC} | difference to base | base | views an annotated image |"
                " training s |"
            ),
            "|---|---|---|---|---|---|",
        ]
        for name, score in methods.items():
            is_other = score.get("other_machine")
            difference = OTHER_MACHINE if is_other else change(score["difference"])
            base, views = score["base"] if difference else "", facts[name]["views"]
            lines.append(
                f"| {name} | {spread(score)} | {difference} | {base} |"
                f" {'' if views is None else f'{views:.1f}'} | {facts[name]['seconds']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def limits(facts: dict[str, dict]) -> str:
    """The sentences on what the comparison does not show."""
    views = sorted(entry["views"] for entry in facts.values() if entry["views"] is not None)
    times = (
        " to ".join(dict.fromkeys(f"{number:.1f}" for number in (views[0], views[-1])))
        if views
        else ""
    )
    dose = (
        f" An annotated image enters {times} times here. In the paper it enters about 527 times"
        " (through an annotated half-batch). So this says nothing of the paper's dose."
    )
    return (
        "All methods share learning rate, batch size and number of steps. Methods that fine-tune"
        " share theirs." + dose * bool(views)
    )


def draw(scores: dict[str, dict[str, dict]]) -> Figure:
    """Differences from the base with their intervals, a panel for each test set."""
    shown = {
        test: {name: score for name, score in methods.items() if score["difference"]}
        for test, methods in scores.items()
    }
    count = max(map(len, shown.values()))
    figure = Figure(figsize=(1.2 + 4.6 * len(shown), 1.1 + 0.32 * count), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (test, methods) in zip(panels, shown.items()):
        draw_differences(
            axes,
            [f"{name} − {score['base']}" for name, score in methods.items()],
            [score["difference"] for score in methods.values()],
            f"test set: {test}" if len(shown) > 1 else "",
        )
        axes.set_xlabel(f"difference of {METRIC}, 95 % interval")
    return figure


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "table", choices=(*TABLES, "align"), help="table to reproduce, or the alignment benchmark"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="data folder with train.csv and test.csv"
    )
    parser.add_argument(
        "--train-data",
        help=(
            "training data instead of DATA/train.csv: a table, or shards (then also give"
            " --train-num-samples)"
        ),
    )
    parser.add_argument(
        "--expert-data",
        help="separate source of annotated pairs, for the methods that read heatmaps",
    )
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="test set instead of DATA/test.csv; may be given several times",
    )
    parser.add_argument(
        "--settings",
        choices=SETTINGS,
        default="phantoms",
        help="shared training settings: small ones or the paper's (default: %(default)s)",
    )
    parser.add_argument("--model", help="model instead of the one of --settings")
    _add_run_arguments(parser)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that say which runs are made, and how."""
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="methods (rows of the table) to run, with those they start from (default: all)",
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="CELL",
        help="settings of align to run, such as '600 images, 15 %%' (default: all)",
    )
    parser.add_argument(
        "--anatomy",
        choices=ANATOMIES,
        help=(
            "align only: anatomy of the synthetic images (default: chest); the data of a table"
            " have theirs from prepare phantom"
        ),
    )
    parser.add_argument(
        "--measured",
        action="store_true",
        help="align only: trains nothing and writes the page of the runs that exist",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--first-seed", type=int, default=30, help="lowest seed (default: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="number of steps of training from scratch (default: that of the recipe)",
    )
    parser.add_argument(
        "--tune-steps",
        type=int,
        help="number of steps of fine-tuning (default: that of the recipe)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        help=(
            "number of runs at a time, on each GPU (default: 1) or on a machine without a GPU"
            " (default: 2)"
        ),
    )
    parser.add_argument("--note", default="", help="note on the data for the page")
    parser.add_argument(
        "--mixed-machines",
        action="store_true",
        help="also compares methods that ran on different kinds of machines; the page says so",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for runs, results and the page"
    )


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """(own flags, flags of openclip_eclip.train)."""
    parser = build_parser()
    args, train_flags = parser.parse_known_args(argv)
    if (
        args.table != "align"
        and args.settings == "phantoms"
        and (args.steps is None or args.tune_steps is None)
    ):
        parser.error("--settings phantoms has no recipe; give --steps and --tune-steps")
    is_align = args.table == "align"
    if args.anatomy and not is_align:
        parser.error(
            f"--anatomy with {args.table}: expected only with align; the images of DATA have the"
            " anatomy that prepare phantom gave them"
        )
    args.anatomy = args.anatomy or "chest"
    methods = ALIGN_METHODS if is_align else TABLES[args.table]
    settings = ALIGN_SETTINGS if is_align else []
    for flag, given, known in (("--rows", args.rows, methods), ("--cells", args.cells, settings)):
        names = {entry.name for entry in known}
        if unknown := set(given or ()) - names:
            parser.error(
                f"{flag} {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(names))}"
            )
    return args, train_flags


def main(argv: Sequence[str] | None = None) -> int:
    args, train_flags = parse(argv)
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    try:
        make_table(args, train_flags, seeds)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def make_table(args: argparse.Namespace, train_flags: list[str], seeds: list[int]) -> None:
    """Make the missing runs, and the page. UserError: runs of another anatomy are in the folder."""
    if args.table == "align":
        run_align(args, train_flags, seeds)
        return
    tests = dict(word.split("=", 1) for word in args.test) or {"test": str(args.data / "test.csv")}
    workers = Workers(args.jobs, cache=args.settings == "phantoms")
    bench = Bench(args, train_flags, workers, tests, {"zero-shot": []})
    wanted = set(args.rows or [method.name for method in TABLES[args.table]])
    wanted |= {method.start for method in TABLES[args.table] if method.name in wanted} | {
        method.base for method in TABLES[args.table] if method.name in wanted
    }
    methods = [method for method in TABLES[args.table] if method.name in wanted]
    make_all(
        [(bench, method, seed) for method in methods for seed in seeds], workers.jobs, args.table
    )
    scores = {test: compare(bench, methods, seeds, test) for test in bench.tests}
    facts = {
        method.name: summary([bench.facts(method, seed) for seed in seeds]) for method in methods
    }
    record = {
        "scores": scores,
        "facts": facts,
        "seeds": seeds,
        "note": args.note or args.settings,
        "mixed_machines": args.mixed_machines,
        "anatomy": anatomy_of(bench.table),
    }
    (args.out / f"{args.table}.json").write_text(json.dumps(record, indent=2))
    (args.out / f"{args.table}.md").write_text(markdown(args.table, record), encoding="utf-8")
    draw(scores).savefig(args.out / f"{args.table}.png", dpi=120)
    sys.stdout.write((args.out / f"{args.table}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
