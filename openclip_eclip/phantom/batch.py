"""A batch of synthetic samples: images, reports, heatmaps and sentence windows of one split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .findings import DescribedFinding

SPLITS = ("train", "test")


@dataclass(frozen=True)
class PhantomBatch:
    """N synthetic samples of H = W = `size` pixels."""

    images: np.ndarray  # uint8 (N, H, W), 0 black
    labels: np.ndarray  # int64 (N,), index into `classes`
    reports: list[str]  # N reports
    heatmaps: np.ndarray  # float32 (N, H, W) in [0, 1], max 1; of every sample, annotated or not
    annotated: np.ndarray  # bool (N,), samples whose heatmap a model may train on
    classes: tuple[str, ...]  # names of the labels
    boxes: np.ndarray  # int32 (N, 4), x0, y0, x1, y1 in pixels, x1 and y1 exclusive; -1 for normals
    # the N images' findings in the order of dictation; empty with --findings 1
    described: list[list[DescribedFinding]] = field(default_factory=list)
