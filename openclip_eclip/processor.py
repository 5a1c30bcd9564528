"""The heatmap processor (Fig. 2 right, §3.2): image and heatmap in, image of the same size out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ProcessorConfig


class HeatmapProcessor(nn.Module):
    """Multi-head attention with queries = patches of E*I, keys = values = patches of I (§3.2).

    Both images go through the SAME patch embedding. Input: `image` (N, 3, H, W) normalised,
    `heatmap` (N, 1, H, W) in [0, 1]. Output: (N, 3, H, W). Sides that the patch does not divide are
    padded and cropped.

    Deviation from the authors' released form (decision 0001): their output is the attention's
    alone, which cannot be the identity. Ours adds it to the query image E*I, through a projection
    that starts at zero, so Processor(I, 1) = I from the first step. `config.AUTHORS_PROCESSOR`
    builds theirs.
    """

    def __init__(self, config: ProcessorConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attend_out = nn.Linear(width, width)
        self.extra_out = nn.Linear(width, width) if config.extra_projection else nn.Identity()
        self.unpatchify = nn.Linear(width, 3 * patch * patch, bias=False)
        # one bias for each channel, as a transposed convolution has
        self.pixel_shift = nn.Parameter(torch.zeros(3))
        if config.zero_init:
            nn.init.zeros_(self.unpatchify.weight)

    def forward(self, image: Tensor, heatmap: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        patch = self.config.patch
        overlaid = heatmap * image
        pad = (0, -width % patch, 0, -height % patch)
        image_S, grid = self._patches(F.pad(image, pad))
        overlaid_S, _ = self._patches(F.pad(overlaid, pad))

        attended_S = self._attend(overlaid_S, image_S)
        pixels = self.unpatchify(self.extra_out(self.attend_out(attended_S)))  # (N, S, 3*p*p)
        pixels = pixels.transpose(1, 2).unflatten(2, grid)
        change = F.pixel_shuffle(pixels, patch)[..., :height, :width]
        change = change + self.pixel_shift.to(change.dtype)[:, None, None]
        if self.config.residual == "query":
            return overlaid + change
        if self.config.residual == "image":
            return image + change
        return change

    def _patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens = self.patch_embed(image)  # (N, K, h, w)
        grid = (tokens.shape[-2], tokens.shape[-1])
        tokens = tokens.flatten(2).transpose(1, 2)
        if self.config.positions == "sincos":
            tokens = tokens + sincos_positions(grid, self.config.width, tokens)
        return tokens, grid

    def _attend(self, queries_S: Tensor, values_S: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:  # (N, S, K) -> (N, heads, S, K / heads)
            return x.unflatten(2, (self.config.heads, -1)).transpose(1, 2)

        key, value = self.key_value(values_S).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            heads(self.query(queries_S)), heads(key), heads(value)
        )
        return attended.transpose(1, 2).flatten(2)


class MaskProcessor(nn.Module):
    """I^E = E * I ("mask" in Tab. 4), without parameters."""

    def forward(self, image: Tensor, heatmap: Tensor) -> Tensor:
        return heatmap * image


class CnnProcessor(nn.Module):
    """A small convolutional encoder of image and heatmap ("CNN" in Tab. 4).

    The paper gives no layers. Ours are two 3x3 convolutions of 32 channels on (I, E*I), added to
    E*I; the last one starts at zero.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.encode = nn.Conv2d(6, channels, kernel_size=3, padding=1)
        self.decode = nn.Conv2d(channels, 3, kernel_size=3, padding=1)
        for parameter in self.decode.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor, heatmap: Tensor) -> Tensor:
        overlaid = heatmap * image
        return overlaid + self.decode(F.gelu(self.encode(torch.cat([image, overlaid], dim=1))))


def build_processor(config: ProcessorConfig) -> nn.Module:
    """The processor named by `config.kind`: 'mha' (the paper's), 'mask' or 'cnn' (its ablations).

    All have the same call signature.
    """
    if config.kind == "mask":
        return MaskProcessor()
    if config.kind == "cnn":
        return CnnProcessor()
    return HeatmapProcessor(config)


def sincos_positions(grid: tuple[int, int], width: int, like: Tensor) -> Tensor:
    """Fixed 2-D sine-cosine positions, (1, h*w, width), with device and dtype of `like`."""
    rates = 10000.0 ** -(
        torch.arange(width // 4, device=like.device, dtype=torch.float32) / (width // 4)
    )
    parts = []
    for axis, size in enumerate(grid):
        angle = torch.arange(size, device=like.device, dtype=torch.float32)[:, None] * rates
        wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (size, width / 2)
        parts.append(
            wave[:, None].expand(-1, grid[1], -1)
            if axis == 0
            else wave[None].expand(grid[0], -1, -1)
        )
    return torch.cat(parts, dim=-1).flatten(0, 1)[None].to(like.dtype)
