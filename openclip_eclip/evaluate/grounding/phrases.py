"""The phrases of a data set, each with the map of its region over the whole image."""

from __future__ import annotations

import argparse
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...config import UserError
from ...data.images.options import read_options
from ...data.images.read import read_frame
from ...data.sample import read_image
from ...data.tables.missing_text import is_missing
from ...metrics.grounding import TOLERANCE
from ...metrics.pointing import marked_region
from ..inputs.eval_set import EvalSet, read_eval_set, with_reports
from ..inputs.heatmaps import join_heatmaps, join_windows, read_phrases, read_whole_heatmap

SIDE = 224  # larger maps are reduced to this many pixels on their longer side
SMALL, LARGE = 0.05, 0.2  # of the image's area: below it is small, from it on large
SIZES = ("small", "medium", "large")
LEFT, RIGHT = (re.compile(rf"\b{side}\b", re.IGNORECASE) for side in ("left", "right"))


@dataclass
class Phrase:
    """A phrase of the image in row `row` of the data set; made by `make_phrase`."""

    id: str
    row: int
    text: str
    packed: bytes  # of the map; thousands of them would not fit into memory as arrays
    shape: tuple[int, ...]
    tolerance: float  # pixels of the map that are 15 pixels of the image
    share: float  # of the map's pixels that are in the region; 0: no region
    left: float  # 1 if the centre of the region is in the left half, 0 in the right, else 0.5

    @property
    def target(self) -> np.ndarray:
        """The map, uint8 (h, w), maximum 255; all zero: no region."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)

    @property
    def region(self) -> np.ndarray:
        return _region(self.target)

    @property
    def grounded(self) -> bool:
        return self.share > 0

    @property
    def size(self) -> str:
        return SIZES[int(self.share >= SMALL) + int(self.share >= LARGE)]

    @property
    def side(self) -> str | None:
        """The side that the phrase names, "left" or "right"; None for neither or both."""
        left, right = (bool(side.search(self.text)) for side in (LEFT, RIGHT))
        return None if left == right else "left" if left else "right"


def make_phrase(id: str, row: int, text: str, target: np.ndarray, tolerance: float) -> Phrase:
    """A phrase with its map, uint8 (h, w), maximum 255, all zero for no region."""
    region = _region(target)
    left = 0.5
    if region.any():
        centre = (np.nonzero(region)[1] + 0.5).mean() / region.shape[1]
        left = float(centre < 0.5) + 0.5 * float(centre == 0.5)
    packed = zlib.compress(target.tobytes(), 1)
    share = float(region.mean())
    return Phrase(id, row, text, packed, target.shape, tolerance, share, left)


def _region(target: np.ndarray) -> np.ndarray:
    return marked_region(target) if target.any() else np.zeros(target.shape, bool)


@dataclass
class GroundingSet:
    """The images and their phrases, in the order of the images."""

    data: EvalSet
    phrases: list[Phrase]
    groups: np.ndarray  # (number of phrases,) str: the image, or the patient
    group_kind: str  # "image" or "patient"

    @property
    def grounded(self) -> np.ndarray:
        """Indices of the phrases with a region."""
        return np.flatnonzero([phrase.grounded for phrase in self.phrases])


def read_grounding_set(
    args: argparse.Namespace, path: str, heatmaps: Path | None, skip_bad: bool
) -> GroundingSet:
    """Read all phrases of `path`; with --limit those of that many images, drawn by the seed.

    UserError: no phrase with a region, regions on one image (or patient) only, or a blank patient.
    """
    data = read_eval_set(path, skip_bad, read_options(args))
    described = join_windows(data, heatmaps)
    if described is None:
        data = with_reports(join_heatmaps(data, args.heatmap_column, heatmaps), args.text_column)
    else:
        data = described
    if args.limit is not None and args.limit < len(data):
        chosen = np.random.default_rng(args.seed).permutation(len(data))[: args.limit]
        data = data.keep(np.isin(np.arange(len(data)), chosen), "beyond --limit")
    kind = "patient" if args.patient_column else "image"
    names = _groups(data, args.patient_column)
    phrases: list[Phrase] = []
    for row in tqdm(range(len(data)), desc="phrases", unit="image", disable=None):
        phrases += _read_row(data, row, args.text_column, described is not None)
    groups = np.array([names[phrase.row] for phrase in phrases])
    result = GroundingSet(data, phrases, groups, kind)
    if len(np.unique(groups[result.grounded])) < 2:
        raise UserError(
            f"{path}: phrases with a region for {len(np.unique(groups[result.grounded]))} {kind};"
            f" expected at least two {kind}s, because the map of another is a prior."
        )
    return result


def _groups(data: EvalSet, column: str | None) -> list[str]:
    if not column:
        return [identity.hex()[:16] for identity in data.identities()]
    cells = data.column(column)
    for row, cell in enumerate(cells):
        if is_missing(cell):
            raise UserError(
                f"{data.name(row)}, column {column!r}: blank; expected a patient in every row."
            )
    return [cell.strip() for cell in cells]


def _read_row(data: EvalSet, row: int, text_column: str, windows: bool) -> list[Phrase]:
    if windows:
        texts, _, maps = read_phrases(data, row)
    else:
        image = read_image(data.read(row), data.name(row), None, data.reading)
        texts, maps = (
            [data.column(text_column)[row]],
            np.rint(255 * read_whole_heatmap(data, row, image))[None],
        )
    width = read_frame(data.read(row), data.name(row), data.reading).shown_size[1]
    result = []
    for number, (text, map_) in enumerate(zip(texts, maps, strict=True)):
        target = reduce_map(map_)
        tolerance = TOLERANCE * target.shape[1] / width
        result.append(make_phrase(f"{data.ids[row]}#{number}", row, text, target, tolerance))
    return result


def reduce_map(values: np.ndarray) -> np.ndarray:
    """A map (h, w) >= 0 as uint8 with maximum 255 and at most SIDE pixels a side."""
    picture = Image.fromarray(values.astype(np.float32))
    scale = SIDE / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(scale * side)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    reduced = np.asarray(picture)
    highest = reduced.max()
    return np.rint(255 * (reduced / highest if highest > 0 else reduced)).astype(np.uint8)
