"""The layers of a tower by depth, for learning rates that fall with the distance to its head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import group_parameters
from torch import nn

from ..config import UserError
from .frozen import after_positions

Layers = list[list[nn.Parameter]]  # the embeddings first; the head is not among them


def rate_scales(layers: Layers, decay: float) -> dict[int, float]:
    """decay^(L - l) for each weight of layer l of L, by the weight's id."""
    return {
        id(parameter): decay ** (len(layers) - depth)
        for depth, layer in enumerate(layers)
        for parameter in layer
    }


def image_layers(visual: nn.Module) -> Layers:
    """The layers of an image tower up to its positions; what follows them is its head.

    UserError: a tower that this package does not know.
    """
    behind = set(map(id, after_positions(visual)))
    layers = [
        [parameter for parameter in layer if id(parameter) not in behind]
        for layer in _image_layers(visual)
    ]
    return [layer for layer in layers if layer]


def _image_layers(visual: nn.Module) -> Layers:
    tower = cast(Any, visual)
    if isinstance(visual, TimmModel):
        groups = group_parameters(tower.trunk, tower.trunk.group_matcher())
        return [[tower.trunk.get_parameter(name) for name in groups[i]] for i in sorted(groups)]
    if isinstance(visual, VisionTransformer):
        first = [tower.conv1, tower.class_embedding, tower.positional_embedding, tower.ln_pre]
        return [_weights(first), *(_weights([block]) for block in tower.transformer.resblocks)]
    assert isinstance(visual, ModifiedResNet), "`after_positions` takes no other tower"
    first = [getattr(tower, f"{kind}{i}") for i in (1, 2, 3) for kind in ("conv", "bn")]
    return [_weights(first), *(_weights([getattr(tower, f"layer{i}")]) for i in (1, 2, 3, 4))]


def text_layers(model: nn.Module) -> Layers:
    """The layers of the text tower; its last norm, its pool and its projection are its head.

    UserError: a tower that this package does not know.
    """
    text = cast(Any, getattr(model, "text", model))  # open_clip's CLIP has its layers in itself
    if isinstance(text, HFTextEncoder):
        names = arch_dict.get(text.config.model_type, {}).get("config_names", {})
        inner = cast(Any, text.transformer)
        encoder = getattr(inner, "encoder", inner)
        first = [getattr(inner, names.get("token_embeddings_attr", "embeddings"), None)]
        blocks = getattr(encoder, names.get("layer_attr", "layer"), None)
    else:
        names = ("token_embedding", "positional_embedding", "cls_emb")
        first = [getattr(text, name, None) for name in names]
        blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    if blocks is None or first[0] is None:
        raise UserError(
            f"--text-layer-decay: the layers of the text tower {type(text).__name__} are not known;"
            " expected open_clip's own tower, or one of Hugging Face with embeddings and layers."
        )
    return [_weights(first), *(_weights([block]) for block in blocks)]


def _weights(parts: Iterable[nn.Module | nn.Parameter | None]) -> list[nn.Parameter]:
    return [
        parameter
        for part in parts
        if part is not None
        for parameter in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    ]
