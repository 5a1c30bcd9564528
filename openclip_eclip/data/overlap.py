"""Find what data sets share: `openclip-eclip overlap TRAIN OTHER ...`.

Compares patients and studies by their ids, images by SHA-256 and by a perceptual hash, and reports
by their words. The exit code is 1 if anything is shared.

Each set is a table (.csv, .tsv, raw tables too), shards (braces and :: as in --train-data), or a
folder that `prepare` wrote. Of the first folder, the training split is used; of the others, all
splits. A single folder is compared with itself: its training split with its other splits.

Ids are comparable within one source only. For sets of different sources, use
`--compare images reports`.
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

ALIKE_BITS = 4  # of 64 in the difference hash; chooses candidate pairs only
# Correlation of the 32 x 32 thumbnails of a candidate pair: chest X-rays resemble one another, so
# that 64 bits alone raise false alarms
ALIKE_CORRELATION = 0.995
BLOCK = 1 << 24  # pairs of images at a time: 64 MB of dot products
CANDIDATES = 1 << 14  # pairs of thumbnails at a time: 128 MB, of millions of candidate pairs
SHORT = 12  # words; shorter texts ("No acute disease.") recur without being copies
KINDS = ("patients", "studies", "images", "reports")


@dataclass(frozen=True)
class Shared:
    """Ids, images or reports that two sets have in common."""

    kind: str
    count: int  # distinct ones
    examples: list[tuple[str, str]]  # the first three, as (where in one set, where in the other)


def compare(train: Contents, other: Contents, kinds: Sequence[str] = KINDS) -> list[Shared]:
    """What `other` shares with `train`, for each of `kinds`."""
    shared = []
    if "patients" in kinds:
        shared.append(_same("patients", train.patients, other.patients))
    if "studies" in kinds:
        shared.append(_same("studies", train.studies, other.studies))
    if "images" in kinds:
        shared.append(_same("images, same bytes", train.image_hashes, other.image_hashes))
        shared.append(_similar_images(train, other))
    if "reports" in kinds:
        shared.append(_same("reports", _distinctive(train), _distinctive(other)))
    return shared


def shared_patients(
    train: Iterable[Mapping[str, Any]], other: Iterable[Mapping[str, Any]], column: str = "patient"
) -> list[str]:
    """Ids of `column` that are in both sets of rows, sorted; `prepare` checks every plan by it.

    Rows without the column do not count.
    """
    ids = [
        {str(row[column]) for row in rows if row.get(column) not in (None, "")}
        for rows in (train, other)
    ]
    return sorted(ids[0] & ids[1])


def _same(kind: str, train: dict[str, str], other: dict[str, str]) -> Shared:
    both = sorted(train.keys() & other.keys())
    return Shared(kind, len(both), [(train[key], other[key]) for key in both[:3]])


def _distinctive(contents: Contents) -> dict[str, str]:
    """Reports that are long enough, and not used for several patients of the same set.

    Several patients share a template, as for normal images.
    """
    return {
        text: where
        for text, where in contents.reports.items()
        if len(text.split()) >= SHORT and len(contents.report_patients[text]) <= 1
    }


def _similar_images(train: Contents, other: Contents) -> Shared:
    """Pairs of images whose hashes differ in at most 4 of 64 bits and whose thumbnails correlate.

    Pairs of the same bytes are included. All pairs are compared by a matrix product of +-1 bits, a
    block at a time: Hamming distance = (64 - dot product) / 2.
    """
    examples, count = [], 0
    # these properties convert lists to arrays: once here, not once per block
    hashes, thumbnails = train.hashes, train.thumbnails
    other_signs, other_thumbnails = _signs(other.hashes), _standardised(other.thumbnails)
    step = min(2048, BLOCK // max(1, len(other_thumbnails)) + 1)
    for first in range(0, len(hashes) if len(other_thumbnails) else 0, step):
        products = _signs(hashes[first : first + step]) @ other_signs.T  # (step, N of other)
        pairs = np.argwhere(products >= 64 - 2 * ALIKE_BITS)
        block = _standardised(thumbnails[first : first + step])
        for start in range(0, len(pairs), CANDIDATES):
            i, j = pairs[start : start + CANDIDATES].T
            correlation = np.einsum("ij,ij->i", block[i], other_thumbnails[j])
            similar = correlation >= ALIKE_CORRELATION
            count += int(similar.sum())
            examples += [
                (train.image_names[first + a], other.image_names[b])
                for a, b in zip(i[similar][:3], j[similar][:3])
            ]
    return Shared("similar images (pairs)", count, examples[:3])


def _signs(hashes: np.ndarray) -> np.ndarray:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _standardised(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 1024) of mean 0 and length 1, so that a dot product is a correlation.

    A blank image becomes zeros and correlates with nothing.
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
    """Run the command. 0: nothing is shared, 1: something is shared, 2: a set cannot be read."""
    parser = argparse.ArgumentParser(
        prog="openclip-eclip overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="SET",
        help="the training set, then the sets to compare it with; or one folder",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        help="what is compared (default: all)",
    )
    add_read_arguments(parser)
    args = parser.parse_args(argv)
    leaks = 0
    try:
        for name, train, other in _pairs(args.paths, args.compare, read_options(args)):
            sys.stdout.write(f"{name}:\n  {train.summary()}\n  {other.summary()}\n")
            for shared in compare(train, other, args.compare):
                leaks += shared.count
                sys.stdout.write(f"  shared {shared.kind}: {shared.count}\n")
                sys.stdout.writelines(
                    f"    {in_train} = {in_other}\n" for in_train, in_other in shared.examples
                )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
