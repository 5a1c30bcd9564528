"""The names of open_clip that this package relies on, compared with the installed version.

Names and parameters decide, not a version number: a later version works until it changes something
that is used here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import open_clip

# functions that `register` replaces, with all parameters, since open_clip passes them to ours
REPLACED = {
    "open_clip.factory.parse_model_name": ("model_name",),
    "open_clip.factory.get_model_config": ("model_name",),
    "open_clip.factory.get_pretrained_cfg": ("model", "tag"),
    "open_clip.factory.list_pretrained_tags_by_model": ("model",),
    "open_clip.factory.load_state_dict": ("checkpoint_path", "device", "weights_only"),
    "open_clip.factory.convert_state_dict": ("model", "state_dict"),
}
_ENCODE = {"encode_image": ("image", "normalize"), "encode_text": ("text", "normalize")}
_MODEL = {"forward": ("image", "text"), "lock_text_tower": ("unlocked_layers",), **_ENCODE}
_PAIRS = ("image_features", "text_features", "logit_scale", "logit_bias", "output_dict")
_STAGES = {"forward_intermediates": ("x", "indices", "output_fmt")}
# what is called, with the parameters that are given; of a class, its methods
CALLED: dict[str, tuple[str, ...] | Mapping[str, tuple[str, ...]]] = {
    "open_clip.create_model_and_transforms": ("model_name", "pretrained", "precision", "device"),
    "open_clip.get_tokenizer": ("model_name",),
    "open_clip.factory.HFTokenizer": {},
    "open_clip.factory.add_model_config": ("path",),
    "open_clip.factory._MODEL_CONFIGS": (),
    "open_clip.factory._MODEL_CONFIG_PATHS": (),
    "open_clip.factory._find_checkpoint_in_dir": ("dir_path",),
    "open_clip.hf_configs.arch_dict": (),
    "open_clip.model.CLIP": _MODEL,
    "open_clip.model.CustomTextCLIP": _MODEL,
    "open_clip.model.get_input_dtype": ("precision",),
    "open_clip.loss.ClipLoss": {"forward": _PAIRS},
    "open_clip.loss.SigLipLoss": {"forward": _PAIRS},
    "open_clip.loss.gather_features": (
        *("image_features", "text_features"),
        *("local_loss", "gather_with_grad", "rank", "world_size"),
    ),
    "open_clip.tokenizer.SimpleTokenizer": {"encode": ("text",)},
    "open_clip.transform.image_transform_v2": ("cfg", "is_train"),
    "open_clip.transform.PreprocessCfg": {},
    "open_clip.transformer.VisionTransformer": {**_STAGES, "_embeds": ("x",), "_pool": ("x",)},
    "open_clip.transformer.TextTransformer": {},
    "open_clip.transformer.Attention": {},
    "open_clip.transformer.AttentionalPooler": {},
    "open_clip.modified_resnet.ModifiedResNet": {**_STAGES, "stem": ("x",)},
    "open_clip.modified_resnet.AttentionPool2d": {},
    "open_clip.timm_model.TimmModel": {},
    "open_clip.hf_model.HFTextEncoder": {},
    "open_clip.coca_model.CoCa": {},
}


def check_open_clip() -> None:
    """RuntimeError, one sentence, for the first name that is not as this package needs it."""
    wrong = next(filter(None, _differences()), None)
    if wrong:
        raise RuntimeError(
            f"open_clip {open_clip.__version__} has another {wrong}; install a version that"
            " openclip_eclip was run with, e.g. pip install 'open_clip_torch>=3.3,<3.4'."
        )


def _differences() -> Any:
    """For each name in turn, how it differs, or None."""
    for path, names in REPLACED.items():
        yield signature_difference(path, names, all_of_them=True)
    for path, needed in CALLED.items():
        methods = needed if isinstance(needed, Mapping) else {"": needed}
        yield signature_difference(path, ())
        for method, names in methods.items():
            yield signature_difference(f"{path}.{method}" if method else path, names)


def signature_difference(
    path: str, names: tuple[str, ...], all_of_them: bool = False
) -> str | None:
    """How the function or class at `path` differs from one that has these parameters.

    None: it does not. `all_of_them`: it has no others. Without `names` it must only be there.
    """
    found = _find(path)
    if found is _MISSING:
        return f"{path} than expected: none"
    if not names:
        return None
    parameters = [name for name in inspect.signature(found).parameters if name != "self"]
    is_same = parameters == list(names) if all_of_them else set(names) <= set(parameters)
    expected = ", ".join(names)
    return None if is_same else f"{path}({', '.join(parameters)}) than expected: ({expected})"


_MISSING = object()


def _find(path: str) -> Any:
    """What is at a dotted path that begins with a module; `_MISSING` where there is none."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name, _MISSING)
        return found
    return _MISSING
