"""Demo: trains CLIP and eCLIP on synthetic chest X-rays with gaze heatmaps, and scores both.

demo.sh runs it. The scores are zero-shot macro-F1 and image-to-report recall on the test split,
with one seed for each method: a demonstration, not a result. It writes one picture, and a page for
each evaluation.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from openclip_eclip.benchmark.rows import PHANTOM_MODEL
from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.export import main as export
from openclip_eclip.prepare.__main__ import main as prepare

METHODS = {"CLIP": ("--method", "clip"), "eCLIP": ()}


def train_one(method: str, data: Path, runs: Path, epochs: int, seed: int) -> Path:
    """Trains one method with `python -m openclip_eclip.train`; returns the run folder.

    All flags but those of the method are the same.
    """
    name = f"{method.lower()}-{seed}"
    flags = [
        *("--model", PHANTOM_MODEL),
        *("--train-data", data / "train.csv"),
        *("--batch-size", 64),
        *("--epochs", epochs),
        *("--lr", 1e-3),
        *("--wd", 0.1),
        *("--warmup", 50),
        *("--force-context-length", 64),
        *("--workers", 1),
        *("--device", "cpu"),
        *("--precision", "fp32"),
        *("--logs", runs),
        *("--name", name),
        *("--seed", seed),
        *("--log-every-n-steps", 10),
        *("--save-frequency", epochs),
        *METHODS[method],
    ]
    command = [sys.executable, "-m", "openclip_eclip.train", *map(str, flags)]
    output = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        bar = tqdm(total=epochs, desc=f"train {method}", unit="epoch", disable=None)
        for line in process.stderr:
            output.append(line)
            bar.update("Start epoch" in line)
        bar.close()
    if process.returncode:
        raise RuntimeError(f"training {method} failed:\n{''.join(output[-20:])}")
    return runs / name


def score(plain: Path, data: Path, out: Path) -> dict[str, float]:
    """Scores of zero-shot classification and retrieval; the pages of both are written to `out`."""
    values = {}
    for task in ("zero-shot", "retrieval"):
        with redirect_stdout(io.StringIO()):
            failed = evaluate(
                [
                    task,
                    *("--model", str(plain)),
                    *("--data", str(data / "test.csv")),
                    *("--out", str(out / task)),
                    *("--device", "cpu"),
                    *("--workers", "1"),
                    *("--cache", "none"),
                ]
            )
        if failed:
            raise RuntimeError(f"{task} of {plain} failed")
        values[task] = json.loads((out / task / "result.json").read_text(encoding="utf-8"))[
            "values"
        ]
    recall = values["retrieval"]["image_to_text"]["expected"]
    return {
        "macro_f1": values["zero-shot"]["headline"]["value"],
        **{f"recall@{k}": recall[f"R@{k}"]["value"] for k in (1, 5, 10)},
    }


def losses(run: Path) -> list[float]:
    """The contrastive losses in the log of a run."""
    return [
        float(value)
        for value in re.findall(r"Contrastive_loss: ([\d.]+)", (run / "out.log").read_text())
    ]


def overlays(axes: list, data: Path) -> None:
    """Draws one annotated training image with its heatmap into each axis."""
    rows = (
        pd.read_csv(data / "train.csv").dropna(subset="heatmap").head(len(axes)).to_dict("records")
    )
    for axis, row in zip(axes, rows):
        heatmap = np.asarray(Image.open(data / row["heatmap"])) / 255
        axis.imshow(Image.open(data / row["filepath"]), cmap="gray")
        axis.imshow(heatmap, cmap="inferno", alpha=0.6 * heatmap**0.5)
        axis.set_axis_off()
        axis.set_title(row["title"][:30] + "…", fontsize=7)


def draw(
    path: Path, data: Path, runs: dict[str, Path], scores: dict[str, dict[str, float]]
) -> None:
    """Draws annotated images, the losses of the runs, and the test scores."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1)
    overlays(list(top.subplots(1, 5)), data)
    curve, bars = bottom.subplots(1, 2)
    for method, run in runs.items():
        values = losses(run)
        curve.plot(np.arange(len(values)) * 10, values, label=method)
    curve.set(xlabel="step", ylabel="contrastive loss")
    curve.legend()
    names = list(next(iter(scores.values())))
    for i, (method, values) in enumerate(scores.items()):
        bars.bar(
            np.arange(len(names)) + 0.4 * i, [values[name] for name in names], 0.4, label=method
        )
    bars.set_xticks(np.arange(len(names)) + 0.2, names)
    bars.set(ylabel="test score, one seed", ylim=(0, 1))
    bars.legend()
    figure.suptitle("Synthetic chest X-rays with gaze heatmaps; CLIP and eCLIP trained on them")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--train", type=int, default=2000, help="training images (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=6, help="epochs of each method (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data and training (default: %(default)s)"
    )
    args = parser.parse_args()
    data, runs = args.out / "phantoms", args.out / "runs"
    started = time.monotonic()
    prepare(
        [
            "phantom",
            str(data),
            *("--train", str(args.train)),
            *("--test", "1000"),
            *("--annotated", "0.05"),
            *("--seed", str(args.seed)),
        ]
    )
    folders, scores = {}, {}
    for method in METHODS:
        began = time.monotonic()
        folders[method] = train_one(method, data, runs, args.epochs, args.seed)
        plain = args.out / f"{method.lower()}-plain"
        export([str(folders[method]), str(plain)])
        scores[method] = score(plain, data, args.out / f"{method.lower()}-results")
        sys.stdout.write(
            f"{method}: {time.monotonic() - began:.0f} s  "
            + "  ".join(f"{k} {v:.3f}" for k, v in scores[method].items())
            + "\n"
        )
    draw(args.out / "demo.png", data, folders, scores)
    sys.stdout.write(
        f"picture: {args.out / 'demo.png'}; pages: {args.out}/*-results/*/report.html; runs:"
        f" {runs}; {time.monotonic() - started:.0f} s in all\n"
    )


if __name__ == "__main__":
    main()
