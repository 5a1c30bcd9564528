"""The methods by name, with one call for all."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import UserError
from ..towers.host import HostModel
from ..towers.pool_attention import has_pool
from .blocks import is_plain_vit


class Method(NamedTuple):
    """`summary`: a line of help. `by_text`: the map depends on the text."""

    summary: str
    by_text: bool = True


# each is a module of this room with `maps(model, pixels, text, image)`, or a floor
METHODS = {
    "pool": Method("the attention of the tower's learned pool, the same for every text", False),
    "similarity": Method("cosine of each position with the text"),
    "maskclip": Method("the same, of the values of the last block (MaskCLIP)"),
    "registers": Method("similarity after outliers are moved to a token (test-time registers)"),
    "gradcam": Method("gradient of the similarity to the last map (Grad-CAM)"),
    "rollout": Method("gradient times attention through all blocks (Chefer et al. 2021)"),
    "center": Method("a Gaussian in the middle: what no model has to be asked for", False),
    "random": Method("noise: chance", False),
}
FLOORS = ("center", "random")


def trained_method(model: HostModel) -> str:
    """`pool` for a tower with a learned pool, else `similarity`: what `--method align` trains."""
    return "pool" if has_pool(model.visual) else "similarity"


def default_method(model: HostModel) -> str:
    """What `attend` takes: `pool`, for a plain ViT without a pool `rollout`, else `similarity`.

    For such a ViT rollout measured best (docs/results/attention_without_pool.md).
    """
    method = trained_method(model)
    return "rollout" if method == "similarity" and is_plain_vit(model.visual) else method


def attention_maps(
    name: str, model: HostModel, pixels: Tensor, text: Tensor, image: Tensor
) -> Tensor:
    """Where `model` looks on images for texts, (T, h, w) float32; higher is more.

    The range depends on the method; only order and shape of a map mean something. `h, w`: the
    positions of the image tower; those of the floors are finer.

    Args:
        name: one of METHODS.
        model: a model of open_clip in evaluation mode.
        pixels: (B, 3, H, W), as its transform makes them.
        text: (T, D) unit features of texts.
        image: (T,) int64: the row of `pixels` that belongs to each text.

    Raises:
        UserError: an unknown method, or one that this image tower does not have.
    """
    if name not in METHODS:
        raise UserError(f"attention method {name!r}; expected one of {', '.join(METHODS)}.")
    if name in FLOORS:
        from .floors import floor_maps

        return floor_maps(name, pixels, [one.numpy().tobytes() for one in text.cpu()], image)
    return import_module(f"{__package__}.{name}").maps(model, pixels, text, image).float()


def image_of_texts(images: int, texts: int, device: torch.device | str = "cpu") -> Tensor:
    """(images * texts,) int64: the image of each pair, where each image has all texts in turn."""
    return torch.arange(images, device=device).repeat_interleave(texts)
