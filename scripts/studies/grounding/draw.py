"""The README's first picture: a photograph and a phantom, and where two models attend.

    python scripts/studies/grounding/draw.py SHARED --work WORK --out docs/results/attend.png

WORK is that of study.py. The photograph is drawn at random from those of coco_small that may be
shown with their source: under CC BY, with two named objects and no person. Both images are from the
fold that their models were not trained on.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from page import PLUS
from study import train_run

from openclip_eclip.attention.methods import attention_maps
from openclip_eclip.data.sentence_windows import decode_windows, file_windows
from openclip_eclip.evaluate.inputs.encoder import load_encoder, tokenize
from openclip_eclip.metrics.grounding import rescaled

SEED = 0
MODELS = ("CLIP", PLUS)
HEIGHT = 240  # pixels of a panel


def read_phrases(folder: Path, row: dict[str, str]) -> tuple[Image.Image, list[str], np.ndarray]:
    """(image, phrases, maps uint8 (N, h, w)) of a row of a test table."""
    path = folder / row["windows"]
    found = decode_windows(*file_windows(path), path.name)
    return Image.open(folder / row["filepath"]).convert("RGB"), found.sentences, found.heatmaps


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of all test tables."""
    rows = []
    for path in sorted(folder.glob("test_*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += [row for row in csv.DictReader(file) if row["windows"]]
    return rows


def free_photographs(shared: Path) -> dict[str, str]:
    """{photograph: page of its source} of those that may be shown."""
    table = pd.read_csv(shared / "coco_small" / "images.csv", dtype=str, keep_default_na=False)
    table = table[(table["license"] == "CC BY 2.0") & ~table["label"].str.contains("person")]
    pages = table["flickr_url"].str.extract(r"/(\d+)_")[0]
    return {
        name: f"https://www.flickr.com/photo.gne?id={page}"
        for name, page in zip(table["patient"], pages)
    }


def draw(rows: list[list[tuple[np.ndarray, str]]]) -> Figure:
    """Rows of pictures with titles; each row is as high as its pictures are."""
    columns, side = len(rows[0]), 2.2  # inches of a picture's width
    heights = [side * row[0][0].shape[0] / row[0][0].shape[1] for row in rows]
    figure = Figure(figsize=(side * columns, sum(heights) + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for of_row, row in zip(axes, rows):
        for axis, (picture, title) in zip(of_row, row):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure


def over(image: Image.Image, map_: np.ndarray) -> np.ndarray:
    """A map over an image, the image in grey so that colours belong to the map."""
    large = Image.fromarray(rescaled(map_).astype(np.float32)).resize(
        image.size, Image.Resampling.BILINEAR
    )
    grey = np.repeat(np.asarray(image.convert("L"), np.float32)[..., None] / 255, 3, axis=2)
    return 0.5 * grey + 0.5 * colormaps["viridis"](np.asarray(large).clip(0, 1))[..., :3]


def panels_of(work: Path, folder: Path, row: dict[str, str]) -> list[tuple[np.ndarray, str]]:
    """The image, the expert's map of its first phrase, and the map of each model."""
    image, phrases, regions = read_phrases(folder, row)
    image = image.resize((round(image.width * HEIGHT / image.height), HEIGHT))
    phrase = phrases[0] if len(phrases[0]) < 30 else f"{phrases[0][:27]}…"
    shown = [(np.asarray(image), f"“{phrase}”"), (over(image, regions[0]), "marked by an expert")]
    for model in MODELS:
        run = train_run(work, folder, model, int(row["fold"]))
        encoder = load_encoder(str(run), device="cpu")
        pixels = encoder.whole_image_transform()(image)[None]
        text = encoder.encode_texts(tokenize(encoder, phrases[:1]))
        first = torch.zeros(1, dtype=torch.int64)
        map_ = attention_maps("similarity", encoder.model, pixels, text, first)[0]
        shown.append((over(image, map_.numpy()), model))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("shared", type=Path, help="folder of the real sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of study.py")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    work, rng = args.work.resolve(), np.random.default_rng(SEED)
    pages = free_photographs(args.shared)
    photographs = [row for row in rows_of(work / "coco_small") if row["group"] in pages]
    photographs = [
        row for row in photographs if len(read_phrases(work / "coco_small", row)[1]) >= 2
    ]
    phantoms = rows_of(work / "phantoms")
    photograph = photographs[rng.integers(len(photographs))]
    phantom = phantoms[rng.integers(len(phantoms))]
    chosen = {"coco_small": photograph, "phantoms": phantom}
    rows = [panels_of(work, work / name, row) for name, row in chosen.items()]
    draw(rows).savefig(args.out, dpi=85)
    sys.stdout.write(f"photograph {photograph['group']}: {pages[photograph['group']]}\n")


if __name__ == "__main__":
    main()
