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


def write_page(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Write OUT/real.md, .json and .png. ValueError: records of several machines."""
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
    lines = [*HEAD, *_difference_table(found, places)]
    for place in places:
        lines += _table(found, place, methods)
    lines += _notes(machine)
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
    """R@5, or a score of the map that alignment trains on this set."""
    if name == RECALL:
        both = (record["retrieval"][way] for way in ("image_to_text", "text_to_image"))
        return float(np.mean([way["expected"][RECALL]["value"] for way in both]))
    return record["grounding"]["methods"][trained_map(record["set"])][name]["value"]


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    facts = {name: [score(record, name) for record in records] for name in SCORES}
    seconds = [record["search"][f"{record['rate']:g}"]["seconds"] for record in records]
    return facts | {"rate": [record["rate"] for record in records], "seconds": seconds}


def difference(
    found: Records, place: tuple[str, str], pair: tuple[str, str], name: str
) -> tuple[float, float] | None:
    """Mean and half the 95 % interval of the paired difference; None where a fold is missing."""
    first, second = (found.get((*place, method), []) for method in pair)
    if not first or [one["fold"] for one in first] != [one["fold"] for one in second]:
        return None
    return interval(np.array([score(a, name) - score(b, name) for a, b in zip(first, second)]))


def _difference_table(found: Records, places: Sequence[tuple[str, str]]) -> list[str]:
    titles = [f"{name}: {a} − {b}" for name in (RECALL, NSS) for a, b in DIFFERENCES]
    lines = [
        "## What the annotations bring",
        "",
        "Paired differences with 95 % intervals (Student's t over folds).",
        "",
        "| set | tower | " + " | ".join(titles) + " |",
        "|---" * (2 + len(titles)) + "|",
    ]
    for place in places:
        cells = [
            difference_cell(difference(found, place, pair, name))
            for name in (RECALL, NSS)
            for pair in DIFFERENCES
        ]
        lines.append(f"| {' | '.join(place)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


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
        "| | R@5 | NSS | pointing, 15 px | s |",
        "|---|---|---|---|---|",
    ]
    for method in methods:
        records = found.get((*place, method), [])
        if records:
            cells = [_cell([score(record, name) for record in records]) for name in SCORES]
            seconds = np.median(_summary(records)["seconds"])
            lines.append(f"| {method} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    chance = np.mean(
        [one["retrieval"][way]["chance"][RECALL] for one in base for way in ("image_to_text",)]
    )
    lines.append(f"| chance | {chance:.3f} | 0.00 | | |")
    for prior in PRIORS[:2]:
        cells = [
            _cell([one["grounding"]["methods"][prior][name]["value"] for one in base])
            for name in (NSS, POINTING)
        ]
        lines.append(f"| no model: {prior} | | " + " | ".join(cells) + " | |")
    return [*lines, ""]


def _cell(sample: Sequence[float]) -> str:
    return mean_cell(np.array(sample), 3)


def _notes(machine: dict[str, str]) -> list[str]:
    return [
        "## Notes",
        "",
        "- Towers: ViT-S/14 of DINOv2's architecture at 112 pixels (8 x 8 positions) and"
        " EfficientNet-Lite0 at 224 pixels (7 x 7), text tower MiniLM; sources in"
        " scripts/studies/grounding. 120 steps of 64, two crops an image, three learning rates"
        " (3e-4, 1e-3, 3e-3) for CLIP, eclip-plus and the maps of other images. Fewer annotations"
        " take the rate of eclip-plus. The mean rank on the validation part chooses rate and epoch.",
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
