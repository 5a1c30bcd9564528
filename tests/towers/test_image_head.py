"""--image-head attention-pool: the config of the pool, how it begins, and what a start brings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.model import _build_vision_tower
from torch import Tensor, nn
from torch.nn import functional as F

from openclip_eclip.config import UserError
from openclip_eclip.towers.image_head import (
    build_with_pool,
    carry_over,
    with_attention_pool,
)
from openclip_eclip.towers.pool_attention import has_pool, pool_attention
from openclip_eclip.towers.positions import encode_tokens

TIMM = {"timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
VIT = {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
RESNET = {**TIMM, "timm_model_name": "resnet10t", "image_size": 64}
OWN = {**TINY["vision_cfg"], "image_size": 48}
LATENT = {"latent", "q.weight", "q.bias", "kv.weight", "kv.bias", "proj.weight", "proj.bias"} | {
    f"{layer}.{end}" for layer in ("norm", "mlp.fc1", "mlp.fc2") for end in ("weight", "bias")
}
MAP = {f"head.pool.{name}" for name in ("pos_embed", "qkv.weight", "qkv.bias")}
# start, weights that it has no place for, least cosine of old and new features at the start
AVERAGES: dict[str, tuple[dict[str, Any], set[str], float]] = {
    "timm-vit": (VIT, {f"trunk.attn_pool.{name}" for name in LATENT}, 1.0),
    # its norm follows the average, and comes before the pool
    "timm-vit-head": (
        {**VIT, "timm_proj": ""},
        {f"trunk.attn_pool.{name}" for name in LATENT},
        0.95,
    ),
    "timm-cnn": (RESNET, MAP, 1.0),
    "timm-cnn-head": ({**RESNET, "timm_proj": ""}, MAP, 1.0),
    "timm-norm": ({**RESNET, "timm_model_name": "convnext_atto"}, MAP, 0.95),
    "timm-two-layers": (
        {**RESNET, "timm_proj": "mlp"},
        MAP | {"head.pool.proj.weight", "head.pool.proj.bias"},
        -1.0,
    ),
    # open_clip's pool averages the class token too, and has a norm behind it
    "vit-average": (
        {**OWN, "pool_type": "avg"},
        {f"attn_pool.attn.{name}" for name in ("in_proj_bias", "out_proj.weight", "out_proj.bias")}
        | {"attn_pool.query", "attn_pool.ln_q.weight", "attn_pool.ln_q.bias", "proj"}
        | {"ln_post.weight", "ln_post.bias"},
        0.8,
    ),
    "vit-wide": (
        {**OWN, "width": 64},
        {f"attn_pool.attn.{name}" for name in ("in_proj_bias", "out_proj.weight", "out_proj.bias")}
        | {"attn_pool.attn.q_proj_weight", "attn_pool.attn.k_proj_weight", "attn_pool.query"}
        | {
            "attn_pool.ln_q.weight",
            "attn_pool.ln_q.bias",
            "proj",
            "ln_post.weight",
            "ln_post.bias",
        },
        -1.0,
    ),
}
WIDTH = 32


def model_of(visual: nn.Module) -> Any:
    model: Any = nn.Module()
    model.visual = visual
    return model


def with_pool(start: dict[str, Any]) -> Any:
    return build_with_pool(
        lambda vision_cfg, embed_dim: model_of(_build_vision_tower(embed_dim, vision_cfg)),
        vision_cfg=start,
        embed_dim=WIDTH,
    )


def state_of(visual: nn.Module) -> dict[str, Tensor]:
    return {f"visual.{name}": value.clone() for name, value in visual.state_dict().items()}


def shaken(visual: nn.Module) -> nn.Module:
    """The tower with other weights than those it is built with, norms included."""
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return visual


@pytest.mark.slow
@pytest.mark.parametrize("name", AVERAGES)
def test_a_start_is_carried_over_and_the_pool_begins_as_the_average(name: str) -> None:
    config, fresh, least = AVERAGES[name]
    torch.manual_seed(0)
    start = shaken(_build_vision_tower(WIDTH, config)).eval()
    model = with_pool(config)
    before = set(model.fresh_weights)
    state, found = carry_over(model, state_of(start))
    model.load_state_dict(state)
    visual = model.visual.eval()
    assert set(found) == fresh <= before
    side = config["image_size"]
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, (features, tokens) = start(pixels), encode_tokens(visual, pixels)
    assert F.cosine_similarity(features, expected).min() > least - 1e-5
    attention = pool_attention(visual, tokens)
    assert has_pool(visual) and attention is not None
    torch.testing.assert_close(
        attention.exp(), torch.full_like(attention, 1 / attention[0].numel())
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm-vit", "timm-cnn", "vit-average"])
def test_equal_scores_still_train_queries_and_keys(name: str) -> None:
    config = AVERAGES[name][0]
    torch.manual_seed(0)
    visual = with_pool(config).visual
    side = config["image_size"]
    pixels = torch.randn(2, 3, side, side)
    optimizer = torch.optim.SGD(visual.parameters(), lr=1.0)
    for _ in range(2):
        visual.zero_grad()
        attention = pool_attention(visual, encode_tokens(visual, pixels)[1])
        attention[:, 0].sum().backward()
        optimizer.step()
    weight, query = {
        "timm-vit": ("trunk.attn_pool.kv.weight", "trunk.attn_pool.latent"),
        "timm-cnn": ("head.pool.qkv.weight", "head.pool.pos_embed"),
        "vit-average": ("attn_pool.attn.in_proj_weight", "attn_pool.query"),
    }[name]
    for parameter in (weight, query):
        assert visual.get_parameter(parameter).grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["timm-cnn", "vit-wide"])
def test_weights_of_a_run_with_the_pool_are_complete(name: str) -> None:
    model = with_pool(AVERAGES[name][0])
    state = state_of(shaken(model.visual))
    carried, fresh = carry_over(model, state)
    assert fresh == [] and carried.keys() == state.keys()
    assert all(torch.equal(carried[key], value) for key, value in state.items())


def test_other_weights_are_left_to_the_check_of_names() -> None:
    """Weights of another tower must not pass as those of this one."""
    model = with_pool(RESNET)
    state = state_of(_build_vision_tower(WIDTH, RESNET))
    del state["visual.trunk.layer1.0.conv1.weight"]
    carried, _ = carry_over(model, state | {"visual.trunk.layer9.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="(?s)Missing key.*layer1.0.conv1.*Unexpected.*layer9"):
        model.load_state_dict(carried)


@pytest.mark.parametrize(
    "config",
    [
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        {**OWN, "attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2},
        {**VIT, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"},
        {**RESNET, "timm_pool": "rot_attn", "timm_proj": ""},
    ],
)
def test_a_tower_with_a_pool_keeps_it(config: dict[str, Any]) -> None:
    assert with_attention_pool(config, WIDTH) == config


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (512, 8), (768, 12), (640, 10), (400, 5)])
def test_heads_divide_the_joint_space(width: int, heads: int) -> None:
    found = with_attention_pool({**OWN, "pool_type": "avg"}, width)
    assert found["attn_pooler_heads"] == heads and width % heads == 0
    assert found["pool_type"] == "tok"  # the average leaves out the first query


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny_patch4_window7_224", "its maps have their channels last"),
        ("mobilenetv3_large_100", "neither timm nor open_clip has an attention pool for Mobile"),
        ("beit_base_patch16_224", "neither timm nor open_clip has an attention pool for Beit"),
        ("regnetx_002", "368 channels, and the pool needs a multiple of 64"),
    ],
)
def test_towers_that_take_no_pool_are_errors(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"attention-pool with timm's {name}: .*{message}.*; take"):
        with_attention_pool({**TIMM, "timm_model_name": name}, WIDTH)
