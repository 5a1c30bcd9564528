"""Pictures of the report: learning curves, and where each method attends on random test images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor

from ...attention.methods import attention_maps, trained_method
from ...data.sample import read_image
from ...evaluate.grounding.measure import enlarge
from ...evaluate.grounding.phrases import GroundingSet
from ...evaluate.grounding.priors import MEAN_MAP, prior_maps
from ...evaluate.inputs.encoder import Encoder, load_encoder, tokenize
from ...metrics.grounding import pointing_game, rescaled
from ..page import tidy

COUNT = 20  # test images
SEED = 0  # of the draw
# inches of a panel and of a whole row: 20 rows stay under 10 MB, whatever is in the images
SIDE, WIDTH = 1.0, 8.8
LONGEST = 300  # letters of a text
CENTER = "center"
NO_MODEL = (CENTER, MEAN_MAP)
TITLES = {MEAN_MAP: "mean map"}  # of narrow columns


@dataclass(frozen=True)
class Examples:
    """Random test images: {file stem: picture} and {file stem: caption}; `grid`: of the tower."""

    figures: dict[str, Figure]
    captions: dict[str, str]
    grid: tuple[int, int]


def draw_examples(models: Mapping[str, Path], data: GroundingSet) -> Examples:
    """A picture for each of at most COUNT random test images; a column for each method.

    `models`: {method: its folder of the first seed}.
    """
    drawn = np.random.default_rng(SEED).permutation(len(data.grounded))[:COUNT]
    order = np.sort(drawn).tolist()  # numbers among the phrases with a region
    chosen = data.grounded[order].tolist()
    maps: dict[str, list[Tensor]] = {}
    for name, folder in models.items():
        encoder = load_encoder(str(folder), device="cpu")
        maps[name] = list(_maps(encoder, data, chosen, trained_method(encoder.model)))
    grid = maps[next(iter(models))][0].shape
    maps[CENTER] = list(_maps(encoder, data, chosen, CENTER))
    means = enumerate(prior_maps(data, SEED))
    maps[MEAN_MAP] = [torch.from_numpy(one[MEAN_MAP]) for i, one in means if i in order]
    figures, captions = {}, {}
    for number, index in enumerate(chosen):
        stem = f"example_{number + 1:02d}"
        of_image = {name: of_method[number] for name, of_method in maps.items()}
        figures[stem], inside = _draw(data, index, of_image)
        captions[stem] = _caption(number + 1, data, index, inside)
        if number == 0:
            captions[stem] += f" {_legend(data, len(chosen))}"
    return Examples(figures, captions, (grid[0], grid[1]))


@torch.no_grad()
def _maps(encoder: Encoder, data: GroundingSet, chosen: list[int], method: str) -> Tensor:
    """Maps (N, h, w) of the phrases `chosen`."""
    phrases, transform = [data.phrases[i] for i in chosen], encoder.whole_image_transform()
    pixels = torch.stack([transform(_image(data, index)) for index in chosen])
    text = encoder.encode_texts(tokenize(encoder, [phrase.text for phrase in phrases]))
    image = torch.arange(len(chosen))
    return attention_maps(method, encoder.model, encoder.to_input(pixels), text, image)


def _image(data: GroundingSet, index: int) -> Image.Image:
    images, row = data.data, data.phrases[index].row
    return read_image(images.read(row), images.name(row), "RGB", images.reading)


def _draw(
    data: GroundingSet, index: int, maps: Mapping[str, Tensor]
) -> tuple[Figure, dict[str, float]]:
    """The image, the expert's map and `maps` (h, w) side by side; {method: pointing game}."""
    phrase = data.phrases[index]
    size, region = phrase.target.shape, phrase.region
    pixels = np.asarray(_image(data, index).resize(size[::-1]), np.float64) / 255
    side = min(SIDE, WIDTH / (len(maps) + 2))
    narrow = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=(side * (len(maps) + 2), side + 0.34), layout=narrow)
    axes = figure.subplots(1, len(maps) + 2)
    _show(axes[0], pixels, None, None, "image\n")
    _show(axes[1], pixels, phrase.target.astype(np.float64), region, "expert\n")
    inside = {}
    for axis, (name, map_) in zip(axes[2:], maps.items(), strict=True):
        large = enlarge(map_, size)
        inside[name] = pointing_game(large, region)
        title = "\n".join([TITLES.get(name, name), _where(inside[name])])
        _show(axis, pixels, large, region, title, inside[name] > 0.5)
        top = np.unravel_index(large.argmax(), size)
        for colour, width in (("black", 2.4), ("white", 1.2)):  # seen on every colour
            axis.plot(top[1], top[0], "x", color=colour, ms=4, mew=width)
    return figure, inside


def _where(share: float) -> str:
    """Where a map has its maximum, or all of several equal ones."""
    return "inside" if share == 1 else "outside" if share == 0 else f"{share:.0%} inside"


def _show(
    axis: Axes,
    pixels: np.ndarray,
    values: np.ndarray | None,
    region: np.ndarray | None,
    title: str,
    is_hit: bool = False,
) -> None:
    shown = pixels
    if values is not None:
        shown = 0.5 * pixels + 0.5 * colormaps["viridis"](rescaled(values))[..., :3]
    axis.imshow(shown, interpolation="nearest")
    if region is not None and 0 < region.mean() < 1:
        axis.contour(region, levels=[0.5], colors="white", linewidths=0.9)
    # wrapped by hand: long names of methods would overlap
    name, *where = title.split("\n")
    lines = [textwrap.shorten(name, 18, placeholder=" …"), *where]
    weight = "bold" if is_hit else "normal"
    axis.set_title("\n".join(lines), fontsize=6.5, pad=2, fontweight=weight, parse_math=False)
    axis.set_axis_off()


def _legend(data: GroundingSet, count: int) -> str:
    return (
        f"This is the first of {count} among {len(data.grounded)} test images with a heatmap, drawn"
        f" at random with seed {SEED}, not chosen. Each map is coloured from its own lowest to its"
        " own highest value; models are those of the first seed. Line: the region that the expert"
        " marked. Cross: the maximum of a map; above it, whether it is inside the region. The last"
        " two maps need no model."
    )


def _caption(number: int, data: GroundingSet, index: int, inside: Mapping[str, float]) -> str:
    phrase = data.phrases[index]
    text = " ".join(phrase.text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    hits = [name for name, share in inside.items() if share > 0.5]
    return f"{number}. “{text}” Maximum inside the region: {', '.join(hits) or 'none'}."


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
