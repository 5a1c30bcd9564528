"""All changes to open_clip_train, and nothing else; README.md beside this file lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# train.py compares it, since Python may find another package of such a general name first
OPENCLIP_ECLIP = "0.2.0"


@contextmanager
def active() -> Iterator[Any]:
    """Apply the patches for the duration of one training run; every name is restored afterwards.

    RuntimeError for an open_clip_train with other signatures than tested.
    """
    from . import release_3_3

    with release_3_3.rebound() as patches:
        yield patches
