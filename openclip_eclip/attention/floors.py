"""Maps without a model: what a method must beat."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from ..data.placebo import centre_map

# fine, and with a middle: on the positions of a small tower the centre would be flat
GRID = (33, 33)


def floor_maps(name: str, pixels: Tensor, text: Tensor, image: Tensor) -> Tensor:
    """(T, *GRID) float32 maps `center` or `random`; arguments as of `attention_maps`."""
    if name == "center":
        return torch.from_numpy(centre_map(GRID)).expand(len(text), *GRID)
    seen = [one.float().cpu().numpy().tobytes() for one in pixels]
    return torch.stack([_noise(seen[i], one) for i, one in zip(image.tolist(), text.float().cpu())])


def _noise(pixels: bytes, text: Tensor) -> Tensor:
    """Noise that depends on image and text alone, not on the batch."""
    digest = hashlib.blake2b(pixels + text.numpy().tobytes(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return torch.from_numpy(rng.random(GRID, dtype=np.float32))
