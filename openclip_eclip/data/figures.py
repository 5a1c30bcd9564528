"""Pictures of annotated samples, drawn with matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .images.options import ReadOptions
from .images.read import read_picture
from .sample import read_heatmap
from .sentence_windows import Windows

Example = tuple[bytes, bytes, str]  # image, heatmap, the heatmap's name
# image, its sentences with maps over what is shown of it, a name
WindowExample = tuple[bytes, Windows, str]
SENTENCES = 5  # drawn of one sample


def _agg_figure() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def contact_sheet(
    samples: Sequence[Example],
    path: Path,
    told: Sequence[WindowExample] = (),
    options: ReadOptions = ReadOptions(),
) -> None:
    """One PNG: each sample's image under its heatmap; below, a row for each of `told`: the film,
    then sentence by sentence.
    """
    figure = _agg_figure()
    columns = min(4, len(samples))
    rows = -(-len(samples) // max(columns, 1))
    heights = [height for height in (2.6 * rows, 2.3 * len(told)) if height]
    figure.set_size_inches(max(2.4 * columns, 1.8 * (SENTENCES + 1) if told else 0), sum(heights))
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel())
    if samples:
        axes = parts.pop(0).subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (image, heatmap, name) in zip(axes, samples):
            picture = read_picture(image, name, options)
            _overlay(axis, picture.image, read_heatmap(heatmap, name, picture.frame, options), name)
    if told:
        _window_rows(parts[0], told, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _overlay(axis: Any, image: Image.Image, values: np.ndarray | None, title: str) -> None:
    """An image, its map (h, w) in [0, 1] over it, and a title taken as it stands ($ is no
    formula).
    """
    width, height = image.size
    small = image.convert("RGB")
    small.thumbnail((512, 512))
    axis.imshow(small, extent=(0, width, height, 0))
    if values is not None:
        axis.imshow(
            values,
            extent=(0, width, height, 0),
            cmap="inferno",
            alpha=0.55 * values**0.5,
            vmin=0,
            vmax=1,
        )
    axis.set_title(title, fontsize=7, parse_math=False)


def _window_rows(figure: Any, told: Sequence[WindowExample], options: ReadOptions) -> None:
    """A row a sample: the film, then at most SENTENCES overlays, each under its sentence and its
    seconds.
    """
    grid = figure.subplots(len(told), SENTENCES + 1, squeeze=False)
    for axis in grid.ravel():
        axis.set_axis_off()
    for axes, (content, windows, name) in zip(grid, told):
        image = read_picture(content, name, options).image
        count = len(windows.sentences)
        _overlay(
            axes[0],
            image,
            None,
            _short(name) + (f"\n({SENTENCES} of {count} sentences)" if count > SENTENCES else ""),
        )
        for axis, sentence, (start, end), values in zip(
            axes[1:], windows.sentences, windows.times, windows.heatmaps
        ):
            # each map by its own maximum, as training would take it
            _overlay(
                axis,
                image,
                values / np.float32(values.max()),
                f"{_short(sentence)}\n{start:.1f} to {end:.1f} s",
            )


def _short(text: str) -> str:
    """At most three lines that fit above a small picture."""
    return "\n".join(textwrap.wrap(text, 26, max_lines=3, placeholder=" ..."))


def processor_figure(
    image: np.ndarray, heatmap: np.ndarray, expert_image: np.ndarray, mixed: np.ndarray, title: str
) -> Any:
    """Rows of I, E, I^E, I^lam (Fig. 2): images (N, H, W, 3) in any range, heatmap (N, H, W); a
    matplotlib Figure.
    """
    figure = _agg_figure()
    count = len(image)
    figure.set_size_inches(6.4, 1.7 * count + 0.5)
    axes = figure.subplots(count, 4, squeeze=False)
    low, high = image.min(axis=(1, 2, 3), keepdims=True), image.max(axis=(1, 2, 3), keepdims=True)

    def visible(pictures: np.ndarray) -> np.ndarray:
        return ((pictures - low) / np.maximum(high - low, 1e-6)).clip(0, 1)

    panels = (visible(image), heatmap, visible(expert_image), visible(mixed))
    for column, (panel, name) in enumerate(
        zip(panels, ("I", "E", "$I^E$", r"$I^\lambda$, $\lambda$ = 0.5"))
    ):
        axes[0][column].set_title(name)
        for row in range(count):
            axes[row][column].imshow(panel[row], cmap="inferno" if column == 1 else None)
            axes[row][column].set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure
