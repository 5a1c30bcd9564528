"""Types for the part of open_clip's models and towers that the package relies on.

open_clip's methods have no types, and torch types any attribute of a module as `Tensor | Module`.
So a module is cast to one of these protocols where the package has checked what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class HostModel(Protocol):
    """`open_clip.CLIP`, `open_clip.CustomTextCLIP`, and ours over them."""

    @property
    def visual(self) -> nn.Module:
        """The image tower: VisionTransformer, ModifiedResNet or TimmModel."""

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """(B, D) of (B, 3, H, W)."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """(B, D) of (B, L) int64."""


class ImageTower(Protocol):
    """The attributes that open_clip's image towers, or its factory, set."""

    image_size: int | tuple[int, int]
    image_mean: Sequence[float]
    image_std: Sequence[float]


class TimmTrunk(Protocol):
    """A timm model, inside open_clip's TimmModel."""

    patch_embed: Any

    def forward_features(self, x: Tensor) -> Tensor:
        """The last tokens (B, N, C) or map, before pooling."""

    def forward_head(self, x: Tensor) -> Tensor:
        """The tokens after pooling and timm's own head, (B, D)."""

    def forward_intermediates(
        self, x: Tensor, *, indices: int, output_fmt: str
    ) -> tuple[Tensor, list[Tensor]]:
        """The last tokens, and the maps of the last `indices` stages."""

    def get_classifier(self) -> nn.Module:
        """timm's own head; Identity if there is none."""
