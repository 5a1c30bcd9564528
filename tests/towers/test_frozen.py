"""Frozen towers: what is trained, and results that are kept in the place of frozen parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn

from openclip_eclip.config import UserError
from openclip_eclip.towers.frozen import (
    FrozenText,
    freeze_image_tower,
    freeze_text_tower,
    keep_results,
)
from openclip_eclip.towers.pool_attention import pool_attention
from openclip_eclip.towers.positions import encode_tokens

TIMM = {"timm_model_pretrained": False, "image_size": 64}
VIT = {**TINY["vision_cfg"], "image_size": 48}
TOWERS: dict[str, tuple[dict[str, Any], set[str]]] = {  # configuration, what is trained
    "vit": (VIT, {"ln_post.weight", "ln_post.bias", "proj"}),
    "vit-pool": (
        {**VIT, "attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2},
        {"ln_post.weight", "ln_post.bias", "proj", "attn_pool.*"},
    ),
    "timm-cnn": (
        {**TIMM, "timm_model_name": "resnet10t", "timm_pool": "abs_attn", "timm_proj": ""},
        {"head.pool.*"},
    ),
    "timm-linear": (
        {**TIMM, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"},
        {"head.proj.weight"},
    ),
    "timm-pool": (
        {
            **TIMM,
            "timm_model_name": "vit_tiny_patch16_224",
            "image_size": 224,
            "timm_pool": "map",
            "timm_proj": "",
        },
        {"trunk.attn_pool.*", "trunk.head.weight", "trunk.head.bias"},
    ),
    "modified-resnet": (
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        {"attnpool.*"},
    ),
}


def tower(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return _build_vision_tower(32, config)


def model_of(visual: Any) -> Any:
    """A model with this image tower, and a text tower that is trained."""
    model: Any = nn.Module()
    model.visual, model.text = visual, nn.Linear(2, 2)
    return model


class Kept:
    """Results by the content of each row, and how many were computed."""

    def __init__(self) -> None:
        self.known: dict[bytes, Tensor] = {}
        self.computed: Counter[str] = Counter()
        self.weights: dict[str, dict[str, Tensor]] = {}

    def make(self, name: str, weights: dict[str, Tensor]) -> Callable[..., Tensor]:
        self.weights[name] = weights

        def rows(x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
            keys = [name.encode() + row.numpy().tobytes() for row in x]
            new = [i for i, key in enumerate(keys) if key not in self.known]
            if new:
                with torch.no_grad():
                    self.known.update(zip([keys[i] for i in new], compute(x[new])))
            self.computed[name] += len(new)
            return torch.stack([self.known[key] for key in keys])

        return rows


def matches(name: str, patterns: set[str]) -> bool:
    return any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in patterns)


@pytest.mark.parametrize("name", TOWERS)
def test_the_pool_and_the_projection_stay_trainable(name: str) -> None:
    config, patterns = TOWERS[name]
    visual = tower(config)
    freeze_image_tower(visual)
    for parameter, value in visual.named_parameters():
        assert value.requires_grad == matches(parameter, patterns), parameter


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    visual = tower(TOWERS["timm-cnn"][0])
    freeze_image_tower(visual)
    visual.train()
    assert visual.training and visual.head.training
    norms = [part for part in visual.trunk.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    before = norms[0].running_mean.clone()
    visual(torch.rand(2, 3, 64, 64))
    assert torch.equal(norms[0].running_mean, before)


@pytest.mark.parametrize("name", TOWERS)
def test_kept_results_give_the_same_features_tokens_and_gradients(name: str) -> None:
    config, _ = TOWERS[name]
    plain, kept, store = tower(config), tower(config), Kept()
    for visual in (plain, kept):
        freeze_image_tower(visual)
        visual.train()
    keep_results(model_of(kept), store.make)
    side = config["image_size"]
    torch.manual_seed(1)
    images = torch.rand(3, 3, side, side)
    for _ in range(2):  # computed, then found
        outputs = []
        for visual in (plain, kept):
            visual.zero_grad()
            features, tokens = encode_tokens(visual, images)
            loss = features.square().sum()
            attention = pool_attention(visual, tokens)
            if attention is not None:
                loss = loss + attention[:, 0].sum()
            loss.backward()
            trained = [p.grad for p in visual.parameters() if p.requires_grad]
            outputs.append([features, visual(images), tokens.grid, *trained])
        for expected, found in zip(*outputs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert store.computed == {"image": 3}


def test_kept_weights_are_those_of_the_frozen_part() -> None:
    visual, store = tower(TOWERS["timm-cnn"][0]), Kept()
    freeze_image_tower(visual)
    keep_results(model_of(visual), store.make)
    names = set(store.weights["image"])
    assert names == {n for n in visual.state_dict() if n.startswith("trunk.")}
    assert any("running_mean" in name for name in names)


def test_a_tower_whose_positions_are_not_known_is_an_error() -> None:
    with pytest.raises(UserError, match="the image tower Linear is not known"):
        freeze_image_tower(nn.Linear(2, 2))


def test_a_frozen_text_tower_of_clip_is_computed_once() -> None:
    torch.manual_seed(0)
    model = CLIP(32, CLIPVisionCfg(**TINY["vision_cfg"]), CLIPTextCfg(**TINY["text_cfg"]))
    freeze_image_tower(model.visual)
    freeze_text_tower(model)
    model.train()
    texts, store = torch.randint(1, 400, (3, 16)), Kept()
    expected = [model.encode_text(texts, normalize=normalize) for normalize in (False, True)]
    keep_results(model, store.make)
    for _ in range(2):
        found = [model.encode_text(texts, normalize=normalize) for normalize in (False, True)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert store.computed["text"] == 3


def test_a_trained_text_tower_is_not_kept() -> None:
    model = CLIP(32, CLIPVisionCfg(**TINY["vision_cfg"]), CLIPTextCfg(**TINY["text_cfg"]))
    freeze_image_tower(model.visual)
    store = Kept()
    keep_results(model, store.make)
    assert set(store.weights) == {"image"}


@pytest.mark.parametrize("projection", ["mlp", None])
def test_frozen_text_features_do_not_depend_on_what_is_trained(projection: str | None) -> None:
    """Behind a tower of Hugging Face the projection is trained; results that are kept are seen."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=99,
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.5},
    )
    torch.manual_seed(0)
    model: Any = model_of(tower(VIT))
    model.text = HFTextEncoder("", 16, config, "mean_pooler", projection, pretrained=False)
    model.lock_text_tower = model.text.lock
    freeze_image_tower(model.visual)
    freeze_text_tower(model)
    model.train()
    frozen, texts = FrozenText(model), torch.randint(1, 99, (3, 16))
    before = frozen.last(model.text(texts))
    torch.testing.assert_close(before.norm(dim=1), torch.ones(3))
    for parameter in model.text.proj.parameters():
        parameter.data.mul_(torch.rand_like(parameter))
    assert torch.equal(frozen.last(model.text(texts)), before) and not before.requires_grad
    keep_results(model, (store := Kept()).make)
    model.text(texts[:2])
    # one of three is computed, and all are seen
    torch.testing.assert_close(frozen.last(model.text(texts)), before)
    assert store.computed["text"] == 3


def test_features_of_a_tower_that_is_all_frozen_are_its_own() -> None:
    model = CLIP(32, CLIPVisionCfg(**TINY["vision_cfg"]), CLIPTextCfg(**TINY["text_cfg"]))
    freeze_text_tower(model)
    features = model.encode_text(torch.randint(1, 400, (3, 16)), normalize=True)
    assert torch.allclose(FrozenText(model).last(features), features)
