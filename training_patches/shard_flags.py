"""Checks of flags about shards against the content of the shards; counts are filled in."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import open_clip_train.data as upstream

from openclip_eclip.config import DataError
from openclip_eclip.data.shards.sizes import compare_sizes
from openclip_eclip.data.shards.stream import expand_shards, is_remote, local_path

logger = logging.getLogger(__name__)


def shard_files(path: str) -> list[Path] | None:
    """The files of `path` in open_clip's notation; None if a file is not on this machine.

    DataError for another notation.
    """
    urls = expand_shards(path)
    return None if any(map(is_remote, urls)) else [local_path(url) for url in urls]


def local_shards(path: str) -> list[Path] | None:
    """`shard_files`, with a DataError for a missing file."""
    shards = shard_files(path)
    if shards is None:
        return None
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        hint = (
            " Wildcards are not expanded: write train-{000..041}.tar."
            if {"*", "?"} & set(path)
            else ""
        )
        raise DataError(
            f"{path}: no such shard: {missing[0]} ({len(missing)} of {len(shards)} missing).{hint}"
        )
    if len(set(shards)) < len(shards):
        logger.warning(
            "eclip: %s names %d shards, %d of them twice",
            path,
            len(shards),
            len(shards) - len(set(shards)),
        )
    return shards


def check_factors(args: argparse.Namespace) -> None:
    """DataError for --train-data-upsampling-factors that would end in a traceback of open_clip.

    `flag_checks` has checked that --dataset-resampled is given.
    """
    factors = getattr(args, "train_data_upsampling_factors", None)
    if factors is None:
        return
    parts = args.train_data.split("::")
    try:
        values = [float(factor) for factor in factors.split("::")]
    except ValueError:
        values = [math.nan]
    if not all(value >= 0 and math.isfinite(value) for value in values) or not sum(values):
        raise DataError(
            f"--train-data-upsampling-factors {factors}: expected numbers from 0 up joined by ::, "
            "as 1::2.5, not all of them 0."
        )
    if len(values) != len(parts):
        raise DataError(
            f"--train-data-upsampling-factors {factors}: {len(values)} factors for the "
            f"{len(parts)} parts of --train-data; expected one for each part between ::."
        )


def train_samples(args: argparse.Namespace, total: int | None) -> int:
    """--train-num-samples, or the `total` of good samples if it is not given.

    A difference of both is logged. `total` None: remote shards.
    """
    wanted = args.train_num_samples
    if total is None:
        size = wanted or upstream.get_dataset_size(args.train_data)[0]
        if not size:
            raise DataError(
                f"{args.train_data}: not on this machine, so its samples cannot be counted before "
                "training; give --train-num-samples."
            )
        return size
    if wanted is None:
        logger.info("eclip: --train-num-samples is not given: %d, as counted in the shards", total)
        return total
    if wanted > total:
        logger.warning(
            "eclip: --train-num-samples %d, but the shards hold %d: an epoch takes samples %.3g "
            "times on average",
            wanted,
            total,
            wanted / total,
        )
    elif wanted < total:
        logger.info(
            "eclip: --train-num-samples %d: an epoch takes that many of %d samples in the shards",
            wanted,
            total,
        )
    return wanted


def warn_sizes(shards: Sequence[Path], counts: Sequence[int]) -> None:
    """Warn where sizes.json or __len__ beside the shards differs from the counted samples."""
    for message in compare_sizes(shards, counts):
        logger.warning("eclip: %s", message)
