"""Draw one phantom of each class of each anatomy, with the box of its finding.

python scripts/draw_phantoms.py --out docs/data/phantom.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from openclip_eclip.phantom.batch import PhantomBatch
from openclip_eclip.phantom.generate import generate
from openclip_eclip.phantom.scenes import ANATOMIES

# rows that change a knob, all of the head
KNOBS = {
    "contrast 0.5": {"contrast": 0.5},
    "noise 2.5": {"noise": 2.5},
    "devices 3": {"devices": 3.0},
}


def draw_row(axes: np.ndarray, name: str, batch: PhantomBatch, seed: int) -> None:
    """Draw an image of each class in a row of six `axes`, drawn at random by `seed`."""
    rng = np.random.default_rng(seed)
    for label, axis in enumerate(axes):
        _show(axis, batch, int(rng.choice(np.flatnonzero(batch.labels == label))))
    axes[0].set_ylabel(name, fontsize=9)


def _show(axis: Axes, batch: PhantomBatch, i: int) -> None:
    axis.imshow(batch.images[i], cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_title(batch.classes[batch.labels[i]], fontsize=8)
    x0, y0, x1, y1 = (int(side) for side in batch.boxes[i])
    if x0 >= 0:
        box = Rectangle((x0 - 1, y0 - 1), x1 - x0 + 1, y1 - y0 + 1, fill=False, ec="#35c4f0", lw=1)
        axis.add_patch(box)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the images (default: %(default)s)"
    )
    args = parser.parse_args()
    rows = {name: {"anatomy": name} for name in ANATOMIES}
    rows |= {name: {"anatomy": "head", **knobs} for name, knobs in KNOBS.items()}
    figure = Figure(figsize=(7.2, 1.32 * len(rows)), layout="constrained")
    for axes, (name, knobs) in zip(figure.subplots(len(rows), 6), rows.items()):
        batch = generate(128, seed=args.seed, split="test", annotated=0, **knobs)
        draw_row(axes, name, batch, args.seed)
    figure.savefig(args.out, dpi=80)
    Image.open(args.out).convert("RGB").quantize(48).save(args.out, optimize=True)  # a third


if __name__ == "__main__":
    main()
