"""Frozen towers: what is trained, and results that are kept in the place of frozen parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP, _build_vision_tower
from torch import Tensor, nn
from transformers import AutoConfig

from openclip_eclip.config import UserError
from openclip_eclip.towers.frozen import FrozenText, freeze_image_tower, freeze_text_tower
from openclip_eclip.towers.kept import keep_results
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


PARTS = [(name, "all") for name in TOWERS] + [
    (name, f"blocks:{count}")
    for name, counts in {"vit": (0, 1, 2), "vit-pool": (1,), "timm-pool": (5, 12)}.items()
    for count in counts
]
PARTS += [("modified-resnet", f"blocks:{count}") for count in (0, 3, 4)]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_kept_results_give_the_same_features_tokens_and_gradients(name: str, part: str) -> None:
    config, _ = TOWERS[name]
    plain, kept, store = tower(config), tower(config), Kept()
    for visual in (plain, kept):
        freeze_image_tower(visual, part)
        visual.train()
    keep_results(model_of(kept), store.make, part)
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
    assert store.computed == {"image" if part == "all" else f"image_{part.replace(':', '')}": 3}


def test_kept_weights_of_some_blocks_are_theirs_alone() -> None:
    visual, store = tower(TOWERS["modified-resnet"][0]), Kept()
    freeze_image_tower(visual, "blocks:2")
    keep_results(model_of(visual), store.make, "blocks:2")
    (names,) = store.weights.values()
    first = ("conv", "bn", "layer1.", "layer2.")
    assert set(names) == {name for name in visual.state_dict() if name.startswith(first)}
    assert "layer2.0.bn1.running_mean" in names


def test_tokens_before_a_block_of_another_tower_are_an_error() -> None:
    visual = tower(TOWERS["timm-cnn"][0])
    freeze_image_tower(visual, "blocks:1")
    with pytest.raises(UserError, match="blocks:1: what ResNet computes.*take --freeze-image all"):
        keep_results(model_of(visual), Kept().make, "blocks:1")


BLOCKS: dict[str, tuple[str, str, set[str], int]] = {  # tower, part, what is frozen, its blocks
    "vit": (
        "vit",
        "blocks:1",
        {"conv1.*", "class_embedding", "positional_embedding", "ln_pre.*"}
        | {"transformer.resblocks.0.*"},
        2,
    ),
    "embedding": ("timm-pool", "blocks:0", {"trunk.cls_token", "trunk.pos_embed"}, 12),
    "timm-vit": (
        "timm-pool",
        "blocks:2",
        {"trunk.cls_token", "trunk.pos_embed", "trunk.blocks.0.*", "trunk.blocks.1.*"},
        12,
    ),
    "timm-cnn": (
        "timm-cnn",
        "blocks:3",
        {"trunk.conv1.*", "trunk.bn1.*"} | {f"trunk.layer{i}.*" for i in (1, 2, 3)},
        4,
    ),
    "modified-resnet": (
        "modified-resnet",
        "blocks:1",
        {f"{layer}{i}.*" for layer in ("conv", "bn") for i in (1, 2, 3)} | {"layer1.*"},
        4,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_embedding_and_the_first_blocks_are_frozen(name: str) -> None:
    config, part, frozen, count = BLOCKS[name]
    visual = tower(TOWERS[config][0])
    freeze_image_tower(visual, part)
    frozen = frozen | ({"trunk.patch_embed.*"} if config == "timm-pool" else set())
    for parameter, value in visual.named_parameters():
        assert value.requires_grad != matches(parameter, frozen), parameter
    with pytest.raises(UserError, match=rf"has {count} blocks; expected 0 .* to {count}, or all"):
        freeze_image_tower(visual, f"blocks:{count + 1}")


def test_of_partly_frozen_towers_trained_blocks_alone_drop() -> None:
    """Drop path of trained blocks, batch statistics of trained stages; not those of frozen ones."""
    cnn = tower(TOWERS["timm-cnn"][0])
    freeze_image_tower(cnn, "blocks:2")
    cnn.train()
    assert not cnn.trunk.layer2[0].bn1.training and cnn.trunk.layer3[0].bn1.training
    vit = tower({**TOWERS["timm-pool"][0], "timm_drop_path": 0.5, "patch_dropout": 0.5})
    freeze_image_tower(vit, "blocks:4")
    vit.train()
    assert not vit.trunk.blocks[3].drop_path1.training and vit.trunk.blocks[4].drop_path1.training
    assert not vit.trunk.patch_drop.training


def test_dropout_before_a_trained_projection_drops() -> None:
    visual = tower({**TOWERS["timm-linear"][0], "timm_drop": 0.5})
    freeze_image_tower(visual)
    visual.train()
    assert visual.head.drop.training


def test_the_first_blocks_of_a_text_tower_are_frozen() -> None:
    text_cfg = {**TINY["text_cfg"], "layers": 3}
    parts = {"token_embedding.*", "positional_embedding", "transformer.resblocks.0.*"}
    own = CLIP(32, CLIPVisionCfg(**TINY["vision_cfg"]), CLIPTextCfg(**text_cfg))
    custom = CustomTextCLIP(32, CLIPVisionCfg(**TINY["vision_cfg"]), CLIPTextCfg(**text_cfg))
    for model, prefix in ((own, ""), (custom, "text.")):
        freeze_text_tower(model, "blocks:1")
        for name, value in model.named_parameters():
            frozen = name.startswith(prefix) and matches(name.removeprefix(prefix), parts)
            assert value.requires_grad != frozen, name
        with pytest.raises(UserError, match="--freeze-text blocks:4: the text tower .* has 3 bloc"):
            freeze_text_tower(model, "blocks:4")


@pytest.mark.parametrize(("kind", "checkpoints"), [("bert", False), ("roberta", True)])
def test_the_first_blocks_of_a_tower_of_hugging_face_are_frozen(
    kind: str, checkpoints: bool
) -> None:
    """Dropout is that of trained blocks, which learn with recomputed activations too."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=50, intermediate_size=16, **sizes)
    torch.manual_seed(0)
    model: Any = nn.Module()
    model.visual = tower(VIT)
    model.text = HFTextEncoder("", 8, config, "mean_pooler", "linear", pretrained=False)
    freeze_text_tower(model, "blocks:2")
    if checkpoints:
        model.text.set_grad_checkpointing()
    model.train()
    layers = model.text.transformer.encoder.layer
    assert not layers[1].output.dropout.training and layers[2].output.dropout.training
    assert not model.text.transformer.embeddings.dropout.training
    model.text(torch.randint(2, 50, (2, 6))).sum().backward()
    learnt = {name for name, value in model.text.named_parameters() if value.grad is not None}
    frozen = (
        "transformer.embeddings.",
        "transformer.encoder.layer.0.",
        "transformer.encoder.layer.1.",
    )
    pooler = "transformer.pooler."  # not asked for the mean
    expected = {
        name for name, _ in model.text.named_parameters() if not name.startswith((*frozen, pooler))
    }
    assert learnt == expected
    with pytest.raises(UserError, match="the text tower .*Model has 3 blocks"):
        freeze_text_tower(model, "blocks:4")


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
