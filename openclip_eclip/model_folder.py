"""Checks of a `local-dir:` model folder, before open_clip builds from it.

Its config, and the files of a Hugging Face text tower and tokenizer that the config names.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .config import EClipConfig, UserError
from .json_text import read_json

logger = logging.getLogger(__name__)

CONFIG = "open_clip_config.json"
TEXT_CONFIG = "config.json"  # of a Hugging Face text tower
# files with the vocabulary of a Hugging Face tokenizer, of which one is enough to tell
VOCABULARY = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")
TOKENIZER = (*VOCABULARY, "merges.txt", "*token*.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or an index of several, NAME.index.json
EXPORT_RUN = "`openclip-eclip export {} NEW` makes a model folder of it, for --model local-dir:NEW"
# keys that open_clip reads; it ignores others
PREPROCESS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def check_model_folder(folder: Path, whole: bool = False) -> None:
    """UserError, with file and key, for a config that is not JSON or that open_clip cannot use.

    `whole`: the config must have everything a model needs; a tokenizer alone needs less. A folder
    without the file is not an error.
    """
    path = folder / CONFIG
    if not path.is_file():
        return
    config = read_json(path)
    model = _part(path, config, "model_cfg")
    vision, text = (
        _part(path, model, name, "model_cfg.") if whole or name in model else {}
        for name in ("vision_cfg", "text_cfg")
    )
    width = model.get("embed_dim", None if whole else 1)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise UserError(
            f"{path}: model_cfg.embed_dim is {width!r}; expected a whole number of at least 1."
        )
    _check_sizes(path, vision, text)
    if model.get("eclip_cfg") is not None:
        try:
            EClipConfig.from_dict(model["eclip_cfg"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    preprocess = config.get("preprocess_cfg", {})
    if not isinstance(preprocess, dict):
        raise UserError(f"{path}: preprocess_cfg is {str(preprocess)[:60]}; expected an object.")
    for name in ("mean", "std"):
        _check_channels(path, name, preprocess.get(name))
    unknown = sorted(set(preprocess) - set(PREPROCESS))
    if unknown:
        logger.warning(
            "eclip: %s: preprocess_cfg has %s, which open_clip ignores; it knows %s",
            path,
            ", ".join(map(repr, unknown)),
            ", ".join(PREPROCESS),
        )


def how_to_get_weights(folder: Path) -> str:
    """Which files of weights a folder without any must have, and how, as the end of a sentence."""
    if (folder / "checkpoints").is_dir():
        return f"it is the folder of a run: {EXPORT_RUN.format(folder)}"
    return (
        f"expected open_clip_model.safetensors (or another .safetensors, .bin or .pth file) beside"
        f" {CONFIG}: copy it there, or make a new folder of a file of weights with `openclip-eclip"
        f" export FILE NEW --model local-dir:{folder}`"
    )


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face tokenizer; its settings alone are none."""
    return any(any(folder.glob(pattern)) for pattern in VOCABULARY)


def check_tokenizer(source: str | Path) -> None:
    """UserError, with the files to copy, for a folder of a tokenizer that has no vocabulary.

    A name of the hub is no folder, and not checked.
    """
    folder = Path(source)
    if not folder.is_dir() or has_vocabulary(folder):
        return
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    name = config.get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name") or "NAME"
    known = Path(name)
    advice = (
        f"save them with `transformers.AutoTokenizer.from_pretrained({name!r})"
        f".save_pretrained({str(folder)!r})`"
    )
    if known.is_dir():
        files = {path.name for pattern in TOKENIZER for path in known.glob(pattern)}
        advice = f"copy {', '.join(sorted(files)) or 'them'} from {known}"
    raise UserError(
        f"{folder}: the files of the text tower's tokenizer are missing, which open_clip reads from"
        " this folder; expected tokenizer_config.json with tokenizer.json, vocab.txt, vocab.json"
        f" and merges.txt, or a .model file: {advice}."
    )


def check_text_tower(source: str, where: str, weights: bool) -> None:
    """UserError for the folder of a Hugging Face text tower that is not there, or not complete.

    `where`: the config that names it; `weights`: whether they are read from it. A name of the hub
    is not checked.
    """
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_absolute() or source.startswith((".", "~")):
            raise UserError(
                f"{where}: text_cfg.hf_model_name is {source}, which is no folder here; expected"
                " the folder with the config.json of the text tower, or its name on the hub."
            )
        return
    missing = [] if (folder / TEXT_CONFIG).is_file() else [f"{TEXT_CONFIG} (of the text tower)"]
    indexed = [f"{name}.index.json" for name in WEIGHTS]
    if weights and not any((folder / name).is_file() for name in (*WEIGHTS, *indexed)):
        missing.append(f"its weights ({' or '.join(WEIGHTS)})")
    if missing:
        raise UserError(
            f"{where}: text_cfg.hf_model_name is {source}, a folder without"
            f" {' and without '.join(missing)}; copy what is missing from where the text tower"
            " comes from."
        )


def _part(path: Path, config: dict[str, Any], name: str, where: str = "") -> dict[str, Any]:
    if not isinstance(config.get(name), dict):
        state = f"is {str(config[name])[:60]!r}" if name in config else "is missing"
        raise UserError(
            f"{path}: {where}{name} {state}; expected an object of settings, as open_clip writes"
            " it."
        )
    return config[name]


def _check_sizes(path: Path, vision: dict[str, Any], text: dict[str, Any]) -> None:
    sides = {}
    for name in ("image_size", "patch_size"):
        value = vision.get(name)
        sides[name] = value if isinstance(value, list) else [value]
        if value is not None and not all(
            isinstance(side, int) and side >= 1 for side in sides[name]
        ):
            raise UserError(
                f"{path}: model_cfg.vision_cfg.{name} is {value!r}; expected whole numbers of at "
                "least 1, in pixels."
            )
    if None not in (vision.get("image_size"), vision.get("patch_size")) and min(
        sides["image_size"]
    ) < max(sides["patch_size"]):
        raise UserError(
            f"{path}: model_cfg.vision_cfg.patch_size {vision['patch_size']} on an image_size of "
            f"{vision['image_size']}; expected patches that fit into the image."
        )
    length = text.get("context_length", 1)
    if not isinstance(length, int) or length < 1:
        raise UserError(
            f"{path}: model_cfg.text_cfg.context_length is {length!r}; expected a whole number of "
            "at least 1."
        )


def _check_channels(path: Path, name: str, values: Any) -> None:
    numbers = values if isinstance(values, list) else [values]
    right = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers
    ) and len(numbers) in (1, 3)
    if values is not None and not right:
        raise UserError(
            f"{path}: preprocess_cfg.{name} is {str(values)[:60]!r}; expected three numbers, one "
            "for each channel."
        )
