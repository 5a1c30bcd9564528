"""Image features before the projection, for open_clip's and timm's towers."""

from __future__ import annotations

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn


def encode_with_pooled(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    visual = model.visual
    if (
        isinstance(visual, VisionTransformer)
        and visual.proj is not None
        and not visual.output_tokens
    ):
        # the projection is no module that a hook could watch
        projection, visual.proj = (
            visual.proj,
            None,
        )
        try:
            pooled = model.encode_image(pixels)
        finally:
            visual.proj = projection
        return pooled @ projection, pooled
    watched = _last_module(visual)
    if watched is None:
        return model.encode_image(pixels), None
    seen: list[Tensor] = []
    handle = watched.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        features = model.encode_image(pixels)
    finally:
        handle.remove()
    pooled = seen[0]
    # attention pooling projects by itself
    return features, (pooled.mean((2, 3)) if pooled.ndim == 4 else pooled)


def _last_module(visual: nn.Module) -> nn.Module | None:
    """The module whose input is the tower's feature before projection; None where there is none."""
    if isinstance(visual, ModifiedResNet):
        return visual.attnpool
    if isinstance(visual, TimmModel):
        if len(visual.head):
            return visual.head
        classifier = visual.trunk.get_classifier()
        return classifier if isinstance(classifier, nn.Linear) else None
    return None
