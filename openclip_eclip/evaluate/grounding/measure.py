"""Scores of every method and prior for every phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
)
from ...metrics.saliency import auc_judd, cc, kl, nss
from ..inputs.encoder import Encoder
from .attention import FLOORS, attention_maps
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
    encoder: Encoder, data: GroundingSet, methods: Sequence[str], batch_size: int, seed: int
) -> dict[str, Scores]:
    """{method, floor or prior: its scores}. UserError: as `attention_maps`, or NaN in a map."""
    names = [*dict.fromkeys([*methods, *FLOORS])]
    rows: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in (*names, *PRIORS)}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    empty: dict[str, list[float]] = {name: [] for name in names}
    priors, pixels = prior_maps(data, seed), _PixelReader(encoder, data)
    starts = range(0, len(data.phrases), batch_size)
    for first in tqdm(starts, desc="maps", unit="batch", disable=None):
        batch = data.phrases[first : first + batch_size]
        stacked = pixels.stack(batch)
        maps = {
            name: attention_maps(encoder, stacked, [phrase.text for phrase in batch], name)
            for name in names
        }
        for name, of_method in maps.items():
            if not torch.isfinite(of_method).all():
                raise UserError(
                    f"method {name}: a map with NaN or infinite values; with --precision"
                    f" {encoder.precision} try fp32, else the weights may be damaged."
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


class _PixelReader:
    """Reads the images of phrases, squashed to the model's size; the last one is kept."""

    def __init__(self, encoder: Encoder, data: GroundingSet) -> None:
        self.data, self.transform = data.data, encoder.whole_image_transform()
        self.row, self.pixels = -1, torch.empty(0)

    def stack(self, phrases: Sequence[Phrase]) -> Tensor:
        return torch.stack([self._read(phrase.row) for phrase in phrases])

    def _read(self, row: int) -> Tensor:
        if row != self.row:
            data = self.data
            image = read_image(data.read(row), data.name(row), "RGB", data.reading)
            self.row, self.pixels = row, self.transform(image)
        return self.pixels


def enlarge(map_: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """A map (h, w) on the grid (H, W), bilinearly, float64."""
    return enlarge_maps(map_[None].double(), size)[0].numpy()


def score_phrase(phrase: Phrase, maps: dict[str, Tensor]) -> dict[str, tuple[np.ndarray, ...]]:
    """{name: (values, IoU and Dice over GRID, left)} of the maps (h, w) of one phrase."""
    region, near, gaze = phrase.region, phrase.widened, phrase.target.astype(np.float64)
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
