"""`compare`: methods with several seeds each on one test set, from saved predictions; never a bare
mean.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...config import UserError
from ...metrics.compare import (
    Components,
    Draws,
    Estimate,
    draw_all,
    estimate_difference,
    estimate_mean,
    holm,
    needed_images,
    needed_seeds,
    smallest_difference,
    variance_components,
)
from ...metrics.resampled import Scorer
from ...subcommands import seed
from ..options import add_output_argument
from ..output.result import Result, Table
from .machines import read_machines, refuse_mixed
from .read import Method, read_methods, scorer

MEDIAN = "median rank"


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


@dataclass
class Comparison:
    """Everything that the report says. `differences` and `components`: by name of the method, the
    reference left out.
    """

    methods: list[Method]
    scorer: Scorer  # of the reference: names
    images: int
    units: int
    unit: str  # "images" or "patients"
    means: dict[str, Estimate]
    differences: dict[str, Estimate]
    # a statistic each; None where seeds are not paired
    components: dict[str, list[Components] | None]

    @property
    def statistics(self) -> list[str]:
        return self.scorer.names

    @property
    def classes(self) -> list[tuple[int, str]]:
        """(place among the statistics, name) of the classes."""
        return [(len(self.statistics) + k, name) for k, name in enumerate(self.scorer.classes)]

    def seeds(self, name: str) -> int:
        return next(len(method.runs) for method in self.methods if method.name == name)


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
    tables = [_mean_table(found), _difference_table(found)]
    tables += [_class_table(found, name) for name in found.differences if found.classes]
    tables.append(_needed_table(found, args.difference))
    settings = {
        "methods": {method.name: method.folders for method in found.methods},
        "draws": args.draws,
        "seed": args.seed,
        "difference": args.difference,
        "mixed_machines": args.mixed_machines,
    }
    terms = [
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
        {"differences": _forest(found)},
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


def compare(methods: list[Method], draws: int, seed: int) -> Comparison:
    """Means and differences to the first method."""
    scorers = [scorer(method) for method in methods]
    images = len(methods[0].runs[0]["id"])
    patients = next(
        (run["patient"] for method in methods for run in method.runs if "patient" in run), None
    )
    units = images if patients is None else len(np.unique(patients))
    drawn = draw_all(scorers, images, draws, seed, patients)
    reference = drawn[0]
    others = {method.name: own for method, own in zip(methods[1:], drawn[1:], strict=True)}
    return Comparison(
        methods,
        scorers[0],
        images,
        units,
        "images" if patients is None else "patients",
        {method.name: _mean(own, scorers[0]) for method, own in zip(methods, drawn, strict=True)},
        {name: estimate_difference(own, reference) for name, own in others.items()},
        {
            name: _components(own, reference, len(scorers[0].names), units)
            for name, own in others.items()
        },
    )


def _mean(own: Draws, scorer: Scorer) -> Estimate:
    """Its interval ends where the statistic does."""
    found, (low, high) = estimate_mean(own), scorer.limits
    return replace(found, low=np.maximum(found.low, low), high=np.minimum(found.high, high))


def _components(
    own: Draws, reference: Draws, statistics: int, units: int
) -> list[Components] | None:
    if len(own.full) != len(reference.full):
        return None
    return [variance_components(own, reference, q, units) for q in range(statistics)]


def _mean_table(found: Comparison) -> Table:
    rows = [
        [
            name,
            statistic,
            estimate.value[q],
            estimate.sd[q],
            estimate.low[q],
            estimate.high[q],
            found.seeds(name),
        ]
        for q, statistic in enumerate(found.statistics)
        for name, estimate in found.means.items()
    ]
    return Table(
        "Methods",
        ["method", "metric", "mean", "sd over seeds", "low", "high", "seeds"],
        rows,
        f"Mean over seeds with its 95 % interval over seeds (Student's t) and {found.unit}"
        f" (bootstrap); one seed: {found.unit} alone.",
    )


def _difference_table(found: Comparison) -> Table:
    rows = [
        [name, _statistic(statistic), e.value[q], e.sd[q], e.low[q], e.high[q], e.p[q]]
        for q, statistic in enumerate(found.statistics)
        for name, e in found.differences.items()
    ]
    columns = ["method", "metric", "difference", "sd over seeds", "low", "high", "p"]
    return Table(
        f"Difference to {found.methods[0].name}",
        columns,
        rows,
        "p: two-sided, below 0.05 where the interval leaves 0 out; not corrected for the number of"
        " metrics and methods in this table.",
    )


def _class_table(found: Comparison, name: str) -> Table:
    e, adjusted = found.differences[name], _holm(found, name)
    reference, own = found.means[found.methods[0].name], found.means[name]
    order = sorted(found.classes, key=lambda entry: -np.nan_to_num(e.value[entry[0]], nan=-np.inf))
    rows = [
        [
            label,
            reference.value[q],
            own.value[q],
            e.value[q],
            e.low[q],
            e.high[q],
            e.p[q],
            adjusted[label],
        ]
        for q, label in order
    ]
    return Table(
        f"{found.scorer.per_class} of each class, {name} - {found.methods[0].name}",
        ["class", found.methods[0].name, name, "difference", "low", "high", "p", "p (Holm)"],
        rows,
        f"Holm: adjusted over the {len(rows)} classes. The interval of each class is its own, not"
        " simultaneous.",
    )


def _holm(found: Comparison, name: str) -> dict[str, float]:
    adjusted = holm(found.differences[name].p[len(found.statistics) :])
    return dict(zip(found.scorer.classes, adjusted.tolist(), strict=True))


def _needed(found: Comparison, name: str, q: int, difference: float) -> dict[str, float] | None:
    """Components and sizes; None where they are not known."""
    components = found.components[name]
    if components is None or found.statistics[q] == MEDIAN:
        return None
    parts, seeds = components[q], found.seeds(name)
    return {
        "variance_seed": parts.seed,
        "variance_image": parts.image,
        "variance_both": parts.both,
        "smallest_difference": smallest_difference(parts, seeds, found.units),
        "seeds": needed_seeds(parts, difference, found.units),
        "images": needed_images(parts, difference, seeds),
    }


def _needed_table(found: Comparison, difference: float) -> Table:
    rows = []
    for name in found.differences:
        for q, statistic in enumerate(found.statistics):
            sizes = _needed(found, name, q, difference)
            if sizes:
                rows.append(
                    [
                        name,
                        statistic,
                        sizes["smallest_difference"],
                        _size(sizes["seeds"]),
                        _size(sizes["images"]),
                    ]
                )
    return Table(
        f"What it takes to see a difference of {difference:g}",
        [
            "method",
            "metric",
            "smallest difference seen now",
            f"seeds, with {found.units} {found.unit}",
            f"{found.unit}, with these seeds",
        ],
        rows,
        "80 % power at alpha 0.05 with this very interval, from the variance between seeds and"
        " between images of the paired difference. 'no number': the other factor alone is too"
        " noisy.",
    )


def _size(number: float) -> str | int | None:
    return None if math.isnan(number) else "no number" if math.isinf(number) else int(number)


def _statistic(name: str) -> str:
    return f"{name} (lower is better)" if name == MEDIAN else name


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
                    "p_holm": _holm(found, name)[label],
                    "lost_draws": e.lost[q],
                }
                for q, label in classes
            }
            for name, e in found.differences.items()
        },
        "needed": {
            "difference": difference,
            **{
                name: {label: _needed(found, name, q, difference) for q, label in statistics}
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


def _forest(found: Comparison) -> Figure:
    """Overall metrics above, classes sorted below; a panel a method."""
    overall = [q for q, name in enumerate(found.statistics) if name != MEDIAN]
    figure = Figure(
        figsize=(5.2 * len(found.differences), 1.4 + 0.3 * (len(overall) + len(found.classes))),
        layout="constrained",
    )
    axes = np.atleast_1d(figure.subplots(1, len(found.differences), sharex=True))
    for axis, (name, e) in zip(axes, found.differences.items(), strict=True):
        classes = sorted(
            (entry for entry in found.classes if not np.isnan(e.value[entry[0]])),
            key=lambda entry: -e.value[entry[0]],
        )
        rows = [
            *((q, found.statistics[q], "#1f6fb2") for q in overall),
            *((q, f"{found.scorer.per_class} {label}", "#5d6b7a") for q, label in classes),
        ]
        for y, (q, _, colour) in enumerate(rows):
            axis.plot([e.low[q], e.high[q]], [y, y], color=colour, lw=2, solid_capstyle="round")
            axis.plot(e.value[q], y, "o", color=colour, ms=6)
        axis.axvline(0, color="#1c2733", lw=1)
        axis.axhline(len(overall) - 0.5, color="#dde3ea", lw=1)
        axis.set_yticks(range(len(rows)), [label for _, label, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", color="#dde3ea", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.set_title(f"{name} − {found.methods[0].name}", loc="left", fontsize=11)
        axis.set_xlabel("difference, 95 % interval")
    return figure
