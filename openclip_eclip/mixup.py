"""Mixup of an image with its processed form (Alg. 1, l. 11)."""

from __future__ import annotations

import torch


def mix_images(image: torch.Tensor, expert_image: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """I^lam = lam * I + (1 - lam) * I^E, (M, C, H, W).

    `lam` (M,) in [0, 1] weights the *original*, so 1 is plain CLIP.
    """
    weight = lam.to(image.dtype)[:, None, None, None]
    return weight * image + (1 - weight) * expert_image
