"""A batch of phantoms: images, reports, heatmaps and windows of one split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .findings import Told

SPLITS = ("train", "test")


@dataclass(frozen=True)
class PhantomBatch:
    """N phantom samples; H = W = the size asked for."""

    images: np.ndarray  # uint8 (N, H, W), 0 black
    labels: np.ndarray  # int64 (N,), index into CLASS_NAMES
    reports: list[str]  # N reports
    # float32 (N, H, W) in [0, 1], max 1; there for every sample, annotated or not
    heatmaps: np.ndarray
    annotated: np.ndarray  # bool (N,), whose heatmap a model may train on
    boxes: np.ndarray  # int32 (N, 4), x0, y0, x1, y1 in pixels, x1 and y1 exclusive; -1 for normals
    # N films' findings as dictated; empty where --findings is 1
    told: list[list[Told]] = field(default_factory=list)
