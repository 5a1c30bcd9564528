"""Priming: the processor learns to be the identity under an all-ones heatmap.

Alg. 1, l. 1, 14-18; §3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def reconstruction_errors(processor: nn.Module, image: Tensor) -> Tensor:
    """Mean over channels and pixels of (I - I^R)^2 for each sample, (N,) in fp32 or more.

    I^R = Processor(I, 1). `image` (N, C, H, W), normalised. Deviation: the loss takes the mean over
    the n_p samples, since gradient accumulation concatenates outputs by sample.
    """
    ones = image.new_ones(image.shape[0], 1, *image.shape[-2:])
    wide = torch.promote_types(image.dtype, torch.float32)
    return (image.to(wide) - processor(image, ones).to(wide)).square().flatten(1).mean(dim=1)
