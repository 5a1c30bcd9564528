"""Demo: trains CLIP, eCLIP and eclip-plus on synthetic chest X-rays, and shows where each attends.

demo.sh runs it. Every method has one seed: a demonstration, not a result. It writes one picture,
and a page for each evaluation.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from studies.draw_attention import full_size_attention
from tqdm import tqdm

from openclip_eclip.benchmark.align_cells import MODEL
from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.export import main as export
from openclip_eclip.prepare.__main__ import main as prepare

RECIPES = {"CLIP": "clip", "eCLIP": "eclip", "eclip-plus": "eclip-plus"}
TASKS = {
    "zero-shot": [],
    "retrieval": [],
    "sensitivity": ["--heatmaps", "{data}/test_gaze.csv", "--heatmap-column", "gaze"],
}
HEADINGS = {
    "macro-F1": "classes (macro-F1)",
    "R@5": "report found (R@5)",
    "pointing": "attends inside",
}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def train(method: str, data: Path, runs: Path, args: argparse.Namespace, bar: tqdm) -> Path:
    """Train one method in a process of its own; returns the run folder.

    The methods differ in --recipe alone. RuntimeError if the training fails.
    """
    recipe = RECIPES[method]
    flags = [
        *("--recipe", recipe, "--model", MODEL, "--train-data", data / "train.csv"),
        *("--batch-size", 64, "--epochs", args.epochs, "--warmup", 50),
        *("--lr", 1e-3, "--wd", 0.1, "--force-context-length", 64),
        *("--workers", 0, "--device", "cpu", "--precision", "fp32"),
        *("--runs-dir", runs, "--name", recipe, "--seed", args.seed),
        *("--save-frequency", args.epochs),
    ]
    output = []
    with subprocess.Popen(
        [sys.executable, "-m", "openclip_eclip.train", *map(str, flags)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            output.append(line)
            bar.update("Start epoch" in line)
    if process.returncode:
        raise RuntimeError(f"training {method} failed:\n{''.join(output[-20:])}")
    return runs / recipe


def score(model: str, data: Path, out: Path) -> dict[str, float]:
    """The scores of HEADINGS on the test images; `out` gets a page for each evaluation."""
    values = {}
    for task, flags in TASKS.items():
        words = [
            *(task, "--model", model, "--data", str(data / "test.csv"), "--out", str(out / task)),
            *("--device", "cpu", "--workers", "0", "--cache", "none"),
            *(flag.replace("{data}", str(data)) for flag in flags),
        ]
        with redirect_stdout(io.StringIO()):
            if evaluate(words):
                raise RuntimeError(f"{task} of {model} failed")
        result = (out / task / "result.json").read_text(encoding="utf-8")
        values[task] = json.loads(result)["values"]
    attention = next(iter(values["sensitivity"]["pointing"].values()))
    return {
        "macro-F1": values["zero-shot"]["headline"]["value"],
        "R@5": values["retrieval"]["image_to_text"]["expected"]["R@5"]["value"],
        "pointing": attention["pointing game"]["value"],
    }


def show(axes: Axes, image: Image.Image, heat: np.ndarray) -> None:
    """Draw `image` with a map (h, w) over it, opaque where the map is high."""
    heat = heat / heat.max()
    box = (0, image.width, image.height, 0)
    axes.imshow(image, cmap="gray")
    axes.imshow(heat, cmap="inferno", alpha=0.75 * heat**0.5, extent=box)
    axes.set(xticks=[], yticks=[])


def draw(path: Path, data: Path, models: dict[str, str], seed: int) -> None:
    """Draw five test images with a finding: the expert's gaze, and the attention of each model."""
    table = pd.read_csv(data / "test.csv").merge(pd.read_csv(data / "test_gaze.csv"), on="filepath")
    classes = json.loads((data / "classes.json").read_text(encoding="utf-8"))["classes"]
    table["label"] = table["label"].map(classes.__getitem__)
    table = table[table["label"] != "normal"]
    table = table.iloc[np.random.default_rng(seed).permutation(len(table))[:5]]
    images = [Image.open(data / name) for name in table["filepath"]]
    rows = {"expert": [np.asarray(Image.open(data / name), float) for name in table["gaze"]]}
    rows |= {
        name: full_size_attention(model, images, list(table["title"]))
        for name, model in models.items()
    }
    figure = Figure(figsize=(7.2, 5.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, maps) in zip(figure.subplots(len(rows), 5), rows.items()):
        axes[0].set_ylabel(name, fontsize=11)
        for axis, image, heat in zip(axes, images, maps):
            show(axis, image, heat)
    for axis, label in zip(figure.axes, table["label"]):
        axis.set_title(label, fontsize=10)
    figure.suptitle("Where the expert looked, and where each model attends", fontsize=12)
    figure.savefig(path, dpi=100)


def table_of(scores: dict[str, dict[str, float]]) -> str:
    """The scores as text, a line a method."""
    lines = [f"{'':<12}" + "".join(f"{heading:>22}" for heading in HEADINGS.values())]
    for method, values in scores.items():
        lines.append(f"{method:<12}" + "".join(f"{values[name]:>22.3f}" for name in HEADINGS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--train", type=int, default=600, help="training images (default: %(default)s)"
    )
    parser.add_argument("--test", type=int, default=300, help="test images (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=24, help="epochs of each method (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data and training (default: %(default)s)"
    )
    args = parser.parse_args()
    data, runs, started = args.out / "phantoms", args.out / "runs", time.monotonic()
    say(f"1/4  drawing {args.train} synthetic chest X-rays with reports; 15 % of them have gaze")
    words = ["--train", args.train, "--test", args.test, "--annotated", 0.15, "--seed", args.seed]
    with redirect_stdout(io.StringIO()):
        prepare(["phantom", str(data), *map(str, words)])
    say(f"2/4  training {', '.join(RECIPES)}: {args.epochs} epochs each, with the same settings")
    with (
        tqdm(total=3 * args.epochs, unit=" epochs", disable=None) as bar,
        ThreadPoolExecutor(len(RECIPES)) as pool,
    ):
        folders = pool.map(lambda method: train(method, data, runs, args, bar), RECIPES)
        trained = dict(zip(RECIPES, folders, strict=True))
    say(f"3/4  scoring them on {args.test} other images")
    models, scores = {}, {}
    for method, folder in trained.items():
        plain = args.out / "models" / RECIPES[method]
        with redirect_stdout(io.StringIO()):
            export([str(folder), str(plain)])
        models[method] = f"local-dir:{plain}"
        scores[method] = score(models[method], data, args.out / "results" / RECIPES[method])
    say("4/4  drawing where each model attends\n")
    draw(args.out / "demo.png", data, models, args.seed)
    say(table_of(scores))
    minutes = (time.monotonic() - started) / 60
    say("\nOne seed for each method, and short training. Five seeds: docs/results/align.md")
    say(f"\npicture: {args.out / 'demo.png'}")
    say(f"pages:   {args.out}/results/*/*/report.html")
    say(f"time:    {minutes:.1f} minutes")
    say("next:    .venv/bin/openclip-eclip check YOUR_TABLE.csv --sheet sheet.png")
    say("         (README: Your own data)")


if __name__ == "__main__":
    main()
