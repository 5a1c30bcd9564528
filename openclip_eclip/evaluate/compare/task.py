"""Task compare: methods with several seeds each on one test set, from saved predictions.

Every mean has an interval.
"""

from __future__ import annotations

import argparse
from typing import Any

from ...config import UserError
from ...metrics.compare import Estimate
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
            "a method and its result folders, one for each seed (a FOLDER without NAME is named by"
            " its path). The first method is the reference. Methods with the same number of seeds"
            " are paired seed by seed, in the order given"
        ),
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=1000,
        help="number of bootstrap draws (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of the bootstrap (default: %(default)s)",
    )
    parser.add_argument(
        "--difference",
        type=float,
        default=0.02,
        metavar="D",
        help=(
            "difference for which the needed numbers of seeds and images are computed, with 80 %%"
            " power at alpha 0.05 (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--mixed-machines",
        action="store_true",
        help=(
            "compares results although they were trained or measured on different kinds of machines"
            " or with different versions of torch; the report says so"
        ),
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """Compare the methods. UserError: a number out of range, or results that do not compare."""
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
    comparison = compare(methods, args.draws, args.seed)
    tables = [mean_table(comparison), difference_table(comparison)]
    tables += [
        class_table(comparison, name) for name in comparison.differences if comparison.classes
    ]
    tables.append(needed_table(comparison, args.difference))
    settings = {
        "methods": {method.name: method.folders for method in comparison.methods},
        "draws": args.draws,
        "seed": args.seed,
        "difference": args.difference,
        "mixed_machines": args.mixed_machines,
    }
    terms: list[str] = [
        name
        for name in ("macro-F1", "balanced accuracy", "accuracy")
        if name in comparison.statistics
    ]
    terms += ["AUROC"] * ("macro AUROC" in comparison.statistics) + ["R@k", MEDIAN] * (
        MEDIAN in comparison.statistics
    )
    return Result(
        "compare",
        settings,
        _values(comparison, args.difference),
        tables,
        {"differences": forest(comparison)},
        {
            "differences": (
                f"Differences to {comparison.methods[0].name}, 95 % intervals; classes sorted by"
                " the difference."
            )
        },
        notes=[*_notes(comparison, args.draws), *machines.notes()],
        terms=[*terms, "95 % interval", "p", "Holm", "needed sizes"],
        warning=(
            f"MIXED MACHINES. {machines.sentence()}. A difference here may come from the machines."
            if machines.mixed
            else ""
        ),
    )


def _values(comparison: Comparison, difference: float) -> dict[str, Any]:
    def entry(estimate: Estimate, q: int) -> dict[str, Any]:
        return {
            "value": estimate.value[q],
            "sd": estimate.sd[q],
            "low": estimate.low[q],
            "high": estimate.high[q],
            "variance_seeds": estimate.seeds[q],
            "variance_images": estimate.images[q],
        }

    statistics, classes = list(enumerate(comparison.statistics)), comparison.classes
    return {
        "images": comparison.images,
        comparison.unit: comparison.units,
        "seeds": {method.name: len(method.runs) for method in comparison.methods},
        "methods": {
            name: {label: entry(estimate, q) for q, label in [*statistics, *classes]}
            for name, estimate in comparison.means.items()
        },
        "differences": {
            name: {
                label: {**entry(estimate, q), "p": estimate.p[q], "lost_draws": estimate.lost[q]}
                for q, label in statistics
            }
            for name, estimate in comparison.differences.items()
        },
        "classes": {
            name: {
                label: {
                    **entry(estimate, q),
                    "p": estimate.p[q],
                    "p_holm": class_p(comparison, name)[label],
                    "lost_draws": estimate.lost[q],
                }
                for q, label in classes
            }
            for name, estimate in comparison.differences.items()
        },
        "needed": {
            "difference": difference,
            **{
                name: {
                    label: needed_sizes(comparison, name, q, difference) for q, label in statistics
                }
                for name in comparison.differences
            },
        },
    }


def _notes(comparison: Comparison, draws: int) -> list[str]:
    notes, reference = [], comparison.methods[0].name
    maps = {method.name: method.maps for method in comparison.methods}
    if any(maps.values()):
        of_each = "; ".join(f"{name}: {shown}" for name, shown in maps.items())
        notes.append(f"Attention maps, the first of `grounding --methods`: {of_each}.")
    single = [method.name for method in comparison.methods if len(method.runs) == 1]
    if single:
        notes.append(
            f"ONE SEED of {', '.join(single)}: the interval covers test {comparison.unit} only."
            " Another training run of the same method may lie outside it. Nothing here says that"
            " the method is better, only that these weights are."
        )
    few = [
        f"{method.name} ({len(method.runs)})"
        for method in comparison.methods
        if 1 < len(method.runs) < 5
    ]
    if few:
        notes.append(
            f"Few seeds of {', '.join(few)}: the spread between runs is estimated badly, so the"
            " intervals are wide. With two seeds they are up to 6.5 times, with three 2.2 times as"
            " wide as if that spread were known (Student's t, decision 0043)."
        )
    unpaired = [name for name in comparison.differences if comparison.components[name] is None]
    notes += [
        f"{name} and {reference} have different numbers of seeds: seeds are not paired, and needed"
        " sizes are not given."
        for name in unpaired
    ]
    facts = {fact for method in comparison.methods for fact in method.facts}
    if len(facts) > 1:
        notes.append(
            f"The results are of different tasks or protocols: {sorted(map(str, facts))}. So the"
            " difference is not between models alone."
        )
    if comparison.scorer.undefined:
        notes.append(
            "Classes left out of the means, because they have no positive or no negative sample:"
            f" {', '.join(comparison.scorer.undefined)}."
        )
    lost = max(
        int(estimate.lost[: len(comparison.statistics)].max())
        for estimate in comparison.differences.values()
    )
    if lost:
        notes.append(f"{lost} of {draws} draws held no sample of some class and are left out.")
    return notes
