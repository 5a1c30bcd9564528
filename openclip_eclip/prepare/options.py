"""The options that all raw data sets share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from ..config import UserError
from ..data.images import options as reading
from ..data.images.options import ReadOptions


class Options(NamedTuple):
    """How samples are written."""

    out: Path
    size: int | None  # shortest side in pixels; None keeps the original size
    quality: int  # of JPEGs, 1 to 100
    format: str  # csv or webdataset
    workers: int  # processes
    limit: int | None  # samples of each split; None: all
    part: tuple[int, int]  # (index, number) of this job; (0, 1): one job does everything
    shard_size: int  # samples in a shard
    skip_bad: bool  # skip unreadable samples instead of stopping
    reading: ReadOptions = ReadOptions()


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds SRC, OUT and the options that all raw data sets share."""
    parser.add_argument("src", type=Path, metavar="SRC", help="folder of the raw data set")
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder to write to; the same command resumes an interrupted run",
    )
    add_writing_arguments(parser)
    add_shard_size_argument(parser)


def add_shard_size_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard-size",
        type=int,
        default=1000,
        help="number of samples in a shard (default: %(default)s)",
    )


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of images, of the output format and of parallel work."""
    add_image_arguments(parser)
    reading.add_read_arguments(parser)
    parser.add_argument(
        "--format",
        choices=("csv", "webdataset"),
        default="webdataset",
        help="output: a CSV table with files, or webdataset shards (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="number of processes (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="writes only the first N samples of each split")
    parser.add_argument(
        "--part",
        default="0/1",
        metavar="I/N",
        help=(
            "runs job I (from 0) of N; the N jobs share the work and the folder OUT (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help=(
            "what an unreadable sample does: it stops the run, or is skipped, counted and named"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="reads only tables and reports, and prints rows, patients and images of each class",
    )


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of written images."""
    parser.add_argument(
        "--size",
        default="256",
        metavar="PIXELS",
        help="shortest side of the written images, or 'original' (default: %(default)s)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=95,
        help="quality of the written JPEGs, 1 to 100 (default: %(default)s)",
    )


def read_options(args: argparse.Namespace) -> Options:
    """The options of the arguments.

    Raises:
        UserError: a value is out of range.
    """
    size = None if args.size == "original" else _whole(args.size, "--size", 16)
    try:
        part, parts = (int(number) for number in args.part.split("/"))
    except ValueError as error:
        raise UserError(
            f"--part {args.part}: expected I/N, such as 0/8 for the first of eight jobs."
        ) from error
    if not 0 <= part < parts:
        raise UserError(f"--part {args.part}: expected I from 0 to N - 1.")
    if not 1 <= args.quality <= 100:
        raise UserError(f"--quality {args.quality}: expected 1 to 100.")
    for flag in ("workers", "shard_size", "limit"):
        if getattr(args, flag) is not None:
            _whole(getattr(args, flag), f"--{flag.replace('_', '-')}", 1)
    return Options(
        args.out,
        size,
        args.quality,
        args.format,
        args.workers,
        args.limit,
        (part, parts),
        args.shard_size,
        args.on_bad_sample == "skip",
        reading.read_options(args),
    )


def _whole(value: str | int, flag: str, minimum: int) -> int:
    is_whole = str(value).isascii() and str(value).isdigit()
    if not is_whole or int(value) < minimum:
        raise UserError(f"{flag} {value}: expected a whole number of at least {minimum}.")
    return int(value)
