"""Checks of the config in a `local-dir:` model folder, before open_clip builds from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .config import EClipConfig, UserError
from .json_text import read_json

logger = logging.getLogger(__name__)

CONFIG = "open_clip_config.json"
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
