"""--image-head attention-pool: a learned pool behind an image tower that has none.

The pools are those that open_clip and timm build from a model config, so that stock open_clip loads
the trained model: `AttentionalPooler` behind open_clip's ViT, timm's `map` pool behind its ViTs,
and `abs_attn` behind its convolutional towers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import timm
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..config import UserError
from .positions import is_channels_last

HEAD_DIM = 64  # channels of an attention head, as in the towers themselves
ATTENTION_POOL = "attention-pool"  # the value of --image-head
FLAG = f"--image-head {ATTENTION_POOL}"
POOLED = ("map", "abs_attn", "rot_attn")  # values of timm_pool that are attention pools
PREFIX = "visual."
POOLS = ("attn_pool.", "trunk.attn_pool.", "head.pool.")  # in the names of a tower's weights
VIT_HEAD = ("ln_post.", "proj")


def build_with_pool(
    make: Callable[..., Any], *args: Any, vision_cfg: Mapping[str, Any], **kwargs: Any
) -> Any:
    """The model that `make` builds, with an attention pool behind its image tower.

    `fresh_weights` of the model names all weights of a pool that was added and of what follows it;
    None for a tower with a pool of its own.
    """
    config = with_attention_pool(vision_cfg, kwargs["embed_dim"])
    model = make(*args, vision_cfg=config, **kwargs)
    model.fresh_weights = None
    if config != vision_cfg:
        begin_as_average(model.visual)
        model.fresh_weights = fresh_names(model.visual)
    return model


def with_attention_pool(vision: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The `vision_cfg` of a model with an attention pool; an equal one where it has a pool already.

    `width`: the model's `embed_dim`. UserError for a tower behind which stock open_clip cannot
    build a pool.
    """
    config = dict(vision)
    if name := config.get("timm_model_name"):
        if config.get("timm_pool", "avg") in POOLED:
            return config
        pool = _timm_pool(name)
        # The pool, or timm's own head behind it, projects. With timm_proj linear open_clip 3.3
        # cannot add `map` (AssertionError in reset_classifier).
        proj = "none" if pool == "map" and config.get("timm_proj") == "none" else ""
        return {**config, "timm_pool": pool, "timm_proj": proj}
    if isinstance(config.get("layers"), (list, tuple)) or config.get("attentional_pool"):
        return config  # open_clip's ResNets end in a pool
    heads = max(count for count in range(1, max(1, width // HEAD_DIM) + 1) if width % count == 0)
    # "avg" would leave out the first of the pool's queries, the only one
    return {
        **config,
        "attentional_pool": True,
        "attn_pooler_queries": 1,
        "attn_pooler_heads": heads,
        "pool_type": "tok",
    }


def _timm_pool(name: str) -> str:
    """The value of timm_pool for a timm model. UserError for a model that takes no pool."""
    with torch.device("meta"):  # no memory, no random numbers
        trunk = cast(Any, timm.create_model(name, num_classes=0))
    if hasattr(trunk, "attn_pool") and not hasattr(trunk, "head_dist"):
        return "map"
    advice = "take a ViT or a ConvNeXt or ResNet tower, or drop the flag"
    if is_channels_last(trunk):
        raise UserError(
            f"{FLAG} with timm's {name}: its maps have their channels last, and the pools that"
            f" stock open_clip can load take channels first; {advice}."
        )
    # MobileNetV3 and VGG have layers behind the pool
    is_map = trunk.default_cfg.get("pool_size") and trunk.head_hidden_size == trunk.num_features
    if not is_map:
        raise UserError(
            f"{FLAG} with timm's {name}: neither timm nor open_clip has an attention pool for"
            f" {type(trunk).__name__}; {advice}."
        )
    if trunk.num_features % HEAD_DIM:
        raise UserError(
            f"{FLAG} with timm's {name}: its maps have {trunk.num_features} channels, and the pool"
            f" needs a multiple of {HEAD_DIM}; {advice}."
        )
    return "abs_attn"


@torch.no_grad()
def begin_as_average(visual: nn.Module) -> None:
    """Let a fresh pool begin as the average over positions: keys zero, values as they come.

    Scores are then equal, while queries and keys still receive gradients. With a projection trained
    on averages, the tower begins with the image features that it had.
    """
    if isinstance(visual, VisionTransformer):
        _average_of_vit(cast(Any, visual))
        return
    assert isinstance(visual, TimmModel), "`with_attention_pool` adds to no other tower"
    pool: Any = getattr(visual.head, "pool", None)
    is_of_map = pool is not None
    pool = pool if is_of_map else cast(Any, visual.trunk).attn_pool
    last = pool.qkv if is_of_map else pool.kv
    width = last.in_features
    last.weight[-2 * width : -width].zero_()
    last.weight[-width:].copy_(torch.eye(width))
    last.bias.zero_()
    if is_of_map:
        pool.pos_embed.zero_()
    else:
        nn.init.eye_(pool.proj.weight)
        for rest in (pool.proj.bias, pool.mlp.fc2.weight, pool.mlp.fc2.bias):
            rest.zero_()


def _average_of_vit(visual: Any) -> None:
    attn = visual.attn_pool.attn
    key = attn.k_proj_weight if attn.in_proj_weight is None else attn.in_proj_weight.chunk(3)[1]
    key.zero_()
    attn.in_proj_bias.zero_()
    nn.init.eye_(attn.out_proj.weight)
    attn.out_proj.bias.zero_()
    nn.init.eye_(visual.proj)


def carry_over(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a start, for `model` with a fresh pool, and the names of weights still fresh.

    `state` has open_clip's names. The start's projection and last norm go to their places behind or
    in the pool. A state with the pool's weights, as a run with this flag saves it, is complete.
    """
    visual = cast(nn.Module, model.visual)
    own = visual.state_dict()
    old = {
        key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)
    }
    if all(name in old for name in own if name.startswith(POOLS)):
        return dict(state), []
    is_vit = isinstance(visual, VisionTransformer)
    moved, replaced = (_from_vit(own, old), VIT_HEAD) if is_vit else _from_timm(visual, own, old)
    fresh = [name for name in fresh_names(visual) if name not in moved]
    kept = {
        key: _as_in(own, key.removeprefix(PREFIX), value)
        for key, value in state.items()
        if not key.startswith(tuple(PREFIX + name for name in replaced))
    }
    added = {name: own[name] for name in fresh} | moved
    return kept | {PREFIX + name: value for name, value in added.items()}, fresh


def _as_in(own: Mapping[str, Tensor], name: str, value: Tensor) -> Tensor:
    """A linear layer that becomes a convolution of single positions, as MaxViT's in its head."""
    is_wider = name in own and own[name].shape == (*value.shape, 1, 1)
    return value[..., None, None] if is_wider else value


def fresh_names(visual: nn.Module) -> list[str]:
    """Names of the weights of the pool and of what follows it."""
    behind = VIT_HEAD if isinstance(visual, VisionTransformer) else ("trunk.head.", "head.")
    # behind a map timm's own head holds at most a norm, which the start has too
    is_of_map = hasattr(getattr(visual, "head", None), "pool")
    heads = (*POOLS, *(behind[1:] if is_of_map else behind))
    return [name for name in visual.state_dict() if name.startswith(heads)]


def _from_vit(own: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The norm goes before the pool, and the projection becomes the values."""
    moved = {
        f"attn_pool.ln_k.{end}": old[f"ln_post.{end}"]
        for end in ("weight", "bias")
        if f"ln_post.{end}" in old
    }
    if "proj" in old:
        value, joint = old["proj"].T.contiguous(), own.get("attn_pool.attn.in_proj_weight")
        if joint is None:
            moved["attn_pool.attn.v_proj_weight"] = value
        else:  # towers as wide as the joint space: queries, keys and values are one weight
            moved["attn_pool.attn.in_proj_weight"] = torch.cat([*joint.chunk(3)[:2], value])
    return moved


def _from_timm(
    visual: nn.Module, own: Mapping[str, Tensor], old: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The projection goes behind the pool, and a norm behind an average before it."""
    names = cast(Any, visual).trunk.default_cfg["classifier"]
    classifiers = [f"trunk.{name}" for name in ([names] if isinstance(names, str) else names)]
    new = "head.pool.proj" if "head.pool.proj.weight" in own else "trunk.head"
    norms, moved = ("trunk.fc_norm.", "trunk.norm."), {}
    for before, after in (norms, norms[::-1]):
        for end in ("weight", "bias"):
            if before + end in old and before + end not in own and after + end in own:
                moved[after + end] = old[before + end]
    source = next((name for name in ("head.proj", *classifiers) if f"{name}.weight" in old), None)
    if source and f"{new}.weight" in own:
        moved[f"{new}.weight"] = old[f"{source}.weight"].flatten(1)
        moved[f"{new}.bias"] = old.get(f"{source}.bias", torch.zeros_like(own[f"{new}.bias"]))
    gone = [norm for norm in norms if norm + "weight" not in own]
    return moved, ("head.", *(f"{name}." for name in classifiers), *gone)
