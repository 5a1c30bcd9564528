"""Pillow's own limit of pixels, off while our limit is checked instead."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

# a number, not None: Pillow reads it twice, and threads that are not in here may be between the two
NO_LIMIT = sys.maxsize
_lock = threading.Lock()
_readers, _before = 0, Image.MAX_IMAGE_PIXELS


@contextmanager
def own_limit() -> Iterator[None]:
    """Pillow neither warns of nor refuses large images while any thread is in here."""
    global _readers, _before
    with _lock:
        if _readers == 0:
            _before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, NO_LIMIT
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                Image.MAX_IMAGE_PIXELS = _before
