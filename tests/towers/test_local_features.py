"""Regions and words from every kind of tower, in the pass that gives the global features."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import TINY
from open_clip.hf_model import HFTextEncoder
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from openclip_eclip.config import UserError
from openclip_eclip.towers.local_features import (
    WordPieces,
    encode_regions,
    encode_words,
    region_width,
    word_width,
)

TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 64}
TOWERS = {  # vision_cfg, regions, their width
    "vit": (TINY["vision_cfg"], 4, 32),
    "modified-resnet": (
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        16,
        128,
    ),
    "resnet": ({**TIMM, "timm_model_name": "resnet10t", "timm_pool": "avg"}, 16, 256),
    "convnext": ({**TIMM, "timm_model_name": "convnext_atto", "timm_pool": "avg"}, 16, 160),
    "swin": (
        {
            **TIMM,
            "timm_model_name": "swin_tiny_patch4_window7_224",
            "timm_pool": "avg",
            "image_size": 224,
        },
        196,
        384,
    ),
    "timm-vit": (
        {
            **TIMM,
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_pool": "token",
            "image_size": 224,
        },
        196,
        192,
    ),
}
REPORTS = ["Small pneumothorax, 3cm!", "cardiomegaly", "no acute cardiopulmonary abnormality"]


def build(vision: dict, text: dict = TINY["text_cfg"], custom: bool = True) -> nn.Module:
    torch.manual_seed(0)
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    return kind(embed_dim=32, vision_cfg=vision, text_cfg=text)


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS)
def test_regions_of_every_tower(tower: str) -> None:
    """Features are those of `encode_image`, also in training; the stage is GLoRIA's.

    The gradient reaches the tower.
    """
    vision, count, width = TOWERS[tower]
    model = build(vision).train()
    if tower == "modified-resnet":
        model.visual.layer4.eval()  # a frozen part
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert region_width(model) == width and [module.training for module in model.modules()] == modes
    # batch statistics too
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    images = torch.randn(2, 3, *([vision["image_size"]] * 2))
    torch.manual_seed(1)
    features, regions = encode_regions(model, images)
    assert regions.shape == (2, count, width)
    regions.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.visual.parameters())
    model.load_state_dict(state)
    torch.manual_seed(1)
    assert torch.equal(features, model.encode_image(images, normalize=True))


@pytest.mark.slow
def test_regions_lie_where_the_image_is() -> None:
    """A change in one corner changes the region of that corner most."""
    model = build(TOWERS["modified-resnet"][0]).eval()
    images = torch.zeros(2, 3, 64, 64)
    images[1, :, :16, 48:] = 3.0
    with torch.no_grad():
        _, regions = encode_regions(model, images)
    assert int((regions[1] - regions[0]).norm(dim=1).argmax()) == 3  # row 0, column 3 of 4 x 4


def test_towers_without_a_map_are_errors() -> None:
    class Flat(nn.Linear):
        image_size = 32

    model = nn.Module()
    model.visual = Flat(2, 2)
    with pytest.raises(UserError, match="Flat has no spatial map .*take a ViT"):
        region_width(model)
    model = build({**TINY["vision_cfg"], "patch_dropout": 0.5})
    with pytest.raises(UserError, match="drops patches .*0.5"):
        region_width(model)
    model = build({**TINY["vision_cfg"], "patch_size": 32})
    with pytest.raises(UserError, match=r"no spatial maps of several regions"):
        region_width(model)
    model.text = nn.Linear(2, 2)
    for refused in (
        lambda: word_width(model),
        lambda: encode_words(model, torch.zeros(1, 4, dtype=torch.int64), None),
    ):
        with pytest.raises(UserError, match="text tower Linear"):
            refused()


@pytest.mark.parametrize("custom", [False, True])
def test_words_of_open_clips_tower(custom: bool) -> None:
    """A word is the sum of its pieces over the last layers.

    The end token is one more word; start token and padding are none.
    """
    model, tokenizer = build(TINY["vision_cfg"], custom=custom), open_clip.get_tokenizer("tiny")
    tokens = tokenizer(REPORTS)
    pieces = WordPieces.of(tokenizer)
    features, words = encode_words(model, tokens, pieces)
    assert torch.equal(features, model.encode_text(tokens, normalize=True))
    assert word_width(model) == 16 and words.values.shape == (3, 16, 16)
    split = [
        [tokenizer.encode(word) for word in text]
        for text in (
            ["small", "pneumothorax", ",", "3", "cm", "!"],
            ["cardiomegaly"],
            ["no", "acute", "cardiopulmonary", "abnormality"],
        )
    ]
    assert any(len(word) > 1 for word in split[0])
    assert words.mask.sum(1).tolist() == [len(text) + 1 for text in split]
    text = model.text if custom else model
    layer = text.forward_intermediates(
        text=tokens,
        normalize_intermediates=True,
        **({"indices": 1, "output_fmt": "NLC"} if custom else {"text_indices": 1}),
    )["text_intermediates"][0]
    for row, text_words in enumerate(split):
        first = 1
        for place, word in enumerate([*text_words, [tokenizer.eot_token_id]]):
            assert tokens[row, first : first + len(word)].tolist() == word
            assert torch.allclose(
                words.values[row, place], layer[row, first : first + len(word)].sum(0), atol=1e-6
            )
            first += len(word)
        assert not words.values[row, ~words.mask[row]].any()
    words.values.sum().backward()


@pytest.fixture(scope="module")
def bert(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[nn.Module, open_clip.tokenizer.HFTokenizer]:
    """A random BERT of five layers whose vocabulary cuts words into pieces."""
    folder = tmp_path_factory.mktemp("bert")
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "small",
        "pneumo",
        "##tho",
        "##rax",
        "no",
        ",",
        "3",
        "##cm",
        "cardio",
        "##megaly",
    ]
    (folder / "vocab.txt").write_text("\n".join(names))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=24,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "cls_pooler",
        "hf_proj_type": "linear",
        "context_length": 12,
    }
    config = {"embed_dim": 32, "vision_cfg": TINY["vision_cfg"], "text_cfg": text}
    path = Path(folder / "tiny-bert.json")
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return open_clip.create_model("tiny-bert"), open_clip.get_tokenizer("tiny-bert")


def test_words_of_a_hugging_face_tower(bert: tuple) -> None:
    """[CLS] is the first word, unknown words are words, [SEP] and padding are none.

    Four layers are summed.
    """
    model, tokenizer = bert
    model.eval()
    assert isinstance(model.text, HFTextEncoder) and word_width(model) == 24
    tokens = tokenizer(["small pneumothorax, 3cm strange", "cardiomegaly", "no " * 30])
    features, words = encode_words(model, tokens, WordPieces.of(tokenizer))
    assert torch.allclose(features, model.encode_text(tokens, normalize=True), atol=1e-6)
    assert words.mask.sum(1).tolist() == [6, 2, 11]  # [CLS] and words; the last report is cut off
    hidden = model.text.transformer(
        tokens, attention_mask=(tokens != 0).long(), output_hidden_states=True
    ).hidden_states[-4:]
    summed = sum(hidden)
    for place, part in enumerate(
        (slice(0, 1), slice(1, 2), slice(2, 5), slice(5, 6), slice(6, 8), slice(8, 9))
    ):
        assert torch.allclose(words.values[0, place], summed[0, part].sum(0), atol=1e-5), place
    assert not words.values[~words.mask].any()


@pytest.mark.parametrize(
    "names,ids,expected",
    [
        (
            ["<s>", "</s>", "<pad>", "Ġheart", "lung", "s", "Ġ##"],
            [0, 4, 5, 3, 5, 6, 1, 2, 2],
            [0, 1, 1, 2, 2, 3, -1, -1, -1],
        ),
        (
            ["<pad>", "</s>", "x", "▁heart", "▁lung", "s", "▁"],
            [3, 5, 4, 6, 2, 1, 0, 0, 1],
            [0, 0, 1, 2, 2, 3, -1, -1, -1],
        ),
    ],
)
def test_words_of_other_vocabularies(names: list, ids: list, expected: list) -> None:
    """RoBERTa, whose start token represents the text, and T5, which has only an end token.

    Both mark beginnings of words.
    """

    class Inner:
        bos_token_id = cls_token_id = 0 if names[0] == "<s>" else None
        eos_token_id, pad_token_id = 1, names.index("<pad>")
        sep_token_id = 1 if names[0] == "<s>" else None

        def __len__(self) -> int:
            return len(names)

        def convert_ids_to_tokens(self, ids: list) -> list:
            return [names[i] for i in ids]

    tokenizer = type("Tokenizer", (), {"tokenizer": Inner()})()
    assert WordPieces.of(tokenizer).number(torch.tensor([ids]))[0].tolist() == expected


def test_unknown_vocabularies_are_errors() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        WordPieces.of(object())
    inner = type(
        "Inner",
        (),
        {
            "__len__": lambda _: 2,
            "convert_ids_to_tokens": lambda _, ids: ["a", "b"],
            "bos_token_id": None,
            "eos_token_id": 0,
            "sep_token_id": None,
            "cls_token_id": None,
            "pad_token_id": None,
        },
    )()
    with pytest.raises(UserError, match="none? piece|no piece"):
        WordPieces.of(type("Tokenizer", (), {"tokenizer": inner})())
