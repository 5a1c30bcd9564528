"""Switch off Pillow's own limit of pixels while ours is checked instead."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

# A number, not None: Pillow reads the limit twice, and another thread may be between the two reads
NO_LIMIT = sys.maxsize
_lock = threading.Lock()
_readers, _before = 0, Image.MAX_IMAGE_PIXELS


@contextmanager
def own_limit() -> Iterator[None]:
    """Pillow accepts images of any size, without warnings, while any thread is in this context."""
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
