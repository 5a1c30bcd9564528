"""The marked regions of the test images, and whether a map can point at them at all."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from ...evaluate.grounding import task
from ...evaluate.grounding.phrases import GroundingSet, read_grounding_set
from .data import GROUNDING, Data

# Below this share of regions that a map can point at, the pointing game says more about the number
# of positions than about the model: in most images no map could be right.
LEAST_REACHABLE = 0.5


@dataclass(frozen=True)
class Regions:
    """The regions of the test images.

    `area`: mean share of an image that is marked; `reachable`: share of the regions that hold a
    pixel where a map of the tower's positions `grid` (h, w) can have its maximum.
    """

    data: GroundingSet
    grid: tuple[int, int]
    area: float
    reachable: float

    @property
    def can_be_pointed_at(self) -> bool:
        return self.reachable >= LEAST_REACHABLE


def read_test_regions(data: Data) -> GroundingSet:
    """The test images with a heatmap, as `evaluate grounding` reads them."""
    parser = argparse.ArgumentParser()
    task.add_arguments(parser)
    words = ["--model", "", "--data", str(data.test), "--out", "", *data.tasks[GROUNDING]]
    args = parser.parse_args([str(word) for word in words])
    return read_grounding_set(args, args.data, None, skip_bad=False)


def make_regions(data: GroundingSet, grid: tuple[int, int]) -> Regions:
    regions = [data.phrases[i].region for i in data.grounded]
    area = np.mean([region.mean() for region in regions])
    hit = [bool((region & reachable(grid, region.shape)).any()) for region in regions]
    return Regions(data, grid, float(area), float(np.mean(hit)))


def reachable(grid: tuple[int, int], size: tuple[int, ...]) -> np.ndarray:
    """The pixels (H, W) bool where a map of `grid` (h, w), enlarged bilinearly, can be highest.

    Between two positions it is linear along each axis, so a maximum is on a pixel next to the
    centre of a position. Beyond the outermost centres it is constant.
    """
    rows, columns = (_on_axis(*pair) for pair in zip(grid, size, strict=True))
    return rows[:, None] & columns[None]


def _on_axis(positions: int, pixels: int) -> np.ndarray:
    """The pixels (pixels,) bool next to the centre of a position, or beyond the outermost."""
    centres = (np.arange(positions) + 0.5) * pixels / positions - 0.5
    index = np.arange(pixels)
    near = np.isin(index, [*np.floor(centres), *np.ceil(centres)])
    return near | (index <= math.ceil(centres[0])) | (index >= math.floor(centres[-1]))
