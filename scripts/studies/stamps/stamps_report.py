"""Table and figure of `first_try.py`.

The figure shows no stamp: the art is GPL-2 and stays out of the repository.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import open_clip
import torch
from scipy.stats import t as student
from stamps_data import SPLIT_SEED

matplotlib.use("Agg")  # a figure is only ever saved
import matplotlib.pyplot as plt

from openclip_eclip import __version__

NAMES = {"clip": "CLIP", "eclip": "eCLIP"}
TEXT_NOTES = {
    "minilm": "MiniLM-L6 as text tower, frozen",
    "scratch": "a small text transformer from scratch",
}
COLOURS = {"clip": "#8a8f98", "eclip": "#2a6fbb"}


def mean_and_sd(values: Sequence[float]) -> str:
    """Mean ± sd of values in percent, as shares."""
    spread = f" ± {statistics.stdev(values) / 100:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values) / 100:.3f}{spread}"


def with_interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds (Student's t) of differences in percent, as shares.

    A single seed has no interval.
    """
    mean, half = statistics.mean(values) / 100, half_width(values)
    interval = "" if half is None else f" [{mean - half / 100:.3f}, {mean + half / 100:.3f}]"
    return f"{mean:+.3f}{interval}".replace("-", "−")


def half_width(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return (
        float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    )


def table(results: Mapping[str, Any]) -> str:
    """Table of the recall of both methods and of their paired differences, with all seeds.

    It gives mean ± sd or the 95 % interval over seeds.
    """
    metrics = list(next(iter(results.values()))["clip"])
    lines = ["| | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    for method, name in NAMES.items():
        cells = [
            mean_and_sd([scores[method][metric] for scores in results.values()])
            for metric in metrics
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    differences = {
        metric: [scores["eclip"][metric] - scores["clip"][metric] for scores in results.values()]
        for metric in metrics
    }
    lines.append(
        "| eCLIP − CLIP, paired | "
        + " | ".join(with_interval(differences[metric]) for metric in metrics)
        + " |"
    )
    for seed in results:
        lines.append(
            f"| seed {seed}: CLIP / eCLIP | "
            + " | ".join(
                f"{results[seed]['clip'][metric] / 100:.3f} / {results[seed]['eclip'][metric] / 100:.3f}"
                for metric in metrics
            )
            + " |"
        )
    return "\n".join(lines)


def verdict(results: Mapping[str, Any]) -> str:
    """One sentence on the paired differences."""
    if len(results) < 2:
        return "One seed: no comparison can be made."
    inside, better, worse = [], [], []
    for metric in next(iter(results.values()))["clip"]:
        values = [scores["eclip"][metric] - scores["clip"][metric] for scores in results.values()]
        clear = abs(statistics.mean(values)) > half_width(values)
        (inside if not clear else better if statistics.mean(values) > 0 else worse).append(metric)
    parts = [
        f"{', '.join(names)}: {text}"
        for names, text in (
            (inside, "the 95 % interval of the difference over seeds contains 0"),
            (better, "eCLIP better, by an interval above 0"),
            (worse, "eCLIP worse, by an interval below 0"),
        )
        if names
    ]
    return "; ".join(parts) + "."


def figure(results: Mapping[str, Any], chance: Sequence[float], path: Path) -> None:
    """Bars of the means, a point for each seed with lines between its points, chance as a dash."""
    metrics = list(next(iter(results.values()))["clip"])
    drawing, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    offset, first = {"clip": -0.19, "eclip": 0.19}, next(iter(results))
    for i, metric in enumerate(metrics):
        for method in NAMES:
            values = [scores[method][metric] for scores in results.values()]
            axes.bar(
                i + offset[method],
                statistics.mean(values) / 100,
                0.36,
                color=COLOURS[method],
                alpha=0.75,
                label=NAMES[method] if i == 0 else None,
                zorder=1,
            )
        for seed, scores in results.items():
            axes.plot(
                [i + offset[method] for method in NAMES],
                [scores[method][metric] / 100 for method in NAMES],
                "o-",
                color="black",
                markersize=4,
                linewidth=0.8,
                zorder=2,
                label="one seed" if (i, seed) == (0, first) else None,
            )
        axes.hlines(
            chance[i] / 100,
            i - 0.42,
            i + 0.42,
            colors="#b33a3a",
            linestyles="dashed",
            zorder=3,
            label="chance" if i == 0 else None,
        )
    axes.set_xticks(range(len(metrics)), metrics)
    axes.set_ylabel("image → text recall")
    axes.set_title("Test stamps (object masks, not gaze)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    drawing.savefig(path, dpi=120)
    plt.close(drawing)


def write_report(record: Mapping[str, Any], folder: Path) -> str:
    """Write stamps.md and stamps.png to `folder`; returns the table."""
    settings, stamps, results = record["settings"], record["stamps"], record["results"]
    captions = stamps["captions_held_out"]
    chance = [min(100.0, 100 * k / captions) for k in (1, 5, 10)]
    rows = table(results)
    views = ", ".join(str(count) for count in record["mixed_views"].values())
    seen = (
        settings["epochs"]
        * (stamps["train"] * settings["renders"] // settings["batch_size"])
        * settings["batch_size"]
    )
    text = f"""# Stamps: object masks, not gaze

Image → text recall on test stamps of Tux Paint. Mean ± sd over seeds {", ".join(results)}.
Differences have 95 % intervals over seeds (Student's t). Written by
`python scripts/studies/stamps/first_try.py` on {time.strftime("%Y-%m-%d")}.

{rows}

{verdict(results)} Chance: {" / ".join(f"{value / 100:.3f}" for value in chance)}.

- **What the heatmaps are**: masks of the objects, cut out by hand by the stamps' artists. They are human annotation of
  objects, not gaze, and the images are not chest X-rays. This says nothing about the paper's medical results.
- **Data**: {stamps["train"]} training stamps, {stamps["held_out"]} for the test ({captions} captions, none of them in training). They are split once by
  caption (seed {SPLIT_SEED}). Each is pasted at a random position and scale onto gradients, noise, stripes and pieces of two photographs:
  {settings["renders"]} images a training stamp, {settings["test_renders"]} a test stamp, {settings["size"]} px.
  {settings["annotated"]:.0%} of the training stamps are annotated, test stamps never.
- **Training**: EfficientNet-Lite0 from ImageNet, all layers trained; {TEXT_NOTES[settings["text"]]}; batch {settings["batch_size"]},
  {settings["epochs"]} epochs, lr {settings["lr"]}, weight decay 0.001, {settings["warmup"]} warm-up steps. CLIP and eCLIP of a seed share images,
  initial weights, order and every flag but `--recipe`.
- **Settings** were chosen for CLIP on a development seed with captions of the training part. The seeds above ran once.
- **Not separated**: the runs are short, so few heatmaps entered: {views} mixed pairs a run, of {seen} images a
  run. eCLIP also sees these extra views. There is no placebo with random heatmaps here.
- **Machine**: {platform.machine()}, {os.cpu_count()} cores (shared), {torch.get_num_threads()} thread(s), no GPU;
  {record["minutes"]:.0f} minutes for everything.
  openclip_eclip {__version__}, open_clip {open_clip.__version__}, torch {torch.__version__}.

![recall](stamps.png)
"""
    (folder / "stamps.md").write_text(text, encoding="utf-8")
    figure(results, chance, folder / "stamps.png")
    return rows
