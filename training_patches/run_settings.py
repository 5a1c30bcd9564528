"""Settings of a run in its checkpoint, and their differences from those of a resumed run."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch import Tensor

from openclip_eclip.checkpoint_files import (
    STATE_KEY,
    read_checkpoint,
    require_finite,
    state_of,
    without_prefixes,
)
from openclip_eclip.config import EClipConfig, UserError, current_names, flag_of
from openclip_eclip.model import PROCESSOR_PREFIX, REGIONS_PREFIX

logger = logging.getLogger(__name__)

FIRST_RELEASE = "3.3"  # of open_clip_train; checkpoints that name none are of it
# settings that affect training; a change of their value on resume is a warning
NAMES = (
    "model",
    "train_data",
    "train_num_samples",
    "dataset_resampled",
    "expert_data",
    "expert_batch_size",
    "batch_size",
    "accum_freq",
    "lr",
    "wd",
    "beta1",
    "beta2",
    "eps",
    "momentum",
    "epochs",
    "epochs_cooldown",
    "warmup",
    "lr_scheduler",
    "skip_scheduler",
    "grad_clip_norm",
    "seed",
    "precision",
    "siglip",
    "local_loss",
    "gather_with_grad",
    "aug_cfg",
    "force_image_size",
    "force_context_length",
    "force_patch_dropout",
    "image_mean",
    "image_std",
    "image_interpolation",
    "on_bad_sample",
    "fast_jpeg",
    "csv_caption_key",
    "csv_heatmap_key",
    "eclip_placebo",
    "naive_form",
    "same_text",
    "same_text_by",
    "same_text_similarity",
)
# settings whose change on resume is an error: the optimiser state does not fit
OPTIMISED = (
    "opt",
    "image_head",
    "freeze_image",
    "freeze_text",
    "lock_image",
    "lock_image_unlocked_groups",
    "lock_text",
    "lock_text_unlocked_layers",
    "lora_image",
    "lora_text",
    "image_layer_decay",
    "text_layer_decay",
    "fsdp",  # of release 4
)


def run_settings(
    args: argparse.Namespace, config: EClipConfig, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The method, the flags above, the amount of data and `EClipConfig`, as plain values.

    Plain values load with weights_only.
    """
    flags = {name: _plain(getattr(args, name, None)) for name in (*NAMES, *OPTIMISED)}
    if "train" in data:
        flags["samples"] = int(data["train"].dataloader.num_samples)
    return {
        "method": args.method,
        "ranks": args.world_size,
        **flags,
        "eclip_config": _plain(config.to_dict()),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`--flag old -> new` for every setting that both runs have with different values."""
    words = {"ranks": "number of ranks", "samples": "samples of --train-data in an epoch"}
    changed = [
        name for name in (*NAMES, *words) if name in old and name in new and old[name] != new[name]
    ]
    lines = [f"{words.get(name) or flag_of(name)} {old[name]} -> {new[name]}" for name in changed]
    before, now = old.get("eclip_config") or {}, new.get("eclip_config") or {}
    lines += [
        f"eclip_cfg {name} {before[name]} -> {now[name]}"
        for name in before
        if name in now and before[name] != now[name]
    ]
    return lines


def check_resumed_params(args: argparse.Namespace) -> None:
    """UserError where params.txt of the run to be resumed has an option that went.

    Call it before open_clip writes the file anew.
    """
    if not args.resume:
        return
    is_latest = args.resume == "latest"
    run = Path(args.logs, args.name) if is_latest else Path(args.resume).parent.parent
    params = run / "params.txt"
    if params.is_file():
        lines = params.read_text(encoding="utf-8", errors="replace").splitlines()
        current_names(dict(line.split(": ", 1) for line in lines if ": " in line), str(params))


def load_to_resume(
    file_path: str,
    args: argparse.Namespace,
    model: torch.nn.Module,
    map_location: Any,
    checked: bool,
    release: str,
) -> Any:
    """The checkpoint of --resume with the keys that the loop expects. No code in it is executed.

    `checked`: its checksums have been compared. `release`: that of open_clip_train. UserError, one
    sentence, for a damaged or foreign file, a checkpoint of another method or release, other
    weights, or another choice of what is trained.
    """
    path = Path(file_path)
    if "://" in file_path:
        with fsspec.open(file_path, "rb") as file:
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    else:
        checkpoint = read_checkpoint(path, map_location, checked)
    state = state_of(checkpoint, path, merge=False)
    trained = isinstance(checkpoint, dict) and "epoch" in checkpoint and "state_dict" in checkpoint
    if trained and not isinstance(checkpoint["epoch"], int):
        raise UserError(
            f"checkpoint {path}: epoch is {str(checkpoint['epoch'])[:40]!r}; expected a whole "
            "number of complete epochs."
        )
    if trained and "optimizer" not in checkpoint and args.train_data:
        raise UserError(
            f"checkpoint {path} holds no optimizer state, so training cannot continue "
            "from it: give it as --pretrained."
        )
    ours = (checkpoint.get(STATE_KEY) or {}) if trained else {}
    settings = current_names(ours.get("settings") or {}, f"checkpoint {path}")
    if settings:
        ours["settings"] = settings
    if trained:
        _check_method(path, settings.get("method"), state, args, model)
    if trained and args.train_data:
        _check_release(path, settings.get("open_clip_train", FIRST_RELEASE), release)
        _check_same_trained(path, settings, args)
    _check_weights(path, state, model, bare=not trained)
    require_finite(state, path, frozenset(name for name, _ in model.named_buffers()))
    if trained and args.train_data:
        _check_optimised(path, checkpoint["optimizer"], model)
    if args.pretrained:
        logger.info(
            "eclip: weights are those of checkpoint %s; --pretrained %s is where the run began",
            path,
            args.pretrained,
        )
    if args.distributed and release == FIRST_RELEASE:  # later ones load into the model within DDP
        state = {f"module.{key}": value for key, value in state.items()}
    if not trained:
        return state
    checkpoint["state_dict"] = state
    return checkpoint


def _check_method(
    path: Path,
    method: str | None,
    state: Mapping[str, Tensor],
    args: argparse.Namespace,
    model: torch.nn.Module,
) -> None:
    advice = "give it as --pretrained to fine-tune, or the same --method to continue"
    if ":" in args.model:  # a folder or hub model takes no --pretrained
        advice += (
            f" (with --model {args.model}: `openclip-eclip export {path} NEW`, then "
            "--model local-dir:NEW instead of --pretrained)"
        )
    if method is not None:
        if set(method.split("+")) != set(args.method.split("+")):
            raise UserError(
                f"checkpoint {path} is of --method {method}, this run trains "
                f"{args.method}: {advice}."
            )
        return
    # old checkpoints do not name their method
    has_processor = any(key.startswith(PROCESSOR_PREFIX) for key in state)
    if has_processor != any(key.startswith(PROCESSOR_PREFIX) for key in model.state_dict()):
        holds = (
            "a heatmap processor, as of --method eclip or naive"
            if has_processor
            else "no heatmap processor, as of --method clip"
        )
        raise UserError(
            f"checkpoint {path} holds {holds}, this run trains {args.method}: {advice}."
        )


def _check_weights(
    path: Path, state: Mapping[str, Tensor], model: torch.nn.Module, bare: bool
) -> None:
    """UserError for weights of another model; `bare` ones may lack what eCLIP adds to a CLIP."""
    # with --fsdp, --torchcompile wraps each block
    held = {key.replace("._orig_mod.", "."): value for key, value in model.state_dict().items()}
    expected, added = without_prefixes(held), (PROCESSOR_PREFIX, REGIONS_PREFIX)
    keys = set(expected) ^ set(state)
    wrong = sorted(
        key
        for key in keys
        if not (bare and key.startswith(added)) and not key.startswith(REGIONS_PREFIX)
    )
    if wrong:
        raise UserError(
            f"checkpoint {path} is of another model: {wrong[0]} is "
            f"{'missing' if wrong[0] in expected else 'not part of this run'}; give the "
            "same --model, --image-head, --lora-* and --force-* flags."
        )
    for key, value in state.items():
        if key in expected and _shape(expected[key]) != _shape(value):
            raise UserError(
                f"checkpoint {path} is of another model: {key} is "
                f"{tuple(value.shape)} in it and {tuple(expected[key].shape)} in this run; "
                "give the same --model, --image-head, --lora-* and --force-* flags."
            )


def _shape(value: Tensor) -> tuple[int, ...]:
    """The shape; that of a single number is (), which FSDP2 holds as (1,)."""
    return () if value.numel() == 1 else tuple(value.shape)


def _check_release(path: Path, old: str, new: str) -> None:
    if old != new:
        raise UserError(
            f"checkpoint {path} was trained with open_clip {old}, this is {new}: their optimisers"
            f" group the weights in another way; continue with open_clip {old}, or give the"
            " checkpoint as --pretrained."
        )


def _check_same_trained(path: Path, settings: Mapping[str, Any], args: argparse.Namespace) -> None:
    changed = [
        name
        for name in OPTIMISED
        if name in settings and settings[name] != getattr(args, name, None)
    ]
    if changed:
        name = changed[0]
        raise UserError(
            f"checkpoint {path} was trained with {flag_of(name)} {settings[name]}, "
            f"this run has {getattr(args, name)}: its optimizer "
            "state does not fit; give the same, or the checkpoint as --pretrained."
        )


def _check_optimised(path: Path, optimizer: Mapping[str, Any], model: torch.nn.Module) -> None:
    stored = sum(len(group["params"]) for group in optimizer["param_groups"])
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    if stored != trained:
        raise UserError(
            f"checkpoint {path}: its optimizer trains {stored} tensors, this run "
            f"{trained}; give the same --lock-* and --freeze-* flags, or the "
            "checkpoint as --pretrained."
        )
