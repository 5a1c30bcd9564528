"""Task sensitivity: does the model use the annotation, and does it attend where experts looked?

Both are measured on one data set with held-out heatmaps:
- what the heatmap changes in v^E, for an eCLIP with its processor;
- how well two maps of the model point at the heatmap, for any model with a spatial image tower: the
  similarity of image positions to the report, and the attention of the tower's attention pool.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from ...attention.attend import refuse_coca
from ...attention.methods import attention_maps
from ...config import UserError
from ...data.enlarge import enlarge
from ...data.images.options import read_options
from ...data.placebo import centre_map
from ...data.sample import read_image
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.pointing import pointing_scores
from ...priming import reconstruction_errors
from ...subcommands import seed
from ...towers.pool_attention import has_pool
from ..inputs.encoder import Encoder, tokenize
from ..inputs.eval_set import EvalSet, read_eval_set, with_reports
from ..inputs.features import refuse_processes
from ..inputs.heatmaps import join_heatmaps, read_heatmap_tensor, suspicious_maps
from ..options import (
    add_heatmap_arguments,
    add_model_arguments,
    add_output_argument,
    read_encode_options,
    read_encoder,
)
from ..output.result import Result, Table, with_interval
from .inside import NAMES, attention_inside, predictions, region_share

CONDITIONS = ("true", "shuffled", "centre", "ones")
POOL = "attention pool"  # if the tower has one, read as in `--method align`
MAPS = (POOL, "own report", "another report", "centre", "another heatmap")
SHOWN = 6  # images in the figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="TABLE",
        help="data set of held-out images with reports and heatmaps",
    )
    add_heatmap_arguments(parser)
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of the shuffling and the bootstrap (default: %(default)s)",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """Measure both. UserError: fewer than two heatmaps, or an image tower without positions."""
    refuse_processes("sensitivity")
    encoder, options = read_encoder(args, with_processor=True), read_encode_options(args)
    refuse_coca(encoder.model)
    data_with_heatmaps = join_heatmaps(
        read_eval_set(args.data, options.skip_bad, read_options(args)),
        args.heatmap_column,
        args.heatmaps,
    )
    data = with_reports(data_with_heatmaps, args.text_column)
    if len(data) < 2:
        raise UserError(
            f"{data.path}: {len(data)} samples with a heatmap; expected at least two, to shuffle"
            " them."
        )
    other = derangement(len(data), args.seed)
    texts = data.column(args.text_column)
    tokens = tokenize(encoder, texts)
    reports = torch.cat([encoder.encode_texts(part) for part in tokens.split(options.batch_size)])
    cosines: list[dict[str, np.ndarray]] = []
    errors, pointing, pictures, grid = [], [], [], (0, 0)
    inside, areas = [], []
    for first in tqdm(
        range(0, len(data), options.batch_size), desc="images", unit="batch", disable=None
    ):
        rows = list(range(first, min(first + options.batch_size, len(data))))
        others = [other[row] for row in rows]
        images, heatmaps = _load(encoder, data, rows)
        pixels = torch.stack([encoder.transform(image) for image in images])
        _, other_heatmaps = _load(encoder, data, others)
        text, wrong_text = reports[rows], reports[others]
        if hasattr(encoder.model, "heatmap_processor"):
            cosines.append(_cosines(encoder, pixels, heatmaps, other_heatmaps, text))
            errors.append(_identity_errors(encoder, pixels))
        maps, grid, attended = _maps(encoder, pixels, heatmaps, other_heatmaps, text, wrong_text)
        inside.append(attended)
        areas += region_share(heatmaps)
        pointing += [
            {
                name: pointing_scores(maps_of_kind[i], heatmaps[i, 0].numpy())
                for name, maps_of_kind in maps.items()
            }
            for i in range(len(rows))
        ]
        if first == 0:
            pictures = [
                (pixels[i], heatmaps[i, 0], maps.get(POOL, maps["own report"])[i], texts[row])
                for i, row in enumerate(rows[:SHOWN])
            ]
    result = _result(args, encoder, data, cosines, errors, pointing, pictures)
    result.predictions = predictions(data, inside)
    means = result.predictions["score"].mean(0).tolist()
    result.values |= {"grid": grid, "inside": dict(zip(NAMES, means)), "region": np.mean(areas)}
    result.notes.append(
        f"The image tower has {grid[0]} x {grid[1]} positions; their similarities were enlarged to"
        " the image bilinearly. A coarse grid cannot point at a small region."
    )
    return result


def derangement(count: int, seed: int) -> list[int]:
    """A seeded permutation without fixed points: each index gets the next in a random cycle."""
    order = np.random.default_rng(seed).permutation(count)
    following = np.empty(count, dtype=int)
    following[order] = np.roll(order, -1)
    return following.tolist()


def _load(encoder: Encoder, data: EvalSet, rows: list[int]) -> tuple[list[Image.Image], Tensor]:
    """Images, and their heatmaps (B, 1, H, W) in [0, 1] with the geometry of the transform."""
    images = [read_image(data.read(row), data.name(row), "RGB", data.reading) for row in rows]
    heatmaps = torch.stack(
        [
            read_heatmap_tensor(data, row, image, encoder.transform)
            for row, image in zip(rows, images, strict=True)
        ]
    )
    return images, heatmaps


@torch.inference_mode()
def _cosines(
    encoder: Encoder, pixels: Tensor, heatmaps: Tensor, other_heatmaps: Tensor, text: Tensor
) -> dict[str, np.ndarray]:
    """{condition: (B, 2) float64}: cos(v, v^E), and cos(v^E, t) - cos(v, t).

    `pixels` (B, 3, H, W), `heatmaps` and `other_heatmaps` (B, 1, H, W), `text` (B, D).
    """
    pixels = encoder.to_input(pixels)
    plain = normalize(encoder.model.encode_image(pixels).float(), dim=-1).cpu()
    maps = {
        "true": heatmaps,
        "shuffled": other_heatmaps,
        "centre": torch.from_numpy(centre_map(pixels.shape[-2:])).expand_as(heatmaps),
        "ones": torch.ones_like(heatmaps),
    }
    cosines = {}
    for name in CONDITIONS:
        expert_image = encoder.model.heatmap_processor(pixels, encoder.to_input(maps[name]))
        expert = normalize(encoder.model.encode_image(expert_image).float(), dim=-1).cpu()
        cosines[name] = (
            torch.stack([(plain * expert).sum(1), ((expert - plain) * text).sum(1)], dim=1)
            .double()
            .numpy()
        )
    return cosines


@torch.inference_mode()
def _identity_errors(encoder: Encoder, pixels: Tensor) -> np.ndarray:
    """(B,) float64: ||I - Processor(I, 1)||^2 relative to the variance of the image."""
    pixels = encoder.to_input(pixels)
    spread = (pixels - pixels.mean((2, 3), keepdim=True)).float().square().flatten(1).mean(1)
    return (
        (
            reconstruction_errors(encoder.model.heatmap_processor, pixels).float()
            / spread.clamp_min(1e-12)
        )
        .cpu()
        .double()
        .numpy()
    )


@torch.inference_mode()
def _maps(
    encoder: Encoder,
    pixels: Tensor,
    heatmaps: Tensor,
    other_heatmaps: Tensor,
    text: Tensor,
    wrong_text: Tensor,
) -> tuple[dict[str, np.ndarray], tuple[int, int], Tensor]:
    """({name: maps (B, H, W)}, the tower's grid (h, w), `attention_inside` (B, 2)).

    Maps are the attention of the pool, if the tower has one, the similarity to the image's report
    and to another report, and two maps that need no model.
    """
    size, inputs = pixels.shape[-2:], encoder.to_input(pixels)
    image = torch.arange(len(pixels), device=encoder.device)

    def attention(method: str, texts: Tensor) -> Tensor:
        """(T, h, w): a map for each of the texts of image 0, 1, ..., 0, 1, ..."""
        twice = image.repeat(len(texts) // len(image))
        return attention_maps(method, encoder.model, inputs, texts.to(encoder.device), twice).cpu()

    def on_pixels(maps: Tensor) -> np.ndarray:
        return enlarge(maps, size).numpy()

    similar = attention("similarity", torch.cat([text, wrong_text]))
    own, wrong = similar.chunk(2)
    pool = {POOL: on_pixels(attention("pool", text))} if has_pool(encoder.model.visual) else {}
    named = {
        **pool,
        "own report": on_pixels(own),
        "another report": on_pixels(wrong),
        "centre": np.broadcast_to(centre_map(size), (len(heatmaps), *size)),
        "another heatmap": other_heatmaps[:, 0].numpy(),
    }
    tokens = encoder.encode_tokens(pixels)
    inside = attention_inside(encoder.model.visual, tokens, text, heatmaps)
    return named, (similar.shape[1], similar.shape[2]), inside


def _result(
    args: argparse.Namespace,
    encoder: Encoder,
    data: EvalSet,
    cosines: list[dict[str, np.ndarray]],
    errors: list[np.ndarray],
    pointing: list[dict[str, dict[str, float]]],
    pictures: list[Any],
) -> Result:
    settings = {
        **encoder.facts,
        "data": str(args.data),
        "test_set_hash": data.content_hash(),
        "samples": len(data),
        "seed": args.seed,
    }
    names = list(pointing[0]["own report"])
    scores = {
        map_name: np.array([[sample[map_name][name] for name in names] for sample in pointing])
        for map_name in MAPS
        if map_name in pointing[0]
    }
    values: dict[str, Any] = {}
    tables = [_pointing_table(values, scores, names, args.seed)]
    # the map that stands for the model: the attention of its pool, else similarity to the report
    values["look"] = next(iter(scores))
    notes = [
        f"{len(data)} samples have a heatmap; left out: {len(data.excluded)}.",
        *suspicious_maps(data),
    ]
    figures, captions = (
        {"maps": _picture(pictures)},
        {"maps": f"Image, heatmap, and map of the model: {values['look']}."},
    )
    if cosines:
        tables.insert(
            0,
            _processor_table(
                values,
                {name: np.concatenate([part[name] for part in cosines]) for name in CONDITIONS},
                args.seed,
            ),
        )
        identity = np.concatenate(errors)
        values["identity_error"] = float(identity.mean())
        notes.append(
            "Identity error of the processor, ||I - Processor(I, 1)||^2 over the image's variance:"
            f" {identity.mean():.4f} (mean)."
        )
    else:
        notes.append(
            "No heatmap processor in this model (plain CLIP, or an exported eCLIP): only its"
            " similarity maps are measured."
        )
    return Result(
        "sensitivity",
        settings,
        values,
        tables,
        figures,
        captions,
        notes=notes,
        terms=["cos(v, v^E)", *names],
    )


def _pointing_table(
    values: dict[str, Any], scores: dict[str, np.ndarray], names: list[str], seed: int
) -> Table:
    """Means over images with their intervals, which are also written to `values`."""
    rows, values["pointing"] = [], {}
    for map_name, values_of_map in scores.items():
        mean = np.nanmean(values_of_map, axis=0)
        low, high = _interval(np.nanmean, values_of_map, seed)
        intervals = list(zip(mean, low, high, strict=True))
        values["pointing"][map_name] = {
            name: {"value": value, "interval": [lo, hi]}
            for name, (value, lo, hi) in zip(names, intervals, strict=True)
        }
        rows.append([map_name, *(with_interval(*interval) for interval in intervals)])
    return Table(
        "Does the model attend where the heatmap is?",
        ["map", *names],
        rows,
        "95 % bootstrap intervals over images. 'centre' and 'another heatmap' use no model: they"
        " show what the usual regions of gaze reach alone.",
    )


def _processor_table(values: dict[str, Any], cosines: dict[str, np.ndarray], seed: int) -> Table:
    rows, values["processor"] = [], {}
    for name in CONDITIONS:
        statistics = np.concatenate(
            [cosines[name], cosines["true"] - cosines[name]], axis=1
        )  # (N, 4)
        low, high = _interval(np.mean, statistics, seed)
        mean = statistics.mean(axis=0)
        keys = ("cosine", "text_change", "cosine_true_minus_this", "text_change_true_minus_this")
        values["processor"][name] = {
            key: {"value": mean[i], "interval": [low[i], high[i]]} for i, key in enumerate(keys)
        }
        shown = [with_interval(mean[i], low[i], high[i]) for i in range(4)]
        rows.append([name, shown[0], shown[1], *(shown[2:] if name != "true" else ("–", "–"))])
    return Table(
        "What the heatmap changes",
        [
            "heatmap",
            "cos(v, v^E)",
            "cos(v^E, t) − cos(v, t)",
            "cos: true − this",
            "text: true − this",
        ],
        rows,
        "95 % paired bootstrap intervals over images. A model that uses the location of the gaze"
        " shows differences between true and shuffled.",
    )


def _interval(
    mean: Callable[..., np.ndarray], values: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (K,), of the mean of `found` (N, K) over images."""
    return bootstrap_interval(lambda rows: mean(values[rows], axis=0), len(values), seed=seed)


def _picture(pictures: list[Any]) -> Figure:
    figure = Figure(figsize=(2.1 * len(pictures), 6.4), layout="constrained")
    axes = figure.subplots(3, len(pictures), squeeze=False)
    for i, (pixels, heatmap, model_map, text) in enumerate(pictures):
        image = pixels.mean(0)
        for row, content in enumerate((image, heatmap, model_map)):
            axis = axes[row][i]
            axis.imshow(image, cmap="gray")
            if row:
                axis.imshow(content, cmap="inferno", alpha=0.6)
            axis.set_axis_off()
        axes[0][i].set_title(text if len(text) < 36 else text[:34] + " …", fontsize=7, wrap=True)
    for row, name in enumerate(("image", "heatmap", "model")):
        axes[row][0].text(
            -0.06,
            0.5,
            name,
            rotation=90,
            va="center",
            ha="right",
            transform=axes[row][0].transAxes,
            fontsize=9,
        )
    return figure
