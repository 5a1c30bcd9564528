"""The phrases of a data set, each with the map of its region over the whole image."""

from __future__ import annotations

import argparse
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
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
from .drawn import DrawnPhrases

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
    readers: list[bytes]  # the map of each annotator, if there are several

    @property
    def target(self) -> np.ndarray:
        """The map, uint8 (h, w), maximum 255; all zero: no region."""
        return self._unpack(self.packed)

    @property
    def of_readers(self) -> list[np.ndarray]:
        """The map of each annotator, in the form of `target`; [] if they are not known."""
        return [self._unpack(packed) for packed in self.readers]

    def _unpack(self, packed: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(self.shape)

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


def make_phrase(
    id: str,
    row: int,
    text: str,
    target: np.ndarray,
    tolerance: float,
    readers: Sequence[np.ndarray] = (),
) -> Phrase:
    """A phrase with its map, uint8 (h, w), maximum 255, all zero for no region.

    `readers`: the maps of its annotators, in the same form.
    """
    region = _region(target)
    left = 0.5
    if region.any():
        centre = (np.nonzero(region)[1] + 0.5).mean() / region.shape[1]
        left = float(centre < 0.5) + 0.5 * float(centre == 0.5)
    return Phrase(
        id,
        row,
        text,
        _pack(target),
        target.shape,
        tolerance,
        float(region.mean()),
        left,
        [_pack(one) for one in readers] if len(readers) > 1 else [],
    )


def _pack(target: np.ndarray) -> bytes:
    return zlib.compress(target.tobytes(), 1)


def _region(target: np.ndarray) -> np.ndarray:
    return marked_region(target) if target.any() else np.zeros(target.shape, bool)


@dataclass
class GroundingSet:
    """The images and their phrases; all phrases of an image follow each other."""

    data: EvalSet
    phrases: list[Phrase]
    groups: np.ndarray  # (number of phrases,) str: the image, or the patient
    group_kind: str  # "image" or "patient"
    left_out: Counter[str]  # of the annotations, by reason

    @property
    def grounded(self) -> np.ndarray:
        """Indices of the phrases with a region."""
        return np.flatnonzero([phrase.grounded for phrase in self.phrases])


# a phrase, its map over the whole image (h, w), and those of its annotators if they are known
Region = tuple[str, np.ndarray, list[np.ndarray]]


def read_grounding_set(
    args: argparse.Namespace, path: str | None, heatmaps: Path | None, skip_bad: bool
) -> GroundingSet:
    """Read all phrases of `path`, or of --annotations if it is None.

    With --limit those of that many images, drawn by the seed. UserError: no phrase with a region,
    regions on one image (or patient) only, or a blank patient.
    """
    left_out = Counter[str]()
    regions: Callable[[EvalSet, int], list[Region]]
    if path is None:
        drawn = DrawnPhrases(args)
        data, left_out, regions = drawn.data, drawn.left_out, partial(_of_annotations, drawn)
    else:
        data = read_eval_set(path, skip_bad, read_options(args))
        described = join_windows(data, heatmaps)
        if described is None:
            data = with_reports(
                join_heatmaps(data, args.heatmap_column, heatmaps), args.text_column
            )
            regions = partial(_of_report, args.text_column)
        else:
            data, regions = described, _of_windows
    images = np.unique(data.identities(), return_inverse=True)[1]
    if args.limit is not None:
        order = np.array(list(dict.fromkeys(images.tolist())))  # as they come
        chosen = order[np.random.default_rng(args.seed).permutation(len(order))[: args.limit]]
        kept = np.isin(images, chosen)
        data, images = data.keep(kept, "beyond --limit"), images[kept]
    kind = "patient" if args.patient_column else "image"
    names = _groups(data, args.patient_column)
    phrases, groups = [], []
    numbers: dict[str, Iterator[int]] = defaultdict(count)
    rows = tqdm(_by_image(images), desc="phrases", unit="row", disable=None)
    for row, first in rows:  # rows of the same image
        of_row = _read_row(data, row, first, regions(data, row), numbers[data.ids[row]])
        phrases += of_row
        groups += [names[row]] * len(of_row)
    result = GroundingSet(data, phrases, np.array(groups), kind, left_out)
    units = len(np.unique(result.groups[result.grounded]))
    if units < 2:
        raise UserError(
            f"{data.path}: phrases with a region for {units} {kind}; expected at least two"
            f" {kind}s, because the map of another is a prior."
        )
    return result


def _by_image(images: np.ndarray) -> list[tuple[int, int]]:
    """(row, first row of the same image), so that the rows of an image follow each other."""
    firsts: dict[int, int] = {}
    pairs = [(row, firsts.setdefault(image, row)) for row, image in enumerate(images.tolist())]
    return sorted(pairs, key=lambda pair: pair[1])


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


def _of_annotations(drawn: DrawnPhrases, data: EvalSet, row: int) -> list[Region]:
    """Of several annotators, the region is the mean of their maps."""
    regions: list[Region] = []
    for text, maps in drawn.read(data, row):
        merged = np.mean(maps, axis=0) if maps else np.zeros((1, 1))
        regions.append((text, merged, maps))
    return regions


def _of_windows(data: EvalSet, row: int) -> list[Region]:
    texts, _, maps = read_phrases(data, row)
    return [(text, map_, []) for text, map_ in zip(texts, maps, strict=True)]


def _of_report(text_column: str, data: EvalSet, row: int) -> list[Region]:
    image = read_image(data.read(row), data.name(row), None, data.reading)
    map_ = np.rint(255 * read_whole_heatmap(data, row, image))
    return [(data.column(text_column)[row], map_, [])]


def _read_row(
    data: EvalSet, row: int, image_row: int, regions: list[Region], numbers: Iterator[int]
) -> list[Phrase]:
    """The phrases of a row, each with the next of `numbers` of its image file."""
    width = read_frame(data.read(row), data.name(row), data.reading).shown_size[1]
    result = []
    for text, map_, readers in regions:
        target = reduce_map(map_)
        result.append(
            make_phrase(
                f"{data.ids[row]}#{next(numbers)}",
                image_row,
                text,
                target,
                TOLERANCE * target.shape[1] / width,
                [reduce_map(one) for one in readers],
            )
        )
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
