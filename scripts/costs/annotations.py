"""Measures `prepare annotations`: boxes of a COCO file as heatmaps, beside the writer alone.

    python scripts/costs/annotations.py --out docs/results/annotations.md

All write the same images, in turns: the command with all that it does, the writer with the same
boxes in memory, and the writer without boxes. Images are JPEGs of 512 x 512 pixels, or PNGs of
1024 x 1024 as those of NIH ChestX-ray14.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from openclip_eclip.gaze import Boxes
from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.prepare.annotations.match import read_images
from openclip_eclip.prepare.options import Options
from openclip_eclip.prepare.plan import Item, Plan
from openclip_eclip.prepare.writer import write_plan

SIZE, WORKERS = 224, 2
SOURCES = {"jpg": 512, "png": 1024}  # suffix -> side
MODELS = 50  # different pictures; the files are copies of them


def write_source(folder: Path, images: int, boxes: int, suffix: str) -> None:
    """`images` pictures, reports.csv, and annotations.json with `boxes` boxes of ten classes."""
    rng = np.random.default_rng(0)
    side = SOURCES[suffix]
    (folder / "images").mkdir(parents=True)
    models = []
    for i in range(MODELS):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
        pixels = np.asarray(smooth.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = (pixels + rng.integers(-8, 9, pixels.shape)).clip(0, 255).astype(np.uint8)
        models.append(folder / f"{i}.{suffix}")
        Image.fromarray(noisy).save(models[-1], quality=90)
    names = [f"{i:06d}.{suffix}" for i in range(images)]
    for i, name in enumerate(names):
        (folder / "images" / name).hardlink_to(models[i % MODELS])
    rows = [f"{name},no finding {i}" for i, name in enumerate(names)]
    (folder / "reports.csv").write_text("\n".join(["image,report", *rows]) + "\n")
    corners = rng.integers(0, side // 2, (boxes, 2))
    sides = rng.integers(16, side // 2, (boxes, 2))
    (folder / "annotations.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": name, "height": side, "width": side}
                    for i, name in enumerate(names)
                ],
                "categories": [{"id": i, "name": f"class {i}"} for i in range(10)],
                "annotations": [
                    {
                        "id": i,
                        "image_id": i % images,
                        "category_id": i % 10,
                        "bbox": [*corners[i].tolist(), *sides[i].tolist()],
                        "iscrowd": 0,
                    }
                    for i in range(boxes)
                ],
            }
        )
    )


def with_boxes(folder: Path, out: Path) -> float:
    """Wall-clock seconds of the command, from its files to shards, page and picture included."""
    start = time.perf_counter()
    code = prepare(
        ["annotations", str(folder / "annotations.json"), str(out)]
        + ["--images", str(folder / "images"), "--texts", str(folder / "reports.csv")]
        + ["--size", str(SIZE), "--workers", str(WORKERS)]
    )
    assert code == 0
    return time.perf_counter() - start


def writer(folder: Path, out: Path, draw: bool) -> float:
    """Wall-clock seconds of the writer alone on the same images and texts, with boxes or not."""
    content = json.loads((folder / "annotations.json").read_bytes())
    side = content["images"][0]["width"]
    boxes: list[list[list[int]]] = [[] for _ in content["images"]]
    for one in content["annotations"]:
        boxes[one["image_id"]].append(one["bbox"])
    files = read_images(folder / "images").files
    start = time.perf_counter()
    items = [
        Item(
            Path(name).stem,
            path,
            f"no finding {i}",
            annotations=(Boxes.from_xywh(boxes[i]),) if draw else (),
            size=(side, side),
            colour=True,
            upright=True,
        )
        for i, (name, path) in enumerate(files.items())
    ]
    options = Options(out, SIZE, 95, "webdataset", WORKERS, None, (0, 1), 1000, False)
    write_plan(Plan("plain", {"train": items}), options, {})
    return time.perf_counter() - start


RUNS = {
    "command": ("`prepare annotations`", with_boxes),
    "heatmaps": ("writer, the same heatmaps", lambda folder, out: writer(folder, out, True)),
    "images": ("writer, no heatmaps", lambda folder, out: writer(folder, out, False)),
}


def _spread(values: list[float], form: str) -> str:
    """Median, minimum and maximum."""
    middle = statistics.median(values)
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = [
        "# What reading annotations costs\n",
        f"`python scripts/costs/annotations.py`: {args.images} images, {args.boxes} boxes in a COCO"
        f" file, shards of {SIZE}-pixel JPEGs, {WORKERS} workers on {platform.machine()},"
        f" {args.repeats} repeats in turns; median (minimum to maximum). The command also reads"
        " files and joins names, and makes its page and picture.\n",
        "| images | | images a second | rate of the command to this |",
        "|---|---|---|---|",
    ]
    for suffix in args.sources:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / suffix
            write_source(folder, args.images, args.boxes, suffix)
            rates: dict[str, list[float]] = {name: [] for name in RUNS}
            for _ in range(args.repeats):
                for name, (_, run) in RUNS.items():
                    rates[name].append(args.images / run(folder, folder / "out"))
                    shutil.rmtree(folder / "out")
        kind = f"{suffix.upper()}, {SOURCES[suffix]} x {SOURCES[suffix]}"
        for name, (label, _) in RUNS.items():
            ratios = [command / other for command, other in zip(rates["command"], rates[name])]
            lines.append(
                f"| {kind} | {label} | {_spread(rates[name], '.0f')} | {_spread(ratios, '.2f')} |"
            )
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
