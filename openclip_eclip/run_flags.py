"""Flags of runs, of their end, and of trained towers; some are the benchmark's too."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from .towers.frozen import ALL, BLOCKS, blocks_of

CACHE_CROPS = 4  # default of --cache-crops


def _mean_of(name: str) -> Callable[[Mapping[str, float]], float]:
    return lambda found: (found[f"image_to_text_{name}"] + found[f"text_to_image_{name}"]) / 2


# what open_clip's evaluation gives (a line of its results.jsonl), by the names of --keep-best
OF_EVALUATION: dict[str, Callable[[Mapping[str, float]], float]] = {
    "val-loss": lambda found: found["clip_val_loss"],
    "mean-rank": _mean_of("mean_rank"),
    "recall@5": _mean_of("R@5"),
}
KEPT_METRICS = (*OF_EVALUATION, "grounding")


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


def add_speed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--fast",
        action="store_true",
        help=(
            "sets what makes a step faster, where you have not given it: on a GPU --precision"
            " amp_bf16, if the GPU has it, and --torchcompile; everywhere fused AdamW, and the"
            " memory order channels-last for a CNN (default: open_clip's own settings)"
        ),
    )


def add_stopping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--keep-best",
        choices=KEPT_METRICS,
        help=(
            "measure on --val-data by which the best epoch is kept, as checkpoints/epoch_best.pt: "
            "val-loss, mean-rank and recall@5 (means of image to text and text to image) as "
            "open_clip computes them, or grounding, the NSS of the trained attention on heatmaps "
            "or sentence windows of --val-data (default: no epoch is kept as the best)"
        ),
    )
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help=(
            "number of validations without a better value of --keep-best after which training ends"
            " (default: all epochs are trained)"
        ),
    )
    group.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=(
            "time limit in minutes from the start of the command: training ends at the first step "
            "after it, with a checkpoint that --resume latest continues for M minutes more "
            "(default: all epochs are trained)"
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
    add_cache(group)


def add_cache(group: argparse._ArgumentGroup) -> None:
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


def add_fine_tuning(group: argparse._ArgumentGroup) -> None:
    for tower in ("image", "text"):
        group.add_argument(
            f"--lora-{tower}",
            type=int,
            metavar="RANK",
            help=(
                f"sets the rank of LoRA in the {tower} tower: its weights are frozen, but for pool"
                " and projection, and two small matrices are trained for each linear layer;"
                " export and evaluation see them merged (default: none)"
            ),
        )
    for tower in ("image", "text"):
        group.add_argument(
            f"--{tower}-layer-decay",
            type=float,
            metavar="D",
            help=(
                f"sets the learning rate of layer l of the {tower} tower to lr * D^(L - l), where"
                " L is its head: pool and projection (default: 1, the same rate everywhere)"
            ),
        )
