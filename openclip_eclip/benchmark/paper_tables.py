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

from ..config import UserError
from ..phantom.scenes import ANATOMIES
from .align import run_align
from .align_cells import ALIGN_METHODS, ALIGN_SETTINGS
from .anatomy import anatomy_of
from .page import machine_kinds
from .paper_page import METRIC, draw, markdown
from .rows import SETTINGS, TABLES, UNTIL, Method
from .runner import Bench, Workers, make_all


def compare(bench: Bench, methods: list[Method], seeds: list[int], test: str) -> dict[str, dict]:
    """{method: {value, sd, low, high, base, difference: {value, low, high, p}, other_machine}}.

    The difference is from the base of the method. It is None for the base itself, and for a method
    that ran on another kind of machine than its base, unless --mixed-machines is given. A method
    whose `plain` is among `methods` also has {plain, to_plain: difference from it}.
    """
    results: dict[str, dict] = {}
    named = {method.name: method for method in methods}
    for base in dict.fromkeys(method.base for method in methods):
        family = [named[base], *(row for row in methods if row.base == base != row.name)]
        scores = compare_family(bench, family, seeds, test)
        results |= {name: score | {"base": base} for name, score in scores.items()}
    for plain in dict.fromkeys(method.plain for method in methods if method.plain in named):
        family = [named[plain], *(method for method in methods if method.plain == plain)]
        scores = compare_family(bench, family, seeds, test)
        for name in list(scores)[1:]:
            results[name] |= {"plain": plain, "to_plain": scores[name]["difference"]}
    return {name: results[name] for name in named if name in results}


def compare_family(
    bench: Bench, family: list[Method], seeds: list[int], test: str
) -> dict[str, dict]:
    """{method: {value, sd, low, high, difference, other_machine}}, differences from the first.

    Nothing for a single method.
    """
    if len(family) < 2:
        return {}
    first = family[0]
    groups = {
        method.name: [bench.result(method, seed, test) for seed in seeds] for method in family
    }
    other_machine = {
        method.name: (
            not bench.args.mixed_machines
            and len({*bench.kinds(method, seeds), *bench.kinds(first, seeds)}) > 1
        )
        for method in family
    }
    values = bench.compare(
        f"{bench.args.table}-{first.name}-{test}",
        groups,
        mixed=bench.args.mixed_machines or any(other_machine.values()),
    )
    return {
        name: values["methods"][name][METRIC]
        | {
            "difference": (None if is_other else values["differences"].get(name, {}).get(METRIC)),
            "other_machine": is_other,
        }
        for name, is_other in other_machine.items()
    }


def summary(facts: list[dict]) -> dict:
    """{seconds, views, machines, kinds, epochs} of a method, from the facts of its runs.

    `epochs`: [best, last] of each run that validation ended.
    """
    views = [run["views"] for run in facts if run["views"] is not None]
    return {
        "seconds": float(np.mean([run["seconds"] for run in facts])),
        "views": float(np.mean(views)) if views else None,
        "machines": sorted({run["machine"] for run in facts}),
        "kinds": machine_kinds(facts),
        "epochs": [[run["epoch"], run["last_epoch"]] for run in facts if run.get("last_epoch")],
    }


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
        "--validation",
        metavar="FILE",
        help=(
            f"pairs, other than those of the tests, for the row {UNTIL.name!r}; needed for that"
            " row alone"
        ),
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
    if is_align and args.validation:
        parser.error("--validation with align: expected only with a table; align makes its own")
    if UNTIL.name in (args.rows or ()) and not args.validation:
        parser.error(f"--rows {UNTIL.name!r}: give the pairs that stop it with --validation")
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
    wanted = set(
        args.rows
        or [row.name for row in TABLES[args.table] if args.validation or not row.validated]
    )
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
        "half_batch": args.expert_data is not None,
        "anatomy": anatomy_of(bench.table),
    }
    (args.out / f"{args.table}.json").write_text(json.dumps(record, indent=2))
    (args.out / f"{args.table}.md").write_text(markdown(args.table, record), encoding="utf-8")
    draw(scores).savefig(args.out / f"{args.table}.png", dpi=120)
    sys.stdout.write((args.out / f"{args.table}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
