"""Study of sentence windows: does each sentence of a report point at its own finding?

    python scripts/studies/sentences.py --out sentences --write docs/results/sentences.md

On a GPU: --device cuda --jobs 8.

Data are phantoms with two findings; the model is a small ViT without an attention pool; there are
several seeds. Methods: CLIP, alignment with whole reports, alignment with sentences, and a placebo:
alignment with the windows of the two sentences swapped. Test images with two findings are measured,
with the sentence of each finding: where its similarity to the positions of the image is highest,
and whether it is higher in the box of its finding than in the other box. A second call resumes with
the missing runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from draw_attention import show
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from openclip_eclip.benchmark.runner import Workers
from openclip_eclip.evaluate.inputs.encoder import Encoder, load_encoder, tokenize
from openclip_eclip.machine import read_machines
from openclip_eclip.towers.positions import encode_positions, similarity_map

ROWS = {
    "CLIP": ["--method", "clip"],
    "align, whole reports": ["--method", "align"],
    "align, sentences": ["--method", "align", "--align-windows"],
    "align, sentences, windows swapped": ["--method", "align", "--align-windows"],
}
SCORES = (
    "peak in the box of its finding",
    "peak in the box of the other",
    "higher in its own box than in the other's",
)
MODEL = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 64,
            "layers": 3,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": 48,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bilinear",
    },
}


def make_data(args: argparse.Namespace, workers: Workers) -> None:
    """Write images, the table with swapped windows, and the configuration of the model."""
    if not (args.out / "data").is_dir():
        with workers.borrow() as worker:
            worker.run(
                "openclip_eclip.prepare",
                [
                    *("phantom", args.out / "data", "--train", args.train, "--test", args.test),
                    *("--annotated", args.annotated, "--findings", 2),
                ],
                args.out / "logs" / "data.txt",
            )
    table = pd.read_csv(args.out / "data" / "train.csv", keep_default_na=False)
    for i in table.index[table["windows"] != ""]:
        source = args.out / "data" / table["windows"][i]
        target = source.with_name(f"swapped_{source.name}")
        target.write_bytes(source.read_bytes())
        with np.load(source.with_suffix(".npz"), allow_pickle=False) as archive:
            np.savez_compressed(
                target.with_suffix(".npz"), heatmaps=np.roll(archive["heatmaps"], 1, axis=0)
            )
        table.loc[i, "windows"] = f"windows/{target.name}"
    table.to_csv(args.out / "data" / "swapped.csv", index=False)
    (args.out / "model").mkdir(exist_ok=True)
    (args.out / "model" / "open_clip_config.json").write_text(json.dumps(MODEL), encoding="utf-8")


def train(args: argparse.Namespace, workers: Workers, row: str, seed: int) -> Path:
    """Train a run if it is missing; returns its folder."""
    folder = args.out / "runs" / f"{list(ROWS).index(row)}-{seed}"
    if not (folder / "checkpoints" / f"epoch_{args.epochs}.pt").is_file():
        table = "swapped.csv" if "swapped" in row else "train.csv"
        with workers.borrow() as worker:
            worker.run(
                "openclip_eclip.train",
                [
                    *("--model", f"local-dir:{args.out / 'model'}"),
                    *("--train-data", args.out / "data" / table, "--batch-size", 48),
                    *("--epochs", args.epochs, "--lr", 1e-3, "--wd", 0.01, "--warmup", 20),
                    *("--workers", 0, "--device", args.device, "--precision", "fp32"),
                    *("--logs", folder.parent, "--name", folder.name, "--seed", seed),
                    *("--save-frequency", args.epochs, "--resume", "latest"),
                    *ROWS[row],
                ],
                args.out / "logs" / f"{folder.name}.txt",
            )
    return folder


def two_findings(args: argparse.Namespace) -> list[tuple[Image.Image, list[dict]]]:
    """Test images with two findings, and {class, box, sentence} of each finding."""
    table = pd.read_csv(args.out / "data" / "test.csv")
    described = zip(table["filepath"], map(json.loads, table["findings"]))
    return [
        (Image.open(args.out / "data" / path).convert("RGB"), findings)
        for path, findings in described
        if len(findings) == 2
    ]


@torch.no_grad()
def sentence_maps(encoder: Encoder, image: Image.Image, findings: list[dict]) -> np.ndarray:
    """Similarity maps (2, H, W) of each finding's sentence with the positions of the image."""
    text = encoder.encode_texts(tokenize(encoder, [one["sentence"] for one in findings]))
    maps = similarity_map(
        encode_positions(encoder.model.visual, encoder.transform(image)[None]).expand(
            2, -1, -1, -1
        ),
        text,
    )
    return F.interpolate(
        maps[:, None], size=image.size[::-1], mode="bilinear", align_corners=False
    )[:, 0].numpy()


def measure(folder: Path, images: list[tuple[Image.Image, list[dict]]]) -> list[float]:
    """SCORES, means over the sentences of all images; chance of the last is 0.5."""
    encoder, hits = load_encoder(str(folder), device="cpu"), []
    for image, findings in images:
        maps = sentence_maps(encoder, image, findings)
        inside = np.zeros(maps.shape, dtype=bool)
        for mask, similarity in zip(inside, findings):
            x0, y0, x1, y1 = similarity["box"]
            mask[y0:y1, x0:x1] = True
        for i, similarity in enumerate(maps):
            peak = np.unravel_index(similarity.argmax(), similarity.shape)
            hits.append(
                [
                    inside[i][peak],
                    inside[1 - i][peak],
                    similarity[inside[i]].mean() > similarity[inside[1 - i]].mean(),
                ]
            )
    return np.mean(hits, axis=0).tolist()


def draw(
    folders: dict[str, Path], images: list[tuple[Image.Image, list[dict]]], seed: int = 0
) -> Figure:
    """Draw the maps of both sentences with the boxes of their findings.

    There is a column for each of eight randomly drawn images.
    """
    images = [images[i] for i in np.random.default_rng(seed).permutation(len(images))[:8]]
    figure = Figure(figsize=(12, 1.5 * (1 + 2 * len(folders)) + 0.4), layout="constrained")
    grid = figure.subplots(1 + 2 * len(folders), len(images), squeeze=False)
    for axis, (image, findings) in zip(grid[0], images):
        show(axis, image)
        axis.set_title(
            "\n".join(f"{i}: {finding['class']}" for i, finding in enumerate(findings, 1)),
            fontsize=8,
            loc="left",
        )
    grid[0, 0].set_ylabel("image", fontsize=9)
    for line, (row, folder) in enumerate(folders.items()):
        encoder = load_encoder(str(folder), device="cpu")
        for column, (image, findings) in enumerate(images):
            for i, (shown, finding) in enumerate(
                zip(sentence_maps(encoder, image, findings), findings)
            ):
                axis, (x0, y0, x1, y1) = grid[1 + 2 * line + i, column], finding["box"]
                show(axis, image, shown)
                axis.add_patch(
                    Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#35c4f0", lw=1.5)
                )
                if column == 0:
                    axis.set_ylabel(f"{row}\nsentence {i + 1}", fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for data, runs and the page"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="Markdown page to write, with its figure beside it (default: OUT/sentences.md)",
    )
    for name, value, what in (
        ("train", 1500, "number of training images"),
        ("test", 500, "number of test images"),
        ("epochs", 24, "number of epochs"),
        ("seeds", 5, "number of seeds"),
        ("first-seed", 10, "lowest seed"),
        ("jobs", 2, "number of runs at a time"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=value, help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--annotated",
        type=float,
        default=0.5,
        help="share of annotated training images (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="device that trains (default: %(default)s)",
    )
    parser.add_argument(
        "--mixed-machines",
        action="store_true",
        help="puts runs of different machines into one table; the page says so",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    workers = Workers(args.jobs, cache=True, gpus=int(args.device == "cuda"))
    make_data(args, workers)
    cells = [(row, args.first_seed + seed) for seed in range(args.seeds) for row in ROWS]
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = list(
            tqdm(
                pool.map(lambda cell: train(args, workers, *cell), cells),
                total=len(cells),
                unit="run",
                disable=None,
            )
        )
    kinds = sorted(
        {
            f"{one['device']}, torch {one['torch']}"
            for folder in folders
            for one in read_machines(folder) or []
        }
    )
    if len(kinds) > 1 and not args.mixed_machines:
        sys.exit(
            f"{args.out / 'runs'}: runs of different machines ({'; '.join(kinds)}); expected one"
            " kind: remove the runs of other machines, or give --mixed-machines."
        )
    images, written = two_findings(args), args.write or args.out / "sentences.md"
    scores = {cell: measure(folder, images) for cell, folder in zip(cells, folders)}
    lines = [
        (
            "# Attention by sentence\n\n`python scripts/studies/sentences.py`. Training:"
            f" {args.train} synthetic images with up to two findings, {args.annotated:.0%} with"
            f" gaze, {args.epochs} epochs in batches of 48. Model: ViT of 8-pixel patches with"
            f" average pooling. Test: the {len(images)} of {args.test} test images with two"
            " findings, by the sentence of each finding.\n\nMean ± sd over seeds"
            f" {' '.join(str(args.first_seed + i) for i in range(args.seeds))}. Chance is 0.5 in"
            " the last column."
            f" {'; '.join(kinds) or workers.machine}.{' MIXED MACHINES.' * (len(kinds) > 1)}\n"
        ),
        "| | " + " | ".join(SCORES) + " |",
        "|---" * (len(SCORES) + 1) + "|",
    ]
    for row in ROWS:
        values = np.array([scores[row, args.first_seed + seed] for seed in range(args.seeds)])
        spread = values.std(axis=0, ddof=1) if args.seeds > 1 else values.std(axis=0)
        lines.append(
            f"| {row} | "
            + " | ".join(f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(values.mean(axis=0), spread))
            + " |"
        )
    lines.append(
        f"\nEight of these images drawn at random, models of seed {args.first_seed}. The box is that"
        " of the sentence's finding:\n\n![Images and the maps of their"
        f" sentences]({written.stem}.png)"
    )
    written.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(
        {
            row: folder
            for (row, seed), folder in zip(cells, folders)
            if seed == args.first_seed and row != "CLIP" and "swapped" not in row
        },
        images,
    ).savefig(written.with_suffix(".png"), dpi=80)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
