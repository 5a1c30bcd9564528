"""Errors of open_clip when it builds a model or loads weights, each as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from .config import UserError
from .towers.image_head import FLAG, POOLS


def near(name: str, known: Iterable[str]) -> str:
    """The names similar to `name`, as the end of a sentence."""
    matches = get_close_matches(name, list(known), n=4, cutoff=0.6)
    return (
        f"; did you mean {' or '.join(matches)}?"
        if matches
        else "; `python -c 'import open_clip; print(open_clip.list_models())'` lists them."
    )


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
    if "not found in built-ins" in text:
        return f"--model {model} is not known to open_clip."
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
