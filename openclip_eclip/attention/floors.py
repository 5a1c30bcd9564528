"""Maps without a model: what a method must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.placebo import centre_map

# fine, and with a middle: on the positions of a small tower the centre would be flat
GRID = (33, 33)


def floor_maps(name: str, pixels: Tensor, texts: Sequence[bytes], image: Tensor) -> Tensor:
    """(T, *GRID) float32 maps `center` or `random`, as `attention_maps`; `texts` tell texts apart.

    Noise depends on the image and the text alone, not on the batch.
    """
    if name == "center":
        return torch.from_numpy(centre_map(GRID)).expand(len(texts), *GRID)
    seen = [one.float().cpu().numpy().tobytes() for one in pixels]
    return torch.stack([_noise(seen[i] + text) for i, text in zip(image.tolist(), texts)])


def _noise(key: bytes) -> Tensor:
    digest = hashlib.blake2b(key, digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return torch.from_numpy(rng.random(GRID, dtype=np.float32))
