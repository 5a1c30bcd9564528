"""--image-layer-decay, --text-layer-decay: learning rates that fall towards the first layer.

Groups of the optimiser get a scale, as in open_clip's next version. BEiT (Bao et al. 2022, arXiv
2106.08254, appendix) fine-tunes with such rates.
"""

from __future__ import annotations

import argparse
import logging
from typing import cast

from torch import nn
from torch.optim import Optimizer

from openclip_eclip.config import UserError
from openclip_eclip.towers.depth import image_layers, rate_scales, text_layers

logger = logging.getLogger(__name__)

SCALE = "lr_scale"  # timm's name, and that of open_clip's next version


def assign_learning_rate(optimizer: Optimizer, new_lr: float) -> None:
    """open_clip's function, which gives every group `new_lr`, here times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = new_lr * group.get(SCALE, 1.0)


def with_layer_decay(optimizer: Optimizer, args: argparse.Namespace, model: nn.Module) -> Optimizer:
    """`optimizer`, new, with a group for each scale in the place of each of its groups.

    Without a decay its groups stay as they are. UserError: a tower whose layers are not known, or
    without a trained weight before its head.
    """
    scales: dict[int, float] = {}
    for tower, decay in (("image", args.image_layer_decay), ("text", args.text_layer_decay)):
        if decay in (None, 1.0):
            continue
        layers = (
            image_layers(cast(nn.Module, model.visual)) if tower == "image" else text_layers(model)
        )
        if not any(weight.requires_grad for layer in layers for weight in layer):
            raise UserError(
                f"--{tower}-layer-decay {decay:g}: no weight before the head of the {tower} tower"
                " is trained, so it has no effect; drop it."
            )
        scales |= rate_scales(layers, decay)
        logger.info(
            "eclip: --%s-layer-decay %g: learning rates of %d layers, from %.3g times that of the"
            " head",
            tower,
            decay,
            len(layers),
            decay ** len(layers),
        )
    if scales:
        optimizer.param_groups[:] = _split(optimizer, scales)
    return optimizer


def _split(optimizer: Optimizer, scales: dict[int, float]) -> list[dict]:
    """The groups of `optimizer`, split by scale; the largest is first, since open_clip logs it."""
    groups = []
    for group in optimizer.param_groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for weight in group["params"]:
            parts.setdefault(scales.get(id(weight), 1.0), []).append(weight)
        groups += [
            {**group, "params": weights, SCALE: scale, "lr": group["lr"] * scale}
            for scale, weights in parts.items()
        ]
    return sorted(groups, key=lambda group: -group[SCALE])
