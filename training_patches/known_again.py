"""Which samples of --expert-data are also in --train-data: the same image file or content."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openclip_eclip.data.sample import stable_id
from openclip_eclip.data.shards.tar_source import TarEntry, TarSamples, entries_before_damage
from openclip_eclip.data.tables.csv_source import CsvSamples, CsvTable

from .ranks import on_rank_zero
from .shard_flags import shard_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Image:
    """The location of a sample's image."""

    sample_id: int
    location: tuple[int, int, int]  # (device, inode, offset), whatever the file's path
    size: int  # bytes
    read: Callable[[], bytes]
    caption: Callable[[], str]


def match_training_images(
    args: argparse.Namespace, loader: Any, expert: CsvSamples | TarSamples
) -> dict[int, int]:
    """sample_id in --expert-data -> sample_id of the training sample with the same image.

    `loader`: of the training data. Two images are the same if their bytes are equal; only images of
    equal length are read. Of several matching training samples the one with the same caption is
    taken, else the first. An image that was stored again (another format, another size) is not
    recognised.
    """

    def work() -> dict[int, int] | None:
        training = _training_images(args, loader)
        return None if training is None else _match(training, list(_images_of(expert)))

    matches = on_rank_zero(args, work)
    if matches is None:
        logger.warning(
            "eclip: --eclip-own-pairs: the images of --train-data are not files of this machine: "
            "a sample of --expert-data that is also there counts as another sample"
        )
        return {}
    logger.info(
        "eclip: %d of %d samples of --expert-data have the image of a sample of --train-data: "
        "their texts count as copies",
        len(matches),
        len(expert),
    )
    return matches


def _training_images(args: argparse.Namespace, loader: Any) -> Iterator[_Image] | None:
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, CsvSamples):
        return _images_of(dataset)
    shards = shard_files(args.train_data) if args.train_data else None
    return _shard_images(shards) if shards else None


def _shard_images(shards: Iterable[Path]) -> Iterator[_Image]:
    for shard in shards:
        entries = entries_before_damage(shard)
        yield from _entry_images(entries, [stable_id(entry.where) for entry in entries])


def _images_of(samples: CsvSamples | TarSamples) -> Iterator[_Image]:
    if isinstance(samples, CsvSamples):
        return _table_images(samples.table, samples.first_id)
    return _entry_images(samples.entries, samples.ids)


def _table_images(table: CsvTable, first_id: int) -> Iterator[_Image]:
    for path, caption, row in zip(table.images, table.captions, table.rows):
        if path is None:
            continue  # a blank cell: the check has named it
        try:
            status = os.stat(path)
        except OSError:
            continue  # the check has named it
        yield _Image(
            first_id + row,
            (status.st_dev, status.st_ino, 0),
            status.st_size,
            path.read_bytes,
            partial(str, caption),
        )


def _entry_images(entries: Iterable[TarEntry], ids: Iterable[int]) -> Iterator[_Image]:
    for entry, sample_id in zip(entries, ids):
        key = entry.image_key
        if key is None or "txt" not in entry.members:
            continue
        status, (offset, size) = os.stat(entry.shard), entry.members[key]
        yield _Image(
            sample_id,
            (status.st_dev, status.st_ino, offset),
            size,
            partial(_member, entry, key),
            partial(_text, entry),
        )


def _member(entry: TarEntry, key: str) -> bytes:
    return entry.read(key)[key]


def _text(entry: TarEntry) -> str:
    return _member(entry, "txt").decode("utf-8", "replace")


def _match(training: Iterator[_Image], experts: list[_Image]) -> dict[int, int]:
    locations, sizes = {image.location for image in experts}, {image.size for image in experts}
    candidates: dict[int, list[_Image]] = {}
    for image in training:
        if image.location in locations or image.size in sizes:
            candidates.setdefault(image.size, []).append(image)
    digests: dict[tuple[int, int, int], bytes] = {}

    def digest(image: _Image) -> bytes:
        if image.location not in digests:
            digests[image.location] = hashlib.blake2b(image.read()).digest()
        return digests[image.location]

    matches = {}
    for expert in experts:
        same_size = candidates.get(expert.size, [])
        equal = [image for image in same_size if image.location == expert.location]
        equal = equal or [image for image in same_size if digest(image) == digest(expert)]
        if equal:
            # captions are read only where they decide between several images
            same_caption = [
                image
                for image in equal
                if len(equal) > 1 and image.caption().strip() == expert.caption().strip()
            ]
            matches[expert.sample_id] = (same_caption or equal)[0].sample_id
    return matches
