"""Maps that need no model: the mean map of the data, and the map of another image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from .phrases import GroundingSet

MEAN_MAP = "mean map of the data"
OTHER_MAP = "another image's map"
PRIORS = (MEAN_MAP, OTHER_MAP)
GRID = (56, 56)  # of these maps


def prior_maps(data: GroundingSet, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """{prior: map (h, w) float32} for each phrase with a region, in order.

    The mean is over the phrases of all other images, or of all other patients if they are known;
    each map counts the same. The other map is one of these, drawn by the seed.
    """
    rows = data.grounded
    maps = np.stack([_on_grid(data.phrases[i].target) for i in rows])
    _, group = np.unique(data.groups[rows], return_inverse=True)
    total, rng = maps.sum(0, dtype=np.float64), np.random.default_rng(seed)
    for own in group:
        others = group != own
        rest = total - maps[~others].sum(0, dtype=np.float64)
        donor = rng.choice(np.flatnonzero(others))
        yield {MEAN_MAP: (rest / others.sum()).astype(np.float32), OTHER_MAP: maps[donor]}


def _on_grid(target: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(target.astype(np.float32))
    values = np.asarray(picture.resize(GRID[::-1], Image.Resampling.BOX))
    return values / values.sum()
