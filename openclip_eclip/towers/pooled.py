"""Image features before the projection, for open_clip's and timm's towers."""

from __future__ import annotations

from typing import cast

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from .host import HostModel, TimmTrunk


def encode_with_pooled(model: HostModel, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Image features (B, D) of `pixels` (B, 3, H, W), and those before the projection, (B, W).

    The first are those of `model.encode_image`. The second are None for a tower without a
    projection.
    """
    visual = model.visual
    if (
        isinstance(visual, VisionTransformer)
        and visual.proj is not None
        and not visual.output_tokens
    ):
        # the projection is a parameter, not a module that could have a hook
        projection, visual.proj = visual.proj, None
        try:
            pooled = model.encode_image(pixels)
        finally:
            visual.proj = projection
        return pooled @ projection, pooled
    last = _last_module(visual)
    if last is None:
        return model.encode_image(pixels), None
    recorded: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
    try:
        features = model.encode_image(pixels)
    finally:
        handle.remove()
    pooled = recorded[0]
    # an attention pool also projects: its input is a map (B, W, h, w)
    return features, (pooled.mean((2, 3)) if pooled.ndim == 4 else pooled)


def _last_module(visual: nn.Module) -> nn.Module | None:
    """The module whose input is the tower's feature before the projection, if there is one."""
    if isinstance(visual, ModifiedResNet):
        return visual.attnpool
    if isinstance(visual, TimmModel):
        if len(visual.head):
            return visual.head
        classifier = cast(TimmTrunk, visual.trunk).get_classifier()
        return classifier if isinstance(classifier, nn.Linear) else None
    return None
