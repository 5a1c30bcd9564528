"""`compare`: methods with several seeds each on one test set, from saved predictions; never a bare
mean.
"""

from __future__ import annotations

import argparse
from typing import Any

from ...config import UserError
from ...metrics.compare import (
    Estimate,
)
from ...subcommands import seed
from ..options import add_output_argument
from ..output.result import Result
from .comparison import MEDIAN, Comparison, class_p, compare, needed_sizes
from .machines import read_machines, refuse_mixed
from .read import read_methods
from .tables import class_table, difference_table, forest, mean_table, needed_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "methods",
        nargs="+",
        metavar="NAME=FOLDER[,FOLDER...]",
        help=(
            "result folders of a method, one a seed (a lone FOLDER is named by its path); the first"
            " is the reference. Methods with equally many seeds are paired seed by seed, in the"
            " order given"
        ),
    )
    parser.add_argument(
        "--draws", type=int, default=1000, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--difference",
        type=float,
        default=0.02,
        metavar="D",
        help=(
            "how many seeds or images show a difference of D, with 80 %% power at alpha 0.05"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--mixed-machines",
        action="store_true",
        help=(
            "compare results although they were trained or measured on different kinds of machines"
            " or with different versions of torch; the page says so"
        ),
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """UserError for numbers out of range."""
    if args.draws < 100 or not args.difference > 0:
        raise UserError(
            f"--draws {args.draws} --difference {args.difference}: expected at least 100 draws and"
            " a difference above 0."
        )
    methods = read_methods(args.methods)
    machines = read_machines(
        {
            str(folder): record
            for method in methods
            for folder, record in zip(method.folders, method.records, strict=True)
        }
    )
    refuse_mixed(machines, args.mixed_machines)
    found = compare(methods, args.draws, args.seed)
    tables = [mean_table(found), difference_table(found)]
    tables += [class_table(found, name) for name in found.differences if found.classes]
    tables.append(needed_table(found, args.difference))
    settings = {
        "methods": {method.name: method.folders for method in found.methods},
        "draws": args.draws,
        "seed": args.seed,
        "difference": args.difference,
        "mixed_machines": args.mixed_machines,
    }
    terms: list[str] = [
        name for name in ("macro-F1", "balanced accuracy", "accuracy") if name in found.statistics
    ]
    terms += ["AUROC"] * ("macro AUROC" in found.statistics) + ["R@k", MEDIAN] * (
        MEDIAN in found.statistics
    )
    return Result(
        "compare",
        settings,
        _values(found, args.difference),
        tables,
        {"differences": forest(found)},
        {
            "differences": (
                f"Differences to {found.methods[0].name}, 95 % intervals; classes sorted by the"
                " difference."
            )
        },
        notes=[*_notes(found, args.draws), *machines.notes()],
        terms=[*terms, "95 % interval", "p", "Holm", "needed sizes"],
        warning=(
            f"MIXED MACHINES. {machines.sentence()}. A difference here may be that of the machines."
            if machines.mixed
            else ""
        ),
    )


def _values(found: Comparison, difference: float) -> dict[str, Any]:
    def entry(estimate: Estimate, q: int) -> dict[str, Any]:
        return {
            "value": estimate.value[q],
            "sd": estimate.sd[q],
            "low": estimate.low[q],
            "high": estimate.high[q],
            "variance_seeds": estimate.seeds[q],
            "variance_images": estimate.images[q],
        }

    statistics, classes = list(enumerate(found.statistics)), found.classes
    return {
        "images": found.images,
        found.unit: found.units,
        "seeds": {method.name: len(method.runs) for method in found.methods},
        "methods": {
            name: {label: entry(estimate, q) for q, label in [*statistics, *classes]}
            for name, estimate in found.means.items()
        },
        "differences": {
            name: {
                label: {**entry(e, q), "p": e.p[q], "lost_draws": e.lost[q]}
                for q, label in statistics
            }
            for name, e in found.differences.items()
        },
        "classes": {
            name: {
                label: {
                    **entry(e, q),
                    "p": e.p[q],
                    "p_holm": class_p(found, name)[label],
                    "lost_draws": e.lost[q],
                }
                for q, label in classes
            }
            for name, e in found.differences.items()
        },
        "needed": {
            "difference": difference,
            **{
                name: {label: needed_sizes(found, name, q, difference) for q, label in statistics}
                for name in found.differences
            },
        },
    }


def _notes(found: Comparison, draws: int) -> list[str]:
    notes, reference = [], found.methods[0].name
    single = [method.name for method in found.methods if len(method.runs) == 1]
    if single:
        notes.append(
            f"ONE SEED of {', '.join(single)}: the interval covers test {found.unit} only. Another"
            " training run of the same method may lie outside it; nothing here says that the"
            " method, rather than these weights, is better."
        )
    few = [
        f"{method.name} ({len(method.runs)})"
        for method in found.methods
        if 1 < len(method.runs) < 5
    ]
    if few:
        notes.append(
            f"Few seeds of {', '.join(few)}: the spread between runs is known badly, so that"
            " intervals are wide: with two seeds up to 6.5 times, with three 2.2 times as wide as"
            " if that spread were known (Student's t, decision 0043)."
        )
    unpaired = [name for name in found.differences if found.components[name] is None]
    notes += [
        f"{name} and {reference} have different numbers of seeds: seeds are not paired, and needed"
        " sizes are not given."
        for name in unpaired
    ]
    facts = {fact for method in found.methods for fact in method.facts}
    if len(facts) > 1:
        notes.append(
            f"The results are of different tasks or protocols: {sorted(map(str, facts))}. The"
            " difference is not one between models alone."
        )
    if found.scorer.undefined:
        notes.append(
            "Left out of the means, being without a sample of one side:"
            f" {', '.join(found.scorer.undefined)}."
        )
    lost = max(int(e.lost[: len(found.statistics)].max()) for e in found.differences.values())
    if lost:
        notes.append(f"{lost} of {draws} draws held no sample of some class and are left out.")
    return notes
