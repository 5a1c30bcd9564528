"""The batch of Algorithm 1, an object that open_clip's loop handles like the image tensor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data.map_tensors import to_unit

ON_HOST = ("annotated", "sentence_row", "sentence_region")


@dataclass
class ExpertBatch:
    """B images of a batch, and M = M1 + M2 mixed pairs.

    The first M1 mixed pairs belong to annotated images of the batch (rows `mix_index` of `image`).
    The last M2 come from the separate expert stream: they bring their own image and text, and enter
    the loss as mixed pairs only.

    - `annotated`, `annotated_heatmap`: all heatmaps of the batch, whatever the gate decided, for an
      objective with `needs_heatmaps`.
    - `oversampled_*`: R annotated samples of the training data once more, for an objective with
      `oversample`; they are in no pair.
    - `sentence_*`: T single sentences or phrases, each with the heatmap of the expert's gaze while
      saying it, or of its region, for an objective with `needs_windows`. The heatmap of a phrase
      without a region is all zero.

    What selects images and sentences (`annotated`, `sentence_row`, `sentence_region`) stays in the
    memory of the host, where a step can read it without waiting for a GPU.

    Draws are stored here and not made in the forward pass, since gradient accumulation runs every
    batch forward twice.
    """

    image: Tensor  # (B, 3, H, W), normalised
    sample_id: Tensor  # (B,) int64, one number a sample of the data set
    mix_index: Tensor  # (M1,) int64
    # (M, 1, H, W), in [0, 1], maximum 1; uint8, 255 for 1, is possible up to `to`
    heatmap: Tensor
    lam: Tensor  # (M,) float32
    mixed_id: Tensor  # (M,) int64, the sample_id of each mixed pair
    expert_image: Tensor  # (M2, 3, H, W)
    expert_text: Tensor  # (M2, L) int64
    is_priming: bool = False
    # (A,), rows of `image`
    annotated: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    # (A, 1, H, W), as `heatmap`
    annotated_heatmap: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1))
    # (T,), rows of `image`, `expert_image` and `oversampled_image` one after the other
    sentence_row: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    # (T,) bool: its map is not all zero
    sentence_region: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    # (T, L)
    sentence_text: Tensor = field(default_factory=lambda: torch.zeros(0, 1, dtype=torch.int64))
    # (T, 1, H, W), as `heatmap`
    sentence_heatmap: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1))
    # (R, 3, H, W)
    oversampled_image: Tensor = field(default_factory=lambda: torch.zeros(0, 3, 1, 1))
    # (R, L)
    oversampled_text: Tensor = field(default_factory=lambda: torch.zeros(0, 1, dtype=torch.int64))
    # (R, 1, H, W), as `heatmap`
    oversampled_heatmap: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1))
    # (B + M2,) int64, equal where texts of the batch, then of the separate stream, are the same;
    # empty unless --same-text asks for it
    text_key: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    draws: dict[str, Any] = field(default_factory=dict)  # what the objectives drew for this batch

    def to(self, device=None, dtype=None, non_blocking: bool = False) -> ExpertBatch:
        """Move all tensors but those ON_HOST.

        Images and heatmaps take `dtype`; draws stay float32, ids int64.
        8-bit heatmaps become floating-point numbers on the device.
        """
        is_gpu = device is not None and torch.device(device).type == "cuda"

        def move(value: Any, cast: torch.dtype | None = None) -> Any:
            if not isinstance(value, Tensor):
                return value
            if is_gpu and non_blocking and value.device.type == "cpu":
                value = value.pin_memory()  # a copy from other memory waits for the GPU
            return value.to(device=device, dtype=cast, non_blocking=non_blocking)

        moved: dict[str, Any] = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in ON_HOST:
                moved[entry.name] = value
            elif entry.name.endswith("heatmap"):
                moved[entry.name] = to_unit(move(value)).to(dtype=dtype)
            elif entry.name == "draws":
                moved[entry.name] = {name: move(draw) for name, draw in value.items()}
            else:
                moved[entry.name] = move(value, dtype if entry.name.endswith("image") else None)
        return ExpertBatch(**moved)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def shape(self) -> torch.Size:
        return self.image.shape
