"""The options all raw data sets share, checked once."""

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
    size: int | None  # shortest side in pixels; None keeps the original
    quality: int
    format: str
    workers: int
    limit: int | None
    part: tuple[int, int]  # (0, 1): everything
    shard_size: int
    skip_bad: bool
    reading: ReadOptions = ReadOptions()


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """SRC, OUT and what every raw data set's command understands."""
    parser.add_argument("src", type=Path, metavar="SRC", help="folder of the raw data set")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder to write to; an interrupted run goes on"
    )
    add_writing_arguments(parser)
    parser.add_argument(
        "--shard-size", type=int, default=1000, help="samples a shard (default: %(default)s)"
    )


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """What to write, how, and by how many."""
    add_image_arguments(parser)
    reading.add_read_arguments(parser)
    parser.add_argument(
        "--format",
        choices=("csv", "webdataset"),
        default="webdataset",
        help="(default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first N samples of each split")
    parser.add_argument(
        "--part",
        default="0/1",
        metavar="I/N",
        help="the I-th (from 0) of N jobs that share the work and OUT (default: %(default)s)",
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help="an unreadable sample stops the run, or is counted and named (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read the tables or reports alone; print rows, patients and counts by class",
    )


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """How images are written."""
    parser.add_argument(
        "--size",
        default="256",
        metavar="PIXELS",
        help="shortest side, or 'original' (default: %(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=95, help="of the JPEGs (default: %(default)s)"
    )


def read_options(args: argparse.Namespace) -> Options:
    """Options from the arguments; UserError for a value out of range."""
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


def _whole(value: str | int, flag: str, least: int) -> int:
    if not (str(value).isascii() and str(value).isdigit()) or int(value) < least:
        raise UserError(f"{flag} {value}: expected a whole number of at least {least}.")
    return int(value)
