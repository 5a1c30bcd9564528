"""Makes `eclip-*` models known to open_clip's own functions, and undoes it.

No other module writes into open_clip.factory. open_clip looks these names up in its module at call
time, so code that imported `create_model` earlier sees them too.
"""

from __future__ import annotations

import contextvars
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from open_clip import factory, hf_configs
from open_clip import model as host_model
from open_clip.coca_model import CoCa
from torch import Tensor

from .checkpoint_files import read_checkpoint, state_of
from .config import UserError
from .model import PROCESSOR_PREFIX, REGIONS_PREFIX, EClipCLIP, EClipCustomTextCLIP
from .model_folder import CONFIG, check_model_folder, check_text_tower, check_tokenizer
from .towers import phantom_resnet  # noqa: F401  # timm knows it from now on
from .towers.image_head import ATTENTION_POOL, build_with_pool, carry_over

logger = logging.getLogger(__name__)

PREFIX = "eclip-"
SCHEMAS = tuple(PREFIX + schema for schema in (factory.LOCAL_DIR_PREFIX, factory.HF_HUB_PREFIX))
# environment variable: a local folder with the text tower of the -clinicalbert presets
TEXT_FOLDER = "ECLIP_TEXT_FOLDER"
# open_clip 3.3 has these names for other text models and not for BERT, so --lock-text with unlocked
# layers fails there
BERT_LAYERS = {"layer_attr": "layer", "token_embeddings_attr": "embeddings"}
CONFIGS = Path(__file__).parent / "model_configs"

_originals: dict[str, Any] = {}
# what is being built, for error messages
_source: contextvars.ContextVar[str] = contextvars.ContextVar("eclip_source", default="model")
_is_eclip_schema: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "eclip_schema", default=False
)


class HubError(OSError, UserError):
    """A file of the hub that is not on this machine.

    An OSError, as open_clip raises it, and a UserError, which our commands print as one sentence.
    """


def register() -> None:
    """Make the `eclip-*` names known to open_clip; a second call changes nothing.

    `unregister` undoes it.
    """
    if _originals:
        return
    for name, expected in (
        ("CLIP", host_model.CLIP),
        ("CustomTextCLIP", host_model.CustomTextCLIP),
        ("CoCa", CoCa),
    ):
        if getattr(factory, name) is not expected:
            raise RuntimeError(
                f"open_clip.factory.{name} was already replaced by {getattr(factory, name)!r}:"
                " another extension of open_clip is active in this process; import only one of"
                " them."
            )
    replacements: dict[str, Callable[..., Any]] = {
        "CLIP": _dispatch(host_model.CLIP, EClipCLIP),
        "CustomTextCLIP": _dispatch(host_model.CustomTextCLIP, EClipCustomTextCLIP),
        "CoCa": _dispatch(CoCa, None),
        "parse_model_name": _parse_model_name,
        "get_model_config": _get_model_config,
        "get_pretrained_cfg": lambda model, tag: _originals["get_pretrained_cfg"](
            _plain(model), tag
        ),
        "list_pretrained_tags_by_model": lambda model: _originals["list_pretrained_tags_by_model"](
            _plain(model)
        ),
        "HFTokenizer": _hf_tokenizer,
        "load_state_dict": _load_state_dict,
        "convert_state_dict": _convert_state_dict,
    }
    for name, value in replacements.items():
        _originals[name] = getattr(factory, name)
        setattr(factory, name, value)
    for name, layer in BERT_LAYERS.items():
        hf_configs.arch_dict["bert"]["config_names"].setdefault(name, layer)
    factory.add_model_config(CONFIGS)


def unregister() -> None:
    """Restore every name `register` replaced and remove the presets."""
    if not _originals:
        return
    for name, value in _originals.items():
        setattr(factory, name, value)
    _originals.clear()
    for name in BERT_LAYERS:
        hf_configs.arch_dict["bert"]["config_names"].pop(name, None)
    factory._MODEL_CONFIG_PATHS.remove(CONFIGS)
    for preset in CONFIGS.glob("*.json"):
        factory._MODEL_CONFIGS.pop(preset.stem, None)


def _plain(name: str) -> str:
    return name[len(PREFIX) :] if name.startswith(PREFIX) else name


def _dispatch(host: type, extended: type | None) -> Callable[..., Any]:
    """A replacement for the class `host`: it builds `extended` with `eclip_cfg`, else `host`.

    `image_head` is that of --image-head.
    """

    def build(*args: Any, eclip_cfg: Any = None, image_head: Any = None, **kwargs: Any) -> Any:
        if eclip_cfg is None and _is_eclip_schema.get():
            eclip_cfg = {}
        _is_eclip_schema.set(False)
        if eclip_cfg is not None and extended is None:
            raise ValueError(
                "eCLIP needs a contrastive model of class CLIP or CustomTextCLIP; CoCa is not"
                " supported."
            )
        try:
            text = kwargs.get("text_cfg") or {}
            if name := text.get("hf_model_name"):
                check_text_tower(name, _source.get(), text.get("hf_model_pretrained", True))
            make: Callable[..., Any] = host
            if eclip_cfg is not None and extended is not None:
                make = partial(extended, eclip_cfg=eclip_cfg)
            if image_head == ATTENTION_POOL:
                return build_with_pool(make, *args, **kwargs)
            return make(*args, **kwargs)
        except OSError as error:
            source = (kwargs.get("text_cfg") or {}).get("hf_model_name")
            if source is None:
                raise
            raise HubError(_no_hub(source)) from error
        except UserError:
            raise
        except (
            TypeError,
            ValueError,
            KeyError,
            AssertionError,
            ArithmeticError,
            RuntimeError,
        ) as error:  # seen for wrong values in a config
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{_source.get()}: open_clip cannot build this model ({reason[:300]}); check its"
                " model_cfg and the flags that change it."
            ) from error

    build.__name__ = host.__name__  # open_clip logs it
    return build


def _hf_tokenizer(source: Any, *args: Any, **kwargs: Any) -> Any:
    check_tokenizer(source)
    try:
        return _originals["HFTokenizer"](source, *args, **kwargs)
    except OSError as error:
        raise HubError(_no_hub(source)) from error


def _load_state_dict(
    checkpoint_path: Any, device: Any = "cpu", weights_only: bool = True
) -> dict[str, Tensor]:
    """A state dict from a file, without unpickling code.

    open_clip's own function tries again without weights_only after a TypeError.
    """
    if not weights_only:  # the caller asks for it
        return _originals["load_state_dict"](checkpoint_path, device=device, weights_only=False)
    path = Path(checkpoint_path)
    return state_of(read_checkpoint(path, map_location=device), path)


def _convert_state_dict(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's conversions, after dropping keys that a plain model does not have.

    UserError for weights that are not those of a CLIP.
    """
    keys = model.state_dict()
    trained_with = [
        prefix
        for prefix in (PROCESSOR_PREFIX, REGIONS_PREFIX)
        if any(key.startswith(prefix) for key in state)
        and not any(key.startswith(prefix) for key in keys)
    ]
    if trained_with:
        logger.info(
            "eclip: the weights have %s*, this model has not: ignored", "*, ".join(trained_with)
        )
        state = {
            key: value for key, value in state.items() if not key.startswith(tuple(trained_with))
        }
    if any(key.startswith(("vision_model.", "text_model.")) for key in state):
        raise UserError(
            "the weights have the names of Hugging Face's CLIPModel (vision_model.*); give"
            " open_clip's own file of that model, e.g. its --pretrained tag or --model hf-hub:ID."
        )
    state = _originals["convert_state_dict"](model, state)
    if "logit_scale" not in state:
        raise UserError(
            "the weights have no logit_scale, so they are not those of a whole CLIP (first key:"
            f" {next(iter(state))})."
        )
    if "logit_bias" in state and model.logit_bias is None:
        raise UserError(
            "the weights are those of a SigLIP model (logit_bias): add --siglip, or take a SigLIP"
            " model."
        )
    if "logit_bias" not in state and getattr(model, "logit_bias", None) is not None:
        # open_clip sets it to 0, where SigLIP begins with -10: most pairs do not belong together
        logger.warning(
            "eclip: --siglip, but the weights are those of a CLIP without logit_bias: it begins at"
            " 0, so that the first loss is high, and training has to find it; start from a SigLIP"
            " model if there is one"
        )
    if getattr(model, "fresh_weights", None):
        state, model.fresh_weights = carry_over(model, state)
    return state


def _no_hub(source: Any) -> str:
    return (
        f"text tower {str(source)!r} could not be loaded from the hub. On a machine with internet"
        f" run `hf download {source} --local-dir FOLDER`, copy FOLDER here and set"
        f" {TEXT_FOLDER}=FOLDER (the presets ending in -clinicalbert read it), or put the folder as"
        " hf_model_name and hf_tokenizer_name into a model JSON."
    )


def _parse_model_name(model_name: str) -> tuple[str | None, str]:
    """open_clip's (schema, identifier); `eclip-` before a schema builds the model as eCLIP.

    `eclip-local-dir:FOLDER` and `eclip-hf-hub:ID` have the same sources as without `eclip-`.
    """
    is_eclip = model_name.startswith(SCHEMAS)
    _is_eclip_schema.set(is_eclip)
    name = _plain(model_name) if is_eclip else model_name
    schema, identifier = _originals["parse_model_name"](name)
    if schema == "local-dir":
        check_model_folder(Path(identifier))
    _source.set(f"{Path(identifier) / CONFIG}" if schema == "local-dir" else f"model {model_name}")
    return schema, identifier


def _get_model_config(model_name: str) -> dict[str, Any] | None:
    """Config of a preset, of `eclip-<any open_clip model>`, or of open_clip's own model."""
    schema, identifier = _parse_model_name(model_name)
    if schema == "local-dir":
        check_model_folder(Path(identifier), whole=True)
    config = _originals["get_model_config"](model_name)
    if config is None and model_name.startswith(PREFIX):
        config = _originals["get_model_config"](_plain(model_name))
        if config is not None:
            if not is_contrastive(config):
                raise ValueError(
                    "eCLIP needs a contrastive model of class CLIP or CustomTextCLIP;"
                    f" {_plain(model_name)} is another."
                )
            config["eclip_cfg"] = {}
    folder = os.environ.get(TEXT_FOLDER)
    if (
        config is not None
        and folder
        and model_name.startswith(PREFIX)
        and model_name.endswith("-clinicalbert")
    ):
        config["text_cfg"].update(hf_model_name=folder, hf_tokenizer_name=folder)
    return config


def is_contrastive(config: dict[str, Any]) -> bool:
    """Whether a model's config is of images and texts; later releases have audio and GenLIP too."""
    return "vision_cfg" in config and "genlip_cfg" not in config
