"""Checks of single flags, open_clip's and ours, before anything is built: one sentence an error."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .config import REMOVED, RENAMED, UserError, flag_of

COMPUTED = -1  # placeholder of a recipe for a number that depends on the size of the data


def _number(
    low: float = -math.inf, high: float = math.inf, above: bool = False
) -> Callable[[Any], bool]:
    """A test whether a value is finite and from `low` to `high`; `above`: greater than `low`."""
    return lambda value: (
        math.isfinite(value) and (value > low if above else value >= low) and value <= high
    )


# flag: (test of a value, what is expected)
AT_LEAST_0 = (_number(0), "0 or more")
AT_LEAST_1 = (_number(1), "1 or more")
POSITIVE = (_number(0, above=True), "a number above 0")
UP_TO_1 = (_number(0, 1, above=True), "a number above 0 and at most 1")
BELOW_1 = (lambda value: 0 <= value < 1, "0 or more and below 1")
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": AT_LEAST_0,
    "wd": AT_LEAST_0,
    "beta1": BELOW_1,
    "beta2": BELOW_1,
    "momentum": BELOW_1,
    "eps": POSITIVE,
    "epochs": AT_LEAST_1,
    "batch_size": AT_LEAST_1,
    "accum_freq": AT_LEAST_1,
    "warmup": AT_LEAST_0,
    "epochs_cooldown": AT_LEAST_0,
    "lr_cooldown_end": AT_LEAST_0,
    "lr_cooldown_power": POSITIVE,
    "grad_clip_norm": POSITIVE,
    "workers": AT_LEAST_0,
    "seed": (_number(0, 2**31), "0 to 2147483648"),
    "save_frequency": AT_LEAST_0,
    "val_frequency": AT_LEAST_0,
    "zeroshot_frequency": AT_LEAST_0,
    "log_every_n_steps": AT_LEAST_1,
    "train_num_samples": AT_LEAST_1,
    "val_num_samples": AT_LEAST_1,
    "remote_sync_frequency": AT_LEAST_1,
    "force_context_length": AT_LEAST_1,
    "force_patch_dropout": BELOW_1,
    "lock_image_unlocked_groups": AT_LEAST_0,
    "lock_text_unlocked_layers": AT_LEAST_0,
    "expert_batch_size": AT_LEAST_1,
    "cache_crops": AT_LEAST_1,
    "patience": AT_LEAST_1,
    "minutes": POSITIVE,
    "same_text_similarity": (lambda value: 0 < value < 1, "a number above 0 and below 1"),
    "lora_image": AT_LEAST_1,
    "lora_text": AT_LEAST_1,
    "image_layer_decay": UP_TO_1,
    "text_layer_decay": UP_TO_1,
}
LISTS = {
    "force_image_size": (AT_LEAST_1, (1, 2)),
    "image_mean": ((_number(), "finite numbers"), (1, 3)),
    "image_std": (POSITIVE, (1, 3)),
}
COMPUTABLE = ("epochs", "batch_size", "warmup")
# flag: the flag without which open_clip silently ignores it
NEEDS = {
    "lock_image_unlocked_groups": "lock_image",
    "lock_image_freeze_bn_stats": "lock_image",
    "lock_text_unlocked_layers": "lock_text",
    "lock_text_freeze_layer_norm": "lock_text",
    "train_data_upsampling_factors": "dataset_resampled",
    "loss_dist_impl": "siglip",
    "cache_tokens": "freeze_image",
    "cache_crops": "cache_tokens",
    "cache_tokens_dtype": "cache_tokens",
    "keep_best": "val_data",
    "patience": "keep_best",
    "fast_jpeg": "train_data",
}
REPORTERS = ("tensorboard", "wandb", "all", "none")
SCHEDULES = ("cosine", "const", "const-cooldown")


def current_spelling(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line with today's names of flags, and a notice for each old name in it.

    UserError where both names of a flag are given with different values, and for a flag that went.
    """
    words, notices = list(argv), []
    for flag in map(flag_of, REMOVED):
        if _values_of(flag, words):
            raise UserError(
                f"{flag} went after release 0.1, since it brought no gain; drop it, or use release"
                " 0.1."
            )
    for old, new in ((flag_of(old), flag_of(new)) for old, new in RENAMED.items()):
        given, given_new = _values_of(old, words), _values_of(new, words)
        if not given:
            continue
        if given_new and not _same_value(given[-1], given_new[-1]):
            raise UserError(
                f"{old} {given[-1]} with {new} {given_new[-1]}: two names of one setting; drop"
                f" {old}."
            )
        notices.append(f"{old} is now {new}; the old spelling goes in the next release.")
        words = [re.sub(f"^{old}(?==|$)", new, word) for word in words]
    return words, notices


def _values_of(flag: str, words: Sequence[str]) -> list[str]:
    """What follows `flag`, as `--flag value` or `--flag=value`, each time it is given."""
    pairs = [
        word.split("=", 1) if "=" in word else [word, following]
        for word, following in zip(words, [*words[1:], ""])
    ]
    return [value for name, value in pairs if name == flag]


def _same_value(first: str, second: str) -> bool:
    try:
        return float(first) == float(second)
    except ValueError:
        return first == second


def check_flags(args: argparse.Namespace) -> None:
    """UserError for a value that no run can work with.

    A value that a recipe has yet to compute is not checked.
    """
    for name, (right, expected) in RANGES.items():
        value = getattr(args, name)
        computed = args.recipe and name in COMPUTABLE and value == COMPUTED
        if value is not None and not computed and not right(value):
            raise UserError(f"{flag_of(name)} {value}: expected {expected}.")
    for name, ((right, expected), lengths) in LISTS.items():
        values = getattr(args, name)
        values = [] if values is None else values if isinstance(values, Sequence) else [values]
        if values and (len(values) not in lengths or not all(map(right, values))):
            raise UserError(
                f"{flag_of(name)} {' '.join(map(str, values))}: expected "
                f"{' or '.join(map(str, lengths))} numbers, each {expected}."
            )
    for name, other in NEEDS.items():
        if getattr(args, name) and not getattr(args, other):
            raise UserError(
                f"{flag_of(name)} without {flag_of(other)} has no effect: give both, or drop it."
            )
    if args.name is not None and not args.name.strip():
        raise UserError(
            "--name is empty: give the run a name, or drop the flag for one made from "
            "date and settings."
        )
    if args.name is not None and (Path(args.name).is_absolute() or ".." in Path(args.name).parts):
        raise UserError(
            f"--name {args.name}: leads out of the folder of all runs; give a name, and the folder "
            "with --runs-dir."
        )
    _check_report_to(args.report_to)
    if args.resume == "latest" and not args.name:
        raise UserError(
            "--resume latest without --name: a new name is made for each run, so "
            "nothing would be found to continue; give the run's --name."
        )
    _check_optimiser(args)
    _check_device(args.device)
    _check_augmentation(args.aug_cfg or {})


def _check_report_to(report_to: str) -> None:
    """UserError for an unknown name, which open_clip would ignore."""
    unknown = [
        name for name in report_to.split(",") if name.strip() and name.strip() not in REPORTERS
    ]
    if unknown:
        raise UserError(
            f"--report-to {report_to}: {unknown[0]!r} is none of {', '.join(REPORTERS)}."
        )


def check_own_numbers(args: argparse.Namespace, actions: Sequence[argparse.Action]) -> None:
    """UserError for a NaN or an infinity in one of our own flags, `actions`."""
    for action in actions:
        value = getattr(args, action.dest, None)
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in values):
            raise UserError(
                f"{action.option_strings[0]} {' '.join(map(str, values))}: expected finite numbers."
            )


def _check_optimiser(args: argparse.Namespace) -> None:
    if args.opt.lower() != "adamw" and not args.opt.lower().startswith("timm/"):
        raise UserError(f"--opt {args.opt} is not known; expected adamw, or timm/NAME.")
    if args.opt.lower() == "adamw" and args.momentum is not None:
        raise UserError("--momentum with --opt adamw has no effect: use --beta1, or drop it.")
    if (args.beta1 is None) != (args.beta2 is None):
        raise UserError(f"--beta1 and --beta2 with --opt {args.opt}: give both or neither.")
    if args.lr_scheduler not in SCHEDULES:
        raise UserError(
            f"--lr-scheduler {args.lr_scheduler} is not known; expected one of "
            f"{', '.join(SCHEDULES)}."
        )
    if args.lr_scheduler == "const-cooldown":
        if args.epochs_cooldown is None:
            raise UserError(
                "--lr-scheduler const-cooldown: give --epochs-cooldown, the number of "
                "epochs at the end with a falling rate."
            )
        if args.epochs != COMPUTED and args.epochs_cooldown > args.epochs:
            raise UserError(
                f"--epochs-cooldown {args.epochs_cooldown} is more than --epochs {args.epochs}."
            )
    elif args.epochs_cooldown is not None:
        raise UserError(
            f"--epochs-cooldown with --lr-scheduler {args.lr_scheduler} has no "
            "effect: give const-cooldown, or drop it."
        )


def _check_device(device: str) -> None:
    try:
        torch.device(device)
    except RuntimeError as error:
        raise UserError(
            f"--device {device} is not a device; expected cpu, cuda or cuda:N."
        ) from error


def _check_augmentation(settings: dict[str, Any]) -> None:
    scale = settings.get("scale")
    if scale is not None:
        pair = (
            isinstance(scale, (tuple, list))
            and len(scale) == 2
            and all(isinstance(x, (int, float)) for x in scale)
        )
        if not pair or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(
                f"--aug-cfg scale={scale}: expected two shares of the image's area, 0 "
                "< LOW <= HIGH <= 1, e.g. scale=(0.5,1.0)."
            )


def check_data_flags(args: argparse.Namespace) -> None:
    """UserError if there is nothing to train on or to evaluate."""
    if not (
        args.train_data
        or args.dataset_type == "synthetic"
        or args.val_data
        or args.imagenet_val
        or args.imagenet_v2
    ):
        raise UserError(
            "no data: give --train-data FILE, e.g. --train-data train.csv (columns "
            "filepath, title and, where annotated, heatmap) "
            "or --train-data 'shards/{000000..000009}.tar'."
        )


def check_learning(args: argparse.Namespace, world_size: int) -> None:
    """UserError where every loss of the run would be 0, since a single pair has no negative."""
    together = args.batch_size * args.accum_freq * world_size
    if args.train_data and together == 1 and not args.siglip and args.method == "clip":
        raise UserError(
            "--batch-size 1: the loss of CLIP compares the pairs of a batch, so the loss "
            "of one pair is always 0; give 2 or more."
        )


def schedule_warnings(
    args: argparse.Namespace, batches_per_epoch: int, world_size: int
) -> list[str]:
    """Warnings before training: settings that are allowed and seldom meant.

    `batches_per_epoch`: of one rank. Call this once epochs, warm-up and batch size are known.
    UserError if the run has no step at all.
    """
    if batches_per_epoch < args.accum_freq:
        raise UserError(
            f"--accum-freq {args.accum_freq} is more than the {batches_per_epoch} "
            "batches of an epoch, so no step would be taken; "
            f"give at most {batches_per_epoch}, or lower --batch-size "
            f"{args.batch_size}."
        )
    steps, warnings = batches_per_epoch // args.accum_freq * args.epochs, []
    if args.lr == 0:
        warnings.append("--lr 0: nothing will be learned")
    elif args.warmup >= steps and not args.skip_scheduler:
        reached = args.lr * steps / args.warmup
        warnings.append(
            f"warm-up of {args.warmup} steps, the run has {steps}: the learning rate "
            f"will not pass {reached:.3g} of --lr {args.lr:g}; "
            f"give --warmup, e.g. {steps // 10}, or --recipe"
        )
    if args.batch_size * args.accum_freq * world_size == 1 and not args.siglip:
        warnings.append(
            "--batch-size 1: the contrastive loss of one pair is always 0; only "
            "annotated samples can be learned from"
        )
    return warnings
