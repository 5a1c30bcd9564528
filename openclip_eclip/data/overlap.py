"""What a training set shares with others: `python -m openclip_eclip.data.overlap TRAIN OTHER ...`.

Patients and studies by their ids, images by SHA-256 and by a perceptual hash, reports by their
words. Exit code 1 where anything is shared. Each set is a table (.csv, .tsv, raw ones too), shards
(braces and :: as in --train-data) or a folder that `prepare` wrote: of the first its training
split, of the others everything; a folder alone is compared with itself.

Ids mean something within one source only: `--compare images reports` for sets of different sources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DataError, UserError
from .images.options import ReadOptions, add_read_arguments, read_options
from .overlap_read import Contents, read_sets
from .shards.stream import expand_paths

ALIKE_BITS = 4  # of 64 in the difference hash; choosing candidates only
# of the 32 x 32 thumbnails: chest films resemble one another, 64 bits alone raise false alarms
ALIKE_CORRELATION = 0.995
BLOCK = 1 << 24  # pairs of images at a time: 64 MB of dot products
# pairs of thumbnails at a time, 128 MB: films resemble one another, there may be millions
CANDIDATES = 1 << 14
SHORT = 12  # words; shorter texts ("No acute disease.") recur without being copies
KINDS = ("patients", "studies", "images", "reports")


@dataclass(frozen=True)
class Shared:
    """`count` distinct ids, images or reports that both sets have, and the first few as (of one, of
    the other).
    """

    kind: str
    count: int
    examples: list[tuple[str, str]]


def compare(train: Contents, other: Contents, kinds: Sequence[str] = KINDS) -> list[Shared]:
    """What `other` shares with `train`, for each kind asked for."""
    found = []
    if "patients" in kinds:
        found.append(_same("patients", train.patients, other.patients))
    if "studies" in kinds:
        found.append(_same("studies", train.studies, other.studies))
    if "images" in kinds:
        found.append(_same("images, same bytes", train.image_hashes, other.image_hashes))
        found.append(_alike(train, other))
    if "reports" in kinds:
        found.append(_same("reports", _particular(train), _particular(other)))
    return found


def shared_patients(
    train: Iterable[Mapping[str, Any]], other: Iterable[Mapping[str, Any]], column: str = "patient"
) -> list[str]:
    """Ids in that column of both, sorted; rows without it do not count. What `prepare` asks of
    every plan.
    """
    ids = [
        {str(row[column]) for row in rows if row.get(column) not in (None, "")}
        for rows in (train, other)
    ]
    return sorted(ids[0] & ids[1])


def _same(kind: str, train: dict[str, str], other: dict[str, str]) -> Shared:
    both = sorted(train.keys() & other.keys())
    return Shared(kind, len(both), [(train[key], other[key]) for key in both[:3]])


def _particular(contents: Contents) -> dict[str, str]:
    """Reports long enough to tell, and not used for several patients of the same set (templates of
    normal films).
    """
    return {
        text: where
        for text, where in contents.reports.items()
        if len(text.split()) >= SHORT and len(contents.report_patients[text]) <= 1
    }


def _alike(train: Contents, other: Contents) -> Shared:
    """Images whose hashes differ in at most 4 of 64 bits and whose thumbnails correlate; pairs of
    the same bytes too.

    All pairs by a matrix product of +-1 bits, a block at a time: Hamming distance = (64 - dot
    product) / 2.
    """
    examples, count = [], 0
    hashes, thumbnails = train.hashes, train.thumbnails  # made of lists: once, not once a block
    bits, theirs = _signs(other.hashes), _standardised(other.thumbnails)
    step = min(2048, BLOCK // max(1, len(theirs)) + 1)
    for first in range(0, len(hashes) if len(theirs) else 0, step):
        pairs = np.argwhere(_signs(hashes[first : first + step]) @ bits.T >= 64 - 2 * ALIKE_BITS)
        mine = _standardised(thumbnails[first : first + step])
        for start in range(0, len(pairs), CANDIDATES):
            i, j = pairs[start : start + CANDIDATES].T
            found = np.einsum("ij,ij->i", mine[i], theirs[j]) >= ALIKE_CORRELATION
            count += int(found.sum())
            examples += [
                (train.image_names[first + a], other.image_names[b])
                for a, b in zip(i[found][:3], j[found][:3])
            ]
    return Shared("images that look the same (pairs)", count, examples[:3])


def _signs(hashes: np.ndarray) -> np.ndarray:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _standardised(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 1024) of mean 0 and length 1, so that a dot product is a correlation; a blank image
    correlates with nothing.
    """
    values = thumbnails.reshape(-1, 32 * 32).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, np.inf)


def _pairs(
    paths: Sequence[str], kinds: Sequence[str], options: ReadOptions
) -> Iterator[tuple[str, Contents, Contents]]:
    images = "images" in kinds
    if len(paths) == 1:
        if not Path(paths[0]).is_dir():
            raise DataError(
                f"{paths[0]}: one set; expected TRAIN OTHER ..., or one folder that prepare wrote."
            )
        yield (
            paths[0],
            read_sets(expand_paths(paths[0]), images, "train", options),
            read_sets(expand_paths(paths[0]), images, "others", options),
        )
        return
    train = read_sets(expand_paths(paths[0]), images, "train", options)
    for path in paths[1:]:
        yield f"{paths[0]} and {path}", train, read_sets(expand_paths(path), images, "all", options)


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing shared, 1: something is, 2: a set cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m openclip_eclip.data.overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="SET", help="the training set first")
    parser.add_argument("--compare", nargs="+", choices=KINDS, default=KINDS, help="(default: all)")
    add_read_arguments(parser)
    args = parser.parse_args(argv)
    leaks = 0
    try:
        for name, train, other in _pairs(args.paths, args.compare, read_options(args)):
            sys.stdout.write(f"{name}:\n  {train.summary()}\n  {other.summary()}\n")
            for shared in compare(train, other, args.compare):
                leaks += shared.count
                sys.stdout.write(f"  shared {shared.kind}: {shared.count}\n")
                sys.stdout.writelines(f"    {one} = {two}\n" for one, two in shared.examples)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
