"""One sample, how a list of them becomes a batch, and what happens to a bad one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .heatmap import decode_heatmap
from .images.options import ReadOptions
from .images.picture import Frame, orient_maps
from .images.read import read_picture
from .joint_transform import JointTransform
from .sentence_windows import Windows, decode_windows

Tokenize = Callable[[list[str]], Tensor]
# (sample_id, true heatmap) -> a placebo, see heatmap_control.py
Control = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class Sample:
    """An image (3, H, W), its tokens (L,), perhaps a heatmap (1, H, W); `skipped` names bad samples
    it stands in for.

    Perhaps also S sentences: tokens (S, L) and a heatmap each, (S, 1, H, W).
    """

    image: Tensor
    text: Tensor
    sample_id: int
    heatmap: Tensor | None = None
    lam: float = 1.0
    skipped: list[str] = field(default_factory=list)
    sentence_text: Tensor | None = None
    sentence_heatmap: Tensor | None = None
    delivered: bool = False  # a heatmap was read, whether or not the crop kept it


def make_sample(
    transform: JointTransform,
    tokenize: Tokenize,
    image: Image.Image,
    caption: str,
    sample_id: int,
    heatmap: np.ndarray | None,
    control: Control | None,
    windows: Windows | None,
) -> Sample:
    """One random view of what was read; a sentence whose map the crop lost is left out."""
    placebo = control(sample_id, heatmap) if control and heatmap is not None else None
    pixels, cropped, maps = transform.with_windows(
        image, heatmap, placebo, windows.heatmaps if windows else ()
    )
    sample = Sample(
        pixels, tokenize([caption])[0], sample_id, cropped, delivered=heatmap is not None
    )
    kept = [(i, cropped) for i, cropped in enumerate(maps) if cropped is not None]
    if windows is not None and kept:
        sample.sentence_text = tokenize([windows.sentences[i] for i, _ in kept])
        sample.sentence_heatmap = torch.stack([cropped for _, cropped in kept])
    return sample


def collate(samples: Sequence[Sample]) -> tuple[dict[str, Any], Tensor]:
    """Samples -> ({image (B, 3, H, W), sample_id, lam (B,), annotated (A,), heatmap (A, 1, H, W),
    delivered (B,) bool, skipped, and of all T sentences sentence_row (T,), sentence_text (T, L),
    sentence_heatmap (T, 1, H, W)}, text (B, L)).

    `annotated` holds the rows that have a heatmap, `sentence_row` each sentence's. An empty list
    gives empty tensors.
    """
    annotated = [(i, s.heatmap) for i, s in enumerate(samples) if s.heatmap is not None]
    with_windows = [
        (i, s.sentence_text, s.sentence_heatmap)
        for i, s in enumerate(samples)
        if s.sentence_text is not None and s.sentence_heatmap is not None
    ]
    fields = {
        "image": torch.stack([s.image for s in samples]) if samples else torch.zeros(0, 3, 1, 1),
        "sample_id": torch.tensor([s.sample_id for s in samples], dtype=torch.int64),
        "lam": torch.tensor([s.lam for s in samples], dtype=torch.float32),
        "annotated": torch.tensor([i for i, _ in annotated], dtype=torch.int64),
        "heatmap": (
            torch.stack([heatmap for _, heatmap in annotated])
            if annotated
            else torch.zeros(0, 1, *(samples[0].image.shape[-2:] if samples else (1, 1)))
        ),
        "sentence_row": torch.tensor(
            [i for i, text, _ in with_windows for _ in range(len(text))], dtype=torch.int64
        ),
        "sentence_text": (
            torch.cat([text for _, text, _ in with_windows])
            if with_windows
            else torch.zeros(0, 1, dtype=torch.int64)
        ),
        "sentence_heatmap": (
            torch.cat([maps for _, _, maps in with_windows])
            if with_windows
            else torch.zeros(0, 1, 1, 1)
        ),
        "delivered": torch.tensor([s.delivered for s in samples], dtype=torch.bool),
        "skipped": [name for sample in samples for name in sample.skipped],
    }
    return fields, (
        torch.stack([s.text for s in samples]) if samples else torch.zeros(0, 1, dtype=torch.int64)
    )


def read_image(
    data: bytes | Path, name: str, mode: str | None = None, options: ReadOptions = ReadOptions()
) -> Image.Image:
    """The image of `image.read_picture`, of mode "L" or "RGB"; `mode` converts, as 'RGB'. DataError
    with its name.
    """
    image = read_picture(data, name, options).image
    return image.convert(mode) if mode else image


def read_heatmap(
    data: bytes, name: str, frame: Frame, options: ReadOptions = ReadOptions()
) -> np.ndarray:
    """Decode a heatmap, check that it has the proportions of the image of `frame`, turn it with
    that: (h, w) float32.
    """
    return orient_maps(decode_heatmap(data, name, options), frame, name)


def read_windows(
    text: bytes, maps: bytes, name: str, frame: Frame, options: ReadOptions = ReadOptions()
) -> Windows:
    """Decode sentence windows, and lay their maps over the image of `frame` as
    `read_heatmap` does.
    """
    windows = decode_windows(text, maps, name, options=options)
    return windows._replace(heatmaps=orient_maps(windows.heatmaps, frame, name))


@contextmanager
def seeded_randomness(seed: Sequence[int]) -> Iterator[None]:
    """Seed the global generators of the CPU, which transforms draw from, and leave them as they
    were.
    """
    state = random.getstate(), np.random.get_state()
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed every GPU too, and nothing puts that back
        torch.default_generator.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])


def stable_id(name: str) -> int:
    """A number below 2**60 for a sample known by name, the same in every process."""
    content = name.encode("utf-8", "surrogateescape")  # a name in an archive need not be UTF-8
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 4
