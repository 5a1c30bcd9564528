"""The check reads with many threads, which must not affect each other."""

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
    """Threads are switched after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
def test_images_and_heatmaps_are_read_at_once(impatient: None) -> None:
    """Pillow reads its limit twice; a change to None in between would make a good file an error."""
    content, expected = saved("PNG"), PIXELS / np.float32(63)

    def read(i: int) -> None:
        if i % 2:
            assert np.array_equal(np.asarray(read_picture(content, "x").image), PIXELS)
        else:
            assert np.array_equal(decode_heatmap(content, "x.png"), expected)

    with ThreadPoolExecutor(16) as pool:
        assert sum(1 for _ in pool.map(read, range(3000))) == 3000


def test_the_limit_of_pillow_is_a_large_number_meanwhile_and_restored_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with own_limit(), own_limit():
        assert Image.MAX_IMAGE_PIXELS > 1 << 60
        assert np.array_equal(decode_heatmap(saved("PNG"), "x.png"), PIXELS / np.float32(63))
    assert Image.MAX_IMAGE_PIXELS == 7
    assert decode_heatmap(saved("PNG"), "x.png").max() == 1  # more pixels than Pillow's own limit
    assert Image.MAX_IMAGE_PIXELS == 7


@pytest.mark.slow
def test_the_warning_filters_do_not_change(impatient: None) -> None:
    """warnings.catch_warnings in several threads could leave all warnings ignored."""
    content = saved("npy")
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: decode_heatmap(content, "x.npy"), range(3000)))
        assert warnings.filters == before


def test_headers_of_arrays_are_parsed_one_at_a_time(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numpy's parser is `ast`, which fails at times in two threads of Python 3.11."""
    content, read_header = saved("npy"), np.lib.format.read_array_header_1_0
    inside: list[int] = []
    most = 0

    def watched(stream: io.BytesIO) -> tuple:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        header = read_header(stream)
        inside.pop()
        return header

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode_heatmap(content, "x.npy"), range(300)))
    assert most == 1
