"""Reads the manifests and the sparse heatmaps of the eCLIP authors' expert shards."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from ...config import DataError
from ...data.heatmap import check_aspect, decode_heatmap, normalise_heatmap
from ...json_text import decode_text, parse_json


def read_manifest(content: bytes, name: str) -> list[dict[str, str]]:
    """[{"heatmap": extension, "snippet": extension}, ...]; snippets are optional.

    Raises:
        DataError: the manifest has another form.
    """
    entries = parse_json(content, name, object)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict)
        and isinstance(entry.get("heatmap"), str)
        and isinstance(entry.get("snippet", ""), str)
        for entry in entries
    ):
        raise DataError(
            f'{name}: {str(entries)[:80]}; expected a list of {{"heatmap": extension, "snippet":'
            " extension}."
        )
    return entries


def read_map(
    content: bytes, name: str, original: tuple[int, int], resized: bool, written: tuple[int, int]
) -> np.ndarray:
    """A heatmap, (h, w) float32 in [0, 1], at the size of the written image.

    `original` is the (height, width) of the image, `written` the (width, height) of the written
    one.

    Raises:
        DataError: the CSR matrix or its values have errors (see `data.heatmap`); the file is a
            pickle; the size is not that of the image, unless `resized`.
    """
    if content[:1] in (b"{", b"["):
        content = _csr_from_json(content, name)
    if not content.startswith(b"PK"):
        raise DataError(
            f"{name}: begins with {content[:4]!r}; expected a CSR matrix as .npz or JSON. Pickles"
            " are never read."
        )
    values = decode_heatmap(content, f"{name}.npz".replace(".npz.npz", ".npz"))
    check_aspect(values.shape, original, name)
    if values.shape != original and not resized:
        raise DataError(
            f"{name}: {values.shape[0]} x {values.shape[1]} (height x width) on an image of"
            f" {original[0]} x {original[1]}; expected the same. If maps were resized on purpose,"
            " add --resized-heatmaps."
        )
    # BOX averages over the area of each output pixel; unlike bicubic, neither filter overshoots
    method = Image.Resampling.BOX if values.shape[1] > written[0] else Image.Resampling.BILINEAR
    values = np.asarray(Image.fromarray(values).resize(written, method))
    return normalise_heatmap(values, name)


def _csr_from_json(content: bytes, name: str) -> bytes:
    stream = io.BytesIO()
    try:
        matrix = json.loads(decode_text(content, name))
        shape, indices, indptr = (
            np.array(matrix[key], dtype=np.int64) for key in ("shape", "indices", "indptr")
        )
        data = np.array(matrix["data"], dtype=np.float64)
        np.savez(stream, data=data, shape=shape, indices=indices, indptr=indptr)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{name}: {type(error).__name__} {error}; expected numbers in shape, indices, indptr"
            " and data."
        ) from error
    return stream.getvalue()
