"""How well one annotator finds the region of the others: what a model can hardly beat."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from .measure import GRID, METRICS, Scores, score_phrase
from .phrases import GroundingSet, Phrase, make_phrase, reduce_map

ANOTHER = "another annotator"
POINTS = METRICS[:2]  # the pointing game, without and with tolerance


def annotator_scores(data: GroundingSet) -> Scores | None:
    """The scores of each annotator against the mean map of the others, averaged over annotators.

    NaN for phrases of a single annotator; None if there are no others. An annotator points at the
    pixel that is deepest in the region where their map is highest.
    """
    phrases = [data.phrases[i] for i in data.grounded]
    if not any(phrase.readers for phrase in phrases):
        return None
    missing = [np.full(len(names), np.nan) for names in (METRICS, GRID, GRID)]
    rows = [
        _scores(phrase) if phrase.readers else (*missing, np.array(np.nan)) for phrase in phrases
    ]
    values, iou, dice, left = (np.array(column) for column in zip(*rows, strict=True))
    return Scores(values, iou, dice, left, None, None)


def _scores(phrase: Phrase) -> tuple[np.ndarray, ...]:
    maps, rows = phrase.of_readers, []
    for i, own in enumerate(maps):
        others = np.mean([one for j, one in enumerate(maps) if j != i], axis=0)
        target = reduce_map(others)
        rest = make_phrase(phrase.id, phrase.row, phrase.text, target, phrase.tolerance)
        both = {"map": own.astype(np.float32), "point": _depth(own)}
        scored = score_phrase(rest, {name: torch.from_numpy(map_) for name, map_ in both.items()})
        values, iou, dice, _ = scored["map"]
        values[: len(POINTS)] = scored["point"][0][: len(POINTS)]
        rows.append((values, iou, dice, scored["point"][3]))
    return tuple(np.mean(column, axis=0) for column in zip(*rows, strict=True))


def _depth(map_: np.ndarray) -> np.ndarray:
    """How many pixels a highest value is from the nearest lower one, or from the border; else 0."""
    return distance_transform_edt(np.pad(map_ == map_.max(), 1))[1:-1, 1:-1].astype(np.float32)
