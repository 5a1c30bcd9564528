"""Figures of annotated samples, drawn with matplotlib."""

from __future__ import annotations

import math
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

Example = tuple[bytes, bytes, str, str]  # image, heatmap, the heatmap's name, text of the sample
# image, its sentence windows with maps over the upright image, a name
WindowExample = tuple[bytes, Windows, str]
LINE = 37  # letters of a line above an image of the sheet
SENTENCES = 5  # maximum number of sentences drawn per sample
COLOURS = "inferno"  # of every map over an image, also for the colour-blind


def agg_figure() -> Any:
    """A matplotlib Figure that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def blend(image: Image.Image, values: np.ndarray) -> Image.Image:
    """`image` with a map (h, w) in [0, 1] over it, bicubic; opacity grows with the value.

    So what the map leaves out stays readable.
    """
    from matplotlib import colormaps

    rgb = image.convert("RGB")
    enlarged = Image.fromarray(np.float32(values)).resize(rgb.size, Image.Resampling.BICUBIC)
    shares = np.asarray(enlarged)[..., None].clip(0, 1)  # bicubic overshoots at steps
    colours = colormaps[COLOURS](shares[..., 0])[..., :3] * 255
    opacity = 0.7 * shares
    return Image.fromarray(np.uint8(np.rint(np.asarray(rgb) * (1 - opacity) + colours * opacity)))


def contact_sheet(
    samples: Sequence[Example],
    path: Path,
    with_windows: Sequence[WindowExample] = (),
    options: ReadOptions = ReadOptions(),
) -> None:
    """Draw one PNG: each sample's image under its heatmap, with its name and text.

    Below, there is a row for each sample of `with_windows`: the image, then one overlay per
    sentence.
    """
    figure = agg_figure()
    columns = min(4, len(samples))
    rows = -(-len(samples) // max(columns, 1))
    heights = [height for height in (2.6 * rows, 2.3 * len(with_windows)) if height]
    window_width = 1.8 * (SENTENCES + 1) if with_windows else 0
    figure.set_size_inches(max(2.4 * columns, window_width), sum(heights))
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel())
    if samples:
        axes = parts.pop(0).subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (image, heatmap, name, text) in zip(axes, samples):
            picture = read_picture(image, name, options)
            values = read_heatmap(heatmap, name, picture.frame, options)
            title = f"{_in_the_middle(name)}\n{textwrap.shorten(text, LINE, placeholder=' …')}"
            _overlay(axis, picture.image, values, title)
    if with_windows:
        _window_rows(parts[0], with_windows, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _overlay(axis: Any, image: Image.Image, values: np.ndarray | None, title: str) -> None:
    """Draw an image, its map (h, w) in [0, 1] over it, and a title without mathematics ($)."""
    width, height = image.size
    small = image.convert("RGB")
    small.thumbnail((512, 512))
    axis.imshow(small, extent=(0, width, height, 0))
    if values is not None:
        axis.imshow(
            values,
            extent=(0, width, height, 0),
            cmap=COLOURS,
            alpha=0.55 * values**0.5,
            vmin=0,
            vmax=1,
        )
    axis.set_title(title, fontsize=7, parse_math=False)


def _window_rows(figure: Any, samples: Sequence[WindowExample], options: ReadOptions) -> None:
    """Draw a row per sample: the image, then at most SENTENCES overlays.

    The title of an overlay is its sentence and the seconds of its window.
    """
    grid = figure.subplots(len(samples), SENTENCES + 1, squeeze=False)
    for axis in grid.ravel():
        axis.set_axis_off()
    for axes, (content, windows, name) in zip(grid, samples):
        image = read_picture(content, name, options).image
        count = len(windows.sentences)
        more = f"\n({SENTENCES} of {count} sentences)" if count > SENTENCES else ""
        _overlay(axes[0], image, None, _short(name) + more)
        for axis, sentence, (start, end), values in zip(
            axes[1:], windows.sentences, windows.times, windows.heatmaps
        ):
            note = "" if math.isnan(start) else f"\n{start:.1f} to {end:.1f} s"
            note += "" if values.any() else "\n(no region)"
            # each map is divided by its own maximum, as in training
            shown = values / np.float32(values.max()) if values.any() else None
            _overlay(axis, image, shown, f"{_short(sentence)}{note}")


def _in_the_middle(name: str) -> str:
    """A file's name, without its middle where it is longer than a line; its ends tell it apart."""
    half = (LINE - 1) // 2
    return name if len(name) <= LINE else f"{name[:half]}…{name[-half:]}"


def _short(text: str) -> str:
    """At most three lines, which fit above a small image."""
    return "\n".join(textwrap.wrap(text, 26, max_lines=3, placeholder=" ..."))


def processor_figure(
    image: np.ndarray, heatmap: np.ndarray, expert_image: np.ndarray, mixed: np.ndarray, title: str
) -> Any:
    """Draw rows of I, E, I^E, I^lam (Fig. 2); returns a matplotlib Figure.

    Images are (N, H, W, 3) in any range, the heatmap is (N, H, W).
    """
    figure = agg_figure()
    count = len(image)
    figure.set_size_inches(6.4, 1.7 * count + 0.5)
    axes = figure.subplots(count, 4, squeeze=False)
    low, high = image.min(axis=(1, 2, 3), keepdims=True), image.max(axis=(1, 2, 3), keepdims=True)

    def visible(images: np.ndarray) -> np.ndarray:
        return ((images - low) / np.maximum(high - low, 1e-6)).clip(0, 1)

    panels = (visible(image), heatmap, visible(expert_image), visible(mixed))
    for column, (panel, name) in enumerate(
        zip(panels, ("I", "E", "$I^E$", r"$I^\lambda$, $\lambda$ = 0.5"))
    ):
        axes[0][column].set_title(name)
        for row in range(count):
            axes[row][column].imshow(panel[row], cmap=COLOURS if column == 1 else None)
            axes[row][column].set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure
