"""The page and the figure of the study: means over folds, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from page import (
    NSS,
    POINTING,
    PRIORS,
    difference_cell,
    interval,
    mean_cell,
    only_machine,
    trained_map,
)

Records = dict[tuple[str, str, str], list[dict[str, Any]]]  # (set, tower, method): by fold

CLIP, PLUS, OTHERS = "CLIP", "eclip-plus", "eclip-plus, other images' maps"
RECALL = "R@5"
SCORES = (RECALL, NSS, POINTING)
DIFFERENCES = ((PLUS, CLIP), (PLUS, OTHERS))
# methods that are compared to another one than CLIP with 120 steps: with what trains alike
BASES = {
    f"{method}, {trained}": f"CLIP, {trained}"
    for trained, methods in {
        "40 steps": ("eCLIP", "naive", "m3-mix"),
        "LoRA": (PLUS,),
        "all weights": (PLUS,),
        "SigLIP's loss": (PLUS,),
    }.items()
    for method in methods
}
# the set's own task: its key in a record, its value there, and what it is called
OWN = {
    "covid_cxr": ("severity", "correlation", "severity, Spearman's ρ"),
    "winograd_gaze": ("choice", "share", "right of two photographs"),
}


def write_page(
    records: Sequence[dict[str, Any]], out: Path, all_methods: Sequence[str], folds: int
) -> None:
    """Write OUT/real.md, .json and .png. ValueError: records of several machines.

    `all_methods`, `folds`: those of the study, so that the page says what has not been run.
    """
    machine = only_machine(records)
    found: Records = {}
    for record in sorted(records, key=lambda record: record["fold"]):
        key = (record["set"], record["tower"], record["method"])
        found.setdefault(key, []).append(record)
    places = list(dict.fromkeys((name, tower) for name, tower, _ in found))
    places.sort(key=lambda place: (place[1] != "vit-s14", place))
    methods = list(dict.fromkeys(record["method"] for record in records))
    methods.sort(key=lambda name: (name != CLIP, name.count(","), name))
    out.mkdir(parents=True, exist_ok=True)
    draw(found, places).savefig(out / "real.png", dpi=110)
    summary = {" / ".join(key): _summary(of_method) for key, of_method in found.items()}
    facts = {"machine": machine, "folds": summary}
    (out / "real.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    lines = [*HEAD, *_sentences(found, places), *_difference_table(found, places)]
    lines += _other_methods(found, places)
    for place in places:
        lines += _table(found, place, methods)
    lines += _notes(machine)
    idle = [name for name in all_methods if name not in methods]
    if idle:
        lines.append(f"- Not run (hours on two cores; `--methods`): {'; '.join(idle)}.")
    few = [
        f"{name}, {tower}: {len(found[name, tower, CLIP])}"
        for name, tower in places
        if len(found[name, tower, CLIP]) < folds
    ]
    if few:
        lines.append(f"- Fewer than {folds} folds were run: {'; '.join(few)}.")
    (out / "real.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


HEAD = [
    "# Frozen towers on real images",
    "",
    "`python scripts/studies/real/real_study.py SHARED --work WORK --out docs/results`. The image and"
    " the text tower are frozen and trained already; an attention pool and two projections are"
    " trained. Five folds: three are trained on, one chooses learning rate and epoch, one is"
    " tested. R@5: mean of both directions, among all images of the fold, equal texts count as"
    " right. NSS and pointing: of the map that alignment trains, as in"
    " [the study of attention](grounding.md).",
    "",
    "![Differences to CLIP on each set and tower](real.png)",
    "",
]


def score(record: dict[str, Any], name: str) -> float:
    """R@5, the set's own task, or a score of the map that alignment trains on this set."""
    if name == "own":
        key, value, _ = OWN[record["set"]]
        return record[key][value]
    if name == RECALL:
        both = (record["retrieval"][way] for way in ("image_to_text", "text_to_image"))
        return float(np.mean([way["expected"][RECALL]["value"] for way in both]))
    return record["grounding"]["methods"][trained_map(record["set"])][name]["value"]


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    names = [*SCORES, *["own"] * (records[0]["set"] in OWN)]
    facts = {name: [score(record, name) for record in records] for name in names}
    return facts | {
        "rate": [record["rate"] for record in records],
        "seconds": _seconds(records),
    }


def difference(
    found: Records, place: tuple[str, str], pair: tuple[str, str], name: str
) -> tuple[float, float] | None:
    """Mean and half the 95 % interval of the paired difference; None where a fold is missing."""
    first, second = (found.get((*place, method), []) for method in pair)
    if not first or [one["fold"] for one in first] != [one["fold"] for one in second]:
        return None
    return interval(np.array([score(a, name) - score(b, name) for a, b in zip(first, second)]))


def _sentences(found: Records, places: Sequence[tuple[str, str]]) -> list[str]:
    """What may be said of eclip-plus, from the intervals of its differences."""
    lines = ["## What may be said", ""]
    for title, name in (("Recall (R@5)", RECALL), ("Attention (NSS)", NSS), ("Own task", "own")):
        of = [place for place in places if name != "own" or place[0] in OWN]
        for pair in DIFFERENCES:
            pairs = [one for place in of if (one := difference(found, place, pair, name))]
            if not pairs:
                continue
            above = sum(value - half > 0 for value, half in pairs)
            below = sum(value + half < 0 for value, half in pairs)
            lines.append(
                f"- {title}, {pair[0]} − {pair[1]}: of {len(pairs)} sets and towers the interval is"
                f" above 0 in {above}, below in {below}, and holds 0 in"
                f" {len(pairs) - above - below}; median {np.median([v for v, _ in pairs]):+.3f}."
            )
    seconds = {
        method: np.median(
            _seconds([r for place in places for r in found.get((*place, method), [])])
        )
        for method in (CLIP, PLUS)
    }
    lines.append(
        f"- Seconds of a run, with start and validation: CLIP {seconds[CLIP]:.0f}, eclip-plus"
        f" {seconds[PLUS]:.0f}."
    )
    rates = [
        record["rate"]
        for records in found.values()
        for record in records
        if len(record["search"]) > 1
    ]
    counts = [f"{rate:g} in {rates.count(rate)}" for rate in sorted(set(rates))]
    lines.append(f"- Of {len(rates)} searches, validation chose the rate {', '.join(counts)}.")
    return [*(line.replace("-0.", "−0.") for line in lines), ""]


def _seconds(records: Sequence[dict[str, Any]]) -> list[float]:
    """Of the runs with the chosen rates."""
    return [record["search"][f"{record['rate']:g}"]["seconds"] for record in records]


def _difference_table(found: Records, places: Sequence[tuple[str, str]]) -> list[str]:
    names = ((RECALL, RECALL), (NSS, NSS), ("own task", "own"))
    titles = [f"{title}: {a} − {b}" for title, _ in names for a, b in DIFFERENCES]
    lines = [
        "## What the annotations bring",
        "",
        "Paired differences with 95 % intervals (Student's t over folds). Own task: of covid_cxr"
        " the rank correlation with severity, of winograd_gaze the right one of two photographs.",
        "",
        "| set | tower | " + " | ".join(titles) + " |",
        "|---" * (2 + len(titles)) + "|",
    ]
    for place in places:
        cells = [
            difference_cell(difference(found, place, pair, name))
            if name != "own" or place[0] in OWN
            else ""
            for _, name in names
            for pair in DIFFERENCES
        ]
        lines.append(f"| {' | '.join(place)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _other_methods(found: Records, places: Sequence[tuple[str, str]]) -> list[str]:
    """Differences of each method to CLIP that is trained like it; empty where none was run."""
    rows = []
    for place in places:
        for method, base in BASES.items():
            if difference(found, place, (method, base), NSS) is None:
                continue
            cells = [
                difference_cell(difference(found, place, (method, base), name))
                if name != "own" or place[0] in OWN
                else ""
                for name in (RECALL, NSS, "own")
            ]
            count = len(found[(*place, method)])
            rows.append(f"| {' | '.join([*place, f'{method} − {base}', str(count), *cells])} |")
    if not rows:
        return []
    return [
        "## Other methods, and towers that learn",
        "",
        "Paired differences with 95 % intervals, between methods that are trained alike.",
        "",
        "| set | tower | difference | folds | R@5 | NSS | own task |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _table(found: Records, place: tuple[str, str], methods: Sequence[str]) -> list[str]:
    base = found[(*place, CLIP)]
    images, reports = (
        np.mean([one["retrieval"][what] for one in base]) for what in ("images", "reports")
    )
    phrases = sum(record["grounding"]["phrases_with_region"] for record in base)
    lines = [
        f"## {', '.join(place)}",
        "",
        f"{len(base)} folds of about {images:.0f} images with {reports:.0f} texts; {phrases} phrases"
        f" with a region in all. Map: `{trained_map(place[0])}`. Mean ± sd over folds. Seconds: one"
        " run of training.",
        "",
    ]
    is_own = place[0] in OWN
    own = [OWN[place[0]][2]] if is_own else []
    lines += [
        f"| {' | '.join(['', RECALL, NSS, 'pointing, 15 px', *own, 's'])} |",
        "|---" * (5 + is_own) + "|",
    ]
    names = [*SCORES, *["own"] * is_own]
    blank = " |" * is_own
    for method in methods:
        records = found.get((*place, method), [])
        if records:
            cells = [_cell([score(record, name) for record in records]) for name in names]
            seconds = np.median(_seconds(records))
            few = f" ({len(records)} folds)" * (len(records) < len(base))
            lines.append(f"| {method}{few} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    chance = np.mean(
        [one["retrieval"][way]["chance"][RECALL] for one in base for way in ("image_to_text",)]
    )
    of_choice = {"covid_cxr": " 0 |", "winograd_gaze": " 0.500 |"}.get(place[0], "")
    lines.append(f"| chance | {chance:.3f} | 0.00 | |{of_choice} |")
    for prior in PRIORS[:2]:
        cells = [
            _cell([one["grounding"]["methods"][prior][name]["value"] for one in base])
            for name in (NSS, POINTING)
        ]
        lines.append(f"| no model: {prior} | | " + " | ".join(cells) + f" |{blank} |")
    return [*lines, ""]


def _cell(sample: Sequence[float]) -> str:
    return mean_cell(np.array(sample), 3)


def _notes(machine: dict[str, str]) -> list[str]:
    return [
        "## Notes",
        "",
        "- Towers: ViT-S/14 of DINOv2's architecture at 112 pixels (8 x 8 positions) and"
        " EfficientNet-Lite0 at 224 pixels (7 x 7), text tower MiniLM; sources in"
        " scripts/studies/grounding. 120 steps of 64, two crops an image. Learning rates"
        " for CLIP, eclip-plus and the maps of other images: 3e-4, 1e-3, 3e-3 with the ViT, 1e-3,"
        " 3e-3 with EfficientNet-Lite0, whose steps take longer. Fewer annotations"
        " take the rate of eclip-plus. The mean rank on the validation part chooses rate and epoch."
        " eCLIP, naive, m3-mix, LoRA and all weights: nothing of the towers can be kept, so a step"
        " takes many times as long; they have 40 steps and two rates.",
        "- There is no row before training: pool and projections are fresh, so it is at chance.",
        "- Severity: similarity to three sentences of severe disease less that to three of clear"
        " lungs, which were written before any model was asked; Spearman's correlation with the"
        " mean Brixia sum of two readers, over 12 to 27 scored images a fold.",
        "- Two photographs of a scene look alike and mean different things. Of each describer's"
        " sentence: is its own photograph the more similar one? Mean over 3 or 4 scenes a fold.",
        "- Folds: by photograph (coco_small), patient (covid_cxr), scene (winograd_gaze), relatives"
        " of a drawing (stamps). A share is missing where a set has no more annotations than that.",
        f"- Machine: {machine['device']}, torch {machine['torch']}; seconds beside other jobs.",
    ]


def draw(found: Records, places: Sequence[tuple[str, str]]) -> Figure:
    """Differences of eclip-plus and of other images' maps to CLIP, in R@5 and NSS."""
    figure = Figure(figsize=(8.2, 0.5 * len(places) + 1.6), layout="constrained")
    lines = ((PLUS, "#cc3311", -0.12), (OTHERS, "#aa99bb", 0.12))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name in zip(axes, (RECALL, NSS)):
        for method, colour, shift in lines:
            for i, place in enumerate(places):
                pair = difference(found, place, (method, CLIP), name)
                if pair is not None:
                    value, half = pair
                    axis.errorbar(
                        value,
                        i + shift,
                        xerr=half,
                        fmt="o",
                        color=colour,
                        capsize=2,
                        markersize=5,
                        label=method if i == 0 else None,
                    )
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_title(f"{name}, difference to CLIP", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(places)), [", ".join(place) for place in places], fontsize=8)
    axes[0].set_ylim(len(places) - 0.5, -0.5)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
