"""A model that is to be measured: weights, deterministic transform and tokenizer, with hashes that
name them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.model import get_input_dtype
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...checkpoint import CONFIG, find_checkpoint, load_weights, save_tokenizer
from ...config import UserError
from ...machine import device_name, read_machines
from ...model import PROCESSOR_PREFIX
from ...model_errors import sentence
from ...model_folder import check_model_folder
from ...towers.pooled import encode_with_pooled
from ...towers.positions import Tokens, encode_tokens

logger = logging.getLogger(__name__)
RANDOM = "random"
PRECISIONS = ("fp32", "bf16", "fp16")
# what open_clip may raise over a foreign file
FOREIGN = (
    RuntimeError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    EOFError,
    UnpicklingError,
)


@dataclass
class Encoder:
    """`model` (open_clip's, or ours over it) in evaluation mode. `facts`: what a result records of
    it (model, pretrained, precision, weights_hash, transform, machine).
    """

    model: open_clip.CLIP | open_clip.CustomTextCLIP
    transform: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    device: torch.device
    precision: str
    facts: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unit image features (B, D), and the pooled features before the projection (B, W) or None,
        both float32 on the CPU.

        `pixels` (B, 3, H, W) float32. One forward pass gives both.
        """
        features, pooled = encode_with_pooled(self.model, self.to_input(pixels))
        return normalize(features.float(), dim=-1).cpu(), (
            None if pooled is None else pooled.float().cpu()
        )

    @torch.inference_mode()
    def encode_tokens(self, pixels: Tensor) -> Tokens:
        """What the image tower computes of `pixels` (B, 3, H, W) float32 by position, on the
        model's device. UserError: a tower without positions.
        """
        return encode_tokens(self.model.visual, self.to_input(pixels))[1]

    def to_input(self, values: Tensor) -> Tensor:
        """Pixels or heatmaps on the model's device, in the dtype it takes."""
        return values.to(self.device, get_input_dtype(self.precision), non_blocking=True)

    def whole_image_transform(self) -> Callable[[Image.Image], Tensor]:
        """As `transform`, but squashed to the model's size where that one would crop."""
        return image_transform_v2(
            PreprocessCfg(**{**self.model.visual.preprocess_cfg, "resize_mode": "squash"}),
            is_train=False,
        )

    @torch.inference_mode()
    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Unit text features (B, D) float32 on the CPU; `tokens` (B, L) int64."""
        return normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1).cpu()


def load_encoder(
    model: str,
    pretrained: str | None = None,
    precision: str = "fp32",
    device: str | None = None,
    with_processor: bool = False,
) -> Encoder:
    """A model by open_clip's names (`ViT-B-16`, `eclip-ViT-B-16`, `local-dir:FOLDER`, ...), or the
    folder of a run of ours.

    `pretrained`: open_clip's tag or file; "random" for untrained weights, which are never taken
    silently. `with_processor`: of a run folder, also its heatmap processor. UserError: unknown
    model, or no weights.
    """
    where = _device(device)
    try:
        if Path(model).is_dir():
            if pretrained:
                raise UserError(
                    f"--model {model} is a folder and brings its own weights; leave --pretrained"
                    f" {pretrained} out."
                )
            pretrained, built, transform, tokenizer = _load_folder(
                Path(model), precision, where, with_processor
            )
        else:
            pretrained, built, transform = _create(model, pretrained, precision, where)
            tokenizer = open_clip.get_tokenizer(model)
    except UserError:
        raise
    except FOREIGN as error:
        said = " ".join(str(error).split())
        given = f"--model {model}{f' --pretrained {pretrained}' if pretrained else ''}"
        raise UserError(
            sentence(error, model, pretrained)
            or f"{given}: {said[:400]}{' ...' if len(said) > 400 else ''}"
        ) from error
    built.eval()  # dropout off
    facts = {
        "model": model,
        "pretrained": pretrained,
        "precision": precision,
        "weights_hash": hash_weights(built),
        "transform": repr(transform),
        "machine": {
            "device": device_name(where),
            "trained": read_machines(Path(model.removeprefix("local-dir:"))),
        },
    }
    return Encoder(built, transform, tokenizer, where, precision, facts)


def _device(name: str | None) -> torch.device:
    """The device of that name, by default a GPU if there is one. UserError: there is none."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(
            f"--device {name}: no such device; expected cpu, cuda or cuda:NUMBER."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {device}: this machine has {torch.cuda.device_count()} GPUs that torch sees;"
            " expected one of them, or cpu."
        )
    return device


def _create(
    model: str, pretrained: str | None, precision: str, device: torch.device
) -> tuple[str | None, nn.Module, Any]:
    """(pretrained, model, transform) of a name of open_clip's; "random" where it has no weights."""
    source = model.removeprefix("eclip-")
    if not pretrained and not source.startswith(("local-dir:", "hf-hub:")):
        raise UserError(
            f"--model {model} without weights; give --pretrained TAG or FILE, or"
            f" --pretrained {RANDOM} to measure an untrained model."
        )
    known = pretrained != RANDOM
    if source.startswith("local-dir:"):
        folder = Path(source.removeprefix("local-dir:"))
        check_model_folder(folder, whole=True)
        if known and _has_no_weights(folder):
            if pretrained:
                raise UserError(
                    f"--model {model}: no weights beside {CONFIG}, and open_clip reads no"
                    f" --pretrained {pretrained} for such a folder; expected an exported folder."
                )
            logger.warning(
                "eclip: --model %s: no weights beside %s, so they are random: what follows"
                " measures an untrained model. Expected an exported folder.",
                model,
                CONFIG,
            )
            pretrained, known = RANDOM, False
    torch.manual_seed(0)  # random weights are the same in every process and run
    built, _, transform = open_clip.create_model_and_transforms(
        model,
        pretrained=pretrained if known else None,
        precision=precision,
        device=device,
        load_weights=known,
        pretrained_text=known,
    )
    return pretrained, built, transform


def _has_no_weights(folder: Path) -> bool:
    """Whether a folder has a config alone: open_clip would build its model with random weights."""
    return (folder / CONFIG).is_file() and not open_clip.factory._find_checkpoint_in_dir(folder)


def _load_folder(
    folder: Path, precision: str, device: torch.device, with_processor: bool
) -> tuple[str, nn.Module, Any, Any]:
    """(what the weights are, model, transform, tokenizer) of an exported folder or of a run's
    newest checkpoint.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"--model {folder}: a folder without {CONFIG}; expected the folder of a run, an"
            " exported folder, or a model name of open_clip."
        )
    name = f"local-dir:{folder}"
    check_model_folder(folder, whole=True)
    if not (folder / "checkpoints").is_dir():
        if _has_no_weights(folder):
            raise UserError(
                f"--model {name}: no weights beside {CONFIG}; expected an exported folder, or, for"
                f" an untrained model, --model {name} --pretrained {RANDOM}."
            )
        built, _, transform = open_clip.create_model_and_transforms(
            name, precision=precision, device=device
        )
        return "its own", built, transform, open_clip.get_tokenizer(name)
    checkpoint, _ = find_checkpoint(folder)
    state = load_weights(checkpoint)
    inner = {
        key.removeprefix(PROCESSOR_PREFIX) for key in state if key.startswith(PROCESSOR_PREFIX)
    }
    more = {}
    if with_processor and inner:
        more = {
            "eclip_cfg": {"processor": {"kind": "mha" if "patch_embed.weight" in inner else "cnn"}}
        }
    else:
        state = {key: value for key, value in state.items() if not key.startswith(PROCESSOR_PREFIX)}
    with _quiet_factory():
        built, _, transform = open_clip.create_model_and_transforms(
            name,
            precision=precision,
            device=device,
            load_weights=False,
            pretrained_text=False,
            **more,
        )
    built.load_state_dict(state)
    return checkpoint.name, built, transform, _run_tokenizer(folder)


@contextmanager
def _quiet_factory() -> Iterator[None]:
    """open_clip's factory warns, through the root logger, that it found no weights: here they come
    later. All else may speak.
    """

    def keep(record: logging.LogRecord) -> bool:
        return record.module != "factory" or record.levelno > logging.WARNING

    logging.root.addFilter(keep)
    try:
        yield
    finally:
        logging.root.removeFilter(keep)


def _run_tokenizer(folder: Path) -> Any:
    """open_clip looks for a Hugging Face tokenizer in a local-dir folder itself; a run has but its
    name.
    """
    with TemporaryDirectory() as place:
        shutil.copy(folder / CONFIG, place)
        save_tokenizer(json.loads((folder / CONFIG).read_text(encoding="utf-8")), Path(place))
        return open_clip.get_tokenizer(f"local-dir:{place}")


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of everything in the state dict, and the class
    of the model.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def truncated(tokens: Tensor) -> int:
    """How many rows of (N, L) tokens fill the whole context: such texts were cut, or just fit."""
    return int((tokens[:, -1] != 0).sum())


def tokenize(encoder: Encoder, texts: Sequence[str], batch_size: int = 1024) -> Tensor:
    """(N, L) int64."""
    parts = [
        encoder.tokenizer(list(texts[first : first + batch_size]))
        for first in range(0, len(texts), batch_size)
    ]
    return torch.cat(parts)
