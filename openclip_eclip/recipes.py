"""Recipes: named settings, and those of them that depend on the size of the data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .flag_checks import COMPUTED

KEPT_METHODS = ("clip", "align")  # those whose images are views of the data, for --cache-tokens
KEPT_FOLDER = "kept_tokens"  # of --recipe small-data, in the folder of all runs
PATIENCE = 20  # validations without a better one, after which --recipe small-data ends a run


@dataclass(frozen=True)
class Recipe:
    """The paper's settings (§4.1); a flag the user gives wins over any of them.

    'eclip-plus' and 'small-data' are not in the paper (docs/train/eclip-plus.md, small-data.md).
    `frozen`: for towers that are trained already. Both stay as they are, what they compute is kept,
    and the best epoch on --val-data too. Of the other epochs only the last leaves a checkpoint,
    since each holds the frozen towers again.
    """

    method: str
    steps: int
    lr: float
    batch_size: int = 512  # over all ranks and accumulated micro-batches
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 1e-3
    context_length: int | None = 256  # None: the model's own
    # share of the image's area, as in the authors' code; open_clip's default is 0.9 to 1
    crop_scale: tuple[float, float] = (0.5, 1.0)
    frozen: bool = False
    precision: str | None = None  # None: open_clip's default
    workers: int | None = None
    align_weight: float | None = None
    align_min_share: float | None = None

    def flags(self) -> list[str]:
        """The settings as flags for the front of a command line: the user's flags then win."""
        optional = {
            "force-context-length": self.context_length,
            "precision": self.precision,
            "workers": self.workers,
            "save-frequency": 0 if self.frozen else None,
        }
        return [
            *(f"--{name}={value}" for name, value in optional.items() if value is not None),
            f"--lr={self.lr}",
            f"--wd={self.weight_decay}",
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
    # 100 to 2 000 images and trained towers; docs/results/real.md
    "small-data": Recipe(
        "align",
        steps=120,
        lr=1e-3,
        batch_size=64,
        weight_decay=0.01,
        context_length=None,
        crop_scale=(0.9, 1.0),
        align_weight=0.2,
        align_min_share=0.05,
        frozen=True,
        precision="fp32",
        workers=0,  # samples of a table stay in memory
    ),
}
FINE_TUNING = ("eclip-p", "m3-mix", "small-data")  # recipes that start from a trained CLIP


def fill_recipe(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Fill in the recipe's flags of this package that the user has not given.

    `names`: the parts of --method.
    """
    if args.recipe is None:
        return
    recipe = RECIPES[args.recipe]
    filled: dict[str, Any] = {}
    if "align" in names:
        filled |= {"align_weight": recipe.align_weight, "align_min_share": recipe.align_min_share}
    if recipe.frozen:
        filled |= _frozen_flags(args, names)
    for name, value in filled.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _frozen_flags(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Flags for trained towers, where they agree with what the user has given."""
    filled: dict[str, Any] = {
        f"freeze_{tower}": "all"
        for tower in ("image", "text")
        if not (getattr(args, f"lock_{tower}") or getattr(args, f"lora_{tower}"))
    }
    is_kept = "freeze_image" in filled and set(names) <= set(KEPT_METHODS)
    if is_kept and not args.torchcompile:
        filled["cache_tokens"] = str(Path(args.logs, KEPT_FOLDER))
        filled["cache_crops"] = 2
    if args.val_data:
        filled["keep_best"], filled["patience"] = "mean-rank", PATIENCE
    return filled


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
