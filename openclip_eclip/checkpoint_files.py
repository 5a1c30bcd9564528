"""Checkpoint files: the newest one, whether it is complete, and reading without running code."""

from __future__ import annotations

import logging
import pickle
import re
import struct
import zipfile
import zlib
from codecs import getincrementaldecoder
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import UserError
from .json_text import counted, read_json

logger = logging.getLogger(__name__)

STATE_KEY = "eclip"  # our part of a training checkpoint, beside open_clip's keys
LATEST = "epoch_latest.pt"  # of --save-most-recent
BEST = "epoch_best.pt"  # of --keep-best
BEST_RECORD = "epoch_best.json"  # beside it: {measure, value, epoch}
NUMBERED = re.compile(r"epoch_(\d+)(?:_batch_(\d+))?\.pt")
PREFIXES = ("module.", "_orig_mod.")  # of DDP and torch.compile
LOW_RANK = (".lora_A.default.weight", ".lora_B.default.weight")  # ends of the keys of peft's layers
BASE = ".base_layer"  # and what they put before those of a frozen layer
# beginnings of files that are often named in place of a checkpoint
OTHER_KINDS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
}
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")
LFS = (b"version https://git-lfs",)
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")  # of weights
STATES = ("state_dict", "model_state_dict", "model")  # keys of the weights in training programs
# errors that libraries were seen to raise on a damaged or foreign file
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ImportError,
    OverflowError,
    MemoryError,
)


def damage(path: Path) -> str | None:
    """What is wrong with a file of torch.save, as the end of a sentence; None if it is complete.

    Every byte of the tensors is read and compared with the checksums in the file.
    """
    if path.stat().st_size == 0:
        return "is empty"
    try:
        if not zipfile.is_zipfile(path):  # the directory of a zip file is at its end
            with open(path, "rb") as file:
                return "is truncated" if file.read(2) == b"PK" else "is not a checkpoint"
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if not wrong and not _is_torchscript(path):
            # torch reads headers that zipfile does not check
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return None  # complete, and foreign
    except UNREADABLE as error:
        return f"is damaged ({_first_line(error)})"
    return f"is damaged (the checksum of {wrong} is wrong)" if wrong else None


def progress_in_name(path: Path) -> tuple[int, int] | None:
    """(complete epochs, batches of the next one) in a checkpoint's name; None for other names."""
    match = NUMBERED.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def newest_complete(folder: Path) -> Path | None:
    """The complete checkpoint of `folder` that has trained longest, None without one.

    Damaged ones are skipped with a warning. Considered are `epoch_N.pt`, `epoch_N_batch_B.pt` (N
    epochs and B batches) and `epoch_latest.pt`, whose progress is inside; `epoch_best.pt`, of any
    epoch, is not.
    """
    candidates = {
        path: progress
        for path in folder.glob("epoch_*.pt")
        if (progress := progress_in_name(path)) and path.is_file()
    }
    latest = folder / LATEST
    if latest.is_file():
        wrong = damage(latest)
        if wrong is None:
            try:
                candidates[latest] = _progress_inside(latest)
            except UNREADABLE as error:
                wrong = f"is not a training checkpoint ({_first_line(error)})"
        if wrong:
            logger.warning("eclip: checkpoint %s %s, taking the one before it", latest, wrong)
    newest_first = sorted(
        candidates, key=lambda path: (candidates[path], path != latest), reverse=True
    )
    for path in newest_first:
        wrong = damage(path) if path != latest else None
        if wrong is None:
            return path
        logger.warning("eclip: checkpoint %s %s, taking the one before it", path, wrong)
    return None


def _progress_inside(path: Path) -> tuple[int, int]:
    """Progress of `epoch_latest.pt`, which is written at the end of an epoch."""
    checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return int(checkpoint["epoch"]), 0


def describe_progress(path: Path) -> str:
    """Progress of a checkpoint within an epoch, by its name; '' for one at the end of an epoch."""
    epochs, batches = progress_in_name(path) or (0, 0)
    if not batches:
        return ""
    done, begun = counted(epochs, "complete epoch"), counted(batches, "batch", "batches")
    return f"{done} and {begun} of the next"


def read_checkpoint(path: Path, map_location: Any = "cpu", checked: bool = False) -> Any:
    """The content of a file of torch.save or safetensors. No code in it is executed.

    That holds for every version of torch. `checked`: its checksums have just been compared.
    UserError, one sentence, for a missing, damaged or foreign file.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; expected a checkpoint file, e.g. "
            f"{path / 'checkpoints' / 'epoch_1.pt'}."
        )
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with open(path, "rb") as file:
        start = file.read(64)
    if kind := _other_kind(path, start):
        raise UserError(f"{path} is {kind}, not a checkpoint; {_beside(path)}.")
    wrong = None if checked or (start and not start.startswith(b"PK")) else damage(path)
    if wrong:
        raise UserError(
            f"checkpoint {path} {wrong}: it is not a complete checkpoint; give an "
            "older one, or copy it again."
        )
    if start.startswith(b"PK") and _is_torchscript(path):
        raise UserError(
            f"{path} is a TorchScript archive (as OpenAI's): a program, not weights; "
            "give its tag (--pretrained openai), or "
            "save torch.jit.load(FILE).state_dict() with torch.save where you trust "
            "it."
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: {_why_unreadable(start, error)}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, *UNREADABLE) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({_first_line(error)}); copy it again."
        ) from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _other_kind(path: Path, start: bytes) -> str | None:
    """What a file is by its first bytes, if that is no checkpoint and has a name."""
    kind = next((kind for mark, kind in OTHER_KINDS.items() if start.startswith(mark)), None)
    if kind or not start or start.lstrip().lower().startswith(WEB_PAGE + LFS):
        return kind
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                is_foreign = not any(name.endswith("data.pkl") for name in archive.namelist())
        except UNREADABLE:  # damaged
            return None
        return "a zip archive of another program" if is_foreign else None
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(start)  # may end within a character
    except UnicodeDecodeError:
        return None
    if any(letter < " " and letter not in "\t\n\r" for letter in text):
        return None
    return "a JSON file" if text.lstrip().startswith(("{", "[")) else "a text file"


def _beside(path: Path) -> str:
    """What to give instead of a file that is no checkpoint, as the end of a sentence."""
    others = (path.with_suffix(suffix) for suffix in SUFFIXES)
    other = next((other for other in others if other != path and other.is_file()), None)
    if other is not None:
        return f"{other.name} lies beside it: give {other}"
    return f"expected a file of weights ({', '.join(SUFFIXES)}), such as RUN/checkpoints/epoch_1.pt"


def _why_unreadable(start: bytes, error: BaseException) -> str:
    blocked = re.search(r"(?:GLOBAL|global:?) ([\w.]+)", str(error))
    if blocked:
        return (
            f"holds {blocked[1]} beside tensors and numbers, which is not loaded because it "
            "could run code; where you trust the "
            "file, save its state dict alone with torch.save."
        )
    if start.lstrip().lower().startswith(WEB_PAGE):
        return "is a web page, not a checkpoint: the download failed; fetch it again."
    if start.startswith(LFS):
        return "is a pointer of Git LFS, not the file itself; run `git lfs pull`."
    return (
        f"is not a checkpoint that torch can read ({_first_line(error)}); expected what torch.save "
        "or safetensors wrote."
    )


def _first_line(error: BaseException) -> str:
    return (
        str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()
        or [type(error).__name__]
    )[0][:200]


def state_of(checkpoint: Any, path: Path, merge: bool = True) -> dict[str, Tensor]:
    """The model's state dict in the result of `read_checkpoint`. UserError without one.

    The prefixes of DDP and torch.compile are removed, and LoRA is merged; without `merge` the
    state is as the run trains it.
    """
    if isinstance(checkpoint, Mapping):
        inner = next(
            (checkpoint[key] for key in STATES if isinstance(checkpoint.get(key), Mapping)),
            checkpoint,
        )
        state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        if state:
            state = without_prefixes(state)
            return merge_low_rank(state) if merge else state
        what = (
            f"a dict of {', '.join(map(str, list(checkpoint)[:4]))}"
            if checkpoint
            else "an empty dict"
        )
    else:
        what = f"a {type(checkpoint).__name__}"
    raise UserError(
        f"{path} holds {what} and no weights; expected a state dict, or a checkpoint "
        "with one under 'state_dict'."
    )


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same state with the keys of the plain model, in the same order."""
    state = dict(state)
    while prefix := next(
        (prefix for prefix in PREFIXES if state and all(key.startswith(prefix) for key in state)),
        None,
    ):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def merge_low_rank(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys and weights of the plain model: W + B A for every frozen weight W with LoRA."""
    end_a, end_b = LOW_RANK
    changed = [key.removesuffix(end_a) for key in state if key.endswith(end_a)]
    if not changed:
        return dict(state)
    merged = {key: value for key, value in state.items() if not key.endswith(LOW_RANK)}
    for layer in changed:
        names = (f"{layer}{BASE}.{name}" for name in ("weight", "in_proj_weight"))
        key = next(name for name in names if name in merged)
        # in fp32 or more, also where the run trained in fp16 or bf16
        wide = torch.promote_types(merged[key].dtype, torch.float32)
        product = state[layer + end_b].to(wide) @ state[layer + end_a].to(wide)
        merged[key] = (merged[key].to(wide) + product).to(merged[key].dtype)
    return {key.replace(BASE + ".", "."): value for key, value in merged.items()}


def whole(value: Tensor) -> Tensor:
    """A tensor that FSDP2 has shared out among the ranks, gathered by all of them; else itself."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def non_finite(state: Mapping[str, Tensor], buffers: frozenset[str] = frozenset()) -> list[str]:
    """Names of tensors with a NaN or an infinity; `buffers` may hold infinities, as a mask does."""

    def wrong(name: str, value: Tensor) -> bool:
        if not value.is_floating_point():
            return False
        value = whole(value)
        return bool(value.isnan().any() if name in buffers else not value.isfinite().all())

    return [name for name, value in state.items() if wrong(name, value)]


def require_finite(
    state: Mapping[str, Tensor], path: Path | str, buffers: frozenset[str] = frozenset()
) -> None:
    """UserError if weights of `path` are NaN or infinite."""
    wrong = non_finite(state, buffers)
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} of {len(state)} tensors hold NaN or infinite "
            f"weights, first {wrong[0]}: the training diverged; "
            "take an older checkpoint, or train again with a lower --lr."
        )


def weight_files(folder: Path) -> list[Path]:
    """Files that open_clip would read as weights of a `local-dir:` model."""
    return sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth")
    )


def read_config(path: Path) -> dict[str, Any]:
    """An `open_clip_config.json`. UserError for a file that is not one."""
    config = read_json(path)
    if not {"model_cfg", "preprocess_cfg"} <= set(config):
        raise UserError(f"{path}: expected the keys model_cfg and preprocess_cfg.")
    return config
