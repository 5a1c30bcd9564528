"""Measures `prepare annotations`: boxes of a COCO file as heatmaps, beside the plain writer.

    python scripts/costs/annotations.py --out docs/results/annotations.md

Both write the same images, in turns; the plain writer has no annotations to join or to draw. Images
are JPEGs of 512 x 512 pixels.
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

from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.prepare.annotations.match import read_images
from openclip_eclip.prepare.options import Options
from openclip_eclip.prepare.plan import Item, Plan
from openclip_eclip.prepare.writer import write_plan

SIDE, SIZE, WORKERS = 512, 224, 2
MODELS = 50  # different pictures; the files are copies of them


def write_source(folder: Path, images: int, boxes: int) -> None:
    """`images` JPEGs, reports.csv, and annotations.json with `boxes` boxes of ten classes."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    contents = []
    for _ in range(MODELS):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
        pixels = np.asarray(smooth.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        noisy = (pixels + rng.integers(-8, 9, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "one.jpg", quality=90)
        contents.append((folder / "one.jpg").read_bytes())
    for i in range(images):
        (folder / "images" / f"{i:06d}.jpg").write_bytes(contents[i % MODELS])
    rows = [f"{i:06d}.jpg,no finding {i}" for i in range(images)]
    (folder / "reports.csv").write_text("\n".join(["image,report", *rows]) + "\n")
    corners = rng.integers(0, SIDE // 2, (boxes, 2))
    sides = rng.integers(16, SIDE // 2, (boxes, 2))
    (folder / "annotations.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": f"{i:06d}.jpg", "height": SIDE, "width": SIDE}
                    for i in range(images)
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


def plain(folder: Path, out: Path) -> float:
    """Wall-clock seconds of the writer alone on the same images and texts."""
    start = time.perf_counter()
    items = [
        Item(Path(name).stem, path, f"no finding {i}", colour=True)
        for i, (name, path) in enumerate(read_images(folder / "images").files.items())
    ]
    options = Options(out, SIZE, 95, "webdataset", WORKERS, None, (0, 1), 1000, False)
    write_plan(Plan("plain", {"train": items}), options, {})
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rates: dict[str, list[float]] = {"boxes": [], "plain": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_source(folder, args.images, args.boxes)
        for _ in range(args.repeats):
            for name, run in (("plain", plain), ("boxes", with_boxes)):
                rates[name].append(args.images / run(folder, folder / "out"))
                shutil.rmtree(folder / "out")
    ratios = [boxes / plain for boxes, plain in zip(rates["boxes"], rates["plain"])]
    lines = [
        "# What reading annotations costs\n",
        f"`python scripts/costs/annotations.py`: {args.images} images of {SIDE} x {SIDE} pixels,"
        f" {args.boxes} boxes in a COCO file, shards of {SIZE}-pixel JPEGs, {WORKERS} workers on"
        f" {platform.machine()}, {args.repeats} repeats in turns; median (minimum to maximum).\n",
        "| | images a second |",
        "|---|---|",
        *(
            f"| {label} | {statistics.median(rates[name]):.0f}"
            f" ({min(rates[name]):.0f} to {max(rates[name]):.0f}) |"
            for name, label in (("plain", "images and texts alone"), ("boxes", "with heatmaps"))
        ),
        f"| ratio | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
