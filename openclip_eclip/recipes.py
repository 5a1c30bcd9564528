"""Recipes: named settings, and those of them that depend on the size of the data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .flag_checks import COMPUTED


@dataclass(frozen=True)
class Recipe:
    """The paper's settings (§4.1); a flag the user gives wins over any of them.

    'eclip-plus' is not in the paper (docs/train/eclip-plus.md).
    """

    method: str
    steps: int
    lr: float
    batch_size: int = 512  # over all ranks and accumulated micro-batches
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 1e-3
    context_length: int = 256
    # share of the image's area, as in the authors' code; open_clip's default is 0.9 to 1
    crop_scale: tuple[float, float] = (0.5, 1.0)
    align_weight: float | None = None
    align_min_share: float | None = None

    def flags(self) -> list[str]:
        """The settings as flags for the front of a command line: the user's flags then win."""
        return [
            f"--lr={self.lr}",
            f"--wd={self.weight_decay}",
            f"--force-context-length={self.context_length}",
            "--lr-scheduler=cosine",
            f"--aug-cfg=scale={self.crop_scale}",
            f"--batch-size={COMPUTED}",
            f"--epochs={COMPUTED}",
            f"--warmup={COMPUTED}",
        ]


RECIPES = {
    "clip": Recipe("clip", steps=10_000, lr=1e-4),
    "eclip": Recipe("eclip", steps=10_000, lr=2e-4),
    "eclip-p": Recipe("eclip", steps=1_000, lr=1e-5),
    "m3-mix": Recipe("m3-mix", steps=1_000, lr=1e-5),
    "eclip-plus": Recipe("align", steps=10_000, lr=1e-4, align_weight=0.2, align_min_share=0.05),
}
FINE_TUNING = ("eclip-p", "m3-mix")  # recipes that start from a trained CLIP


def fill_batch_size(args: argparse.Namespace, world_size: int) -> None:
    """Spread the recipe's effective batch over ranks and micro-batches, unless a size is given."""
    if args.batch_size == COMPUTED:
        recipe = RECIPES[args.recipe]
        args.batch_size = max(1, recipe.batch_size // (world_size * args.accum_freq))


def fill_schedule(args: argparse.Namespace, batches_per_epoch: int) -> dict[str, Any]:
    """Fill in the epochs that reach the recipe's steps, and its warm-up.

    Returns what was filled in, for the log.
    """
    if args.recipe is None:
        return {}
    filled = {}
    steps = max(1, batches_per_epoch // args.accum_freq)
    recipe = RECIPES[args.recipe]
    if args.epochs == COMPUTED:
        filled["epochs"] = args.epochs = -(-recipe.steps // steps)
    if args.warmup == COMPUTED:
        filled["warmup"] = args.warmup = round(recipe.warmup * steps * args.epochs)
    return filled


def with_recipe(recipe: str | None, rest: Sequence[str]) -> list[str]:
    """open_clip's arguments with the recipe's flags in front.

    argparse keeps the last value of a flag, so the user's win.
    """
    return (RECIPES[recipe].flags() if recipe else []) + list(rest)
