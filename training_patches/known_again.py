"""Which samples of --expert-data are in --train-data as well: the same image file or content."""

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
    """Where a sample's image lies; `place`: (device, inode, offset), whatever the file's path."""

    sample_id: int
    place: tuple[int, int, int]
    size: int  # bytes
    read: Callable[[], bytes]
    caption: Callable[[], str]


def match_training_images(
    args: argparse.Namespace, loader: Any, expert: CsvSamples | TarSamples
) -> dict[int, int]:
    """sample_id of a sample of --expert-data -> that of the training sample with the same image.

    `loader`: of the training data. Two files are the same image if their bytes are; only images of
    one length in bytes are read. Of several training samples with it the one with the same caption
    is taken, else the first. An image that was stored anew (another format, another size) is not
    known again.
    """

    def work() -> dict[int, int] | None:
        training = _training_images(args, loader)
        return None if training is None else _match(training, list(_images_of(expert)))

    found = on_rank_zero(args, work)
    if found is None:
        logger.warning(
            "eclip: --eclip-own-pairs: the images of --train-data are not files of this machine: "
            "a sample of --expert-data that stands there too counts as another one"
        )
        return {}
    logger.info(
        "eclip: %d of %d samples of --expert-data stand in --train-data too, known by their "
        "image: their texts are copies",
        len(found),
        len(expert),
    )
    return found


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
            found = os.stat(path)
        except OSError:
            continue  # the check has named it
        yield _Image(
            first_id + row,
            (found.st_dev, found.st_ino, 0),
            found.st_size,
            path.read_bytes,
            partial(str, caption),
        )


def _entry_images(entries: Iterable[TarEntry], ids: Iterable[int]) -> Iterator[_Image]:
    for entry, sample_id in zip(entries, ids):
        key = entry.image_key
        if key is None or "txt" not in entry.members:
            continue
        found, (offset, size) = os.stat(entry.shard), entry.members[key]
        yield _Image(
            sample_id,
            (found.st_dev, found.st_ino, offset),
            size,
            partial(_member, entry, key),
            partial(_text, entry),
        )


def _member(entry: TarEntry, key: str) -> bytes:
    return entry.read(key)[key]


def _text(entry: TarEntry) -> str:
    return _member(entry, "txt").decode("utf-8", "replace")


def _match(training: Iterator[_Image], experts: list[_Image]) -> dict[int, int]:
    places, sizes = {image.place for image in experts}, {image.size for image in experts}
    candidates: dict[int, list[_Image]] = {}
    for image in training:
        if image.place in places or image.size in sizes:
            candidates.setdefault(image.size, []).append(image)
    digests: dict[tuple[int, int, int], bytes] = {}

    def digest(image: _Image) -> bytes:
        if image.place not in digests:
            digests[image.place] = hashlib.blake2b(image.read()).digest()
        return digests[image.place]

    found = {}
    for expert in experts:
        coincide = candidates.get(expert.size, [])
        equal = [image for image in coincide if image.place == expert.place]
        equal = equal or [image for image in coincide if digest(image) == digest(expert)]
        if equal:
            same = [
                image
                for image in equal
                if len(equal) > 1 and image.caption().strip() == expert.caption().strip()
            ]
            found[expert.sample_id] = (same or equal)[0].sample_id
    return found
