"""Draws four kinds of annotation of one synthetic image as heatmaps for training, and a figure.

    python examples/05_gaze_to_heatmap.py [OUT]

Writes gaze.png, four maps and manifest.json into OUT (default: gaze_example).
"""

import sys
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from openclip_eclip.gaze import (
    Boxes,
    Ellipses,
    Fixations,
    Polygons,
    RenderConfig,
    render,
    save_heatmap,
    write_manifest,
)
from openclip_eclip.phantom.generate import generate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle

out = Path(sys.argv[1] if len(sys.argv) > 1 else "gaze_example")
if out.exists() and not out.is_dir():
    sys.exit(f"error: {out} is a file; expected a folder for the pictures.")
out.mkdir(parents=True, exist_ok=True)

# the first image with a finding, and its box
batch = generate(16, seed=2, split="train", annotated=0, size=256)
chosen = int(np.flatnonzero(batch.boxes[:, 0] >= 0)[0])
image, (x0, y0, x1, y1) = batch.images[chosen], batch.boxes[chosen].astype(float)
middle_x, middle_y, side = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)
Image.fromarray(image).save(out / "image.png")

# A reader searches both lungs and returns to the finding. One fixation is outside the image and is
# dropped.
rng = np.random.default_rng(0)
search_x, search_y = (
    rng.normal([[75], [180]], 14, (2, 5)).ravel(),
    np.tile(np.linspace(60, 190, 5), 2),
)
fixations = Fixations(
    x=[*search_x, *rng.normal(middle_x, side / 6, 6), -2],
    y=[*search_y, *rng.normal(middle_y, side / 6, 6), -2],
    duration=[*rng.uniform(0.1, 0.3, 10), *rng.uniform(0.3, 0.8, 6), 0.2],
)
boxes = Boxes([[x0, y0, x1, y1], [100, 130, 178, 202]], weight=[1, 0.4])
ellipses = Ellipses([[x0 - 6, y0 - 6, x1 + 6, y1 + 6], [150, 150, 215, 205]], certainty=[5, 3])
lung = np.array(
    [[62, 52], [88, 48], [104, 80], [106, 130], [100, 185], [62, 205], [40, 190], [44, 120]]
)
polygons = Polygons([lung, lung * [-1, 1] + [256, 0]])

kinds = {  # name: (annotation, how to draw it)
    "fixations": (fixations, RenderConfig(sigma=0.06, unit="width")),
    "boxes": (boxes, RenderConfig()),
    "ellipses": (ellipses, RenderConfig()),
    "polygons": (polygons, RenderConfig(sigma=4)),
}
titles = (
    "16 fixations, area = duration",
    "boxes, weights 1 and 0.4",
    "ellipses, certainty 5 and 3",
    "outlines, edges blurred",
)
figure, axes = plt.subplots(2, 4, figsize=(11, 5.9), layout="constrained")
for (name, (annotation, config)), (above, below), title in zip(kinds.items(), axes.T, titles):
    heatmap = render(annotation, image.shape, 224, config)
    print(
        f"{name}: {heatmap.used} drawn, dropped {heatmap.dropped},"
        f" {save_heatmap(heatmap, out / f'{name}.png')}"
    )
    for axis in (above, below):
        axis.imshow(image, cmap="gray", extent=(0, 256, 256, 0))
        axis.set_axis_off()
    below.imshow(
        heatmap.values,
        cmap="inferno",
        alpha=0.75 * heatmap.values**0.5,
        extent=(0, 256, 256, 0),
        vmin=0,
        vmax=1,
    )
    above.set_title(title, fontsize=10)
    pen = {"fill": False, "edgecolor": "tab:cyan", "linewidth": 1.4}
    if isinstance(annotation, Fixations):
        seen = annotation.usable(image.shape)[0]
        above.plot(seen.x, seen.y, color="tab:cyan", linewidth=0.5, alpha=0.6)
        patches = [
            Circle(position, 12 * seconds**0.5, **pen)
            for *position, seconds in zip(seen.x, seen.y, seen.duration)
        ]
    elif isinstance(annotation, Polygons):
        patches = [Polygon(line, **pen) for line in annotation.outlines]
    else:
        shape = Rectangle if isinstance(annotation, Boxes) else Ellipse
        patches = [
            shape((a, b) if shape is Rectangle else ((a + c) / 2, (b + d) / 2), c - a, d - b, **pen)
            for a, b, c, d in annotation.xyxy
        ]
    for patch in patches:
        above.add_patch(patch)
figure.savefig(out / "gaze.png", dpi=100)
write_manifest(
    out,
    {name: asdict(config) for name, (_, config) in kinds.items()},
    [out / "image.png"],
    {"maps": len(kinds)},
)
