"""Which claims of the phantom benchmark hold on the second anatomy, the head?

    python scripts/studies/second_phantom.py --out second --write docs/results/second_phantom.md

The setting is that of `benchmark align`, "2000 images, 5 %": its tower, flags, steps and choice of
the checkpoint, with `--anatomy head`. Methods: CLIP, eclip-plus, and eclip-plus with the maps of
other images (placebo). Seeds are paired: the same images and initial weights for each method.
The numbers of the chest are those of docs/results/align.json. A second call resumes with the
missing runs; runs are made seed by seed, so that a call with fewer --seeds writes a page of those.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from openclip_eclip.benchmark.align import METHOD_OF, SCORES, build, pointing_of
from openclip_eclip.benchmark.align_cells import (
    DEVELOPMENT,
    STEPS,
    TEST_IMAGES,
    Setting,
    in_anatomy,
)
from openclip_eclip.benchmark.page import change, machine_kinds, spread
from openclip_eclip.benchmark.runner import Bench, Workers, make_all

ROOT = Path(__file__).resolve().parents[2]
ANATOMY, PLACEBO = "head", "eclip-plus, maps of other images"
METHODS = ("CLIP", "eclip-plus", PLACEBO)
METRICS = (*SCORES, "pointing")
CHEST = "2000 images, 5 %"
CHEST_PLACEBO = "600 images, 15 %"  # the only setting of the chest with the placebo
Interval = dict[str, float]
SAME = 0.03  # a difference within it changes nothing, as in `benchmark`
YES, NO, OPEN = "yes", "no", "cannot tell"


@dataclass(frozen=True)
class Claim:
    """A claim on the difference of two methods: `above` 0, or else within SAME of 0."""

    text: str
    metric: str
    method: str
    base: str
    above: bool
    chest: str  # setting of the chest

    def verdict(self, difference: Interval) -> str:
        """YES, NO or OPEN: an interval that is too wide to tell."""
        low, high = difference["low"], difference["high"]
        if self.above:
            return YES if low > 0 else NO if high <= SAME else OPEN
        if -SAME <= low and high <= SAME:
            return YES
        return NO if low > 0 or high < 0 else OPEN


CLAIMS = (
    Claim("classifies better than CLIP", "macro-F1", "eclip-plus", "CLIP", True, CHEST),
    Claim("attends at the expert's fixations", "pointing", "eclip-plus", "CLIP", True, CHEST),
    Claim("recall stays that of CLIP", "R@5", "eclip-plus", "CLIP", False, CHEST),
    Claim("needs the right maps", "macro-F1", "eclip-plus", PLACEBO, True, CHEST_PLACEBO),
)


def paired(values: Sequence[float], base: Sequence[float]) -> Interval:
    """{value, low, high} of the mean difference; 95 %, Student's t over paired seeds."""
    differences = np.subtract(values, base)
    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return _interval(differences.mean(), half)


def unpaired(score: Mapping[str, float], base: Mapping[str, float], seeds: int) -> Interval:
    """The same from means and standard deviations alone (Welch), where no pairs are recorded."""
    parts = np.array([score["sd"] ** 2, base["sd"] ** 2]) / seeds
    freedom = parts.sum() ** 2 / (parts**2 / (seeds - 1)).sum()
    return _interval(score["value"] - base["value"], t.ppf(0.975, freedom) * parts.sum() ** 0.5)


def _interval(value: float, half: float) -> Interval:
    return {"value": float(value), "low": float(value - half), "high": float(value + half)}


def chest_difference(claim: Claim, align: Mapping[str, Any]) -> tuple[Interval, bool]:
    """(the difference of a claim on the chest, whether its seeds are paired)."""
    methods = align["settings"][claim.chest]
    score, base = methods[claim.method][claim.metric], methods[claim.base][claim.metric]
    if claim.base == "CLIP" and score.get("difference"):
        return score["difference"], True
    return unpaired(score, base, len(align["seeds"])), False


def measure(bench: Bench, home: Bench, seeds: list[int]) -> dict[str, Any]:
    """{scores: {method: {metric: {value, sd}}}, differences: {claim: interval}, runs: [facts]}.

    Scores of classification and retrieval, and their differences, are those of `evaluate compare`:
    their intervals are over seeds and test images, those of pointing over seeds.
    """
    bench_of = {name: bench if METHOD_OF[name].annotated else home for name in METHODS}

    def results(name: str, task: str) -> list[Path]:
        return [bench_of[name].result(METHOD_OF[name], seed, "test", task) for seed in seeds]

    scores: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
    differences: dict[str, dict[str, Interval]] = {}
    for metric, task in SCORES.items():
        for base in ("CLIP", PLACEBO):
            order = sorted(METHODS, key=lambda name: name != base)
            groups = {name: results(name, task) for name in order}
            values = bench.compare(f"{task}-{base}", groups)
            for name, difference in values["differences"].items():
                differences[f"{metric}: {name} − {base}"] = difference[metric]
            for name in METHODS:
                scores[name][metric] = values["methods"][name][metric]
    points = {}
    for name in METHODS:
        folders = results(name, "sensitivity")
        points[name] = [pointing_of([folder], "pointing game")["value"] for folder in folders]
        scores[name]["pointing"] = pointing_of(folders, "pointing game") | {"seeds": points[name]}
    for base in ("CLIP", PLACEBO):
        for name in METHODS:
            if name != base:
                key = f"pointing: {name} − {base}"
                differences[key] = paired(points[name], points[base])
    runs = [
        {"method": name, "seed": seed} | bench_of[name].facts(METHOD_OF[name], seed)
        for seed in seeds
        for name in METHODS
    ]
    return {"scores": scores, "differences": differences, "runs": runs}


def page(record: Mapping[str, Any], align: Mapping[str, Any]) -> str:
    """The Markdown page of the content of second_phantom.json and docs/results/align.json."""
    runs, differences = record["runs"], record["differences"]
    minutes = np.mean([run["seconds"] for run in runs]) / 60
    lines = [
        "# A second synthetic generator\n",
        (
            "`python scripts/studies/second_phantom.py`. The setting of `benchmark align`,"
            f' "{record["images"]} images, {record["annotated"]:.0%}", on'
            " [head CT slices](../data/phantom.md) (`prepare phantom --anatomy head`) instead of"
            " chest X-rays: the same tower, flags and"
            f" {record['steps']} steps, nothing tuned on the head. Checkpoints were chosen by"
            f" validation. {TEST_IMAGES} test images.\n"
        ),
        (
            f"Seeds {' '.join(map(str, record['seeds']))}, mean ± sd. Differences are paired by"
            " seed; 95 % intervals, Student's t over seeds, for macro-F1 and R@5 also over test"
            f" images. {'; '.join(machine_kinds(runs))}, {minutes:.0f} minutes a run.\n"
        ),
        "| method | macro-F1 | − CLIP | R@5 | − CLIP | pointing | − CLIP |",
        "|---" * 7 + "|",
    ]
    for name in METHODS:
        words = [
            word
            for metric in METRICS
            for word in (
                spread(record["scores"][name][metric]),
                change(differences.get(f"{metric}: {name} − CLIP")),
            )
        ]
        lines.append(f"| {name} | {' | '.join(words)} |")
    lines += [
        "\n## Which claims hold on both\n",
        "| eclip-plus … | difference | chest | head | holds on both |",
        "|---" * 5 + "|",
    ]
    texts: dict[str, list[str]] = {YES: [], NO: [], OPEN: []}
    for claim in CLAIMS:
        chest, is_paired = chest_difference(claim, align)
        head = differences[f"{claim.metric}: {claim.method} − {claim.base}"]
        verdicts = {claim.verdict(chest), claim.verdict(head)}
        both = next(one for one in (NO, OPEN, YES) if one in verdicts)
        texts[both].append(claim.text)
        note = " (not paired)" * (not is_paired)
        other = f" ({claim.chest})" * (claim.chest != CHEST)
        lines.append(
            f"| {claim.text} | {claim.metric}: − {claim.base} | {change(chest)}{note}{other} |"
            f" {change(head)} | {both} |"
        )
    lines += [
        (
            f"\nOn both: {'; '.join(texts[YES]) or 'none'}. Not on both:"
            f" {'; '.join(texts[NO]) or 'none'}. Cannot tell: {'; '.join(texts[OPEN]) or 'none'}."
            " A claim of a gain holds where its interval is above 0; that of no change where the"
            f" interval lies within {SAME:g} of 0.\n"
        ),
        (
            f"The chest's numbers are those of [all settings](align.md) ({CHEST}, one H100);"
            " differences without recorded pairs are from means and standard deviations (Welch)."
            " Machines are not mixed within a difference."
        ),
    ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for data and runs")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="Markdown page to write, with its JSON beside it (default: OUT/second_phantom.md)",
    )
    for name, value, what in (
        ("images", 2000, "number of training images"),
        ("steps", STEPS[2000], "number of training steps"),
        ("seeds", 5, "number of seeds, at least 2"),
        ("first-seed", 30, "lowest seed"),
        ("jobs", 1, "number of runs at a time"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=value, help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--annotated",
        type=float,
        default=0.05,
        help="share of annotated training images (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.seeds < 2 or args.first_seed + args.seeds > DEVELOPMENT:
        parser.error(
            f"seeds {args.first_seed} to {args.first_seed + args.seeds - 1}: expected at least two,"
            f" all below {DEVELOPMENT} (development seeds are never reported)"
        )
    return args


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    setting = in_anatomy(Setting("head", args.images, args.annotated, METHODS), ANATOMY)
    workers = Workers(args.jobs, cache=True, gpus=0)
    flags = vars(args) | {"data": args.out / "data", "out": args.out / "runs", "tune_steps": None}
    flags |= {"measured": False, "mixed_machines": False, "table": "second-phantom"}
    benches = build(argparse.Namespace(**flags), [], workers, seeds, [setting])
    make_all(
        [
            (benches["head", seed, METHOD_OF[name].annotated], METHOD_OF[name], seed)
            for seed in seeds
            for name in METHODS
        ],
        workers.jobs,
        "second phantom",
    )
    record = {name: getattr(args, name) for name in ("images", "annotated", "steps")}
    bench, home = (benches["head", seeds[0], annotated] for annotated in (True, False))
    record |= {"anatomy": ANATOMY, "seeds": seeds, **measure(bench, home, seeds)}
    written = args.write or args.out / "second_phantom.md"
    written.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    align = json.loads((ROOT / "docs" / "results" / "align.json").read_text(encoding="utf-8"))
    written.write_text(page(record, align), encoding="utf-8")
    sys.stdout.write(written.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
