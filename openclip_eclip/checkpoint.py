"""Export of a trained eCLIP as a plain open_clip model (invariant 7).

checkpoint_files.py reads and orders the files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from .checkpoint_files import (
    BEST,
    describe_progress,
    newest_complete,
    read_checkpoint,
    read_config,
    require_finite,
    state_of,
)
from .config import UserError
from .machine import NAME as MACHINE
from .model import PROCESSOR_PREFIX, REGIONS_PREFIX
from .model_errors import check_model_name, one_sentence
from .model_folder import TEXT_CONFIG, has_vocabulary
from .towers.image_head import ATTENTION_POOL, with_attention_pool
from .towers.phantom_resnet import phantom_resnet

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, CARD = "open_clip_model.safetensors", "open_clip_config.json", "README.md"
# arguments of create_model that change the architecture -> (part, key) in a model config
OVERRIDES = {
    "force_image_size": ("vision_cfg", "image_size"),
    "force_patch_dropout": ("vision_cfg", "patch_dropout"),
    "force_context_length": ("text_cfg", "context_length"),
    "force_quick_gelu": (None, "quick_gelu"),
    "force_custom_text": (None, "custom_text"),
    "init_logit_scale": (None, "init_logit_scale"),
    "init_logit_bias": (None, "init_logit_bias"),
}


def plain_config(
    model_name: str, settings: Mapping[str, Any], preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    """The `open_clip_config.json` of the model that `create_model(model_name, **settings)` builds.

    It is that of plain open_clip. `preprocess` is the built model's `visual.preprocess_cfg`.
    UserError for an unknown name.
    """
    config = open_clip.factory.get_model_config(model_name)
    if config is None:
        raise UserError(
            f"model {model_name!r} is not known to open_clip; expected one of"
            " open_clip.list_models(), with or without 'eclip-' in front."
        )
    config.pop("eclip_cfg", None)
    for name, (part, key) in OVERRIDES.items():
        value = settings.get(name)
        if value is not None and value is not False:
            (config[part] if part else config)[key] = (
                float(value) if name.startswith("init_") else value
            )
    if settings.get("image_head") == ATTENTION_POOL:
        config["vision_cfg"] = with_attention_pool(config["vision_cfg"], config["embed_dim"])
    return {"model_cfg": config, "preprocess_cfg": dict(preprocess)}


def load_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a training checkpoint or weights file.

    It has no prefix of DDP or torch.compile, and no GLoRIA projection of regions, which only
    training needs. Code is never unpickled. UserError for a truncated, damaged or foreign file, and
    for NaN weights.
    """
    state = state_of(read_checkpoint(path), path)
    require_finite(state, path)
    return {key: value for key, value in state.items() if not key.startswith(REGIONS_PREFIX)}


def export_plain(source: Path, out: Path, model_name: str | None = None) -> Path:
    """Write `source` (run folder or checkpoint file) as a plain open_clip `local-dir:` folder.

    Returns the checkpoint used. The folder holds the config with preprocessing and quick_gelu, the
    weights without `heatmap_processor.*` as safetensors, a Hugging Face tokenizer if there is one,
    config.json of a text tower that came from a folder, and a short model card. Its embeddings are
    bit-for-bit those of the trained model.
    `model_name` is needed for a checkpoint without its run folder. UserError if something is
    missing, does not fit, or `out` is not empty.
    """
    checkpoint, run = find_checkpoint(source)
    if out.is_file():
        raise UserError(f"{out} is a file; give a new folder.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give a new folder.")
    if run is not None and (run / CONFIG).is_file():
        config = read_config(run / CONFIG)
    elif model_name:
        check_model_name(model_name, open_clip.list_models())
        with one_sentence(model_name, None):
            model = open_clip.create_model(model_name, load_weights=False, pretrained_text=False)
        config = plain_config(model_name, {}, model.visual.preprocess_cfg)
    else:
        raise UserError(
            f"{checkpoint}: its run folder has no {CONFIG}; give the name of the trained model with"
            " --model."
        )
    state = {
        key: value.contiguous()
        for key, value in load_weights(checkpoint).items()
        if not key.startswith(PROCESSOR_PREFIX)
    }

    from safetensors.torch import save_file

    unfinished = out.with_name(f".{out.name}.{os.getpid()}.partial")
    unfinished.mkdir(parents=True)
    try:
        copy_text_tower(config, unfinished)
        _write_config(config, unfinished, unfinished)
        save_file(state, unfinished / WEIGHTS, metadata={"format": "pt"})
        # safetensors leaves a file that only its owner can read
        shutil.copymode(unfinished / CONFIG, unfinished / WEIGHTS)
        save_tokenizer(config, unfinished, run)
        (unfinished / CARD).write_text(_card(config, unfinished, out), encoding="utf-8")
        if run is not None and (run / MACHINE).is_file():
            (unfinished / MACHINE).write_bytes((run / MACHINE).read_bytes())
        _verify(unfinished, state, checkpoint)
        _write_config(config, unfinished, out)
        for path in unfinished.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        unfinished.replace(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return checkpoint


def find_checkpoint(source: Path) -> tuple[Path, Path | None]:
    """(checkpoint, run folder or None); of a run folder its newest complete checkpoint."""
    if source.is_file():
        run = source.parent.parent
        return source, run if (run / CONFIG).is_file() else None
    folder = source / "checkpoints"
    if not folder.is_dir():
        raise UserError(
            f"{source}: neither a checkpoint file nor a run folder with checkpoints/ in it."
        )
    checkpoint, best = newest_complete(folder), folder / BEST
    if checkpoint is None:
        instead = f"; {BEST}, of --keep-best, is there: give {best}" if best.is_file() else ""
        raise UserError(
            f"{folder}: no complete checkpoint (epoch_N.pt, epoch_N_batch_B.pt or epoch_latest.pt)"
            f"{instead}."
        )
    if best.is_file():
        logger.warning(
            "eclip: %s is taken, the newest checkpoint; for the best on validation give %s",
            checkpoint,
            best,
        )
    if describe_progress(checkpoint):
        logger.warning(
            "eclip: %s was written within an epoch: %s", checkpoint, describe_progress(checkpoint)
        )
    return checkpoint, source


def copy_text_tower(config: Mapping[str, Any], out: Path) -> None:
    """Copy config.json of a Hugging Face text tower that came from a folder; the hub has others."""
    name = config["model_cfg"]["text_cfg"].get("hf_model_name")
    if name and (Path(name) / TEXT_CONFIG).is_file():
        shutil.copy(Path(name) / TEXT_CONFIG, out / TEXT_CONFIG)


def _write_config(config: Mapping[str, Any], folder: Path, place: Path) -> None:
    """Write open_clip's config into `folder`, to be read when it has become `place`.

    open_clip does not look for a text tower in the folder of a model, so the config names it.
    """
    model, text = config["model_cfg"], config["model_cfg"]["text_cfg"]
    if (folder / TEXT_CONFIG).is_file():
        here = str(place.absolute())
        text = text | {"hf_model_name": here, "hf_tokenizer_name": here}
    whole = {**config, "model_cfg": {**model, "text_cfg": text}}
    (folder / CONFIG).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(config: Mapping[str, Any], out: Path, run: Path | None) -> None:
    """Save a Hugging Face tokenizer into `out`; open_clip's own needs no file.

    `run`: the run folder, which holds the tokenizer of a `local-dir:` start.
    """
    name = config["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    if name:  # open_clip reads the tokenizer of a local-dir model from its folder
        source = str(run) if run is not None and has_vocabulary(run) else name
        open_clip.factory.HFTokenizer(source).tokenizer.save_pretrained(out)


def _card(config: Mapping[str, Any], folder: Path, out: Path) -> str:
    """README.md of `folder`, which becomes `out`."""
    vision, text = config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    tower = (
        vision.get("timm_model_name") or f"open_clip {vision.get('layers')} x {vision.get('width')}"
    )
    words = text.get("hf_model_name") or "open_clip transformer"
    moved = ""
    if (folder / TEXT_CONFIG).is_file():
        words = f"that of {TEXT_CONFIG}"
        moved = (
            "Moved to another place or computer: write the new path of this folder into"
            f" {CONFIG}, as `hf_model_name` of `text_cfg`, since open_clip reads the text tower's"
            f" {TEXT_CONFIG} from there.\n\n"
        )
    # timm knows this tower only with our package
    knows_tower = f"import openclip_eclip  # for {tower}\n" * (tower == phantom_resnet.__name__)
    return (
        f"# {out.name}\n\nImage tower: {tower}, input {config['preprocess_cfg']['size']} px. "
        f"Text tower: {words}, context length"
        f" {text.get('context_length', 77)}.\n"
        "Trained with openclip_eclip; expert heatmaps are not needed at"
        f" inference.\n\n```python\nimport open_clip\n{knows_tower}"
        f'model, preprocess = open_clip.create_model_from_pretrained("local-dir:{out.name}")\n'
        f'tokenizer = open_clip.get_tokenizer("local-dir:{out.name}")\n```\n\n'
        f"{moved}Training data, intended use and licence: to be filled in by whoever publishes it."
        " Not a medical device.\n"
    )


def _verify(out: Path, state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Load the folder as plain open_clip and compare every tensor."""
    foreign = UserError(
        f"{checkpoint}: the model config does not belong to this checkpoint, which holds other"
        " tensors."
    )
    try:
        loaded = open_clip.create_model(f"local-dir:{out}").state_dict()
    except (RuntimeError, KeyError, AssertionError) as error:  # missing keys, other shapes
        raise foreign from error
    for key, value in state.items():
        if not torch.equal(loaded[key], value.to(loaded[key].dtype)):
            raise UserError(
                f"{checkpoint}: {key} changed on loading; the model config does not belong to this"
                " checkpoint."
            )
