"""Placebo heatmaps: every annotated sample keeps its draws and its order, but gets another map.

A placebo is to the sample what another heatmap file would be: it lies over the whole image and goes
through the image's own crop. Which views count as annotated is still decided by the true map. It is
a function of (kind, seed, sample) alone, so all ranks, data workers and a resumed run see the same
one, in every epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..config import SHUFFLES, DataError
from ..json_text import parse_json
from ..streams import DONORS, PLACEBO
from .heatmap import decode_heatmap, read_bounded
from .shards.tar_source import TarEntry
from .tables.csv_source import CsvTable
from .tables.near_names import did_you_mean

CENTRE_SIGMA = 0.2  # as a share of each side

Donor = Callable[[], np.ndarray]


class PlaceboHeatmaps:
    """(sample_id, true map) -> the map that takes its place.

    `kind` one of PLACEBOS; `size` (height, width) of the generated maps, those of the
    training images, since finer noise would average out in the crop; `donors`: for the two
    shuffles, sample_id -> reads another sample's map.
    """

    def __init__(
        self, kind: str, seed: int, size: Sequence[int], donors: Mapping[int, Donor] | None = None
    ) -> None:
        self.kind, self.seed, self.size, self.donors = kind, seed, tuple(size), donors or {}

    def __call__(self, sample_id: int, heatmap: np.ndarray) -> np.ndarray:
        """`heatmap` (h, w) float32 in [0, 1] -> (h', w') float32 in [0, 1], maximum 1, over the
        same image.
        """
        if self.kind in SHUFFLES:
            if sample_id not in self.donors:
                raise DataError(
                    "an annotated sample that the check of the data left out; it has no other"
                    " sample's map to take."
                )
            return self.donors[sample_id]()
        if self.kind == "ones":
            return np.ones(self.size, np.float32)
        if self.kind == "centre":
            return centre_map(self.size)
        generator = PLACEBO.generator(self.seed, sample_id)
        if self.kind == "random":
            noise = generator.random(self.size, dtype=np.float32)
            return noise / noise.max()
        return scramble_phases(heatmap, generator)


def centre_map(size: Sequence[int]) -> np.ndarray:
    """A Gaussian at the centre with a sigma of 0.2 sides, (H, W) float32 with maximum 1."""
    rows, columns = (((np.arange(side) + 0.5) / side - 0.5) ** 2 for side in size)
    values = np.exp(-(rows[:, None] + columns) / (2 * CENTRE_SIGMA**2))
    return (values / values.max()).astype(np.float32)


def scramble_phases(heatmap: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Replace the phases of the spatial frequencies by those of white noise.

    Returns (h, w) float32 in [0, 1] with maximum 1. The amplitudes stay, with two exceptions: the
    shift to non-negative values changes the mean, and the division by the maximum scales all
    amplitudes by one factor.
    """
    # the noise is positive, so that the mean keeps its sign
    phases = np.fft.rfft2(generator.random(heatmap.shape))
    phases /= np.maximum(np.abs(phases), np.finfo(float).tiny)
    values = np.fft.irfft2(np.abs(np.fft.rfft2(heatmap)) * phases, s=heatmap.shape)
    values -= min(values.min(), 0.0)
    return (values / values.max()).astype(np.float32)


def table_placebo(
    kind: str, seed: int, size: Sequence[int], table: CsvTable, first_id: int = 0
) -> PlaceboHeatmaps:
    """For the samples of `table` as `CsvSamples` numbers them. DataError: a shuffle without donors
    or classes.
    """
    if kind not in SHUFFLES:
        return PlaceboHeatmaps(kind, seed, size)
    rows = table.annotated
    classes = None
    if kind == "same-class-shuffled":
        if not table.labels:
            label = str(table.columns.label)  # the flags' check has seen to it that there is one
            raise DataError(
                f"{table.path}: no column {label!r} (--csv-label-key);"
                " same-class-shuffled heatmaps need the class of every annotated"
                f" sample.{did_you_mean(label, table.header)}"
            )
        classes = [table.labels[i] for i in rows]
    donors = choose_donors(
        seed, [str(table.images[i]) for i in rows], classes, [table.name(i) for i in rows]
    )
    paths = [path for path in table.heatmaps if path is not None]  # of `rows`
    return PlaceboHeatmaps(
        kind,
        seed,
        size,
        {
            first_id + table.rows[i]: partial(_read_file, paths[donor])
            for i, donor in zip(rows, donors)
        },
    )


def entries_placebo(
    kind: str,
    seed: int,
    size: Sequence[int],
    entries: Sequence[TarEntry],
    ids: Sequence[int],
    label_key: str | None,
) -> PlaceboHeatmaps:
    """For the annotated samples of indexed shards under their `ids`. DataError as
    `table_placebo`.
    """
    if kind not in SHUFFLES:
        return PlaceboHeatmaps(kind, seed, size)
    classes = (
        [_label(entry, label_key) for entry in entries] if kind == "same-class-shuffled" else None
    )
    names = [entry.where for entry in entries]
    donors = choose_donors(seed, names, classes, names)
    return PlaceboHeatmaps(
        kind, seed, size, {i: partial(_read_entry, entries[donor]) for i, donor in zip(ids, donors)}
    )


def choose_donors(
    seed: int, images: Sequence[Hashable], classes: Sequence[str] | None, names: Sequence[str]
) -> list[int]:
    """Choose the sample whose map each annotated sample gets, as indices.

    The choice is a permutation within each class; `classes` None: all samples are one class. No
    image gets one of its own maps, not even that of another reader. To this end the samples are
    ordered so that equal `images` are neighbours, and shifted by the number of samples of the most
    frequent image.

    Raises:
        DataError: no such permutation exists.
    """
    donors = [-1] * len(images)
    labels = ["" for _ in images] if classes is None else list(classes)
    for label in sorted(set(labels)):
        members = [i for i, other in enumerate(labels) if other == label]
        counts = Counter(images[i] for i in members)
        shift = max(counts.values())
        if 2 * shift > len(members):
            of = f" of class {label!r}" if classes is not None else ""
            raise DataError(
                f"shuffled heatmaps: {len(members)} annotated samples{of} of {len(counts)} images,"
                f" such as {names[members[0]]}: too few other images have a map to give. Annotate"
                " more, join classes, or leave these samples out."
            )
        rank = dict(zip(counts, DONORS.generator(seed, len(members)).permutation(len(counts))))
        order = sorted(members, key=lambda i: rank[images[i]])
        for i, donor in zip(order, order[shift:] + order[:shift]):
            donors[i] = donor
    return donors


def _label(entry: TarEntry, key: str | None) -> str:
    fields = {}
    if "json" in entry.members:
        fields = parse_json(entry.read("json")["json"], f"{entry.where}.json")
    if key not in fields:
        raise DataError(
            f"{entry.where}: no field {key!r} (--csv-label-key) in its json; same-class-shuffled"
            " heatmaps need the class of every annotated sample."
        )
    return str(fields[key])


def _read_file(path: Path) -> np.ndarray:
    return decode_heatmap(read_bounded(path), path.name)


def _read_entry(entry: TarEntry) -> np.ndarray:
    return decode_heatmap(entry.read_heatmap(), f"{entry.where}.{entry.heatmap_key}")
