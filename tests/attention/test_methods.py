"""Each method of attention against its formula, on towers small enough to compute it by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_towers import TOWERS, tower
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from openclip_eclip.attention.floors import GRID
from openclip_eclip.attention.methods import (
    FLOORS,
    METHODS,
    attention_maps,
    default_method,
    image_of_texts,
    trained_method,
)
from openclip_eclip.config import UserError
from openclip_eclip.data.placebo import centre_map
from openclip_eclip.towers.pool_attention import pool_attention
from openclip_eclip.towers.positions import encode_positions, encode_tokens


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_tower_has_a_map_or_a_reason(name: str, method: str) -> None:
    _, grid, without = TOWERS[name]
    model, pixels, text = tower(name)
    image = image_of_texts(2, 2)
    if method in without.split():
        with pytest.raises(UserError, match=f"attention method {method}: the image tower .* Try"):
            attention_maps(method, model, pixels, text, image)
        return
    maps = attention_maps(method, model, pixels, text, image)
    assert maps.shape == (4, *(GRID if method in FLOORS else grid))
    assert maps.dtype == torch.float32
    assert maps.isfinite().all() and not maps.requires_grad
    assert all(value.grad is None for value in model.visual.parameters())
    if method in FLOORS:
        return
    # another image, another map; and a text changes it if the method says so
    assert not torch.allclose(maps[0], maps[2])
    assert torch.allclose(maps[0], maps[1]) != METHODS[method].by_text
    # texts and images of a batch do not mix, and no hook is left behind
    alone = attention_maps(method, model, pixels[1:], text[3:], torch.tensor([0]))
    torch.testing.assert_close(maps[3:], alone, atol=1e-5, rtol=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():  # as evaluations call it
        mixed = attention_maps(method, model, pixels, text[order], image_of_texts(2, 2)[order])
    torch.testing.assert_close(mixed, maps[order], atol=1e-5, rtol=1e-4)
    for module in model.visual.modules():
        assert not module._forward_hooks


def test_images_of_texts() -> None:
    assert image_of_texts(2, 3).tolist() == [0, 0, 0, 1, 1, 1]


def test_unknown_method() -> None:
    model, pixels, text = tower("vit-class")
    with pytest.raises(UserError, match="'lime'; expected one of pool, similarity"):
        attention_maps("lime", model, pixels, text, image_of_texts(2, 2))


@pytest.mark.parametrize("name", TOWERS)
def test_default_and_what_align_trains(name: str) -> None:
    model, pixels, text = tower(name)
    has_pool = pool_attention(model.visual, encode_tokens(model.visual, pixels)[1]) is not None
    assert trained_method(model) == ("pool" if has_pool else "similarity")
    without = TOWERS[name][2].split()
    expected = "pool" if has_pool else "similarity" if "rollout" in without else "rollout"
    assert default_method(model) == expected
    attention_maps(expected, model, pixels, text, image_of_texts(2, 2))


def test_floors_need_no_model() -> None:
    _, pixels, text = tower("vit-class")
    model, image = None, image_of_texts(2, 2)
    centre = attention_maps("center", model, pixels, text, image)
    assert (centre == torch.from_numpy(centre_map(GRID))).all()
    assert centre[0].argmax() == GRID[0] * GRID[1] // 2
    noise = attention_maps("random", model, pixels, text, image)
    alone = attention_maps("random", model, pixels[1:], text[3:], torch.tensor([0]))
    assert (noise[3] == alone[0]).all()  # whatever else is in the batch
    assert (noise[0] != noise[1]).any() and (noise[0] != noise[2]).any()
    # uniform in [0, 1), without a preferred place: 4 maps of 1089 cells
    assert 0 <= noise.min() and noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.std() == pytest.approx(12**-0.5, abs=0.02)


def test_similarity_is_a_cosine() -> None:
    model, pixels, text = tower("vit-class")
    positions = encode_positions(model.visual, pixels)
    maps = attention_maps("similarity", model, pixels, text, image_of_texts(2, 2))
    expected = torch.cosine_similarity(positions[1, 2, 0], text[3], dim=0)
    torch.testing.assert_close(maps[3, 2, 0], expected)


def test_maskclip_is_the_value_path_of_the_last_block() -> None:
    """Against the block written out: x + out(value), + MLP, norm and projection of the head."""
    model, pixels, text = tower("vit-class")
    visual = model.visual
    before = visual.transformer.resblocks[0](visual._embeds(pixels))
    block = visual.transformer.resblocks[1]
    weight, bias = (x[64:] for x in (block.attn.in_proj_weight, block.attn.in_proj_bias))
    x = before + block.attn.out_proj(linear(block.ln_1(before), weight, bias))
    x = x + block.mlp(block.ln_2(x))
    features = normalize(visual.ln_post(x)[:, 1:] @ visual.proj, dim=-1)
    expected = torch.einsum("bnd,bd->bn", features, text[[1, 2]]).unflatten(1, (3, 3))
    maps = attention_maps("maskclip", model, pixels, text[[1, 2]], torch.tensor([0, 1]))
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("name", ["resnet", "modified-resnet", "vit-class", "siglip"])
def test_gradcam_agrees_with_captum(name: str) -> None:
    """An independent implementation, on the layer that ours takes."""
    captum = pytest.importorskip("captum.attr")
    model, pixels, text = tower(name)
    visual = model.visual
    layer = {
        "resnet": lambda: visual.trunk.layer4,
        "modified-resnet": lambda: visual.layer4,
        "vit-class": lambda: visual.transformer.resblocks[-1].ln_1,
        "siglip": lambda: visual.trunk.blocks[-1].norm1,
    }[name]()
    is_vit = name in ("vit-class", "siglip")
    # near the images: the whole map of another text may be below 0
    text = normalize(normalize(visual(pixels), dim=-1).detach() + text[:2], dim=-1)

    def score(x: Tensor) -> Tensor:
        return (normalize(visual(x), dim=-1) * text).sum(-1)

    maps = attention_maps("gradcam", model, pixels, text, torch.tensor([0, 1]))
    cam = captum.LayerGradCam(score, layer)
    if not is_vit:
        found = cam.attribute(pixels, relu_attributions=True)[:, 0]
    else:  # captum takes axis 1 for channels: tokens are the last axis here
        activation, gradient = _kept(visual, layer, pixels, score)
        prefix = activation.shape[1] - maps[0].numel()
        activation, gradient = activation[:, prefix:], gradient[:, prefix:]
        found = (gradient.mean(1, keepdim=True) * activation).sum(-1).relu().view_as(maps)
    assert maps.max() > 0
    torch.testing.assert_close(maps, found.detach(), atol=1e-6, rtol=1e-4)


def _kept(visual: Any, layer: nn.Module, pixels: Tensor, score: Any) -> tuple[Tensor, Tensor]:
    """Activation and gradient of a layer, as captum finds them."""
    captum = pytest.importorskip("captum._utils.gradient")
    gradients, activations = captum.compute_layer_gradients_and_eval(score, layer, pixels)[:2]
    return activations[0], gradients[0]


@pytest.mark.parametrize("name", ["vit-class", "vit-average"])
def test_rollout_of_one_block_is_attention_times_its_gradient(name: str) -> None:
    """By finite differences: the score as a function of the attention of a single block."""
    model, pixels, text = tower(name)
    visual = model.visual.double()
    pixels, text = pixels[:1].double(), text[:1].double()
    visual.transformer.resblocks = visual.transformer.resblocks[:1]
    block, x = visual.transformer.resblocks[0], visual._embeds(pixels)
    query, key, value = (
        part.unflatten(-1, (2, 16)).transpose(1, 2)
        for part in linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
            3, -1
        )
    )
    attention = (query @ key.transpose(-2, -1) / 4).softmax(-1)

    def score(attention: Tensor) -> Tensor:
        out = block.attn.out_proj((attention @ value).transpose(1, 2).flatten(2))
        after = x + out
        after = after + block.mlp(block.ln_2(after))
        pooled, _ = visual._pool(after)
        return (normalize(pooled @ visual.proj, dim=-1) * text).sum()

    slope = torch.zeros_like(attention)
    for index in torch.cartesian_prod(*(torch.arange(side) for side in attention.shape[1:])):
        nudge = torch.zeros_like(attention)
        nudge[(0, *index)] = 1e-6
        slope[(0, *index)] = (score(attention + nudge) - score(attention - nudge)) / 2e-6
    flow = (attention * slope).relu().mean(1)[0] + torch.eye(attention.shape[-1])
    read = flow[0] if name == "vit-class" else flow[1:].mean(0)
    maps = attention_maps("rollout", model, pixels, text, torch.tensor([0]))
    torch.testing.assert_close(maps[0].flatten(), read[1:].detach().float(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["similarity", "maskclip"])
def test_a_position_that_is_the_text_is_the_maximum(method: str) -> None:
    """The text is the feature of one position; the others are another thing."""
    model, pixels, _ = tower("vit-class")
    wanted = encode_positions(model.visual, pixels)[0, 1, 2]
    if method == "maskclip":  # the feature that this method gives the position
        basis = torch.eye(len(wanted))
        rows = attention_maps(method, model, pixels, basis, torch.zeros(32, dtype=torch.int64))
        wanted = rows[:, 1, 2]
    text = normalize(wanted, dim=-1)[None].detach()
    (found,) = attention_maps(method, model, pixels, text, torch.tensor([0]))
    assert found.argmax() == 5 and float(found[1, 2]) == pytest.approx(1, abs=1e-5)


def test_pool_is_the_softmax_of_its_scores() -> None:
    """Every head scores a token by its first channel alone, 3 times."""
    model, pixels, text = tower("modified-resnet")
    visual = model.visual
    pool = visual.attnpool
    width = pool.q_proj.out_features // pool.num_heads
    for layer in (pool.q_proj, pool.k_proj):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.ones_(pool.q_proj.bias)
    with torch.no_grad():
        pool.k_proj.weight[:, 0] = 3 / width**0.5
        grid = encode_tokens(visual, pixels)[1].grid[..., 0]
    scores = 3 * (grid + pool.positional_embedding[1:, 0].detach().view(2, 2))
    expected = scores.flatten(1).softmax(1).view(2, 2, 2)[[0, 0, 1, 1]]
    maps = attention_maps("pool", model, pixels, text, image_of_texts(2, 2))
    torch.testing.assert_close(maps, expected)
    assert expected.max() > 0.3  # not flat, which is 0.25


def test_gradcam_of_an_average_and_a_projection() -> None:
    """Their gradient is known: the same at every position, in the direction that is missing."""
    model, pixels, text = tower("resnet")
    visual, image = model.visual, image_of_texts(2, 2)
    weight = visual.head.proj.weight.detach()  # (D, C)
    with torch.no_grad():
        grid = encode_tokens(visual, pixels)[1].grid[image].flatten(1, 2)
    feature = grid.mean(1) @ weight.T
    unit = normalize(feature, dim=-1)
    text = normalize(unit + text, dim=-1)
    slope = (text - (unit * text).sum(-1, keepdim=True) * unit) / feature.norm(dim=-1, keepdim=True)
    expected = (grid @ (slope @ weight / grid.shape[1])[..., None])[..., 0].relu()
    maps = attention_maps("gradcam", model, pixels, text, image)
    torch.testing.assert_close(maps.flatten(1), expected, atol=1e-6, rtol=1e-4)
    assert expected.max() > 0
