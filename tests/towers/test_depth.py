"""Scales of learning rates by layer, on each kind of tower."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import nn

from openclip_eclip.config import UserError
from openclip_eclip.towers.depth import image_layers, rate_scales, text_layers

TIMM = {"timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
VIT, TEXT = TINY["vision_cfg"], TINY["text_cfg"]
POOL = {"attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
# configuration, {weight: its distance from the head}; a head is not listed, so its scale is 1
IMAGES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "vit": (
        {**VIT, **POOL},
        {
            "conv1.weight": 3,
            "class_embedding": 3,
            "ln_pre.bias": 3,
            "transformer.resblocks.0.attn.in_proj_weight": 2,
            "transformer.resblocks.1.mlp.c_fc.weight": 1,
            "ln_post.weight": 0,
            "attn_pool.query": 0,
            "proj": 0,
        },
    ),
    "modified-resnet": (
        RESNET,
        {
            "conv1.weight": 5,
            "bn3.weight": 5,
            "layer1.0.conv1.weight": 4,
            "layer4.0.conv1.weight": 1,
            "attnpool.q_proj.weight": 0,
        },
    ),
    "timm-vit": (
        {**TIMM, "timm_model_name": "test_vit", "image_size": 160},
        {
            "trunk.patch_embed.proj.weight": 7,
            "trunk.pos_embed": 7,
            "trunk.blocks.0.mlp.fc1.weight": 6,
            "trunk.blocks.5.mlp.fc1.weight": 1,
            "trunk.norm.weight": 1,
            "head.proj.weight": 0,
        },
    ),
    "timm-pool": (  # the pool and the projection are timm's own
        {
            **TIMM,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "",
            "image_size": 160,
        },
        {
            "trunk.pos_embed": 7,
            "trunk.blocks.5.mlp.fc1.weight": 1,
            "trunk.norm.weight": 1,
            "trunk.attn_pool.q.weight": 0,
            "trunk.head.weight": 0,
        },
    ),
    "timm-cnn": (
        {**TIMM, "timm_model_name": "resnet10t", "image_size": 64},
        {
            "trunk.conv1.0.weight": 5,
            "trunk.layer1.0.conv1.weight": 4,
            "trunk.layer4.0.conv1.weight": 1,
            "head.proj.weight": 0,
        },
    ),
}


def image_tower(name: str) -> Any:
    torch.manual_seed(0)
    return CLIP(32, CLIPVisionCfg(**IMAGES[name][0]), CLIPTextCfg(**TEXT)).visual


@pytest.mark.parametrize("name", IMAGES)
def test_scales_of_an_image_tower(name: str) -> None:
    visual, expected = image_tower(name), IMAGES[name][1]
    scales = rate_scales(image_layers(visual), 0.5)
    result = {key: scales.get(id(visual.get_parameter(key)), 1.0) for key in expected}
    assert result == {key: 0.5**distance for key, distance in expected.items()}


@pytest.mark.parametrize("name", IMAGES)
def test_every_weight_before_the_head_is_in_one_layer(name: str) -> None:
    from openclip_eclip.towers.frozen import after_positions

    visual = image_tower(name)
    listed = [id(weight) for layer in image_layers(visual) for weight in layer]
    assert len(listed) == len(set(listed))
    behind = set(map(id, after_positions(visual)))
    assert set(listed) == set(map(id, visual.parameters())) - behind


@pytest.mark.parametrize("is_custom", [False, True])
def test_scales_of_open_clips_text_tower(is_custom: bool) -> None:
    text = {**TEXT, "layers": 2}
    kind = CustomTextCLIP if is_custom else CLIP
    model = kind(32, CLIPVisionCfg(**VIT), CLIPTextCfg(**text) if not is_custom else text)
    scales = rate_scales(text_layers(model), 0.5)
    tower = model.text if is_custom else model
    expected = {
        "token_embedding.weight": 3,
        "positional_embedding": 3,
        "transformer.resblocks.0.attn.in_proj_weight": 2,
        "transformer.resblocks.1.mlp.c_proj.bias": 1,
        "ln_final.weight": 0,
        "text_projection": 0,
    }
    result = {key: scales.get(id(tower.get_parameter(key)), 1.0) for key in expected}
    assert result == {key: 0.5**distance for key, distance in expected.items()}
    assert not scales.keys() & set(map(id, model.visual.parameters()))


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_scales_of_a_tower_of_hugging_face(kind: str, tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, num_hidden_layers=2, **sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    text = HFTextEncoder(str(tmp_path), output_dim=8, proj_type="linear", pooler_type="mean_pooler")
    scales = rate_scales(text_layers(SimpleNamespace(text=text)), 0.5)  # type: ignore[arg-type]
    expected = {
        "transformer.embeddings.word_embeddings.weight": 3,
        "transformer.encoder.layer.0.output.dense.weight": 2,
        "transformer.encoder.layer.1.output.dense.bias": 1,
        "proj.weight": 0,
    }
    result = {key: scales.get(id(text.get_parameter(key)), 1.0) for key in expected}
    assert result == {key: 0.5**distance for key, distance in expected.items()}


def test_unknown_towers_are_errors() -> None:
    with pytest.raises(UserError, match="the image tower Linear is not known"):
        image_layers(nn.Linear(2, 2))
    with pytest.raises(UserError, match="the layers of the text tower Linear are not known"):
        text_layers(SimpleNamespace(text=nn.Linear(2, 2)))  # type: ignore[arg-type]
