"""Shards of JPEGs with heatmaps, for reading.py."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

VIEW = 224  # pixels
# of the synthetic JPEGs: height, width, number in a shard, batch size
SIZES = {
    "224 x 224": (224, 224, 80, 16),
    "480 x 640": (480, 640, 20, 5),
    "2048 x 2560": (2048, 2560, 4, 2),
}
PHOTOGRAPHS = "photographs"
ALL_PNG = "heatmaps on all"
# one sample in N has a heatmap, its format and its height
SHARES = {
    "without heatmaps": (0, "png", VIEW),
    "heatmaps on 5 %": (20, "png", VIEW),
    ALL_PNG: (1, "png", VIEW),
    "heatmaps on all, as uint8 .npy": (1, "npy", VIEW),
    "heatmaps on all, 112 px high": (1, "png", VIEW // 2),
    "heatmaps on all, 56 px high": (1, "png", VIEW // 4),
}


def draw_image(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth colours under fine grain, which compress about as photographs do."""
    coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def draw_map(
    rng: np.random.Generator, height: int, width: int, form: str = "png", side: int = VIEW
) -> bytes:
    """A smooth heatmap of 8 bits, with the aspect ratio of the image and `side` pixels high."""
    coarse = Image.fromarray((rng.random((7, 7)) ** 4 * 255).astype(np.uint8))
    levels = coarse.resize((width * side // height, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    levels.save(stream, "PNG") if form == "png" else np.save(stream, np.asarray(levels))
    return stream.getvalue()


def synthetic(height: int, width: int, count: int) -> list[bytes]:
    """JPEGs of quality 90."""
    rng, jpegs = np.random.default_rng(0), []
    for _ in range(count):
        stream = io.BytesIO()
        draw_image(rng, height, width).save(stream, "JPEG", quality=90)
        jpegs.append(stream.getvalue())
    return jpegs


def write_shard(path: Path, jpegs: list[bytes], share: int, form: str, side: int) -> None:
    """Write a shard; one sample in `share` has a heatmap of `side` pixels, none with 0."""
    rng = np.random.default_rng(1)
    with tarfile.open(path, "w") as archive:
        for i, jpeg in enumerate(jpegs):
            members = {"jpg": jpeg, "txt": b"small left pleural effusion"}
            if share and i % share == 0:
                width, height = Image.open(io.BytesIO(jpeg)).size
                members[f"heatmap.{form}"] = draw_map(rng, height, width, form, side)
            for name, content in sorted(members.items()):
                info = tarfile.TarInfo(f"{i:06d}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def write_data(folder: Path, images: Path | None) -> None:
    """Write the shards of every size and share, and sizes.json: number and batch size."""
    sets = {
        name: (synthetic(height, width, count), batch)
        for name, (height, width, count, batch) in SIZES.items()
    }
    if images is not None:
        files = sorted(
            path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg")
        )
        sets[PHOTOGRAPHS] = [path.read_bytes() for path in files[:20]], 5
    for name, (jpegs, _) in sets.items():
        for label, share in SHARES.items():
            (folder / name / label).mkdir(parents=True)
            write_shard(folder / name / label / "train-000000.tar", jpegs, *share)
    numbers = {name: [len(jpegs), batch] for name, (jpegs, batch) in sets.items()}
    (folder / "sizes.json").write_text(json.dumps(numbers))
