"""Every method at another image size, and in bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY
from small_towers import TOWERS, tower
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize

from openclip_eclip.attention.attend import attend
from openclip_eclip.attention.methods import FLOORS, METHODS, attention_maps, image_of_texts
from openclip_eclip.config import UserError
from openclip_eclip.towers.image_size import at_size

OF_MODELS = [name for name in METHODS if name not in FLOORS]
NAMES = ("vit-class", "vit-pool", "modified-resnet", "resnet", "siglip")
PAIRS = [
    (name, method)
    for name in NAMES
    for method in OF_MODELS
    if method not in TOWERS[name][2].split()
]
# open_clip's own attentional pool does not run in bf16
IN_BF16 = [pair for pair in PAIRS if pair[0] != "vit-pool"]


def near(model: Any, pixels: Tensor, text: Tensor) -> Tensor:
    """Texts close to their images: of another, all of a map of gradcam may be below 0."""
    with torch.no_grad():
        features = normalize(model.visual(pixels), dim=-1)[image_of_texts(2, 2)]
    return normalize(features + text, dim=-1)


def like(one: Tensor, other: Tensor) -> float:
    """The correlation of maps, all together."""
    return float(np.corrcoef(one.double().flatten(), other.double().flatten())[0, 1])


@pytest.mark.parametrize("name, method", PAIRS)
def test_an_image_twice_as_large_has_its_map_twice_as_fine(name: str, method: str) -> None:
    model, pixels, text = tower(name)
    # patches of one colour, which is that of four patches at the larger size
    rows, columns = TOWERS[name][1]
    step = pixels.shape[-1] // columns
    pixels = interpolate(torch.randn(2, 3, rows, columns), scale_factor=step)
    text, image = near(model, pixels, text), image_of_texts(2, 2)
    maps = attention_maps(method, model, pixels, text, image)
    with at_size(model.visual, (2 * step * rows, 2 * step * columns)):
        large = attention_maps(method, model, interpolate(pixels, scale_factor=2), text, image)
    assert large.shape == (4, 2 * rows, 2 * columns)
    # the convolutions of a ResNet see other neighbours
    assert like(avg_pool2d(large, 2), maps) > (0.75 if "resnet" in name else 0.95)


@pytest.mark.parametrize("name, method", IN_BF16)
def test_bf16_is_like_fp32(name: str, method: str, tmp_path: Path) -> None:
    config = {**TINY, "vision_cfg": TOWERS[name][0]}
    (tmp_path / f"{name}-bf16.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    low: Any = open_clip.create_model(f"{name}-bf16", precision="bf16").eval()
    model, pixels, text = tower(name)
    if hasattr(low.visual, "trunk") and hasattr(low.visual.trunk, "blocks"):
        low.visual.trunk.blocks = low.visual.trunk.blocks[:2]
    state = model.visual.state_dict()
    low.visual.load_state_dict(state)
    # the same weights in both, so that only the computation is rounded
    model.visual.load_state_dict(
        {key: value.to(low.visual.state_dict()[key].dtype) for key, value in state.items()}
    )
    image, pixels = image_of_texts(2, 2), pixels.bfloat16()
    text = near(model, pixels.float(), text)
    expected = attention_maps(method, model, pixels.float(), text, image)
    maps = attention_maps(method, low, pixels, text, image)
    assert maps.dtype == torch.float32
    assert like(maps, expected) > 0.995
    assert (maps - expected).abs().max() < 0.05 * (expected.max() - expected.min())


@pytest.mark.parametrize("method", OF_MODELS)
def test_attend_at_another_size(method: str) -> None:
    """The call in Python, and the model is as before."""
    name = "modified-resnet" if method == "pool" else "vit-class"
    visual, text = {"vision_cfg": TOWERS[name][0]}, {"text_cfg": TINY["text_cfg"]}
    model = open_clip.CLIP(32, **visual, **text)
    tokens = torch.randint(1, 99, (2, 16))
    side = TOWERS[name][0]["image_size"]
    images = torch.randn(1, 3, 2 * side, side)
    before = attend(model, images[..., :side, :], tokens, method)
    rows, columns = TOWERS[name][1]
    assert attend(model, images, tokens, method).shape == (1, 2, 2 * rows, columns)
    assert torch.equal(attend(model, images[..., :side, :], tokens, method), before)
    with pytest.raises(UserError, match="expected multiples of"):
        attend(model, images[..., 1:, :], tokens, method)
