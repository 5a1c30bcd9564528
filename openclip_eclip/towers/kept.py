"""Results of frozen parts that are kept: found in the place where they are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from ..config import UserError
from .frozen import ALL, blocks_of, is_frozen, resnet_stages, type_of

Compute = Callable[[Tensor], Tensor]
# (input (B, ...), what computes the result (B, ...) of it) -> the result, found or computed
Rows = Callable[[Tensor, Compute], Tensor]
# ("image", "image_blocksN" or "text", all weights that the results depend on) -> where they are
MakeRows = Callable[[str, dict[str, Tensor]], Rows]
Calls = list[tuple[Any, str]]  # (object, name of its method), in the order of calls


def keep_results(model: nn.Module, make: MakeRows, part: str = ALL) -> None:
    """Let the frozen parts of `model` look their results up.

    `part`: of the image tower, as in `freeze_image_tower`. Maps of several stages, which
    `encode_tokens` can return, are not kept: do not ask for them. UserError: a tower of which no
    tokens before a block can be kept.
    """
    _keep_image(cast(nn.Module, model.visual), make, part)
    _keep_text(model, make)


def _keep_image(visual: nn.Module, make: MakeRows, part: str) -> None:
    count, tower = blocks_of(part), cast(Any, visual)
    weights = _frozen_weights(visual)
    if isinstance(visual, VisionTransformer):
        embedding, blocks = [(tower, "_embeds")], list(tower.transformer.resblocks)
    elif isinstance(visual, ModifiedResNet):
        embedding, blocks = [(tower, "stem")], list(resnet_stages(tower))
    elif count is None:
        trunk, rows = tower.trunk, make("image", weights)
        compute = trunk.forward_features
        # timm's models pass masks of attention on, which TimmModel never gives
        trunk.forward_features = lambda pixels, **_: rows(pixels, compute)
        return
    elif isinstance(tower.trunk, TimmViT):
        trunk = tower.trunk
        parts = (trunk.patch_drop, trunk.norm_pre)
        embedding = [(trunk.patch_embed, "forward"), (trunk, "_pos_embed")]
        embedding += [(part, "forward") for part in parts]
        blocks = list(trunk.blocks)
    else:
        raise UserError(
            f"--cache-tokens with --freeze-image {part}: what {type_of(visual)} computes before a"
            f" block cannot be kept; take --freeze-image {ALL}, or drop --cache-tokens."
        )
    name = "image" if count is None else f"image_blocks{count}"
    calls: Calls = embedding + [(block, "forward") for block in blocks[:count]]
    _keep_last(calls, make(name, weights))


def _frozen_weights(visual: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters, and the buffers beside them, as of batch norm."""
    parameters = dict(visual.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    owners = {name.rpartition(".")[0] for name in trained} - {""}
    return {
        name: value
        for name, value in visual.state_dict().items()
        if name not in trained and (name in parameters or name.rpartition(".")[0] not in owners)
    }


def _keep_last(calls: Calls, rows: Rows) -> None:
    """The last of `calls` looks the result of all of them up.

    The pixels pass the others unchanged: results are found by them, and none is computed twice.
    """
    steps = [getattr(owner, name) for owner, name in calls]

    def compute(pixels: Tensor) -> Tensor:
        x = pixels
        for step in steps:
            x = step(x)
        return x

    # a block gets masks beside its input; in an image tower they are None
    for owner, name in calls[:-1]:
        setattr(owner, name, lambda pixels, *_, **__: pixels)
    owner, name = calls[-1]
    setattr(owner, name, lambda pixels, *_, **__: rows(pixels, compute))


def _keep_text(model: Any, make: MakeRows) -> None:
    """Nothing is kept of a text tower that is trained."""
    text = getattr(model, "text", None)
    if isinstance(text, HFTextEncoder):
        if is_frozen(text.transformer) and not text.output_tokens:
            _keep_before_projection(text, make("text", text.transformer.state_dict()))
    elif isinstance(text, nn.Module):
        if is_frozen(text):
            rows, compute = make("text", text.state_dict()), text.forward
            cast(Any, text).forward = lambda x: rows(x, compute)
    else:  # open_clip's CLIP, whose text layers are its own
        layers = (model.token_embedding, model.transformer, model.ln_final)
        if all(map(is_frozen, layers)) and not model.text_projection.requires_grad:
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
