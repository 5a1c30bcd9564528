"""Heatmaps that are none: the image itself, or one map under many images."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from .heatmap import GREY_MODES

SAME = 0.999  # correlation of pixels from which a map is the image, saved once more
SOME = 1 << 16  # pixels that are looked at first
# A picture has more grey values, and a smaller share of zeros: drawn marks are maps too
GREYS, BLACK = 16, 0.5


def is_the_image(values: np.ndarray, picture: Image.Image) -> bool:
    """Whether a map (h, w) shows what the image shows, at any size; never where the image could
    itself be a map.
    """
    grey = picture if picture.mode in GREY_MODES else picture.convert("L")
    pixels = np.asarray(grey).astype(np.float32)
    some = pixels.ravel()[:: max(1, pixels.size // SOME)]
    if (some == 0).mean() > BLACK or len(np.unique(some)) <= GREYS:
        return False
    if pixels.shape != values.shape:
        size = values.shape[1], values.shape[0]
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    spread = pixels.std(dtype=np.float64) * values.std(dtype=np.float64)
    if not np.isfinite(spread) or spread == 0:
        return False
    product = (pixels - pixels.mean(dtype=np.float64)) * (values - values.mean(dtype=np.float64))
    return bool(abs(product.mean(dtype=np.float64)) > SAME * spread)  # its negative, too


def fingerprint(content: bytes) -> bytes:
    """16 bytes that tell contents apart."""
    return hashlib.blake2b(content, digest_size=16).digest()


class SharedMaps:
    """Which maps serve several images, or are images; the rows of one image may share its map."""

    def __init__(self) -> None:
        self.first: dict[bytes, bytes] = {}  # fingerprint of a map -> of its first image
        self.others: dict[bytes, set[bytes]] = {}
        self.images: set[bytes] = set()

    def add(self, heatmap: bytes, image: bytes) -> None:
        """Fingerprints of a sample's map and image."""
        self.images.add(image)
        if self.first.setdefault(heatmap, image) != image:
            self.others.setdefault(heatmap, set()).add(image)

    def swapped(self) -> str | None:
        """A sentence, where a map is the image of another sample."""
        count = len(self.images & self.first.keys())
        return f"{count} heatmaps are images of other samples; expected maps" if count else None

    def warning(self) -> str | None:
        """A sentence, where a map serves more than one image."""
        if not self.others:
            return None
        served = [1 + len(images) for images in self.others.values()]
        return (
            f"{len(served)} {'heatmap serves' if len(served) == 1 else 'heatmaps serve'} "
            f"{sum(served)} different images (one of them {max(served)}); expected each image to "
            "have its own"
        )
