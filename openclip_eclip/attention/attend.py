"""One call: where a model of open_clip looks on images for texts."""

from __future__ import annotations

from typing import cast

import torch
from open_clip import CoCa
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..config import UserError
from ..towers.host import HostModel
from ..towers.image_size import at_size
from .methods import attention_maps, default_method, image_of_texts


def attend(model: nn.Module, images: Tensor, texts: Tensor, method: str | None = None) -> Tensor:
    """Where `model` looks on each image for each text, (B, T, h, w) float32; higher is more.

        model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-16", "openai")
        tokenizer = open_clip.get_tokenizer("ViT-B-16")
        maps = openclip_eclip.attend(model, preprocess(image)[None], tokenizer(["a dog"]))

    Args:
        model: a model of open_clip with an image tower that has positions, such as ViTs, ResNets,
            and most towers of timm; with or without the processor of eCLIP.
        images: (B, 3, H, W) float, from the model's transform. Most transforms crop the middle of
            an image; the map is that of the crop. Where H and W are not those of the model, its
            positions are interpolated.
        texts: (T, L) int64, from the model's tokenizer.
        method: one of `attention.methods.METHODS`; None: the attention of the tower's pool, of a
            plain ViT without one `rollout`, else the similarity to the text.

    Raises:
        UserError: a CoCa, a tower without positions, or one that does not have this method or
            does not take this size.
    """
    refuse_coca(model)
    host = cast(HostModel, model)
    was_training = model.training
    model.eval()  # dropout and batch statistics would mix images
    try:
        with torch.no_grad():
            text = normalize(host.encode_text(texts).float(), dim=-1)
        image = image_of_texts(len(images), len(texts), images.device)
        name = method or default_method(host)
        with at_size(host.visual, (images.shape[-2], images.shape[-1])):
            maps = attention_maps(name, host, images, text.repeat(len(images), 1), image)
    finally:
        model.train(was_training)
    return maps.unflatten(0, (len(images), len(texts)))


def refuse_coca(model: nn.Module) -> None:
    """UserError: the model is a CoCa."""
    if isinstance(model, CoCa):
        raise UserError(
            "attend: a CoCa reads its image by many queries, of which one is the image feature;"
            " expected another model of open_clip."
        )
