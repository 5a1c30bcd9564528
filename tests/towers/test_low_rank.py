"""LoRA on each kind of tower: what is trained, what stays, and the merged weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import Tensor, nn

pytest.importorskip("peft")

from openclip_eclip.checkpoint_files import merge_low_rank
from openclip_eclip.config import UserError
from openclip_eclip.towers.low_rank import add_low_rank

TIMM = {"timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
VIT = TINY["vision_cfg"]
POOL = {"attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2}
VISION: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit-pool": {**VIT, **POOL},
    "timm-vit": {
        **TIMM,
        "timm_model_name": "test_vit",
        "timm_pool": "map",
        "timm_proj": "",
        "image_size": 160,
    },
    "timm-convnext": {**TIMM, "timm_model_name": "test_convnext", "image_size": 64},
    # the attention reads qkv.weight
    "timm-eva": {**TIMM, "timm_model_name": "eva02_tiny_patch14_224", "image_size": 224},
    # batch statistics beside linear layers
    "timm-levit": {**TIMM, "timm_model_name": "levit_128s", "image_size": 224},
}
TEXTS: dict[str, dict[str, Any]] = {
    "own": TINY["text_cfg"],
    "causal-free": {**TINY["text_cfg"], "no_causal_mask": True, "proj_bias": True},
}


def model_of(vision: dict[str, Any], text: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """CLIP, or with `text` CustomTextCLIP; two blocks of a timm tower, of random weights."""
    torch.manual_seed(seed)
    if text is None:
        model = CLIP(32, CLIPVisionCfg(**vision), CLIPTextCfg(**TINY["text_cfg"]))
    else:
        model = CustomTextCLIP(32, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    trunk = getattr(model.visual, "trunk", None)
    if hasattr(trunk, "blocks"):
        trunk.blocks = trunk.blocks[:2]
    for value in model.parameters():  # weights that begin at 0 would hide what precedes them
        value.data += 0.02 * torch.randn_like(value)
    return model


def inputs(model: Any) -> tuple[Tensor, Tensor]:
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, height, width, generator=generator)
    texts = torch.randint(3, 90, (3, model.context_length), generator=generator)
    return images, texts


def loss_of(model: Any) -> Tensor:
    images, texts = inputs(model)
    target = torch.linspace(-1, 1, 32)
    image, text = (model.encode_image(images) - target).square(), model.encode_text(texts)
    return image.mean() + (text - target).square().mean()


def train(model: Any, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def features(model: Any) -> Tensor:
    model.eval()
    images, texts = inputs(model)
    with torch.no_grad():
        return torch.cat(
            [model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)]
        )


def is_low_rank(name: str) -> bool:
    return ".lora_" in name


@pytest.fixture(params=[*VISION, *TEXTS, "bert"])
def case(request: pytest.FixtureRequest, bert: dict[str, Any]) -> tuple[Any, dict[str, int | None]]:
    """(a plain model, the ranks to add) for each tower."""
    name = request.param
    if name in VISION:
        return model_of(VISION[name]), {"image_rank": 4, "text_rank": 4}
    text = bert if name == "bert" else TEXTS[name]
    return model_of(VIT, text), {"image_rank": None, "text_rank": 4}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The text configuration of a small tower of Hugging Face."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=100, num_hidden_layers=2, **sizes)).save_pretrained(folder)
    return {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "cls_pooler",
        "hf_proj_type": "linear",
        "context_length": 12,
    }


def test_the_merged_weights_compute_what_was_trained(case: tuple[Any, dict[str, Any]]) -> None:
    model, ranks = case
    plain, before = copy.deepcopy(model), copy.deepcopy(model).state_dict()
    start = features(model)
    add_low_rank(model, **ranks)
    torch.testing.assert_close(features(model), start, rtol=0, atol=1e-6)
    train(model)
    trained = features(model)
    assert (trained - start).abs().max() > 1e-3

    merged = merge_low_rank(model.state_dict())
    assert merged.keys() == before.keys()
    plain.load_state_dict(merged)
    torch.testing.assert_close(features(plain), trained, rtol=0, atol=1e-6)


def test_only_a_b_and_what_follows_the_positions_change(case: tuple[Any, dict[str, Any]]) -> None:
    model, ranks = case
    add_low_rank(model, **ranks)
    low_rank = {name for name, _ in model.named_parameters() if is_low_rank(name)}
    assert low_rank
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert low_rank <= trainable
    before = copy.deepcopy(model.state_dict())
    train(model)
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed <= trainable  # batch statistics are not among them
    assert low_rank <= changed  # each A and B acts on the features


def test_the_pool_and_the_projection_are_trained_and_the_blocks_are_not() -> None:
    model = model_of(VISION["vit-pool"])
    add_low_rank(model, 4, None)
    trained = {n for n, p in model.visual.named_parameters() if p.requires_grad}
    plain = {name for name in trained if not is_low_rank(name)}
    assert plain == {
        name
        for name, _ in model.visual.named_parameters()
        if name.startswith(("attn_pool.", "ln_post.", "proj"))
    }
    assert {n.split(".")[2] for n in trained - plain} == {"0", "1"}
    assert all(p.requires_grad for n, p in model.named_parameters() if n.startswith("transformer"))


@pytest.mark.parametrize("name", ["vit", "timm-vit", "bert"])
def test_checkpointing_changes_no_gradient(name: str, bert: dict[str, Any]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = model_of(VISION.get(name, VIT), bert if name == "bert" else None)
        if name == "bert":
            model.text.transformer.config.attention_probs_dropout_prob = 0
            for module in model.text.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        add_low_rank(model, 4, 4)
        for parameter_name, parameter in model.named_parameters():
            if is_low_rank(parameter_name):
                nn.init.normal_(parameter, std=0.1)
        if checkpointing:
            model.set_grad_checkpointing()
        model.train()
        loss_of(model).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for key, value in gradients[0].items():
        if value is not None:
            torch.testing.assert_close(gradients[1][key], value, rtol=1e-5, atol=1e-7)
    assert any(is_low_rank(key) and value is not None for key, value in gradients[0].items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_weights_stay_in_low_precision_too(dtype: torch.dtype) -> None:
    model = model_of(VIT)
    model.visual.to(dtype)
    add_low_rank(model, 4, None)
    for name, parameter in model.named_parameters():
        if is_low_rank(name):
            nn.init.normal_(parameter, std=0.1)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model.visual(inputs(model)[0].to(dtype)).sum().backward()
    for name, value in model.state_dict().items():
        assert value.equal(before[name]), name


@pytest.mark.parametrize("name", ["resnet10t", None])
def test_a_tower_without_linear_layers_is_an_error(name: str | None) -> None:
    own = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    model = model_of({**TIMM, "timm_model_name": name, "image_size": 64} if name else own)
    with pytest.raises(UserError, match="--lora-image 4: the image tower .* no linear layers"):
        add_low_rank(model, 4, None)


def test_training_flags_are_left_alone() -> None:
    model = model_of(VIT)
    model.train()
    add_low_rank(model, 4, 4)
    assert all(module.training for module in model.modules())


def test_weights_without_low_rank_are_returned_as_they_are() -> None:
    state = model_of(VIT).state_dict()
    merged = merge_low_rank(state)
    assert list(merged) == list(state) and all(merged[key] is state[key] for key in state)
