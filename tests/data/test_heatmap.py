"""Heatmap files: the formats that are read, and the errors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from conftest import encode_array

from openclip_eclip.config import DataError
from openclip_eclip.data.heatmap import check_aspect, decode_heatmap


@pytest.mark.parametrize(
    "values,suffix",
    [
        (np.array([[0, 51], [102, 255]], np.uint8), ".png"),
        (np.array([[0, 13107], [26214, 65535]], np.uint16), ".png"),
        (np.array([[0, 0.2], [0.4, 1]], np.float32) * 7, ".npy"),
        (np.array([[[0, 1], [2, 5]]], np.int64), ".npy"),
        (np.array([[0, 0.2], [0.4, 1]]), ".npz"),
        (np.array([[False, True], [True, True]]), ".npy"),
        (np.array([[0, 0.2], [0.4, 1]], order="F"), ".npy"),  # columns first in the file
        (np.array([[0, 0.2], [0.4, 1]], order="F"), ".npz"),
    ],
    ids=str,
)
def test_heatmap_files_are_divided_by_their_own_maximum(values: np.ndarray, suffix: str) -> None:
    decoded = decode_heatmap(encode_array(values, suffix), f"map{suffix}")
    assert decoded.dtype == np.float32 and decoded.shape == (2, 2)
    assert np.allclose(decoded, np.squeeze(values) / values.max(), atol=1e-4)


def test_a_scipy_csr_matrix_is_decoded_to_the_dense_map(tmp_path: Path) -> None:
    dense = np.array([[0, 0, 3.0], [6, 0, 0]])
    scipy.sparse.save_npz(tmp_path / "map.npz", scipy.sparse.csr_matrix(dense))
    assert np.allclose(decode_heatmap((tmp_path / "map.npz").read_bytes(), "map.npz"), dense / 6)
    arrays = dict(np.load(tmp_path / "map.npz"))
    for key, bad, message in (
        ("indices", np.array([2, 9], np.int32), "map.npz"),
        ("indptr", np.array([0, 2], np.int32), "map.npz"),
    ):
        stream = io.BytesIO()
        np.savez(stream, **{**arrays, key: bad})
        with pytest.raises(DataError, match=message):
            decode_heatmap(stream.getvalue(), "map.npz")


GOOD = np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    "data,name,message",
    [
        (encode_array(np.where(np.eye(4), np.nan, 1), ".npy"), "a.npy", "NaN or infinite"),
        (encode_array(GOOD * -1, ".npy"), "a.npy", "no negative"),
        (encode_array(GOOD * 0, ".npy"), "a.npy", "all zero"),
        (encode_array(np.ones((3, 4, 4)), ".npy"), "a.npy", r"shape \(3, 4, 4\)"),
        (encode_array(np.ones(4), ".npy"), "a.npy", "shape"),
        (encode_array(np.zeros((4, 4, 3), np.uint8), ".png"), "a.png", "mode RGB"),
        (b"\x89PNG not", "a.png", "unreadable"),
        (
            encode_array(np.array([[{"a": 1}]], dtype=object), ".npy", allow_pickle=True),
            "a.npy",
            "pickle",
        ),
        (encode_array(GOOD, ".npy")[:60], "a.npy", "a.npy"),
        (encode_array(GOOD * 1j, ".npy"), "a.npy", "complex64"),
        (encode_array(GOOD, ".npz")[:90], "a.npz", "unreadable"),
        (b"", "a.jpg", "unknown format"),
    ],
    ids=[
        "nan",
        "negative",
        "zero",
        "channels",
        "flat",
        "colour",
        "not-png",
        "pickle",
        "truncated",
        "complex",
        "zip",
        "jpg",
    ],
)
def test_bad_heatmaps_are_errors_that_name_the_file(data: bytes, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        decode_heatmap(data, name)
    assert name in str(error.value)


def test_the_aspect_ratio_but_not_the_resolution_must_match() -> None:
    check_aspect((100, 50), (2000, 1000), "map")
    # a coarse grid may be rounded to whole pixels
    check_aspect((7, 9), (2544, 3056), "map")
    with pytest.raises(DataError, match="fits transposed"):
        check_aspect((50, 100), (2000, 1000), "map")
    with pytest.raises(DataError, match="100 x 100"):
        check_aspect((100, 100), (2000, 1000), "map")
