"""Does the model use the annotation, and does it look where experts looked?

Two questions of one set with held-out heatmaps: what the heatmap changes in v^E (an eCLIP with its
processor), and how well the similarity of image positions to the report, or the tower's own
attention pool, points at the heatmap (any model with a spatial image tower).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from tqdm import tqdm

from ...config import UserError
from ...data.images.options import read_options
from ...data.placebo import centre_map
from ...data.sample import read_image
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.pointing import pointing_scores
from ...priming import reconstruction_errors
from ...subcommands import seed
from ...towers.pool_attention import pool_attention
from ...towers.positions import project_tokens, similarity_map
from ..inputs.encoder import Encoder, tokenize
from ..inputs.eval_set import EvalSet, read_eval_set, with_reports
from ..inputs.features import rank_and_size
from ..inputs.heatmaps import join_heatmaps, read_heatmap_tensor, suspicious_maps
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result, Table, with_interval

CONDITIONS = ("true", "shuffled", "centre", "ones")
POOL = "attention pool"  # of towers that have one; as `--method align` reads it
MAPS = (POOL, "own report", "another report", "centre", "another heatmap")
SHOWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, metavar="TABLE", help="held-out images with reports and heatmaps"
    )
    parser.add_argument("--text-column", default="title", help="(default: %(default)s)")
    parser.add_argument(
        "--heatmap-column", default="heatmap", help="files of heatmaps (default: %(default)s)"
    )
    parser.add_argument(
        "--heatmaps",
        type=Path,
        metavar="TABLE",
        help="a table with filepath and the heatmap column, if --data has none",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="of the shuffling and the bootstrap (default: %(default)s)",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """UserError: no heatmaps, fewer than two, a tower without positions."""
    if rank_and_size()[1] > 1:
        raise UserError("sensitivity runs in one process; start it without torchrun.")
    encoder, options = read_encoder(args, with_processor=True), read_encode_options(args)
    found = join_heatmaps(
        read_eval_set(args.data, options.skip_bad, read_options(args)),
        args.heatmap_column,
        args.heatmaps,
    )
    data = with_reports(found, args.text_column)
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
    for first in tqdm(
        range(0, len(data), options.batch_size), desc="images", unit="batch", disable=None
    ):
        rows = list(range(first, min(first + options.batch_size, len(data))))
        others = [other[row] for row in rows]
        images, heatmaps = _load(encoder, data, rows)
        pixels = torch.stack([encoder.transform(image) for image in images])
        _, elsewhere = _load(encoder, data, others)
        text, wrong_text = reports[rows], reports[others]
        if hasattr(encoder.model, "heatmap_processor"):
            cosines.append(_cosines(encoder, pixels, heatmaps, elsewhere, text))
            errors.append(_identity_errors(encoder, pixels))
        maps, grid = _maps(encoder, pixels, heatmaps, elsewhere, text, wrong_text)
        pointing += [
            {
                name: pointing_scores(found[i], heatmaps[i, 0].numpy())
                for name, found in maps.items()
            }
            for i in range(len(rows))
        ]
        if first == 0:
            pictures = [
                (pixels[i], heatmaps[i, 0], maps.get(POOL, maps["own report"])[i], texts[row])
                for i, row in enumerate(rows[:SHOWN])
            ]
    result = _result(args, encoder, data, cosines, errors, pointing, pictures)
    result.values["grid"] = grid
    result.notes.append(
        f"The tower has {grid[0]} x {grid[1]} positions; their similarities were enlarged to the"
        " image bilinearly. A coarse grid can not point at a small region."
    )
    return result


def derangement(count: int, seed: int) -> list[int]:
    """A seeded shuffling in which nobody keeps his place: the next in a random cycle."""
    order = np.random.default_rng(seed).permutation(count)
    following = np.empty(count, dtype=int)
    following[order] = np.roll(order, -1)
    return following.tolist()


def _load(encoder: Encoder, data: EvalSet, rows: list[int]) -> tuple[list[Image.Image], Tensor]:
    """Images, and their heatmaps (B, 1, H, W) in [0, 1] through the geometry of the image's
    transform.
    """
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
    encoder: Encoder, pixels: Tensor, heatmaps: Tensor, elsewhere: Tensor, text: Tensor
) -> dict[str, np.ndarray]:
    """{condition: (B, 2)}: cos(v, v^E), and cos(v^E, t) - cos(v, t)."""
    pixels = encoder.to_input(pixels)
    plain = normalize(encoder.model.encode_image(pixels).float(), dim=-1).cpu()
    maps = {
        "true": heatmaps,
        "shuffled": elsewhere,
        "centre": torch.from_numpy(centre_map(pixels.shape[-2:])).expand_as(heatmaps),
        "ones": torch.ones_like(heatmaps),
    }
    found = {}
    for name in CONDITIONS:
        expert_image = encoder.model.heatmap_processor(pixels, encoder.to_input(maps[name]))
        expert = normalize(encoder.model.encode_image(expert_image).float(), dim=-1).cpu()
        found[name] = (
            torch.stack([(plain * expert).sum(1), ((expert - plain) * text).sum(1)], dim=1)
            .double()
            .numpy()
        )
    return found


@torch.inference_mode()
def _identity_errors(encoder: Encoder, pixels: Tensor) -> np.ndarray:
    """(B,): ||I - Processor(I, 1)||^2 relative to the image's own variance."""
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
    elsewhere: Tensor,
    text: Tensor,
    wrong_text: Tensor,
) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """{name: (B, H, W)}: attention of the pool, similarity to the own and to another report, two
    maps that need no model; the tower's grid.
    """
    size, visual = pixels.shape[-2:], encoder.model.visual
    tokens = encoder.encode_tokens(pixels)
    positions, attention = (
        project_tokens(visual, tokens).float().cpu(),
        pool_attention(visual, tokens),
    )

    def enlarge(found: Tensor) -> np.ndarray:
        return interpolate(found[:, None], size=size, mode="bilinear", align_corners=False)[
            :, 0
        ].numpy()

    own = {} if attention is None else {POOL: enlarge(attention.exp().float().cpu())}
    return {
        **own,
        "own report": enlarge(similarity_map(positions, text)),
        "another report": enlarge(similarity_map(positions, wrong_text)),
        "centre": np.broadcast_to(centre_map(size), (len(heatmaps), *size)),
        "another heatmap": elsewhere[:, 0].numpy(),
    }, (positions.shape[1], positions.shape[2])


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
    # where the tower looks: its pool's attention, else similarity to the own report
    values["look"] = next(iter(scores))
    notes = [
        f"{len(data)} samples have a heatmap; {len(data.excluded)} were left out.",
        *suspicious_maps(data),
    ]
    figures, captions = (
        {"maps": _picture(pictures)},
        {"maps": f"Film, heatmap, and where the model looks: {values['look']}."},
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
    """Means over images with their intervals, which go to `values` too."""
    rows, values["pointing"] = [], {}
    for map_name, found in scores.items():
        mean = np.nanmean(found, axis=0)
        low, high = _interval(np.nanmean, found, seed)
        intervals = list(zip(mean, low, high, strict=True))
        values["pointing"][map_name] = {
            name: {"value": value, "interval": [lo, hi]}
            for name, (value, lo, hi) in zip(names, intervals, strict=True)
        }
        rows.append([map_name, *(with_interval(*interval) for interval in intervals)])
    return Table(
        "Does the model look where the heatmap is?",
        ["map", *names],
        rows,
        "95 % bootstrap intervals over images. 'centre' and 'another heatmap' use no model:"
        " what the usual places of gaze alone reach.",
    )


def _processor_table(values: dict[str, Any], cosines: dict[str, np.ndarray], seed: int) -> Table:
    rows, values["processor"] = [], {}
    for name in CONDITIONS:
        found = np.concatenate([cosines[name], cosines["true"] - cosines[name]], axis=1)  # (N, 4)
        low, high = _interval(np.mean, found, seed)
        mean = found.mean(axis=0)
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
        "95 % paired bootstrap intervals over images. A model that uses the place of the gaze shows"
        " differences between true and shuffled.",
    )


def _interval(
    mean: Callable[..., np.ndarray], found: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (K,), of the mean of `found` (N, K) over images."""
    return bootstrap_interval(lambda rows: mean(found[rows], axis=0), len(found), seed=seed)


def _picture(pictures: list[Any]) -> Figure:
    figure = Figure(figsize=(2.1 * len(pictures), 6.4), layout="constrained")
    axes = figure.subplots(3, len(pictures), squeeze=False)
    for column, (pixels, heatmap, found, text) in enumerate(pictures):
        film = pixels.mean(0)
        for row, content in enumerate((film, heatmap, found)):
            axis = axes[row][column]
            axis.imshow(film, cmap="gray")
            if row:
                axis.imshow(content, cmap="inferno", alpha=0.6)
            axis.set_axis_off()
        axes[0][column].set_title(
            text if len(text) < 36 else text[:34] + " …", fontsize=7, wrap=True
        )
    for row, name in enumerate(("film", "heatmap", "look")):
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
