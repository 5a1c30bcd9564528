"""The check reads with many threads: what one of them does must not reach another one's file."""

from __future__ import annotations

import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from openclip_eclip.data.heatmap import decode_heatmap
from openclip_eclip.data.images.pillow_limit import own_limit
from openclip_eclip.data.images.read import read_picture

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, PIXELS) if kind == "npy" else Image.fromarray(PIXELS).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def impatient() -> None:
    """Threads change places after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_images_and_heatmaps_at_once(impatient: None) -> None:
    """Pillow reads its limit twice; where that became None in between, a good file was no image."""
    content, expected = saved("PNG"), PIXELS / np.float32(63)

    def read(i: int) -> None:
        if i % 2:
            assert np.array_equal(np.asarray(read_picture(content, "x").image), PIXELS)
        else:
            assert np.array_equal(decode_heatmap(content, "x.png"), expected)

    with ThreadPoolExecutor(16) as pool:
        assert sum(1 for _ in pool.map(read, range(3000))) == 3000


def test_pillows_limit_is_a_number_meanwhile_and_itself_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with own_limit(), own_limit():
        assert Image.MAX_IMAGE_PIXELS > 1 << 60
        assert np.array_equal(decode_heatmap(saved("PNG"), "x.png"), PIXELS / np.float32(63))
    assert Image.MAX_IMAGE_PIXELS == 7
    assert decode_heatmap(saved("PNG"), "x.png").max() == 1  # more pixels than Pillow's own limit
    assert Image.MAX_IMAGE_PIXELS == 7


def test_filters_of_warnings_stay(impatient: None) -> None:
    """warnings.catch_warnings in several threads can leave everything ignored."""
    content = saved("npy")
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: decode_heatmap(content, "x.npy"), range(3000)))
        assert warnings.filters == before
