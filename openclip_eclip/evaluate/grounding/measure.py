"""Scores of every method and prior for every phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...config import UserError
from ...data.enlarge import enlarge as enlarge_maps
from ...data.sample import read_image
from ...metrics.grounding import (
    THRESHOLDS,
    aupro,
    cnr,
    on_left_side,
    overlaps,
    pointing_game,
    widen,
)
from ...metrics.saliency import auc_judd, cc, kl, nss
from ..inputs.encoder import Encoder
from .attention import FLOORS, PhraseAttention
from .phrases import GroundingSet, Phrase
from .priors import PRIORS, prior_maps

# thresholds of which the best is chosen; every second one is also a threshold of mIoU
GRID = np.round(np.arange(1, 20) * 0.05, 2)
POINTING_15 = "pointing game, 15 px"
OVERLAP_METRICS = ("pointing game", POINTING_15, "CNR", "CNR, signed", "mIoU", "Dice", "AUPRO")
SALIENCY_METRICS = ("AUC-Judd", "NSS", "CC", "KL")
METRICS = (*OVERLAP_METRICS, *SALIENCY_METRICS)


@dataclass
class Scores:
    """Scores of one method; N phrases with a region, M without."""

    values: np.ndarray  # (N, len(METRICS)) float64
    iou: np.ndarray  # (N, len(GRID))
    dice: np.ndarray  # (N, len(GRID))
    left: np.ndarray  # (N,) share of the map's maxima in the left half
    peaks: np.ndarray | None  # (N,) maxima of the maps, not rescaled; None for priors of the data
    empty_peaks: np.ndarray | None  # (M,) those of the phrases without a region


def measure(
    attention: PhraseAttention,
    data: GroundingSet,
    methods: Sequence[str],
    batch_size: int,
    seed: int,
) -> dict[str, Scores]:
    """{method, floor or prior: its scores}. UserError: as `maps`, or NaN in a map."""
    names = [*dict.fromkeys([*methods, *FLOORS])]
    rows: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in (*names, *PRIORS)}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    empty: dict[str, list[float]] = {name: [] for name in names}
    priors, read = prior_maps(data, seed), _PixelReader(attention.encoder, data)
    for batch in tqdm(batches(data.phrases, batch_size), desc="maps", unit="batch", disable=None):
        numbers = {row: i for i, row in enumerate(dict.fromkeys(phrase.row for phrase in batch))}
        pixels = torch.stack([read(row) for row in numbers])
        texts, image = [phrase.text for phrase in batch], [numbers[phrase.row] for phrase in batch]
        maps = {name: attention.maps(name, pixels, texts, image) for name in names}
        for name, of_method in maps.items():
            if not torch.isfinite(of_method).all():
                raise UserError(
                    f"method {name}: a map with NaN or infinite values; with --precision"
                    f" {attention.encoder.precision} try fp32, else the weights may be damaged."
                )
        for i, phrase in enumerate(batch):
            own = {name: of_method[i] for name, of_method in maps.items()}
            for name, map_ in own.items():
                (peaks if phrase.grounded else empty)[name].append(float(map_.max()))
            if phrase.grounded:
                own |= {name: torch.from_numpy(map_) for name, map_ in next(priors).items()}
                for name, scored in score_phrase(phrase, own).items():
                    rows[name].append(scored)
    return {
        name: Scores(
            *(np.array(column) for column in zip(*scored, strict=True)),
            *(np.array(known[name]) if name in known else None for known in (peaks, empty)),
        )
        for name, scored in rows.items()
    }


def batches(phrases: Sequence[Phrase], size: int) -> list[list[Phrase]]:
    """Phrases in their order, at most `size` in a batch; an image is in one batch alone.

    So the image tower runs once for each image. An image with more phrases is a batch by itself.
    """
    result: list[list[Phrase]] = []
    for _, group in groupby(phrases, key=lambda phrase: phrase.row):
        of_image = list(group)
        if result and len(result[-1]) + len(of_image) <= size:
            result[-1] += of_image
        else:
            result.append(of_image)
    return result


class _PixelReader:
    """Reads images, squashed to the model's size."""

    def __init__(self, encoder: Encoder, data: GroundingSet) -> None:
        self.data, self.transform = data.data, encoder.whole_image_transform()

    def __call__(self, row: int) -> Tensor:
        data = self.data
        return self.transform(read_image(data.read(row), data.name(row), "RGB", data.reading))


def enlarge(map_: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """A map (h, w) on the grid (H, W), bilinearly, float64."""
    return enlarge_maps(map_[None].double(), size)[0].numpy()


def score_phrase(phrase: Phrase, maps: dict[str, Tensor]) -> dict[str, tuple[np.ndarray, ...]]:
    """{name: (values, IoU and Dice over GRID, left)} of the maps (h, w) of one phrase."""
    gaze, region = phrase.target.astype(np.float64), phrase.region
    near = widen(region, phrase.tolerance)
    at = np.isin(GRID, THRESHOLDS)
    scored: dict[str, tuple[np.ndarray, ...]] = {}
    for name, map_ in maps.items():
        large = enlarge(map_, gaze.shape)
        iou, dice = overlaps(large, region, GRID.tolist())
        values = [
            pointing_game(large, region),
            pointing_game(large, near),
            cnr(large, region),
            cnr(large, region, signed=True),
            iou[at].mean(),
            dice[at].mean(),
            aupro(large, region),
            auc_judd(large, region),
            nss(large, gaze),
            cc(large, gaze),
            kl(large, gaze),
        ]
        scored[name] = (np.array(values), iou, dice, np.array(on_left_side(large)))
    return scored
