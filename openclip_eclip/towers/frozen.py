"""Frozen towers: which of their weights are trained.

With a trained tower and few images, the tower stays as it is, and what follows is trained: the
attention pool and the projection. LiT (Zhai et al. 2022, arXiv 2111.07991) freezes all of it.
`blocks:N` freezes the first N blocks, and the rest is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import group_parameters
from torch import Tensor, nn

from ..config import UserError
from .positions import full_precision

ALL, BLOCKS = "all", "blocks:"  # values of --freeze-image and --freeze-text; N follows the second


def blocks_of(part: str) -> int | None:
    """N of `blocks:N`; None for `all`. ValueError for another value."""
    if part == ALL:
        return None
    number = part.removeprefix(BLOCKS)
    if number == part or not number.isdecimal():
        raise ValueError(part)
    return int(number)


def freeze_image_tower(visual: nn.Module, part: str = ALL) -> None:
    """Freeze the tower up to its positions, or its embedding and its first N blocks.

    `part`: `all` or `blocks:N`; blocks are those of a transformer, and the stages of a CNN. The
    pool and what follows it stay trainable.

    Frozen modules stay in evaluation mode, also when the model is set to training: no dropout, and
    batch statistics as they are. UserError: a tower that this package does not know, has fewer
    blocks, or has nothing else to train.
    """
    flag, count = f"--freeze-image {part}", blocks_of(part)
    if count is None:
        is_trained = freeze_before_positions(visual)
    else:
        _freeze_first(_image_blocks(visual), count, flag, f"the image tower {type_of(visual)}")
        is_trained = any(one.numel() and one.requires_grad for one in visual.parameters())
    if not is_trained:
        raise UserError(
            f"{flag}: the image tower {type(visual).__name__} has no weights behind"
            f" {'its positions' if count is None else 'these blocks'}, so nothing of it would be"
            " trained; drop the flag, or take a tower with an attention pool or a projection."
        )
    _keep_all_patches(visual)
    keep_in_evaluation(visual)


def freeze_before_positions(visual: nn.Module) -> bool:
    """Let only the weights behind the tower's positions be trained; whether there are any."""
    after = list(after_positions(visual))
    _freeze(visual.parameters())
    for parameter in after:
        parameter.requires_grad_(True)
    return any(parameter.numel() for parameter in after)


def freeze_text_tower(model: nn.Module, part: str = ALL) -> None:
    """Freeze the text tower, but for the projection behind a tower of Hugging Face.

    With `blocks:N`, its embedding and its first N blocks. Frozen modules stay in evaluation mode,
    as in `freeze_image_tower`. UserError: a tower with fewer blocks, or with unknown ones.
    """
    count, text = blocks_of(part), getattr(model, "text", None)
    if count is None:
        cast(Any, model).lock_text_tower(unlocked_layers=0, freeze_layer_norm=True)
        keep_projection(text)
    else:
        blocks = _text_blocks(model if text is None else text)
        name = type_of(text) if text is not None else "of open_clip"
        _freeze_first(blocks, count, f"--freeze-text {part}", f"the text tower {name}")
    if text is not None:  # open_clip's CLIP has its text layers in itself, without dropout
        keep_in_evaluation(text)


def keep_projection(text: nn.Module | None) -> None:
    """Let the projection behind a tower of Hugging Face be trained: some releases lock it too."""
    if isinstance(text, HFTextEncoder):
        text.proj.requires_grad_(True)


class FrozenText:
    """Text features before anything that is trained, of a tower that `freeze_text_tower` froze."""

    def __init__(self, model: nn.Module) -> None:
        self.pooled: Tensor | None = None
        text = getattr(model, "text", None)
        if isinstance(text, HFTextEncoder):  # the projection behind it is trained
            text.proj.register_forward_pre_hook(self._see)

    def _see(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.pooled = inputs[0]

    def last(self, text_features: Tensor) -> Tensor:
        """Unit features (B, D) in fp32 or more of the last pass, whose result is given."""
        features = text_features if self.pooled is None else self.pooled
        return nn.functional.normalize(full_precision(features.detach()), dim=-1)


def type_of(tower: nn.Module) -> str:
    """The class of a tower, of timm's and Hugging Face's the model's own."""
    inner = tower.transformer if isinstance(tower, HFTextEncoder) else tower
    return type(getattr(inner, "trunk", inner)).__name__


def _freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)


def _freeze_first(blocks: list[list[nn.Parameter]], count: int, flag: str, tower: str) -> None:
    """Freeze the embedding, which is the first of `blocks`, and the `count` that follow."""
    if count >= len(blocks):
        raise UserError(
            f"{flag}: {tower} has {len(blocks) - 1} blocks; expected 0 (its embedding alone) to"
            f" {len(blocks) - 1}, or {ALL}."
        )
    _freeze(chain.from_iterable(blocks[: count + 1]))


def _image_blocks(visual: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of the embedding, and of each block or stage; those behind them are left out."""
    tower = cast(Any, visual)
    if isinstance(visual, VisionTransformer):
        embedding = (tower.conv1, tower.class_embedding, tower.positional_embedding, tower.ln_pre)
        return _grouped(embedding, tower.transformer.resblocks)
    if isinstance(visual, ModifiedResNet):
        stem = (tower.conv1, tower.bn1, tower.conv2, tower.bn2, tower.conv3, tower.bn3)
        return _grouped(stem, resnet_stages(tower))
    trunk = tower.trunk
    if not hasattr(trunk, "group_matcher"):
        raise UserError(
            f"--freeze-image blocks:N: timm does not say which blocks {type_of(visual)} has; take"
            f" --freeze-image {ALL}."
        )
    # What no pattern matches is behind the blocks: the last group, to which this name is added.
    named, behind = dict(trunk.named_parameters()), "behind_all_blocks"
    holder: Any = SimpleNamespace(named_parameters=lambda: [*named.items(), (behind, None)])
    groups = group_parameters(holder, trunk.group_matcher(coarse=True))
    last = next(index for index, names in groups.items() if behind in names)
    return [[named[name] for name in groups[index]] for index in range(last)]


def resnet_stages(visual: Any) -> tuple[nn.Module, ...]:
    """The four stages of open_clip's ResNet."""
    return visual.layer1, visual.layer2, visual.layer3, visual.layer4


def _text_blocks(text: nn.Module) -> list[list[nn.Parameter]]:
    """As `_image_blocks`, for open_clip's CLIP and text towers."""
    tower = cast(Any, text)
    if not isinstance(text, HFTextEncoder):
        embedding = (tower.token_embedding, tower.positional_embedding)
        return _grouped((*embedding, getattr(tower, "cls_emb", None)), tower.transformer.resblocks)
    names = arch_dict[tower.config.model_type]["config_names"]
    if not {"layer_attr", "token_embeddings_attr"} <= names.keys():
        raise UserError(
            f"--freeze-text blocks:N: open_clip does not say which blocks {type_of(text)} has; take"
            f" --freeze-text {ALL}."
        )
    encoder = getattr(tower.transformer, "encoder", tower.transformer)
    embedding = getattr(tower.transformer, names["token_embeddings_attr"])
    return _grouped((embedding,), getattr(encoder, names["layer_attr"]))


def _grouped(
    embedding: Iterable[nn.Module | nn.Parameter | None], blocks: Iterable[nn.Module]
) -> list[list[nn.Parameter]]:
    first = [
        [part] if isinstance(part, nn.Parameter) else list(part.parameters())
        for part in embedding
        if part is not None
    ]
    return [list(chain.from_iterable(first)), *(list(block.parameters()) for block in blocks)]


def after_positions(visual: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of the pool and of what follows it. UserError: an unknown tower."""
    if isinstance(visual, VisionTransformer):
        for name in ("attn_pool", "attn_pool_contrastive", "ln_post"):
            if isinstance(module := getattr(visual, name, None), nn.Module):
                yield from module.parameters()
        if visual.proj is not None:
            yield visual.proj
    elif isinstance(visual, ModifiedResNet):
        yield from visual.attnpool.parameters()
    elif isinstance(visual, TimmModel):
        yield from visual.head.parameters()
        # what `forward_head` of timm's models reads
        trunk = cast(Any, visual.trunk)
        for name in ("attn_pool", "fc_norm"):
            if isinstance(module := getattr(trunk, name, None), nn.Module):
                yield from module.parameters()
        classifier = trunk.get_classifier()
        if isinstance(classifier, nn.Module):
            yield from classifier.parameters()
    else:
        raise UserError(
            f"the image tower {type(visual).__name__} is not known to --freeze-image, --lora-image"
            " and --image-layer-decay; expected VisionTransformer, ModifiedResNet or a timm tower."
        )


def keep_in_evaluation(module: nn.Module) -> None:
    """Keep every part of `module` that has weights, and none to train, in evaluation mode.

    Parts without weights, as dropout, are as the part that they belong to.
    """
    parameters = list(module.parameters())
    if parameters and all(not parameter.requires_grad for parameter in parameters):
        _keep(module)
    elif parameters:
        for part in module.children():
            keep_in_evaluation(part)


def _keep_all_patches(visual: nn.Module) -> None:
    """Patches are dropped before the first block, so by a part of the embedding."""
    for part in visual.modules():
        if type(part).__name__ == "PatchDropout":  # of open_clip, and of timm
            _keep(part)


def _keep(part: nn.Module) -> None:
    part.eval()
    cast(Any, part).train = lambda mode=True: part


def is_frozen(module: nn.Module) -> bool:
    """Whether no weight of it is trained."""
    return all(not parameter.requires_grad for parameter in module.parameters())
