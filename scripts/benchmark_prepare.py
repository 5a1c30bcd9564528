"""Images a second of `prepare`: JPEGs of a film's size to 256-pixel JPEGs in shards, with one and with two workers.

    python scripts/benchmark_prepare.py --out docs/results/prepare.md
"""
from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from openclip_eclip.prepare.options import Options
from openclip_eclip.prepare.plan import Item, Plan
from openclip_eclip.prepare.writer import write_plan
from PIL import Image

SIZE = (3056, 2544)  # height, width


def write_films(folder: Path, count: int) -> list[Item]:
    """Smooth films with noise, as large on disk as radiographs of this size (1 to 2 MB)."""
    rng, items = np.random.default_rng(0), []
    for i in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 10), dtype=np.uint8)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, np.int16) + rng.integers(-4, 5, SIZE, dtype=np.int16)
        path = folder / f"{i}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        items.append(Item(str(i), path, "no finding"))
    return items


def seconds(items: list[Item], folder: Path, workers: int) -> tuple[float, float]:
    """(wall clock, CPU of the workers) of one run."""
    options = Options(folder, 256, 95, "webdataset", workers, None, (0, 1), 10, False)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    write_plan(Plan("films", {"train": items}), options, {})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "raw").mkdir()
        items = write_films(root / "raw", args.images)
        megabytes = statistics.mean(item.image.stat().st_size for item in items) / 2**20
        times = {workers: [] for workers in (1, 2)}
        for i in range(args.rounds):
            for workers, found in times.items():
                found.append(seconds(items, root / f"out-{workers}-{i}", workers))
        for workers, found in times.items():
            rates = sorted(args.images / wall for wall, _ in found)
            cpu = statistics.median(1000 * used / args.images for _, used in found)
            rows.append(f"| {workers} | {statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f}) | {cpu:.0f} |")
    model = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    args.out.write_text(
        f"# What preparing costs\n\n`python scripts/benchmark_prepare.py`: {args.images} JPEGs of {SIZE[1]} x {SIZE[0]} pixels ({megabytes:.1f} MB "
        f"each) to 256-pixel JPEGs in shards of 10; {model}, median of {args.rounds} rounds with the range.\n\n"
        "| workers | images a second | CPU ms an image |\n|---|---|---|\n" + "\n".join(rows)
        + f"\n\nLargest worker: {peak:.0f} MiB.\n", encoding="utf-8")
    sys.stdout.write(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
