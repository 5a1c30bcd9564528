"""The model under evaluation: weights, deterministic transform and tokenizer, with their hashes."""

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
from ...model_errors import check_model_name, sentence
from ...model_folder import check_model_folder, how_to_get_weights
from ...towers.pooled import encode_with_pooled
from ...towers.positions import Tokens, encode_tokens

logger = logging.getLogger(__name__)
RANDOM = "random"
PRECISIONS = ("fp32", "bf16", "fp16")
# what open_clip may raise for a file that is not a checkpoint of it
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
    """A model of open_clip, plain or wrapped by ours, in evaluation mode.

    `facts`: what a result records of it (model, pretrained, precision, weights_hash, transform,
    machine).
    """

    model: open_clip.CLIP | open_clip.CustomTextCLIP
    transform: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    device: torch.device
    precision: str
    facts: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unit image features (B, D), and pooled features before the projection (B, W) or None.

        `pixels` (B, 3, H, W) float32. Both results are float32 on the CPU and come from one
        forward pass.
        """
        features, pooled = encode_with_pooled(self.model, self.to_input(pixels))
        return normalize(features.float(), dim=-1).cpu(), (
            None if pooled is None else pooled.float().cpu()
        )

    @torch.inference_mode()
    def encode_tokens(self, pixels: Tensor) -> Tokens:
        """Token features of each position of `pixels` (B, 3, H, W) float32, on the model's device.

        UserError: an image tower without positions.
        """
        return encode_tokens(self.model.visual, self.to_input(pixels))[1]

    def to_input(self, values: Tensor) -> Tensor:
        """Pixels or heatmaps on the model's device, in the dtype it takes."""
        return values.to(self.device, get_input_dtype(self.precision), non_blocking=True)

    def whole_image_transform(
        self, size: tuple[int, int] | None = None
    ) -> Callable[[Image.Image], Tensor]:
        """Like `transform`, but squashes the image to the model's size instead of cropping it.

        `size` (height, width): another size (see `towers.image_size`).
        """
        changes = {"resize_mode": "squash"} | ({} if size is None else {"size": size})
        return image_transform_v2(
            PreprocessCfg(**{**self.model.visual.preprocess_cfg, **changes}), is_train=False
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
    """Load a model by a name of open_clip, or from the folder of a training run.

    Names are `ViT-B-16`, `eclip-ViT-B-16`, `local-dir:FOLDER` and so on. Of a run's folder the
    newest checkpoint is loaded; a checkpoint file in it can be named instead. `pretrained`:
    open_clip's tag or file, or "random" for untrained weights, which are never used silently.
    `with_processor`: of a run, also load its heatmap processor. UserError: an unknown model, or no
    weights.
    """
    torch_device = _device(device)
    folder, checkpoint = Path(model.removeprefix("local-dir:")), None
    try:
        if Path(model).is_file():
            checkpoint, run = find_checkpoint(Path(model))
            if run is None:
                raise UserError(
                    f"--model {model}: a file that is not in a run folder with {CONFIG}; expected"
                    " RUN/checkpoints/epoch_N.pt, a folder, or a model name of open_clip."
                )
            folder = run
        if Path(model).exists():
            if pretrained:
                raise UserError(
                    f"--model {model} has its own weights; leave --pretrained {pretrained} out."
                )
            pretrained, built, transform, tokenizer = _load_folder(
                folder, checkpoint, precision, torch_device, with_processor
            )
        else:
            pretrained, built, transform = _create(model, pretrained, precision, torch_device)
            tokenizer = open_clip.get_tokenizer(model)
    except UserError:
        raise
    except FOREIGN as error:
        reason = " ".join(str(error).split())
        flags = f"--model {model}{f' --pretrained {pretrained}' if pretrained else ''}"
        raise UserError(
            sentence(error, model, pretrained)
            or f"{flags}: {reason[:400]}{' ...' if len(reason) > 400 else ''}"
        ) from error
    built.eval()  # switches dropout off
    facts = {
        "model": model,
        "pretrained": pretrained,
        "precision": precision,
        "weights_hash": hash_weights(built),
        "transform": repr(transform),
        "machine": {
            "device": device_name(torch_device),
            "trained": read_machines(folder),
        },
    }
    return Encoder(built, transform, tokenizer, torch_device, precision, facts)


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
            f"--device {device}: torch sees {torch.cuda.device_count()} GPUs on this machine;"
            " expected one of them, or cpu."
        )
    return device


def _create(
    model: str, pretrained: str | None, precision: str, device: torch.device
) -> tuple[str | None, nn.Module, Any]:
    """(pretrained, model, transform) of a model name; pretrained is "random" without weights."""
    check_model_name(model, open_clip.list_models())
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
                    f"--model {model} holds no weights, and open_clip does not read --pretrained"
                    f" {pretrained} for such a folder: {how_to_get_weights(folder)}."
                )
            logger.warning(
                "eclip: --model %s: no weights beside %s, so they are random. The result is that"
                " of an untrained model; %s",
                model,
                CONFIG,
                how_to_get_weights(folder),
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
    folder: Path,
    checkpoint: Path | None,
    precision: str,
    device: torch.device,
    with_processor: bool,
) -> tuple[str, nn.Module, Any, Any]:
    """(name of the weights, model, transform, tokenizer) of an exported folder or of a run.

    Of a run it is `checkpoint`, by default the newest one.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"--model {folder}: a folder without {CONFIG}; expected the folder of a training run,"
            " an exported folder, or a model name of open_clip."
        )
    name = f"local-dir:{folder}"
    check_model_folder(folder, whole=True)
    if not (folder / "checkpoints").is_dir():
        if _has_no_weights(folder):
            raise UserError(
                f"--model {name} holds no weights: {how_to_get_weights(folder)}; for an untrained"
                f" model give --model {name} --pretrained {RANDOM}."
            )
        built, _, transform = open_clip.create_model_and_transforms(
            name, precision=precision, device=device
        )
        return "its own", built, transform, open_clip.get_tokenizer(name)
    checkpoint = checkpoint or find_checkpoint(folder)[0]
    state = load_weights(checkpoint)
    processor_keys = {
        key.removeprefix(PROCESSOR_PREFIX) for key in state if key.startswith(PROCESSOR_PREFIX)
    }
    overrides = {}
    if with_processor and processor_keys:
        overrides = {
            "eclip_cfg": {
                "processor": {"kind": "mha" if "patch_embed.weight" in processor_keys else "cnn"}
            }
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
            **overrides,
        )
    built.load_state_dict(state)
    return checkpoint.name, built, transform, _run_tokenizer(folder)


@contextmanager
def _quiet_factory() -> Iterator[None]:
    """Silence the warning of open_clip's factory that a model has no weights: they follow later.

    Other records pass.
    """

    def keep(record: logging.LogRecord) -> bool:
        return record.module != "factory" or record.levelno > logging.WARNING

    loggers = logging.root, logging.getLogger("open_clip.factory")  # by release
    for each in loggers:
        each.addFilter(keep)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(keep)


def _run_tokenizer(folder: Path) -> Any:
    """The tokenizer of a run folder.

    For `local-dir:` open_clip reads a Hugging Face tokenizer from the folder itself. A run may hold
    only its name, so its files are saved in a temporary folder first.
    """
    with TemporaryDirectory() as temporary:
        shutil.copy(folder / CONFIG, temporary)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        save_tokenizer(config, Path(temporary), folder)
        return open_clip.get_tokenizer(f"local-dir:{temporary}")


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over the class of the model and the names, dtypes, shapes and bytes of its state."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def truncated(tokens: Tensor) -> int:
    """Number of rows of `tokens` (N, L) that fill the context: texts that were cut or just fit."""
    return int((tokens[:, -1] != 0).sum())


def tokenize(encoder: Encoder, texts: Sequence[str], batch_size: int = 1024) -> Tensor:
    """Tokens (N, L) int64 of N texts, L the context length."""
    parts = [
        encoder.tokenizer(list(texts[first : first + batch_size]))
        for first in range(0, len(texts), batch_size)
    ]
    return torch.cat(parts)
