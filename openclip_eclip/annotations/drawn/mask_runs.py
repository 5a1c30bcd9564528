"""A mask as runs, for formats whose files are slow to decode twice."""

from __future__ import annotations

import numpy as np

from ...gaze import RleMask


def encode_mask(inside: np.ndarray) -> RleMask:
    """The runs along the rows of bool (height, width)."""
    flat = np.ascontiguousarray(inside).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=len(flat))
    if len(flat) and flat[0]:
        counts = np.concatenate([[0], counts])
    height, width = inside.shape
    return RleMask(counts.tolist(), (height, width), "coco", row_major=True)
