"""A ResNet for phantoms with a grid of 8 x 8 positions for 64 pixels.

The smallest ResNets of timm have 2 x 2 positions.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet


@register_model
def phantom_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """A stem of 64 channels, then four blocks of 16 to 128 channels at strides 4, 8, 8, 8.

    open_clip can use it as a timm tower, also with attention pooling.
    """
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    model = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm asks for an instance, and calls a class
        (1, 1, 1, 1),
        channels=(16, 32, 64, 128),
        output_stride=8,
        **kwargs,
    )
    # torch declares every attribute of a module as a tensor or a module
    model.pretrained_cfg = model.default_cfg = {  # type: ignore[assignment]
        "pool_size": (8, 8),
        "input_size": (3, 64, 64),
    }
    return model
