"""The scanpath member: what is written is read, and anything else is an error."""

from __future__ import annotations

import io

import numpy as np
import pytest

from openclip_eclip.config import DataError
from openclip_eclip.data.images.options import ReadOptions
from openclip_eclip.data.scanpath import Scanpath, decode_scanpath, encode_scanpath
from openclip_eclip.gaze import Fixations


@pytest.mark.parametrize("size", [(300, 600), (600, 300), (1, 1)])
def test_round_trip(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    readings = [
        Fixations(
            *(rng.random((2, count)) * [[size[1]], [size[0]]]), rng.random(count) + 0.1, start
        )
        for count, start in ((5, np.array([3.0, 1, 2, 5, 4])), (3, None))
    ]
    content = encode_scanpath(readings, size)
    assert content is not None
    got = decode_scanpath(content, "k")
    order = np.argsort(readings[0].start)
    np.testing.assert_allclose(got.x[:5], readings[0].x[order] / size[1], atol=1e-6)
    np.testing.assert_allclose(got.y[5:], readings[1].y / size[0], atol=1e-6)
    np.testing.assert_allclose(got.start[:5], [1, 2, 3, 4, 5])
    assert np.isnan(got.start[5:]).all()
    np.testing.assert_allclose(got.duration[:5], readings[0].duration[order], atol=1e-6)
    assert got.reading.tolist() == [0] * 5 + [1] * 3


def test_fixations_without_position_or_duration_are_left_out() -> None:
    nothing = Fixations([np.nan, 1, 1], [1, 1, 1], [1, np.nan, 0])
    assert encode_scanpath([nothing], (9, 9)) is None
    assert encode_scanpath([], (9, 9)) is None


def good() -> dict[str, np.ndarray]:
    values = {name: np.ones(2, np.float32) for name in ("x", "y", "start", "duration")}
    return values | {"reading": np.zeros(2, np.int32)}


def packed(**changes: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{**good(), **changes})  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "not a readable npz"),
        (packed()[:300], "scanpath 'k'"),
        (packed(x=np.ones(3, np.float32)), "expected"),
        (packed(x=np.ones(2)), "x is float64"),
        (packed(x=np.array([1, np.nan], np.float32)), "x of fixation 2 is nan"),
        (packed(y=np.array([1, 1e9], np.float32)), "y of fixation 2"),
        (packed(duration=np.array([1, 0], np.float32)), "duration of fixation 2 is 0"),
        (packed(start=np.array([1, np.inf], np.float32)), "start of fixation 2"),
        (packed(reading=np.array([0, -1], np.int32)), "reading of fixation 2"),
        (packed(more=np.ones(2)), "arrays .*more"),
        (packed(x=np.array([{}, {}], dtype=object)), "scanpath 'k'"),
        (packed(**{n: v[:0] for n, v in good().items()}), "0 fixations"),
    ],
)
def test_errors(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_scanpath(content, "k")


def test_limits() -> None:
    large = {name: np.zeros(1000, values.dtype) for name, values in good().items()}
    with pytest.raises(DataError, match="--max-bytes"):
        decode_scanpath(packed(**large), "k", ReadOptions(max_bytes=100))
    assert isinstance(decode_scanpath(packed(), "k"), Scanpath)
