"""--fast: what makes a step faster and leaves its losses as they are, up to rounding.

TF32 is not here: open_clip turns it on itself.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

import torch
from open_clip_train.distributed import is_master
from torch import nn

logger = logging.getLogger(__name__)

MOST_AT_ENTRY = 6  # convolutions before the first block of a ViT with a convolutional stem


def choose_fast(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Set --precision and --torchcompile of `args`, where --fast asks for it and nothing else does.

    `words`: the user's command line. On a CPU both stay as they are: bf16 is slow there, and the
    compiler takes longer than a small run.
    """
    on_gpu = args.device.startswith("cuda") and torch.cuda.is_available()
    if not args.fast or not on_gpu:
        return
    is_given = any(word.split("=")[0] == "--precision" for word in words)
    if not is_given and torch.cuda.is_bf16_supported(False):
        args.precision = "amp_bf16"  # open_clip makes a GradScaler for amp alone
    # those with which a compiled tower does not work
    args.torchcompile |= not (args.cache_tokens or args.same_text_similarity or args.torchscript)


def optimiser_options(args: argparse.Namespace) -> dict[str, Any]:
    """Further arguments of AdamW: one kernel updates all weights."""
    return {"fused": True} if args.fast else {}


def prepare_towers(args: argparse.Namespace, model: nn.Module) -> None:
    """Give the weights of a CNN the order of memory that convolutions prefer, and say what is set.

    Call it before the optimiser is made.
    """
    if not args.fast:
        return
    chosen = [f"--precision {args.precision}"]
    chosen += ["fused AdamW"] if args.opt.lower() == "adamw" else []
    chosen += ["--torchcompile"] if args.torchcompile else []
    visual: Any = model.visual
    if is_cnn(visual):
        visual.to(memory_format=torch.channels_last)
        chosen.append("channels-last image tower")
    if is_master(args):
        logger.info("eclip: --fast: %s", ", ".join(chosen))


def is_cnn(visual: nn.Module) -> bool:
    """Whether the tower is made of convolutions; those of a ViT or Swin are at its entry alone."""
    return sum(isinstance(module, nn.Conv2d) for module in visual.modules()) > MOST_AT_ENTRY
