"""Write synthetic data sets as CSV folders or webdataset shards.

The same arguments give files that are identical byte for byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..version import __version__
from .batch import PhantomBatch
from .findings import DescribedFinding, windows_of


def write_csv(folder: Path, split: str, blocks: Iterable[PhantomBatch]) -> None:
    """Write a split as images/, heatmaps/ and `split`.csv, and the gaze of the test split.

    Rows of the training split have a heatmap path or a blank, and the label. Rows of the test split
    have label and box; their gaze goes to test_gaze/. With several findings per image there are
    sentence windows too.
    """
    (folder / "images").mkdir(exist_ok=True)
    (folder / "heatmaps").mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    gaze_rows: list[dict[str, Any]] = []
    for key, block, i in _samples(split, blocks):
        row: dict[str, Any] = {"filepath": f"images/{key}.png", "title": block.reports[i]}
        (folder / row["filepath"]).write_bytes(_png(block.images[i]))
        if split == "train":
            row["heatmap"] = f"heatmaps/{key}.png" if block.annotated[i] else None
            if block.annotated[i]:
                (folder / row["heatmap"]).write_bytes(_heatmap_png(block.heatmaps[i]))
        row["label"] = int(block.labels[i])
        if split == "test":
            box: Sequence[int | None] = _box(block, i) or [None] * 4
            row.update(zip(("x0", "y0", "x1", "y1"), box, strict=True))
            gaze_rows.append(
                {"filepath": row["filepath"], "gaze": _write_gaze(folder, key, block.heatmaps[i])}
            )
            if block.described:
                described = block.described[i]
                row["findings"] = json.dumps([finding.facts() for finding in described])
                gaze_rows[-1]["windows"] = _write_windows(folder, "test_gaze", key, described)
        if split == "train" and block.described:
            row["windows"] = None
            if block.annotated[i]:
                row["windows"] = _write_windows(folder, "windows", key, block.described[i])
        rows.append(row)
    _write_table(folder / f"{split}.csv", rows)
    if gaze_rows:
        _write_table(folder / "test_gaze.csv", gaze_rows)


def write_webdataset(
    folder: Path, split: str, blocks: Iterable[PhantomBatch], shard_size: int
) -> None:
    """Write a split as `split`-000000.tar ... of `shard_size` samples, listed in sizes.json.

    Members: key.png, key.txt, key.heatmap.png (annotated samples only) and key.json (label, class,
    box or null). With several findings per image there are also key.windows.json and
    key.windows.npz. The gaze of the test split goes to test_gaze/; the filepath in its table is the
    name of the image's member.
    """
    sizes_file = folder / "sizes.json"
    sizes = json.loads(sizes_file.read_text()) if sizes_file.exists() else {}
    gaze_rows: list[dict[str, Any]] = []
    number, samples = 0, _samples(split, blocks)
    while chunk := list(islice(samples, shard_size)):
        name = f"{split}-{number:06d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as shard:
            for key, block, i in chunk:
                _add_sample(shard, key, block, i)
                if split != "test":
                    continue
                gaze = _write_gaze(folder, key, block.heatmaps[i])
                gaze_rows.append({"filepath": f"{key}.png", "gaze": gaze})
                if block.described:
                    windows = _write_windows(folder, "test_gaze", key, block.described[i])
                    gaze_rows[-1]["windows"] = windows
        sizes[name] = len(chunk)
        number += 1
    write_json(sizes_file, sizes)
    if gaze_rows:
        _write_table(folder / "test_gaze.csv", gaze_rows)


def recipe(
    folder: Path, parameters: dict, classes: Sequence[str], labels: dict[str, list[int]]
) -> dict:
    """The content of recipe.json.

    It holds the parameters, the package version, the class counts of each split, and the SHA-256 of
    each CSV and shard.
    """
    counts = {
        split: Counter(classes[label] for label in of_split) for split, of_split in labels.items()
    }
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.tar")])
    return {
        "dataset": "phantom",
        "package_version": __version__,
        "parameters": parameters,
        "class_counts": {
            split: {name: count[name] for name in classes} for split, count in counts.items()
        },
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _samples(split: str, blocks: Iterable[PhantomBatch]) -> Iterator[tuple[str, PhantomBatch, int]]:
    """Yield (key, block, index in the block) of every sample.

    Keys are train_000000 ...: a dot would end a webdataset key.
    """
    number = 0
    for block in blocks:
        for i in range(len(block.labels)):
            yield f"{split}_{number:06d}", block, i
            number += 1


def _box(block: PhantomBatch, i: int) -> list[int] | None:
    return None if block.boxes[i, 0] < 0 else block.boxes[i].tolist()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Level 1: the images are mostly noise, so that stronger compression only costs time
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _heatmap_png(heatmap: np.ndarray) -> bytes:
    return _png(np.rint(255 * heatmap).astype(np.uint8))


def _write_gaze(folder: Path, key: str, heatmap: np.ndarray) -> str:
    path = folder / "test_gaze" / f"{key}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_heatmap_png(heatmap))
    return f"test_gaze/{key}.png"


def _write_windows(
    folder: Path, under: str, key: str, described: list[DescribedFinding]
) -> str | None:
    """Write the two window files; return the path for the table, or None without a finding."""
    if not described:
        return None
    (folder / under).mkdir(exist_ok=True)
    name = f"{under}/{key}.windows.json"
    for path, content in zip(
        (folder / name, (folder / name).with_suffix(".npz")), windows_of(described), strict=True
    ):
        path.write_bytes(content)
    return name


def _write_table(path: Path, rows: list[dict]) -> None:
    table = pd.DataFrame(rows)
    # Int64, because the blanks of normal images would turn integers into floats
    boxes = [name for name in ("x0", "y0", "x1", "y1") if name in table]
    table = table.astype({name: "Int64" for name in boxes})
    table.to_csv(path, index=False, lineterminator="\n")


def _add_sample(shard: tarfile.TarFile, key: str, block: PhantomBatch, i: int) -> None:
    label = int(block.labels[i])
    facts = {"label": label, "class": block.classes[label], "box": _box(block, i)}
    _add_member(shard, f"{key}.png", _png(block.images[i]))
    _add_member(shard, f"{key}.txt", block.reports[i].encode())
    if block.annotated[i]:
        _add_member(shard, f"{key}.heatmap.png", _heatmap_png(block.heatmaps[i]))
    if block.described:
        described = block.described[i]
        facts["findings"] = [finding.facts() for finding in described]
        if block.annotated[i] and described:
            for name, content in zip(("json", "npz"), windows_of(described), strict=True):
                _add_member(shard, f"{key}.windows.{name}", content)
    _add_member(shard, f"{key}.json", json.dumps(facts).encode())


def _add_member(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    # The defaults of TarInfo (mtime 0, no owner) keep the bytes the same on every run
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
