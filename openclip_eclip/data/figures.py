"""Pictures of annotated samples, drawn with matplotlib."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from PIL import Image

from .heatmap import decode_heatmap


def _agg_figure() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def contact_sheet(samples: Sequence[tuple[bytes, bytes, str]], path: Path) -> None:
    """One PNG with the image and its heatmap over it for each (image bytes, heatmap bytes, heatmap name)."""
    columns = min(4, len(samples))
    rows = -(-len(samples) // columns)
    figure = _agg_figure()
    figure.set_size_inches(2.4 * columns, 2.6 * rows)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (image, heatmap, name) in zip(axes, samples):
        with Image.open(io.BytesIO(image)) as picture:
            width, height = picture.size
            picture.thumbnail((512, 512))
            axis.imshow(picture.convert("RGB"), extent=(0, width, height, 0))
        values = decode_heatmap(heatmap, name)
        axis.imshow(values, extent=(0, width, height, 0), cmap="inferno", alpha=0.55 * values ** 0.5, vmin=0, vmax=1)
        axis.set_title(name, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def processor_figure(image: np.ndarray, heatmap: np.ndarray, expert_image: np.ndarray, mixed: np.ndarray,
                     title: str) -> Any:
    """Rows of I, E, I^E, I^lam (Fig. 2): images (N, H, W, 3) in any range, heatmap (N, H, W); a matplotlib Figure."""
    figure = _agg_figure()
    count = len(image)
    figure.set_size_inches(6.4, 1.7 * count + 0.5)
    axes = figure.subplots(count, 4, squeeze=False)
    low, high = image.min(axis=(1, 2, 3), keepdims=True), image.max(axis=(1, 2, 3), keepdims=True)

    def visible(pictures: np.ndarray) -> np.ndarray:
        return ((pictures - low) / np.maximum(high - low, 1e-6)).clip(0, 1)

    panels = (visible(image), heatmap, visible(expert_image), visible(mixed))
    for column, (panel, name) in enumerate(zip(panels, ("I", "E", "$I^E$", r"$I^\lambda$, $\lambda$ = 0.5"))):
        axes[0][column].set_title(name)
        for row in range(count):
            axes[row][column].imshow(panel[row], cmap="inferno" if column == 1 else None)
            axes[row][column].set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure
