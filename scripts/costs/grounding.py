"""Measures the cost of attention maps against the bare image encoder, and of `evaluate grounding`.

    python scripts/costs/grounding.py --out docs/results/attention_cost.md

Maps: every method that a tower has, and its bare image encoder, take the same images in turns; the
weights are random. Memory is the peak of a process of its own for each method. Grounding: synthetic
images with sentence windows in a temporary folder, a small tower with random weights. Two threads.
The script takes about six minutes.
"""

from __future__ import annotations

import os

# before numpy and torch are imported
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "2"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import contextlib
import io
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import peak_mib

TOWERS = ("ViT-B-16", "RN50")  # RN50: the learned pool
BATCH = 8  # images; one text each
BARE = "bare encoder"
FORMS = 40  # shapes and words of the phrases
STAGES = {
    "reading phrases and regions": "read",
    "reading images": "pixels",
    "attention maps": "maps",
    "metrics": "score",
    "bootstrap and tables": "tables",
    "examples": "examples",
}
SMALL = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def works(tower: str) -> dict[str, Callable[[], Any]]:
    """{method or BARE: one batch of it} for the methods that the tower has."""
    import open_clip
    import torch

    from openclip_eclip.attention.methods import FLOORS, METHODS, attention_maps
    from openclip_eclip.config import UserError

    torch.manual_seed(0)
    model = open_clip.create_model(tower, load_weights=False).eval()
    side = model.visual.preprocess_cfg["size"]
    pixels = torch.randn(BATCH, 3, *(side if isinstance(side, tuple) else (side, side)))
    width = open_clip.get_model_config(tower)["embed_dim"]
    text = torch.nn.functional.normalize(torch.randn(BATCH, width), dim=-1)
    image = torch.arange(BATCH)

    def bare() -> object:
        with torch.no_grad():
            return model.encode_image(pixels, normalize=True)

    found: dict[str, Callable[[], Any]] = {BARE: bare}
    for name in METHODS:
        if name in FLOORS:
            continue
        try:
            attention_maps(name, model, pixels[:1], text[:1], image[:1])
        except UserError:
            continue
        found[name] = lambda name=name: attention_maps(name, model, pixels, text, image)
    return found


def child(*flags: str) -> Any:
    """What this script prints as JSON in a new process."""
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def maps_lines(tower: str, rounds: int) -> list[str]:
    """The table of one tower."""
    seconds: dict[str, list[float]] = {}
    methods = works(tower)
    for work in methods.values():
        work()  # the first call is slower
    for _ in range(rounds):
        for name, work in methods.items():
            start = time.perf_counter()
            work()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    peaks = {name: child("--peak", tower, name) for name in methods}
    lines = [
        f"\n## {tower}\n",
        "| | seconds, times the bare encoder's | peak memory, times its | images a second |",
        "|---|---|---|---|",
    ]
    for name, values in seconds.items():
        ratios = [mine / bare for mine, bare in zip(values, seconds[BARE], strict=True)]
        rate = spread([BATCH / value for value in values], 1)
        lines.append(
            f"| {name if name == BARE else f'`{name}`'} | {spread(ratios)} |"
            f" {peaks[name] / peaks[BARE]:.2f} ({peaks[name]:.0f} MiB) | {rate} |"
        )
    return lines


def write_data(folder: Path, images: int, phrases: int) -> None:
    """`images` pictures with `phrases` windows each; the last has no region."""
    import pandas as pd
    from PIL import Image

    from openclip_eclip.data.sentence_windows import encode_windows

    rng, rows = np.random.default_rng(0), []
    nan = float("nan")
    for i in range(images):
        pixels = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((224, 224)).save(folder / f"{i}.jpg")
        spoken, maps = [], []
        for j in range(phrases):
            region = np.zeros((224, 224))
            if j < phrases - 1:
                y, x, height, width = rng.integers(20, 100, 4)
                region[y : y + height, x : x + width] = 1
            spoken.append((f"finding {rng.integers(FORMS)} on the left", nan, nan))
            maps.append(region)
        text, arrays = encode_windows(spoken, maps)
        (folder / f"{i}.windows.json").write_bytes(text)
        (folder / f"{i}.windows.npz").write_bytes(arrays)
        rows.append((f"{i}.jpg", f"{i}.windows.json"))
    pd.DataFrame(rows, columns=["filepath", "windows"]).to_csv(folder / "test.csv", index=False)


def ground(folder: Path) -> dict[str, Any]:
    """Seconds of each stage of `evaluate grounding`, and the peak memory of this process."""
    import open_clip
    import torch

    from openclip_eclip.evaluate.__main__ import main
    from openclip_eclip.evaluate.grounding import attention, measure, task

    (folder / "costs-tower.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(folder / "costs-tower.json")
    torch.set_num_threads(2)
    spent: Counter[str] = Counter()

    def timed(owner: Any, name: str, stage: str) -> None:
        work = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **more)
            finally:
                spent[stage] += time.perf_counter() - start

        setattr(owner, name, call)

    timed(task, "read_grounding_set", "read")
    timed(measure._PixelReader, "__call__", "pixels")
    timed(attention.PhraseAttention, "maps", "maps")
    timed(measure, "score_phrase", "score")
    timed(task, "_result", "tables")
    timed(task, "draw_examples", "examples")
    start = time.perf_counter()
    flags = ["--model", "costs-tower", "--pretrained", "random", "--device", "cpu"]
    data = ["--data", str(folder / "test.csv"), "--out", str(folder / "out")]
    with contextlib.redirect_stdout(io.StringIO()):
        if main(["grounding", *flags, *data]):
            sys.exit("evaluate grounding failed")
    return {"seconds": time.perf_counter() - start, "peak": peak_mib(), **spent}


def ground_lines(images: int, phrases: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), images, phrases)
        found = child("--ground", folder)
        few = Path(folder, "few")
        few.mkdir()
        write_data(few, 10, phrases)
        base = child("--ground", str(few))
    count = images * phrases
    lines = [
        f"\n## `evaluate grounding` of {count} phrases\n",
        f"{images} JPEGs of 224 pixels with {phrases} phrases each, one of them without a region;"
        " vit_tiny_patch16_224 with random weights, batches of 64 phrases. Maps: `similarity`,"
        " two floors and two priors. An image is encoded once, a text once.\n",
        "| stage | seconds |",
        "|---|---|",
        *(f"| {title} | {found[stage]:.0f} |" for title, stage in STAGES.items()),
        f"| all, with the model and the page | {found['seconds']:.0f} |",
        f"\n{count / found['seconds']:.0f} phrases a second. Peak memory {found['peak']:.0f} MiB;"
        f" with {10 * phrases} phrases it is {base['peak']:.0f} MiB.",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--phrases", type=int, default=4, help="of an image")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--ground", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        tower, name = args.peak
        works(tower)[name]()
        print(json.dumps(peak_mib()))
        return
    if args.ground:
        print(json.dumps(ground(args.ground)))
        return
    import torch

    before = os.getloadavg()[0]
    lines = [line for tower in TOWERS for line in maps_lines(tower, args.rounds)]
    lines += ground_lines(args.images, args.phrases)
    head = (
        "# What attention maps cost\n\n"
        f"`python scripts/costs/grounding.py`, {date.today()}: {platform.machine()},"
        f" {os.cpu_count()} cores, 2 threads, torch {torch.__version__}. Batches of {BATCH} images,"
        f" one text each; the methods take turns, {args.rounds} rounds, median (minimum to"
        " maximum). Peak memory is that of the whole process. The machine's load was"
        f" {before:.1f} at the start and {os.getloadavg()[0]:.1f} at the end."
    )
    text = "\n".join([head, *lines]) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
