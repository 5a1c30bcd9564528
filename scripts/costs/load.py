"""Measures the time that data take from the start of a run to its first batch.

    python scripts/costs/load.py --rows 1000000 --shards 1000 --out docs/results/load.json

Tables and shards are measured at their first and second start. The data are written to a temporary
folder, and each start has its own process. `--package` names a checkout of another version, whose
figures are listed beside those of this one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parents[2]
MEASURE = """\
import argparse, json, resource, sys, time
import open_clip, torch
import open_clip_train.main as host
from open_clip.transform import image_transform
from openclip_eclip.data.joint_transform import JointTransform
from training_patches import release
from training_patches.train_data import train_source
patches = release().Patches()
patches.originals = {"parse_args": host.parse_args}
open_clip.add_model_config(sys.argv[1])
flags = "--model tiny --batch-size 64 --workers 0 --epochs 1 --warmup 1 --device cpu".split()
args = patches.parse_args([*flags, *sys.argv[2:]])
args.rank, args.world_size, args.distributed = 0, 1, False
tokenizer = open_clip.get_tokenizer("tiny")
transform = JointTransform(image_transform(32, is_train=True), 0.1)
cpu, wall = time.process_time(), time.perf_counter()
source = train_source(args, transform, tokenizer, 0, heatmaps=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "cpu_s": round(time.process_time() - cpu, 2), "wall_s": round(time.perf_counter() - wall, 2),
    "samples": source.total, "annotated": len(source.names), "peak_gib": round(peak / 2**20, 2),
}))
"""
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def picture(is_map: bool = False) -> bytes:
    """A PNG of a diagonal; as a heatmap, of the other diagonal at half the size."""
    stream = io.BytesIO()
    diagonal = np.eye(4 if is_map else 8, dtype=np.uint8) * 255
    Image.fromarray(diagonal[::-1] if is_map else diagonal).save(stream, "PNG")
    return stream.getvalue()


def write_rows(folder: Path, rows: int, share: int) -> Path:
    """Writes a table that names 1000 images many times; one row in `share` has a heatmap."""
    folder.mkdir()
    for i in range(1000):
        (folder / f"{i}.png").write_bytes(picture())
        (folder / f"h{i}.png").write_bytes(picture(is_map=True))
    with open(folder / "train.csv", "w", encoding="utf-8") as file:
        file.write("filepath,title,heatmap\n")
        file.writelines(
            f"{i % 1000}.png,finding {i},{f'h{i % 1000}.png' if i % share == 0 else ''}\n"
            for i in range(rows)
        )
    return folder / "train.csv"


def write_shards(folder: Path, shards: int, samples: int, share: int) -> str:
    """Writes shards as webdataset's writer does; one sample in `share` has a heatmap.

    All shards are copies of the first one.
    """
    folder.mkdir()
    first = folder / f"train-{0:06d}.tar"
    with tarfile.open(first, "w", format=tarfile.PAX_FORMAT) as archive:
        for i in range(samples):
            members = {
                "png": picture(),
                "txt": f"finding {i}".encode(),
                **({"heatmap.png": picture(is_map=True)} if i % share == 0 else {}),
            }
            for name, content in sorted(members.items()):
                info = tarfile.TarInfo(f"{i:09d}.{name}")
                info.size, info.mtime = len(content), 1.5
                archive.addfile(info, io.BytesIO(content))
    for number in range(1, shards):
        shutil.copyfile(first, folder / f"train-{number:06d}.tar")
    return f"{folder}/train-{{000000..{shards - 1:06d}}}.tar"


def measure(package: Path, folder: Path, *flags: object) -> dict[str, float]:
    """Measures one start in its own process, in the folder of the data."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            MEASURE,
            str(folder / "tiny.json"),
            *map(str, flags),
        ],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: a start ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=int,
        nargs="*",
        default=[1_000_000],
        help="number of rows of each table (default: %(default)s)",
    )
    parser.add_argument(
        "--shards", type=int, default=1000, help="number of shards (default: %(default)s)"
    )
    parser.add_argument(
        "--samples", type=int, default=1000, help="samples in a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--share",
        type=int,
        default=10,
        metavar="N",
        help="gives one sample in N a heatmap (default: %(default)s)",
    )
    parser.add_argument(
        "--package", type=Path, help="checkout of another version, measured as 'before'"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file to which the figures are added"
    )
    args = parser.parse_args()
    figures = json.loads(args.out.read_text()) if args.out.is_file() else {}
    figures["machine"] = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; one"
        f" sample in {args.share} has a heatmap"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.json").write_text(json.dumps(MODEL))
        jobs = [
            (
                f"table of {rows} rows",
                [
                    *("--train-data", write_rows(folder / f"t{rows}", rows, args.share)),
                    *("--csv-separator", ","),
                ],
            )
            for rows in args.rows
        ]
        if args.shards:
            path = write_shards(folder / "shards", args.shards, args.samples, args.share)
            jobs.append(
                (
                    f"{args.shards} shards of {args.samples} samples",
                    ["--train-data", path, "--train-num-samples", args.shards * args.samples],
                )
            )
        for what, flags in jobs:
            entry = figures.setdefault(what, {})
            starts = [("before", args.package)] * bool(args.package) + [
                ("first start", HERE),
                ("second start", HERE),
            ]
            for start, package in starts:
                entry[start] = measure(package, folder, *flags)
                sys.stdout.write(f"{what}, {start}: {json.dumps(entry[start])}\n")
                args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
