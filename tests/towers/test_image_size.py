"""Towers at other image sizes, against models that open_clip and timm build at that size."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import open_clip
import pytest
import torch
from conftest import TINY
from open_clip.model import CLIP, _build_vision_tower, resize_pos_embed
from torch import Tensor

from openclip_eclip.config import UserError
from openclip_eclip.towers.image_size import at_size, patch_size

TIMM = {"timm_model_pretrained": False, "timm_proj": "linear", "timm_pool": "avg"}
OPEN_CLIP = {
    "vit": {**TINY["vision_cfg"], "image_size": 64},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}
TIMM_NAMES = {
    "vit": ("vit_tiny_patch16_224", "token"),
    "siglip": ("vit_tiny_patch16_224", "map"),
    "distilled": ("deit_tiny_distilled_patch16_224", "token"),
}


def timm_tower(name: str, pool: str = "avg") -> Any:
    proj = "none" if pool == "map" else "linear"
    config = {**TIMM, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj}
    return _build_vision_tower(32, {**config, "image_size": 224}).eval()


@torch.no_grad()
def same(one: Any, other: Any, pixels: Tensor) -> None:
    torch.testing.assert_close(one(pixels), other(pixels))


@pytest.mark.parametrize("size", [(128, 128), (32, 96)])
def test_vit_is_that_of_open_clip_at_this_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = CLIP(32, OPEN_CLIP["vit"], TINY["text_cfg"]).eval()
    other = CLIP(32, {**OPEN_CLIP["vit"], "image_size": size}, TINY["text_cfg"]).eval()
    state = model.state_dict()
    resize_pos_embed(state, other)  # as `--force-image-size` does
    other.load_state_dict(state)
    with at_size(model.visual, size):
        same(model.visual, other.visual, torch.randn(2, 3, *size))


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_timm_is_that_of_timm_at_this_size(name: str) -> None:
    torch.manual_seed(0)
    visual = timm_tower(*TIMM_NAMES[name])
    side = 2 * patch_size(visual)[0] * 4
    other = deepcopy(visual)
    other.set_input_size((side, side))
    with at_size(visual, (side, side)):
        same(visual, other, torch.randn(1, 3, side, side))


def test_resnet_has_its_positions_interpolated() -> None:
    torch.manual_seed(0)
    visual = _build_vision_tower(32, dict(OPEN_CLIP["resnet"])).eval()
    table = visual.attnpool.positional_embedding
    table.data = table.data[:1].expand_as(table).contiguous()  # the same everywhere
    other = _build_vision_tower(32, {**OPEN_CLIP["resnet"], "image_size": 128}).eval()
    state = visual.state_dict()
    state["attnpool.positional_embedding"] = table.data[:1].expand(17, -1)
    other.load_state_dict(state)
    with at_size(visual, (128, 128)):
        same(visual, other, torch.randn(1, 3, 128, 128))


@pytest.mark.parametrize("name", ["vit", "resnet", *TIMM_NAMES])
def test_everything_is_as_before_afterwards(name: str) -> None:
    visual: Any
    if name == "resnet" or name == "vit":
        visual = _build_vision_tower(32, dict(OPEN_CLIP[name])).eval()
    else:
        visual = timm_tower(*TIMM_NAMES[name])
    trained = open_clip.model.to_2tuple(visual.image_size)
    pixels = torch.randn(1, 3, *trained)
    parameters = dict(visual.named_parameters())
    with torch.no_grad():
        before = visual(pixels)
        with at_size(visual, trained):
            assert torch.equal(visual(pixels), before)
        with pytest.raises(ZeroDivisionError), at_size(visual, (2 * trained[0], 2 * trained[1])):
            raise ZeroDivisionError
        assert torch.equal(visual(pixels), before)
    after = dict(visual.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[key] is parameters[key] for key in after)


def test_convolutions_take_any_size() -> None:
    visual = timm_tower("resnet10t")
    with at_size(visual, (50, 70)), torch.no_grad():
        assert visual(torch.zeros(1, 3, 50, 70)).shape == (1, 32)


FIXED = ["swin_tiny_patch4_window7_224", "vit_tiny_r_s16_p8_224", "eva02_tiny_patch14_224"]


@pytest.mark.parametrize("name", FIXED)
def test_other_towers_take_one_size_alone(name: str) -> None:
    visual = timm_tower(name)
    with at_size(visual, (224, 224)), torch.no_grad():
        visual(torch.zeros(1, 3, 224, 224))
    with pytest.raises(UserError, match="takes images of 224 x 224 pixels alone"):
        with at_size(visual, (448, 448)):
            pass


@pytest.mark.parametrize("size", [(64, 100), (0, 64)])
def test_sides_that_patches_do_not_fill_are_an_error(size: tuple[int, int]) -> None:
    visual = _build_vision_tower(32, dict(OPEN_CLIP["vit"]))
    with pytest.raises(UserError, match="expected multiples of 16 x 16, the patches"):
        with at_size(visual, size):
            pass
    with pytest.raises(UserError, match="image tower Linear: .* not known"):
        patch_size(torch.nn.Linear(1, 1))
