"""Draw where models attend and where the expert looked, on randomly drawn test images.

python scripts/studies/draw_attention.py CLIP=tables/600/models/clip-30 eclip-plus=tables/600-0.15/models/eclip-plus-30 --data phantoms/test-7 --out attention.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import interpolate

from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.pseudo_heatmaps import attention_maps


def full_size_attention(folder: str, images: list[Image.Image], reports: list[str]) -> np.ndarray:
    """Attention maps (N, H, W), as `--method align` reads them.

    They are the attention of the tower's pool, else the similarity to the report of the image.
    """
    encoder = load_encoder(folder, device="cpu")
    pixels = torch.stack([encoder.transform(image.convert("RGB")) for image in images])
    return interpolate(
        attention_maps(encoder, pixels, reports)[:, None], size=pixels.shape[-2:], mode="bilinear"
    )[:, 0].numpy()


def show(axes: Axes, image: Image.Image, attention: np.ndarray | None = None) -> None:
    """Draw `image`, with an attention map (h, w) over it."""
    axes.imshow(image, cmap="gray")
    if attention is not None:
        axes.imshow(attention, cmap="inferno", alpha=0.6, extent=(0, image.width, image.height, 0))
    axes.set_xticks([])
    axes.set_yticks([])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=FOLDER", help="name of a method, and its exported model"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="data folder with test.csv and test_gaze.csv"
    )
    parser.add_argument(
        "--count", type=int, default=8, help="number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the images (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    table = pd.read_csv(args.data / "test.csv").merge(
        pd.read_csv(args.data / "test_gaze.csv"), on="filepath"
    )
    table = table.iloc[np.random.default_rng(args.seed).permutation(len(table))[: args.count]]
    images = [Image.open(args.data / name) for name in table["filepath"]]
    rows = {
        "image": None,
        "expert": [np.asarray(Image.open(args.data / name), float) for name in table["gaze"]],
    }
    rows |= {
        name: full_size_attention(folder, images, list(table["title"]))
        for name, folder in (word.split("=", 1) for word in args.models)
    }
    figure = Figure(figsize=(1.35 * args.count, 1.4 * len(rows)), layout="constrained")
    for axes, (name, maps) in zip(figure.subplots(len(rows), args.count), rows.items()):
        axes[0].set_ylabel(name, fontsize=10)
        for i, axis in enumerate(axes):
            show(axis, images[i], None if maps is None else maps[i])
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
