"""Flags of runs and checkpoints, and of frozen towers."""

from __future__ import annotations

import argparse

from .towers.frozen import ALL, BLOCKS, blocks_of

CACHE_CROPS = 4  # default of --cache-crops


def kept_views(args: argparse.Namespace) -> int | None:
    """The number of views of an image with --cache-tokens; None without it."""
    return (args.cache_crops or CACHE_CROPS) if args.cache_tokens else None


def add_saving(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--runs-dir",
        metavar="DIR",
        help=(
            "folder of all runs; the same as --logs, which torchrun takes for its own flag unless "
            "-- stands before the module (default: --logs)"
        ),
    )
    group.add_argument(
        "--save-every-steps",
        type=int,
        metavar="N",
        help=(
            "saves a checkpoint after every N optimiser steps, from which --resume latest continues"
            " in the middle of the epoch (default: only at the end of epochs, and at SIGTERM, "
            "SIGINT and SIGUSR1)"
        ),
    )
    group.add_argument(
        "--save-every-minutes",
        type=float,
        metavar="M",
        help=(
            "saves such a checkpoint at the first step that ends M minutes after the last one "
            "(default: never)"
        ),
    )
    group.add_argument(
        "--keep-last",
        type=int,
        default=2,
        metavar="K",
        help=(
            "keeps the K newest checkpoints within epochs; those of whole epochs are all kept "
            "(default: 2)"
        ),
    )


def frozen_part(value: str) -> str:
    """A value of --freeze-image and --freeze-text."""
    try:
        blocks_of(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{value!r}: expected {ALL}, or {BLOCKS}N with a whole number N, e.g. {BLOCKS}8"
        ) from None
    return value


def add_frozen(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--freeze-image",
        type=frozen_part,
        metavar="{all,blocks:N}",
        help=(
            "freezes the image tower up to its positions (all), or its embedding and its first N "
            "blocks, stages of a CNN (blocks:N); the rest is trained: at least its attention pool "
            "and its projection (default: open_clip's --lock-image, or nothing)"
        ),
    )
    group.add_argument(
        "--freeze-text",
        type=frozen_part,
        metavar="{all,blocks:N}",
        help=(
            "freezes the text tower (all), or its embedding and its first N blocks (blocks:N); the "
            "projection behind a tower of Hugging Face is trained (default: open_clip's "
            "--lock-text, or nothing)"
        ),
    )
    group.add_argument(
        "--cache-tokens",
        metavar="DIR",
        help=(
            "keeps what frozen parts compute in DIR, for all epochs, and for all later runs with"
            " these weights (default: it is computed again)"
        ),
    )
    group.add_argument(
        "--cache-crops",
        type=int,
        metavar="K",
        help=(
            "number of crops of each image that --cache-tokens keeps; each epoch takes one of them"
            f" at random (default: {CACHE_CROPS})"
        ),
    )
    group.add_argument(
        "--cache-tokens-dtype",
        choices=("fp16", "fp32"),
        help="type of the numbers that --cache-tokens keeps (default: fp16)",
    )
