"""Examples for the page of a result: phrases drawn at random, with the maps of each method."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from ...data.sample import read_image
from ...metrics.grounding import rescaled
from ..output.result import Example
from .attention import PhraseAttention
from .measure import enlarge
from .phrases import GroundingSet

COUNT = 20
HEIGHT = 160  # pixels of a panel


def draw_examples(
    attention: PhraseAttention, data: GroundingSet, methods: Sequence[str], seed: int
) -> list[Example]:
    """At most COUNT phrases with a region: the image, the expert's map, and each method's map."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(data.grounded)[:COUNT])
    return [_draw(attention, data, data.phrases[i].id, int(i), methods) for i in chosen]


def _draw(
    attention: PhraseAttention, data: GroundingSet, name: str, index: int, methods: Sequence[str]
) -> Example:
    phrase, images = data.phrases[index], data.data
    image = read_image(images.read(phrase.row), images.name(phrase.row), "RGB", images.reading)
    pixels = attention.encoder.whole_image_transform()(image)[None]
    width = max(1, round(HEIGHT * image.width / image.height))
    panel = np.asarray(image.resize((width, HEIGHT)), np.float64) / 255
    size = panel.shape[:2]
    maps = [enlarge(torch.from_numpy(phrase.target.astype(np.float32)), size)]
    maps += [
        enlarge(attention.maps(method, pixels, [phrase.text], [0])[0], size) for method in methods
    ]
    colour = colormaps["viridis"]
    panels = [panel, *(0.5 * panel + 0.5 * colour(rescaled(map_))[..., :3] for map_ in maps)]
    buffer = io.BytesIO()
    joined = np.rint(255 * np.concatenate(panels, axis=1)).astype(np.uint8)
    Image.fromarray(joined).save(buffer, "JPEG", quality=80)
    shown = ", ".join(["image", "region", *methods])
    return Example(buffer.getvalue(), [("phrase", phrase.text), ("from left", shown), name])
