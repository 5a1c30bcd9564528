"""Pictures of the report: learning curves, differences, and where each method attends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...data.enlarge import enlarge
from ...data.sample import read_image
from ...evaluate.inputs.encoder import Encoder, load_encoder
from ...evaluate.inputs.eval_set import EvalSet, read_eval_set
from ...evaluate.inputs.heatmaps import join_heatmaps, read_heatmap_tensor
from ...metrics.pointing import marked_region
from ...pseudo_heatmaps import attention_maps
from .. import phantom_tower  # noqa: F401  # registers the tower of the phantom models
from ..page import tidy

SHOWN = 4  # test images
SIDE = 1.45  # inches of one image


def attention_figure(models: dict[str, Path], test: Path) -> Figure:
    """A row for each of a few test images: the marked region, then the attention of each method.

    `models`: {method: its folder of the first seed}. The images are evenly spaced in the table.
    """
    data = join_heatmaps(read_eval_set(test), "heatmap", None)
    rows = np.unique(np.linspace(0, len(data) - 1, SHOWN).round().astype(int)).tolist()
    figure = Figure(figsize=(SIDE * (len(models) + 1), SIDE * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(models) + 1, squeeze=False)
    for column, (name, folder) in enumerate(models.items(), start=1):
        encoder = load_encoder(str(folder), device="cpu")
        maps, pixels, heatmaps = _maps(encoder, data, rows)
        for i in range(len(rows)):
            region = marked_region(heatmaps[i])
            if column == 1:
                _show(axes[i][0], pixels[i], heatmaps[i], region)
            _show(axes[i][column], pixels[i], maps[i], region)
            top = np.unravel_index(maps[i].argmax(), maps[i].shape)
            axes[i][column].plot(top[1], top[0], "x", color="white", ms=6, mew=1.6)
        axes[0][column].set_title(name, fontsize=8)
    axes[0][0].set_title("expert", fontsize=8)
    return figure


def _maps(
    encoder: Encoder, data: EvalSet, rows: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(attention, grey images, heatmaps) of `rows`, each (N, H, W)."""
    images = [read_image(data.read(row), data.name(row), "RGB", data.reading) for row in rows]
    pixels = torch.stack([encoder.transform(image) for image in images])
    heatmaps = torch.cat(
        [
            read_heatmap_tensor(data, row, image, encoder.transform)
            for row, image in zip(rows, images, strict=True)
        ]
    )
    titles = data.column("title")
    maps = attention_maps(encoder, pixels, [titles[row] for row in rows])
    large = enlarge(maps, pixels.shape[-2:])
    return large.numpy(), pixels.mean(1).numpy(), heatmaps.numpy()


def _show(axis: Axes, image: np.ndarray, values: np.ndarray, region: np.ndarray) -> None:
    axis.imshow(image, cmap="gray")
    axis.imshow(values, cmap="inferno", alpha=0.55)
    if 0 < region.mean() < 1:
        axis.contour(region, levels=[0.5], colors="#35d0ff", linewidths=1)
    axis.set_axis_off()


def curve_figure(curves: dict[str, list[tuple[list[float], list[float]]]]) -> Figure:
    """Validation mean rank against steps; {method: [(steps, mean ranks) of each seed]}."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, seeds) in enumerate(curves.items()):
        for k, (steps, ranks) in enumerate(seeds):
            axis.plot(
                steps, ranks, color=f"C{i}", lw=1.3, alpha=0.75, label=name if k == 0 else None
            )
    axis.set(xlabel="training steps", ylabel="mean rank on validation (lower is better)")
    axis.legend(frameon=False, fontsize=8)
    tidy(axis, "both")
    return figure
