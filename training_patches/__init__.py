"""All changes to open_clip_train, and nothing else; README.md beside this file lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

# train.py compares it, since Python may find another package of such a general name first
OPENCLIP_ECLIP = "0.2.0"


def release() -> ModuleType:
    """The patches that fit the installed open_clip_train, by what its `main` has.

    RuntimeError if none do.
    """
    host = import_module("open_clip_train.main")
    for hook, name in (("create_task", "release_4"), ("create_loss", "release_3_3")):
        if hasattr(host, hook):
            return import_module(f"{__name__}.{name}")
    raise RuntimeError(
        "open_clip_train.main has neither create_task nor create_loss, one of which openclip_eclip"
        " patches; install a version that it was run with, e.g. pip install"
        " 'open_clip_torch>=3.3,<3.4'."
    )


@contextmanager
def active() -> Iterator[Any]:
    """Apply the patches for the duration of one training run; every name is restored afterwards.

    RuntimeError for an open_clip_train with other signatures than tested.
    """
    with release().rebound() as patches:
        yield patches
