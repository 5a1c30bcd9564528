"""Errors of open_clip when it builds a model or loads weights, each as one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from .config import UserError
from .model_folder import CONFIG, EXPORT_RUN
from .towers.image_head import FLAG, POOLS

LOCAL = "local-dir:"
LISTED = "import open_clip; print(open_clip.list_models())"


def check_model_name(model: str, known: Collection[str]) -> None:
    """UserError for a --model that open_clip cannot build; `known` are the names it has.

    A run, a folder without the prefix `local-dir:` and a file are told what to give instead.
    """
    name = model.removeprefix("eclip-")
    if name.startswith("hf-hub:") or {model, name, name.replace("/", "-")} & set(known):
        return
    is_local = name.startswith(LOCAL)
    folder = Path(name.removeprefix(LOCAL) if is_local else model)
    is_model = (folder / CONFIG).is_file()
    if is_model and is_local:
        return
    if (folder / "checkpoints").is_dir():
        reason = f"is the folder of a run: {EXPORT_RUN.format(folder)}"
    elif is_model:
        reason = f"is a folder: give --model {LOCAL}{folder}"
    elif folder.is_dir():
        reason = (
            f"is a folder without {CONFIG}; expected a model folder of open_clip, as"
            f" {LOCAL}FOLDER, or the name of a model"
        )
    elif folder.is_file():
        reason = (
            "is a file; expected the name of a model, with --pretrained for a file of weights, or"
            f" {LOCAL}FOLDER"
        )
    else:
        if is_local:
            near = _near(name, folder, ()) or f"expected one with {CONFIG}."
            raise UserError(f"--model {model}: no such folder; {near}")
        near = _near(name, folder, known) or f"`python -c '{LISTED}'` lists what it knows."
        raise UserError(
            f"--model {model} is neither a folder, nor a file, nor known to open_clip; {near}"
        )
    raise UserError(f"--model {model} {reason}.")


def _near(name: str, folder: Path, known: Iterable[str]) -> str:
    """The models similar to `name`, of open_clip and beside `folder`, as a clause; or ""."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = get_close_matches(folder.name, [other.name for other in beside], n=4, cutoff=0.6)
    others = (folder.with_name(one) for one in names)
    matches = [
        str(other) if (other / "checkpoints").is_dir() else f"{LOCAL}{other}"
        for other in others
        if (other / CONFIG).is_file()
    ]
    matches += get_close_matches(name, list(known), n=4, cutoff=0.6)
    return f"did you mean {' or '.join(matches[:4])}?" if matches else ""


@contextmanager
def one_sentence(model: str, pretrained: str | None) -> Iterator[None]:
    """Turn open_clip's tracebacks about names, files, network and weights into UserError."""
    try:
        yield
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        if isinstance(error, UserError):
            is_about_weights = str(error).startswith("the weights")
            message = f"{_source(model, pretrained)}: {error}" if is_about_weights else None
        else:
            message = sentence(error, model, pretrained)
        if message is None:
            raise
        raise UserError(message) from error


def _source(model: str, pretrained: str | None) -> str:
    return f"--pretrained {pretrained}" if pretrained else f"--model {model}"


def sentence(error: Exception, model: str, pretrained: str | None) -> str | None:
    """A sentence for the user about `error`, which open_clip raised while it built a model.

    None for an error that is not the user's.
    """
    text, source = str(error), _source(model, pretrained)
    if "Error(s) in loading state_dict" in text:
        has_pool = re.search(rf'Unexpected key.*"visual\.({"|".join(map(re.escape, POOLS))})', text)
        advice = f"; for a pool that was added give {FLAG}" if has_pool else ""
        return (
            f"{source} holds weights of another architecture than --model {model}:"
            f" {_misfit(text)}{advice}."
        )
    if "is not a known tag or valid file path" in text:
        return (
            f"--pretrained {pretrained} is neither a file nor a tag of {model}; "
            f'`python -c "import open_clip; '
            f"print(open_clip.list_pretrained_tags_by_model('{model.removeprefix('eclip-')}'))\"` "
            "lists its tags."
        )
    if "Failed to download" in text or "Failed initial config/weights load" in text:
        return (
            f"{source} could not be downloaded ({_last_clause(text)}); on a machine with "
            "internet fetch the file and give it as "
            "--pretrained FILE, or the folder as --model local-dir:FOLDER."
        )
    if isinstance(error, AssertionError):
        return f"{source} does not fit --model {model}: {_last_clause(text)}"
    if isinstance(error, OSError) or "Could not load valid config" in text:
        return f"{source}: {_last_clause(text)}"
    return None


def _misfit(text: str) -> str:
    """The first entry of each kind in torch's list of differences."""
    size = re.search(
        r"size mismatch for ([\w.]+): copying a param with shape torch.Size\((.*?)\) "
        "from checkpoint, the shape in current "
        r"model is torch.Size\((.*?)\)",
        text,
    )
    missing = re.search(r'Missing key\(s\) in state_dict: "([^"]+)"', text)
    unexpected = re.search(r'Unexpected key\(s\) in state_dict: "([^"]+)"', text)
    parts = [f"{size[1]} is {size[2]} in the file and {size[3]} in the model"] if size else []
    parts += [f"{missing[1]} is missing"] if missing else []
    parts += [f"{unexpected[1]} is unexpected"] if unexpected else []
    return ", ".join(parts) or text.splitlines()[0]


def _last_clause(text: str) -> str:
    return " ".join(text.split())[:700]
