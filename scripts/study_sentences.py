"""Does the right sentence go to the right place? Phantom films with two findings, a small attention-free ViT, several seeds.

    python scripts/study_sentences.py --out sentences --write docs/results/sentences.md     # --device cuda --jobs 8 on a GPU

Rows: CLIP, alignment with whole reports, with sentences, and with the sentences of each film given each other's windows (the
control). Measured on test films with two findings, by the sentence of each: where the similarity of that sentence with the
positions of the film is highest, and whether it is higher in its finding's box than in the other's. A second call goes on with what is missing.
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
from bench_runs import Workers
from openclip_eclip.evaluate.encoder import load_encoder, tokenize
from openclip_eclip.positions import encode_positions, similarity_map
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

ROWS = {"CLIP": ["--method", "clip"], "align, whole reports": ["--method", "align"], "align, sentences": ["--method", "align", "--align-windows"],
        "align, sentences, windows swapped": ["--method", "align", "--align-windows"]}
SCORES = ("peak in the box of its finding", "peak in the box of the other", "higher in its own box than in the other's")
MODEL = {"model_cfg": {"embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "pool_type": "avg"},
                       "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}},
         "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}}


def make_data(args: argparse.Namespace, workers: Workers) -> None:
    """Films, the table with swapped windows, and the model's configuration."""
    if not (args.out / "data").is_dir():
        with workers.one() as worker:
            worker.run("openclip_eclip.prepare", ["phantom", args.out / "data", "--train", args.train, "--test", args.test, "--annotated", args.annotated,
                                                  "--findings", 2], args.out / "logs" / "data.txt")
    table = pd.read_csv(args.out / "data" / "train.csv", keep_default_na=False)
    for i in table.index[table["windows"] != ""]:
        source = args.out / "data" / table["windows"][i]
        target = source.with_name(f"swapped_{source.name}")
        target.write_bytes(source.read_bytes())
        with np.load(source.with_suffix(".npz"), allow_pickle=False) as archive:
            np.savez_compressed(target.with_suffix(".npz"), heatmaps=np.roll(archive["heatmaps"], 1, axis=0))
        table.loc[i, "windows"] = f"windows/{target.name}"
    table.to_csv(args.out / "data" / "swapped.csv", index=False)
    (args.out / "model").mkdir(exist_ok=True)
    (args.out / "model" / "open_clip_config.json").write_text(json.dumps(MODEL), encoding="utf-8")


def train(args: argparse.Namespace, workers: Workers, row: str, seed: int) -> Path:
    """The folder of one run."""
    folder = args.out / "runs" / f"{list(ROWS).index(row)}-{seed}"
    if not (folder / "checkpoints" / f"epoch_{args.epochs}.pt").is_file():
        table = "swapped.csv" if "swapped" in row else "train.csv"
        with workers.one() as worker:
            worker.run("openclip_eclip.train", [
                "--model", f"local-dir:{args.out / 'model'}", "--train-data", args.out / "data" / table, "--batch-size", 48, "--epochs", args.epochs, "--lr", 1e-3,
                "--wd", 0.01, "--warmup", 20, "--workers", 0, "--device", args.device, "--precision", "fp32", "--logs", folder.parent, "--name", folder.name,
                "--seed", seed, "--save-frequency", args.epochs, "--resume", "latest", *ROWS[row]], args.out / "logs" / f"{folder.name}.txt")
    return folder


@torch.no_grad()
def measure(args: argparse.Namespace, folder: Path) -> list[float]:
    """SCORES, means over the sentences of all test films with two findings; chance of the last is 0.5."""
    encoder = load_encoder(str(folder), device="cpu")
    table = pd.read_csv(args.out / "data" / "test.csv")
    found = []
    for path, told in zip(table["filepath"], map(json.loads, table["findings"])):
        if len(told) != 2:
            continue
        pixels = encoder.transform(Image.open(args.out / "data" / path).convert("RGB"))[None]
        text = encoder.encode_texts(tokenize(encoder, [one["sentence"] for one in told]))
        maps = similarity_map(encode_positions(encoder.model.visual, pixels).expand(2, -1, -1, -1), text)
        maps = F.interpolate(maps[:, None], size=pixels.shape[-2:], mode="bilinear", align_corners=False)[:, 0].numpy()
        inside = np.zeros((2, *maps.shape[1:]), dtype=bool)
        for mask, one in zip(inside, told):
            x0, y0, x1, y1 = one["box"]
            mask[y0:y1, x0:x1] = True
        for own, one in enumerate(maps):
            peak = np.unravel_index(one.argmax(), one.shape)
            found.append([inside[own][peak], inside[1 - own][peak], one[inside[own]].mean() > one[inside[1 - own]].mean()])
    return np.mean(found, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", type=Path, metavar="FILE", help="the table as Markdown (default: OUT/sentences.md)")
    for name, value in (("train", 1500), ("test", 500), ("epochs", 30), ("seeds", 5), ("first-seed", 10), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=value, help="(default: %(default)s)")
    parser.add_argument("--annotated", type=float, default=0.5, help="share of training films (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    workers = Workers(args.jobs, cache=True, gpus=int(args.device == "cuda"))
    make_data(args, workers)
    cells = [(row, args.first_seed + seed) for seed in range(args.seeds) for row in ROWS]
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = list(tqdm(pool.map(lambda cell: train(args, workers, *cell), cells), total=len(cells), unit="run", disable=None))
    scores = {cell: measure(args, folder) for cell, folder in zip(cells, folders)}
    lines = [f"# Sentences and their places\n\n`python scripts/study_sentences.py`: {args.train} phantom films with up to two findings, "
             f"{args.annotated:.0%} with gaze, {args.epochs} epochs in batches of 48, ViT of 8-pixel patches with average pooling; test films with two findings, "
             f"the sentence of each. Mean ± sd over {args.seeds} seeds; chance of the last column is 0.5.\n",
             "| | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for row in ROWS:
        values = np.array([scores[row, args.first_seed + seed] for seed in range(args.seeds)])
        spread = values.std(axis=0, ddof=1) if args.seeds > 1 else values.std(axis=0)
        lines.append(f"| {row} | " + " | ".join(f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(values.mean(axis=0), spread)) + " |")
    (args.write or args.out / "sentences.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
