"""Turns images, reports and boxes of your own into a table, checks it, and trains on it.

    python examples/04_your_own_table.py [OUT]

OUT: a new folder (default: own_table_example). The first part writes a small data set such as you
may have. Replace it by your files, and keep the rest.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from openclip_eclip.gaze import Boxes, render, save_heatmap
from openclip_eclip.phantom.generate import generate

out = Path(sys.argv[1] if len(sys.argv) > 1 else "own_table_example")
if out.exists():
    sys.exit(f"error: {out} exists; expected the name of a new folder.")
(out / "images").mkdir(parents=True)
(out / "heatmaps").mkdir()

# 1. What you may have: images, reports.csv, and boxes.csv for a few of the images.
batch = generate(64, seed=3, split="train", annotated=0.25)
names = [f"{i:04}.png" for i in range(64)]
for name, pixels in zip(names, batch.images):
    Image.fromarray(pixels).save(out / "images" / name)
pd.DataFrame({"image": names, "report": batch.reports}).to_csv(out / "reports.csv", index=False)
boxes = pd.DataFrame(batch.boxes, columns=["xmin", "ymin", "xmax", "ymax"]).assign(image=names)
boxes[batch.annotated & (batch.labels > 0)].to_csv(out / "boxes.csv", index=False)

# 2. A heatmap for each image that has boxes, and the table. A blank cell means "not annotated".
table, boxes = pd.read_csv(out / "reports.csv"), pd.read_csv(out / "boxes.csv")
heatmaps = {}
for name, rows in boxes.groupby("image"):
    with Image.open(out / "images" / name) as image:
        size = (image.height, image.width)
    heatmap = render(Boxes(rows[["xmin", "ymin", "xmax", "ymax"]].to_numpy()), size, 64)
    if heatmap is not None:  # None: no box lies on the image
        heatmaps[name] = save_heatmap(heatmap, out / "heatmaps" / name).relative_to(out)
table["heatmap"] = table["image"].map(heatmaps)
table["image"] = "images/" + table["image"]
table.to_csv(out / "train.csv", index=False)
print(f"{out / 'train.csv'}: {len(table)} images, {len(heatmaps)} of them with a heatmap")

# 3. Check it, and look at sheet.png: do the heatmaps lie where they should?
columns = ["--csv-img-key", "image", "--csv-caption-key", "report"]
python, train_csv = os.environ.get("PYTHON", sys.executable), str(out / "train.csv")
check = [python, "-m", "openclip_eclip", "check", train_csv, *columns]
subprocess.run([*check, "--sheet", str(out / "sheet.png")], check=True)

# 4. Train. On a GPU take --model ViT-B-16, and leave out what follows --runs-dir.
train = [python, "-m", "openclip_eclip", "train", "--recipe", "eclip-plus", *columns]
model = f"local-dir:{Path(__file__).parent / 'configs' / 'tiny'}"
train += ["--model", model, "--train-data", train_csv, "--runs-dir", str(out / "runs")]
train += ["--name", "plus", "--batch-size", "16", "--epochs", "2", "--warmup", "2"]
train += ["--force-context-length", "64", "--precision", "fp32", "--workers", "0"]
subprocess.run(train, check=True)
print(f"results: {out / 'sheet.png'}, {out / 'runs' / 'plus' / 'out.log'}")
