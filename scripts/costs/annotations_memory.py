"""Measures the memory of `prepare annotations` on a COCO file of a gigabyte.

    python scripts/costs/annotations_memory.py --out docs/results/annotations_memory.md

Memory is the proportional set size of all processes of the command together, read twice a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, CLASSES = 640, 480, 80
MODELS = 50  # different pictures; the images are hard links to them


def write_images(folder: Path, count: int) -> None:
    """`count` JPEGs, and reports.csv."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(MODELS):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize((WIDTH, HEIGHT)).save(folder / f"{i}.jpg", quality=80)
    for i in range(count):
        (folder / "images" / f"{i:012d}.jpg").hardlink_to(folder / f"{i % MODELS}.jpg")
    rows = [f"{i:012d}.jpg,a photo {i}" for i in range(count)]
    (folder / "reports.csv").write_text("\n".join(["image,report", *rows]) + "\n")


def endless(kind: str, images: int) -> Iterator[dict]:
    """Boxes, or outlines of 8 to 47 points, without end."""
    rng = np.random.default_rng(0)
    identity = 0
    while True:
        x, y, width, height = rng.uniform([0, 0, 10, 10], [400, 300, 200, 150])
        record = {
            "area": round(width * height, 2),
            "iscrowd": 0,
            "image_id": int(rng.integers(images)),
            "bbox": [round(value, 2) for value in (x, y, width, height)],
            "category_id": int(rng.integers(CLASSES)),
            "id": identity,
        }
        if kind == "outlines":
            angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(8, 48)))
            line = np.stack([x + width * (1 + np.cos(angle)) / 2, y + height * np.sin(angle)], 1)
            record["segmentation"] = [np.abs(line).round(2).ravel().tolist()]
        yield record
        identity += 1


def write_coco(path: Path, kind: str, images: int, size: int) -> int:
    """A COCO file of `size` bytes; returns the number of annotations."""
    pictures = [
        {
            "license": 3,
            "file_name": f"{i:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "date_captured": "2013-11-14 11:18:45",
            "id": i,
        }
        for i in range(images)
    ]
    names = [{"id": i, "name": f"class {i}"} for i in range(CLASSES)]
    with path.open("w") as file:
        start = json.dumps({"images": pictures, "categories": names})
        written, count = file.write(start[:-1] + ', "annotations": ['), 0
        for record in endless(kind, images):
            if written > size:
                break
            written += file.write((", " if count else "") + json.dumps(record))
            count += 1
        file.write("]}")
    return count


def resident(process: int) -> int:
    """Proportional set size of a process and its children, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return own + sum(resident(int(child)) for child in children)


def peak_of(command: list[str]) -> tuple[int, float]:
    """(most bytes, seconds) of a command."""
    start, most = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, *command]) as child:
        while child.poll() is None:
            most = max(most, resident(child.pid))
            time.sleep(0.5)
    if child.returncode:
        raise SystemExit(child.returncode)
    return most, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=250_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = [
        "# Memory of reading annotations\n",
        f"`python scripts/costs/annotations_memory.py`: a COCO file of {args.megabytes} MB on"
        f" {args.images} images, `prepare annotations --dry-run`, all its processes together.\n",
        "| annotations | windows of classes | most memory | minutes |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder, args.images)
        for kind in ("outlines", "boxes"):
            path = folder / f"{kind}.json"
            count = write_coco(path, kind, args.images, args.megabytes * 1_000_000)
            for phrases in ([], ["--phrases", "a {c}"]):
                command = ["-m", "openclip_eclip.prepare", "annotations", str(path)]
                command += [str(folder / "out"), "--images", str(folder / "images"), "--dry-run"]
                command += ["--texts", str(folder / "reports.csv"), *phrases]
                most, seconds = peak_of(command)
                with_windows = "with" if phrases else "without"
                lines.append(
                    f"| {count} {kind} | {with_windows} | {most / 2**30:.2f} GiB |"
                    f" {seconds / 60:.1f} |"
                )
                args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
            path.unlink()


if __name__ == "__main__":
    main()
