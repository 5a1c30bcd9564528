"""Atomic checkpoints, and the random state that an exact resume needs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

PARTIAL = ".partial"  # suffix of a file that is being written


def random_state(with_cuda: bool = True) -> dict[str, Any]:
    """State of this process's global generators, in tensors and numbers (for weights_only).

    `with_cuda`: also of the current GPU, if there is one; a forked data worker may not read it.
    """
    version, numbers, gauss = random.getstate()
    # the tuple form of the state, not the dict
    _, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state())
    state = {
        "python": torch.tensor(numbers, dtype=torch.int64),
        "python_version": version,
        "python_gauss": gauss,
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_position": int(position),
        "numpy_has_gauss": int(has_gauss),
        "numpy_cached": float(cached),
        "torch": torch.get_rng_state(),
    }
    if with_cuda and torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore a state of `random_state`."""
    random.setstate(
        (state["python_version"], tuple(state["python"].tolist()), state["python_gauss"])
    )
    np.random.set_state(
        (
            "MT19937",
            state["numpy"].numpy().astype(np.uint32),
            state["numpy_position"],
            state["numpy_has_gauss"],
            state["numpy_cached"],
        )
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def atomic_save(
    save: Callable[..., None], obj: Any, path: str | os.PathLike, *args: Any, **kwargs: Any
) -> None:
    """`save(obj, path)` through a temporary file: a kill leaves the old file or the new one.

    The temporary name has the process id, so two runs never write into the same file. When this
    function returns, everything is on the disk.
    """
    path = Path(path)
    # not *.pt, which open_clip would take for a checkpoint
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with open(temporary, "wb") as file:
            save(obj, file, *args, **kwargs)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write new names and removals in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Delete the partial files of killed runs. Only the run that writes into `folder` may do it."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)
