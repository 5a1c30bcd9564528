"""Test-time registers, on towers in which a register neuron is planted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.model import _build_vision_tower
from torch import Tensor, nn
from torch.nn.functional import normalize

from openclip_eclip.attention import registers
from openclip_eclip.attention.methods import attention_maps
from openclip_eclip.config import UserError
from openclip_eclip.towers.positions import encode_positions

NEURON, OUTLIER = 3, 5  # the neuron, and the position that it takes
ACTIVE = 10.0
CONFIGS: dict[str, dict[str, Any]] = {
    "open_clip": {**TINY["vision_cfg"], "image_size": 48},
    "timm": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 48,
    },
}


def blocks(visual: Any) -> Any:
    return visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks


def layers(block: Any) -> tuple[nn.Module, nn.Module, nn.Linear, nn.Linear]:
    """Norm, activation, first and last layer of the MLP."""
    if hasattr(block, "ln_2"):
        return block.ln_2, block.mlp.gelu, block.mlp.c_fc, block.mlp.c_proj
    return block.norm2, block.mlp.act, block.mlp.fc1, block.mlp.fc2


@pytest.fixture(params=CONFIGS)
def planted(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    """A model, and 2 images: on the first a neuron of its first block writes much on OUTLIER."""
    torch.manual_seed(0)
    visual = _build_vision_tower(32, dict(CONFIGS[request.param])).eval()
    if request.param == "timm":
        visual.set_input_size(48)
        visual.trunk.blocks = visual.trunk.blocks[:2]
    for value in visual.parameters():
        value.data += 0.05 * torch.randn_like(value)
    pixels = torch.randn(2, 3, 48, 48)
    norm, _, first, last = layers(blocks(visual)[0])
    inputs: list[Tensor] = []
    handle = norm.register_forward_hook(lambda _, __, output: inputs.append(output.detach()))
    with torch.no_grad():
        visual(pixels)
        handle.remove()
        wanted = torch.full((2, 10), -ACTIVE)
        wanted[0, 1 + OUTLIER] = ACTIVE  # behind the class token
        solution = torch.linalg.lstsq(inputs[0].flatten(0, 1), wanted.flatten()[:, None]).solution
        first.weight[NEURON], first.bias[NEURON] = solution[:, 0], 0
        last.weight[:, NEURON] = 10 * torch.randn(len(last.weight))
    return SimpleNamespace(visual=visual), pixels


def without_neuron(model: Any, pixels: Tensor) -> Tensor:
    """Unit features of the positions of a tower that lacks the neuron."""
    last = layers(blocks(model.visual)[0])[3]
    column = last.weight[:, NEURON].clone()
    with torch.no_grad():
        last.weight[:, NEURON] = 0
        positions = encode_positions(model.visual, pixels)
        last.weight[:, NEURON] = column
    return normalize(positions, dim=-1)


def silence_attention(visual: Any) -> None:
    for block in blocks(visual):
        out = block.attn.out_proj if hasattr(block.attn, "out_proj") else block.attn.proj
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)


@torch.no_grad()
def test_outlier_is_mended_and_others_stay(planted: tuple[Any, Tensor]) -> None:
    model, pixels = planted
    clean = without_neuron(model, pixels)
    text = clean.flatten(1, 2)[:, OUTLIER]  # what is at the position, without the neuron
    image = torch.arange(2)
    plain = attention_maps("similarity", model, pixels, text, image).flatten(1)
    mended = attention_maps("registers", model, pixels, text, image).flatten(1)
    assert plain[0, OUTLIER] < 0.8 and plain[0].argmax() != OUTLIER
    assert mended[0].argmax() == OUTLIER and mended[0, OUTLIER] > 0.95
    assert torch.equal(mended[1], plain[1])  # no outlier, nothing is moved
    # neurons are found for each image: the batch changes nothing
    for row in range(2):
        alone = attention_maps("registers", model, pixels[[row]], text[[row]], torch.tensor([0]))
        torch.testing.assert_close(alone[0].flatten(), mended[row])
    for module in model.visual.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@torch.no_grad()
def test_without_attention_the_neuron_is_gone(
    planted: tuple[Any, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing reads the added token then: the map is that of a tower that lacks the neuron."""
    monkeypatch.setattr(registers, "NEURONS", 1)
    model, pixels = planted
    norm, _, first, _ = layers(blocks(model.visual)[0])
    silence_attention(model.visual)
    inputs: list[Tensor] = []
    handle = norm.register_forward_hook(lambda _, __, output: inputs.append(output))
    model.visual(pixels[:1])
    handle.remove()
    wanted = torch.full((10, 1), -ACTIVE)
    wanted[1 + OUTLIER] = ACTIVE
    first.weight[NEURON] = torch.linalg.lstsq(inputs[0][0], wanted).solution[:, 0]
    text = normalize(torch.randn(1, 32), dim=-1)
    expected = without_neuron(model, pixels[:1])[0] @ text[0]
    (found,) = attention_maps("registers", model, pixels[:1], text, torch.tensor([0]))
    torch.testing.assert_close(found, expected)
    (plain,) = attention_maps("similarity", model, pixels[:1], text, torch.tensor([0]))
    assert (plain - expected).abs().max() > 0.05


@torch.no_grad()
def test_the_added_token_holds_the_maximum_and_is_read(
    planted: tuple[Any, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the two blocks written out, with one neuron and a token of zeros at the end."""
    monkeypatch.setattr(registers, "NEURONS", 1)
    model, pixels = planted
    visual = model.visual
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels[:1])))
    else:
        x = visual._embeds(pixels[:1])
    x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    before, after = blocks(visual)
    norm, activation, first, last = layers(before)
    if hasattr(before, "ln_1"):
        x = x + before.attention(before.ln_1(x))
    else:
        x = x + before.attn(before.norm1(x))
    neurons = activation(first(norm(x)))
    peak = neurons[0, :, NEURON].max()
    assert peak == neurons[0, 1 + OUTLIER, NEURON] > ACTIVE / 2
    neurons[0, 1:, NEURON] = 0
    neurons[0, -1, NEURON] = peak
    x = after(x + last(neurons))[:, 1:-1]
    if hasattr(visual, "trunk"):
        features = visual.head(visual.trunk.norm(x))
    else:
        features = visual.ln_post(x) @ visual.proj
    text = normalize(torch.randn(1, 32), dim=-1)
    expected = normalize(features, dim=-1)[0] @ text[0]
    (found,) = attention_maps("registers", model, pixels[:1], text, torch.tensor([0]))
    torch.testing.assert_close(found.flatten(), expected)


def test_neurons_are_the_highest_at_outliers_and_before_they_stand_out() -> None:
    norms = torch.ones(2, 3, 9)
    norms[0, 1:, 4] = 9  # stands out after the second block
    neurons = [torch.zeros(2, 9, 20) for _ in range(3)]
    for layer, one in enumerate(neurons):
        one[:, 4, layer] = -5 - layer  # the magnitude counts
        one[:, :, 19] = 50  # high everywhere
    found = registers._register_neurons(norms, neurons)
    assert found[0].nonzero().tolist() == [[0, 0], [1, 1]] and not found[1].any()
    neurons[0][0, 4, 5:18] = torch.arange(1.5, 14)  # more than there is room for
    found = registers._register_neurons(norms, neurons)[0]
    assert found.sum() == registers.NEURONS
    assert found[0].nonzero().flatten().tolist() == [*range(9, 18)] and found[1, 1]


def test_unknown_mlp_is_an_error() -> None:
    config = {**CONFIGS["timm"], "timm_model_name": "vit_tiny_patch16_224"}
    visual = _build_vision_tower(32, config)
    visual.trunk.blocks[0].mlp = nn.Identity()
    with pytest.raises(UserError, match="registers: the MLP Identity of the image tower .* Try"):
        attention_maps(
            "registers",
            SimpleNamespace(visual=visual),
            torch.zeros(1, 3, 224, 224),
            torch.ones(1, 32),
            torch.tensor([0]),
        )
