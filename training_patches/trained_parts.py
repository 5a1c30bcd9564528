"""Which parts of the model a run trains: frozen towers, LoRA, a fresh pool."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch

from openclip_eclip.towers.frozen import freeze_image_tower, freeze_text_tower

from .before_training import check_towers

logger = logging.getLogger(__name__)


def choose_trained_parts(model: torch.nn.Module, args: argparse.Namespace) -> None:
    """Freeze towers and add LoRA as the flags say.

    UserError: a tower that does not allow it, or nothing of it would be trained.
    """
    if args.image_head != "keep" and not args.resume:
        log_image_head(model)
    if args.freeze_image:
        freeze_image_tower(model.visual, args.freeze_image)  # type: ignore[arg-type]
    if args.freeze_text:
        freeze_text_tower(model, args.freeze_text)
    if args.lora_image or args.lora_text:
        from openclip_eclip.towers.low_rank import add_low_rank  # needs the extra

        add_low_rank(model, args.lora_image, args.lora_text)
    check_towers(args, model)


def log_image_head(model: Any) -> None:
    """Say which weights of --image-head the start has not brought."""
    if model.fresh_weights is None:
        logger.info("eclip: --image-head: the image tower has an attention pool, which is kept")
    elif model.fresh_weights:
        logger.info(
            "eclip: --image-head: the pool begins as the average over positions; fresh weights: %s",
            ", ".join(f"visual.{name}" for name in model.fresh_weights),
        )
