"""Atomic checkpoints that carry what an exact resume needs."""
from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """State of the global generators of this process, as tensors and numbers only (loads with weights_only)."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": torch.tensor(numbers, dtype=torch.int64), "python_version": version, "python_gauss": gauss,
        "numpy": torch.from_numpy(keys.astype(np.int64)), "numpy_position": int(position),
        "numpy_has_gauss": int(has_gauss), "numpy_cached": float(cached), "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    random.setstate((state["python_version"], tuple(state["python"].tolist()), state["python_gauss"]))
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), state["numpy_position"],
                         state["numpy_has_gauss"], state["numpy_cached"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def atomic_save(save: Callable[..., None], obj: Any, path: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
    """`save(obj, path)` through a temporary name: a kill leaves the old file or the new one, never half of one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")  # not *.pt: open_clip takes any *.pt for a checkpoint
    with open(temporary, "wb") as file:
        save(obj, file, *args, **kwargs)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
