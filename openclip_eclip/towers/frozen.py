"""Frozen towers: what of them is trained, and which of their results can be kept.

With a trained tower and few images, the tower stays as it is, and what follows is trained: the
attention pool and the projection. LiT (Zhai et al. 2022, arXiv 2111.07991) freezes all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..config import UserError
from .positions import full_precision

Compute = Callable[[Tensor], Tensor]
# (input (B, ...), what computes the result (B, ...) of it) -> the result, found or computed
Rows = Callable[[Tensor, Compute], Tensor]
# ("image" or "text", all weights that the results depend on) -> where results are kept
MakeRows = Callable[[str, dict[str, Tensor]], Rows]


def freeze_image_tower(visual: nn.Module) -> None:
    """Freeze the tower up to its positions; the pool and what follows it stay trainable.

    Frozen modules stay in evaluation mode, also when the model is set to training: no dropout, and
    batch statistics as they are. UserError: a tower that this package does not know.
    """
    if not freeze_before_positions(visual):
        raise UserError(
            f"--freeze-image all: the image tower {type(visual).__name__} has no weights behind its"
            " positions, so nothing of it would be trained; drop the flag, or take a tower with an"
            " attention pool or a projection."
        )
    keep_in_evaluation(visual)


def freeze_before_positions(visual: nn.Module) -> bool:
    """Let only the weights behind the tower's positions be trained; whether there are any."""
    after = list(after_positions(visual))
    for parameter in visual.parameters():
        parameter.requires_grad_(False)
    for parameter in after:
        parameter.requires_grad_(True)
    return any(parameter.numel() for parameter in after)


def freeze_text_tower(model: nn.Module) -> None:
    """Freeze the text tower, but for the projection behind a tower of Hugging Face.

    Frozen modules stay in evaluation mode, as in `freeze_image_tower`.
    """
    cast(Any, model).lock_text_tower(unlocked_layers=0, freeze_layer_norm=True)
    text = getattr(model, "text", None)
    if text is not None:  # open_clip's CLIP has its text layers in itself, without dropout
        keep_in_evaluation(text)


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


def after_positions(visual: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of the pool and the projection. UserError: a tower that is not known."""
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
    """Keep every part of `module` without a trainable weight in evaluation mode."""
    for part in (module, *module.children()):
        if all(not parameter.requires_grad for parameter in part.parameters()):
            part.eval()
            cast(Any, part).train = lambda mode=True, part=part: part
        elif part is not module:
            keep_in_evaluation(part)


def keep_results(model: nn.Module, make: MakeRows) -> None:
    """Let the frozen parts of `model` look their results up.

    Maps of several stages, which `encode_tokens` can return, are not kept: do not ask for them.
    """
    _keep_image(cast(nn.Module, model.visual), make)
    _keep_text(model, make)


def _keep_image(visual: nn.Module, make: MakeRows) -> None:
    after = {id(parameter) for parameter in after_positions(visual)}
    trained = {name for name, parameter in visual.named_parameters() if id(parameter) in after}
    weights = {name: value for name, value in visual.state_dict().items() if name not in trained}
    if isinstance(visual, VisionTransformer):
        _keep_vit(cast(Any, visual), make("image", weights))
    elif isinstance(visual, ModifiedResNet):
        _keep_resnet(cast(Any, visual), make("image", weights))
    else:
        assert isinstance(visual, TimmModel), "`after_positions` takes no other tower"
        trunk, rows = cast(Any, visual.trunk), make("image", weights)
        compute = trunk.forward_features
        # timm's models pass masks of attention on, which TimmModel never gives
        trunk.forward_features = lambda pixels, **_: rows(pixels, compute)


def _keep_vit(visual: Any, rows: Rows) -> None:
    inner, embed = visual.transformer, visual._embeds
    encode, through = inner.forward, inner.forward_intermediates

    def tokens(pixels: Tensor) -> Tensor:
        return encode(embed(pixels))

    def intermediates(pixels: Tensor, indices: Any = None, **kwargs: Any) -> Any:
        if indices != 1:
            return through(embed(pixels), indices=indices, **kwargs)
        last = rows(pixels, tokens)
        return last, [last]

    # the pixels pass the embedding unchanged: results are found by them, and none is computed twice
    visual._embeds = lambda pixels: pixels
    inner.forward = lambda pixels: rows(pixels, tokens)
    inner.forward_intermediates = intermediates


def _keep_resnet(visual: Any, rows: Rows) -> None:
    layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
    stages = (visual.stem, *(layer.forward for layer in layers))

    def grid(pixels: Tensor) -> Tensor:
        x = pixels
        for stage in stages:
            x = stage(x)
        return x

    # as in `_keep_vit`: pixels pass all stages but the last
    visual.stem = lambda pixels: pixels
    for layer in layers[:-1]:
        layer.forward = lambda pixels: pixels
    layers[-1].forward = lambda pixels: rows(pixels, grid)


def _keep_text(model: Any, make: MakeRows) -> None:
    """Nothing is kept of a text tower that is trained."""
    text = getattr(model, "text", None)
    if isinstance(text, HFTextEncoder):
        if _is_frozen(text.transformer) and not text.output_tokens:
            _keep_before_projection(text, make("text", text.transformer.state_dict()))
    elif isinstance(text, nn.Module):
        if _is_frozen(text):
            rows, compute = make("text", text.state_dict()), text.forward
            cast(Any, text).forward = lambda x: rows(x, compute)
    else:  # open_clip's CLIP, whose text layers are its own
        layers = (model.token_embedding, model.transformer, model.ln_final)
        if all(map(_is_frozen, layers)) and not model.text_projection.requires_grad:
            names = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_p")
            state = model.state_dict().items()
            rows = make("text", {name: value for name, value in state if name.startswith(names)})
            compute = model.encode_text
            model.encode_text = lambda x, normalize=False: (
                nn.functional.normalize(rows(x, compute), dim=-1) if normalize else rows(x, compute)
            )


def _keep_before_projection(text: HFTextEncoder, rows: Rows) -> None:
    """The pooled feature is kept; the projection behind it is trained."""
    compute, projection = text.forward, text.proj

    def pooled(x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            compute(x)
        finally:
            handle.remove()
        return seen[0]

    cast(Any, text).forward = lambda x: projection(rows(x, pooled))


def _is_frozen(module: nn.Module) -> bool:
    return all(not parameter.requires_grad for parameter in module.parameters())
