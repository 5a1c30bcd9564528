"""Phantoms, a CLIP and an eCLIP on them, their scores, and one picture; run by demo.sh.

Zero-shot macro-F1 and image->text recall on the test split, one seed each: a demonstration, not a result.
"""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from openclip_eclip.export import main as export
from openclip_eclip.prepare.__main__ import main as prepare
from phantom_scores import read_rows, score
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
METHODS = {"CLIP": ("--recipe", "clip"), "eCLIP": ()}


def train_one(method: str, data: Path, runs: Path, epochs: int, seed: int) -> Path:
    """`python -m openclip_eclip.train`, identical flags but the method; returns the run folder."""
    name = f"{method.lower()}-{seed}"
    flags = ["--model", f"local-dir:{HERE / 'phantom_model'}", "--train-data", data / "train.csv", "--batch-size", 64,
             "--epochs", epochs, "--lr", 1e-3, "--wd", 0.1, "--warmup", 50, "--force-context-length", 64, "--workers", 1,
             "--device", "cpu", "--precision", "fp32", "--logs", runs, "--name", name, "--seed", seed, "--log-every-n-steps", 10,
             "--save-frequency", epochs, *METHODS[method]]
    command = [sys.executable, "-m", "openclip_eclip.train", *map(str, flags)]
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        bar = tqdm(total=epochs, desc=f"train {method}", unit="epoch", disable=None)
        for line in process.stderr:
            said.append(line)
            bar.update("Start epoch" in line)
        bar.close()
    if process.returncode:
        raise RuntimeError(f"training {method} failed:\n{''.join(said[-20:])}")
    return runs / name


def losses(run: Path) -> list[float]:
    return [float(value) for value in re.findall(r"Contrastive_loss: ([\d.]+)", (run / "out.log").read_text())]


def overlays(axes: list, data: Path) -> None:
    rows = [row for row in read_rows(data / "train.csv") if row["heatmap"]][:len(axes)]
    for axis, row in zip(axes, rows):
        heatmap = np.asarray(Image.open(data / row["heatmap"])) / 255
        axis.imshow(Image.open(data / row["filepath"]), cmap="gray")
        axis.imshow(heatmap, cmap="inferno", alpha=0.6 * heatmap ** 0.5)
        axis.set_axis_off()
        axis.set_title(row["title"][:30] + "…", fontsize=7)


def draw(path: Path, data: Path, runs: dict[str, Path], scores: dict[str, dict[str, float]]) -> None:
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
        bars.bar(np.arange(len(names)) + 0.4 * i, [values[name] for name in names], 0.4, label=method)
    bars.set_xticks(np.arange(len(names)) + 0.2, names)
    bars.set(ylabel="test score, one seed", ylim=(0, 1))
    bars.legend()
    figure.suptitle("Phantom films with gaze heatmaps; CLIP and eCLIP trained on them")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data, runs = args.out / "phantoms", args.out / "runs"
    started = time.monotonic()
    prepare(["phantom", str(data), "--train", str(args.train), "--test", "1000", "--annotated", "0.05", "--seed", str(args.seed)])
    folders, scores = {}, {}
    for method in METHODS:
        began = time.monotonic()
        folders[method] = train_one(method, data, runs, args.epochs, args.seed)
        plain = args.out / f"{method.lower()}-plain"
        export([str(folders[method]), str(plain)])
        scores[method] = score(plain, data)
        sys.stdout.write(f"{method}: {time.monotonic() - began:.0f} s  " + "  ".join(f"{k} {v:.3f}" for k, v in scores[method].items()) + "\n")
    draw(args.out / "demo.png", data, folders, scores)
    sys.stdout.write(f"picture: {args.out / 'demo.png'}; runs with logs and figures: {runs}; {time.monotonic() - started:.0f} s in all\n")


if __name__ == "__main__":
    main()
