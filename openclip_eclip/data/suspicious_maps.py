"""Find files that are no heatmaps: the image itself, or one map for many images."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from ..json_text import counted
from .heatmap import GREY_MODES

SAME = 0.999  # correlation of pixels above which a map is the image, saved once more
SOME = 1 << 16  # number of pixels in the first test
# An image with at most this many grey values, or with more than this share of zeros, may itself be
# a map, such as a drawing of marks
GREYS, BLACK = 16, 0.5


def is_the_image(values: np.ndarray, picture: Image.Image) -> bool:
    """Whether the map (h, w), at any size, shows the same as the image.

    False for an image that could itself be a map.
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
    """A hash of the content, 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()


class SharedMaps:
    """Collects which maps belong to several images, and which are themselves images.

    Rows with the same image may share its map.
    """

    def __init__(self) -> None:
        self.first: dict[bytes, bytes] = {}  # fingerprint of a map -> that of its first image
        self.others: dict[bytes, set[bytes]] = {}  # fingerprint of a map -> those of further images
        self.images: set[bytes] = set()

    def add(self, heatmap: bytes, image: bytes) -> None:
        """Add the fingerprints of a sample's map and image."""
        self.images.add(image)
        if self.first.setdefault(heatmap, image) != image:
            self.others.setdefault(heatmap, set()).add(image)

    def swapped(self) -> str | None:
        """A sentence, if a map is the image of another sample, else None."""
        count = len(self.images & self.first.keys())
        if not count:
            return None
        what = counted(count, "heatmap is the image", "heatmaps are images")
        return f"{what} of other samples; expected maps"

    def warning(self) -> str | None:
        """A sentence, if a map belongs to more than one image, else None."""
        if not self.others:
            return None
        images = [1 + len(others) for others in self.others.values()]  # of each shared map
        serving = counted(len(images), "heatmap serves", "heatmaps serve")
        return (
            f"{serving} {sum(images)} different images (one of them {max(images)});"
            " expected each image to have its own"
        )
