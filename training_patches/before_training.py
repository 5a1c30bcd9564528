"""Checks before the first step that need the built model or the read data."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol, cast

import open_clip
import torch
from open_clip.transform import AugmentationCfg
from open_clip_train.distributed import is_master

from openclip_eclip.config import UserError
from openclip_eclip.flag_checks import schedule_warnings
from openclip_eclip.model_errors import check_model_name

from .run_settings import differences

logger = logging.getLogger(__name__)


class Lockable(Protocol):
    """What every model of open_clip offers to freeze its towers."""

    def lock_image_tower(self, *, unlocked_groups: int, freeze_bn_stats: bool) -> None: ...

    def lock_text_tower(self, *, unlocked_layers: int, freeze_layer_norm: bool) -> None: ...


HEADS = ("logit_scale", "logit_bias")  # parameters that belong to no tower


def check_names(args: argparse.Namespace) -> None:
    """UserError for a model or an augmentation that open_clip does not know."""
    check_model_name(args.model, open_clip.list_models())
    known = {field.name for field in dataclasses.fields(AugmentationCfg)}
    unknown = sorted(set(args.aug_cfg or {}) - known)
    if unknown:
        raise UserError(
            f"--aug-cfg {unknown[0]}=...: unknown; expected one of {', '.join(sorted(known))}."
        )


def check_optimiser(args: argparse.Namespace) -> None:
    """UserError for an unknown optimiser of timm, or one without a value that it needs."""
    if not args.opt.lower().startswith("timm/"):
        return
    from timm.optim import get_optimizer_info

    try:
        info = get_optimizer_info(args.opt.lower().removeprefix("timm/"))
    except ValueError as error:
        raise UserError(f"--opt {args.opt} is not known to timm.") from error
    missing = [
        flag
        for flag, value, needed in (("--lr", args.lr, True), ("--eps", args.eps, info.has_eps))
        if needed and value is None
    ]
    if missing:
        raise UserError(
            f"--opt {args.opt}: give {' and '.join(missing)}, for which open_clip has "
            "defaults with adamw only."
        )


def check_towers(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """UserError for flags of the towers that this model ignores, or that end in a traceback."""
    _check_image_size(args.model, model.visual)
    is_timm = hasattr(model.visual, "trunk")
    if args.pretrained_image and not is_timm:
        raise UserError(
            f"--pretrained-image with --model {args.model}: its image tower is "
            "open_clip's own, which has no ImageNet weights; take a "
            "model with a timm tower, or --pretrained TAG."
        )
    if args.force_patch_dropout and not is_timm and not hasattr(model.visual, "patch_dropout"):
        raise UserError(
            f"--force-patch-dropout with --model {args.model}: its image tower has no "
            "patches to drop; leave it out."
        )
    for tower, lock in (("image", _lock_image), ("text", _lock_text)):
        if getattr(args, f"lock_{tower}"):
            before = sum(parameter.requires_grad for parameter in model.parameters())
            try:
                lock(args, cast(Lockable, model))  # open_clip locks it again, with the same result
            except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
                raise UserError(
                    f"--lock-{tower} cannot be done in this way with --model "
                    f"{args.model}: {error or type(error).__name__}"
                ) from error
            if sum(parameter.requires_grad for parameter in model.parameters()) == before:
                raise UserError(
                    f"--lock-{tower} leaves all layers of --model {args.model} "
                    "unlocked: give a lower number of unlocked ones."
                )
    if args.train_data and not any(
        p.requires_grad for name, p in model.named_parameters() if name not in HEADS
    ):
        raise UserError(
            "--lock-image with --lock-text leaves nothing to train but the logit "
            "scale: drop one of them, or unlock some layers."
        )


def _lock_image(args: argparse.Namespace, model: Lockable) -> None:
    model.lock_image_tower(
        unlocked_groups=args.lock_image_unlocked_groups,
        freeze_bn_stats=args.lock_image_freeze_bn_stats,
    )


def _lock_text(args: argparse.Namespace, model: Lockable) -> None:
    is_own_tower = not hasattr(getattr(model, "text", None), "config")  # of open_clip
    if is_own_tower and not args.lock_text_freeze_layer_norm:
        raise AssertionError(
            "its LayerNorm weights are locked with the rest: add --lock-text-freeze-layer-norm"
        )
    model.lock_text_tower(
        unlocked_layers=args.lock_text_unlocked_layers,
        freeze_layer_norm=args.lock_text_freeze_layer_norm,
    )


def _check_image_size(name: str, visual: Any) -> None:
    """UserError for a timm tower of one size that is given images of another."""
    patches = getattr(getattr(visual, "trunk", None), "patch_embed", None)
    own = getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", False) else None
    if own is not None and tuple(own) != tuple(visual.image_size):
        given, taken = (" x ".join(map(str, size)) for size in (visual.image_size, own))
        raise UserError(
            f"--model {name}: its images are {given} pixels (image_size of its config, or"
            f" --force-image-size), and timm's {type(visual.trunk).__name__} takes {taken} alone;"
            " give that size, or a timm model of another."
        )


def before_first_step(
    args: argparse.Namespace,
    data: Mapping[str, Any],
    epoch: int,
    resumed: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    resume_latest: bool,
) -> None:
    """Warn of a schedule that trains nothing and of settings that differ from the checkpoint's.

    `epoch`: complete epochs; `resumed`: settings of the checkpoint, None without one. UserError if
    no step is left.
    """
    if "train" not in data:
        return
    warnings = [
        f"resuming with another setting: {line}" for line in differences(resumed or {}, settings)
    ]
    if epoch >= args.epochs:
        done = f"all {args.epochs} epochs are done, the checkpoint has {epoch}"
        if not resume_latest:
            raise UserError(
                f"--resume {args.resume}: {done}, so there is nothing to train; give "
                "more --epochs, or evaluate the checkpoint."
            )
        warnings.append(f"{done}: nothing is trained")
    warnings = (
        schedule_warnings(args, data["train"].dataloader.num_batches, args.world_size) + warnings
    )
    if is_master(args) and (note := optimiser_note(args)):
        logger.info("eclip: %s", note)
    for warning in warnings if is_master(args) else ():
        logger.warning("eclip: %s", warning)


def optimiser_note(args: argparse.Namespace) -> str | None:
    """For a model of a folder: what AdamW works with, since open_clip takes it from the name."""
    if ":" not in args.model or args.opt.lower() != "adamw":
        return None
    return (
        f"AdamW with beta2 {args.beta2:g} and eps {args.eps:g}: where --beta1, --beta2 and --eps"
        " are not given, open_clip chooses them by 'vit' in --model, the folder's name included"
    )
