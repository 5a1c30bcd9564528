"""One sample, how a list of them becomes a batch, and what happens to a bad one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

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
# (sample_id, true heatmap) -> the heatmap that replaces it, see placebo.py
Placebo = Callable[[int, np.ndarray], np.ndarray]


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


class Samples(Protocol):
    """Samples that are read one by one: `CsvSamples`, `TarSamples`, or a part of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def make_sample(
    transform: JointTransform,
    tokenize: Tokenize,
    image: Image.Image,
    caption: str,
    sample_id: int,
    heatmap: np.ndarray | None,
    placebo: Placebo | None,
    windows: Windows | None,
) -> Sample:
    """One random view of what was read; a sentence whose map the crop lost is left out."""
    replacement = placebo(sample_id, heatmap) if placebo and heatmap is not None else None
    pixels, cropped, maps = transform.with_windows(
        image, heatmap, replacement, windows.heatmaps if windows else ()
    )
    sample = Sample(
        pixels, tokenize([caption])[0], sample_id, cropped, delivered=heatmap is not None
    )
    # `maps` has one entry a sentence
    kept = [(i, heatmap) for i, heatmap in enumerate(maps) if heatmap is not None]
    if windows and kept:
        sample.sentence_text = tokenize([windows.sentences[i] for i, _ in kept])
        sample.sentence_heatmap = torch.stack([heatmap for _, heatmap in kept])
    return sample


@dataclass
class SampleBatch:
    """B samples of one batch, A of them annotated, with T sentences in all."""

    image: Tensor  # (B, 3, H, W) float32
    text: Tensor  # (B, L) int64
    sample_id: Tensor  # (B,) int64
    lam: Tensor  # (B,) float32
    annotated: Tensor  # (A,) int64, rows of the batch that have a heatmap
    heatmap: Tensor  # (A, 1, H, W) float32, theirs
    delivered: Tensor  # (B,) bool, a heatmap was read, whether or not the crop kept it
    sentence_row: Tensor  # (T,) int64, the row of the batch that each sentence belongs to
    sentence_text: Tensor  # (T, L) int64
    sentence_heatmap: Tensor  # (T, 1, H, W) float32
    skipped: list[str]  # names of bad samples that others stand in for

    def __len__(self) -> int:
        return len(self.sample_id)

    def pin_memory(self) -> SampleBatch:
        """For torch's loaders, which know tensors, lists and dicts of them, but no dataclass."""
        pinned: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            pinned[entry.name] = value.pin_memory() if isinstance(value, Tensor) else value
        return SampleBatch(**pinned)


def collate(samples: Sequence[Sample]) -> SampleBatch:
    """The batch of these samples; an empty list gives empty tensors."""
    if not samples:
        return _empty_batch()
    maps = [(i, sample.heatmap) for i, sample in enumerate(samples) if sample.heatmap is not None]
    sentences = [
        (i, sample.sentence_text, sample.sentence_heatmap)
        for i, sample in enumerate(samples)
        if sample.sentence_text is not None and sample.sentence_heatmap is not None
    ]
    batch = SampleBatch(
        image=torch.stack([sample.image for sample in samples]),
        text=torch.stack([sample.text for sample in samples]),
        sample_id=torch.tensor([sample.sample_id for sample in samples], dtype=torch.int64),
        lam=torch.tensor([sample.lam for sample in samples], dtype=torch.float32),
        annotated=torch.tensor([i for i, _ in maps], dtype=torch.int64),
        heatmap=torch.zeros(0, 1, *samples[0].image.shape[-2:]),
        delivered=torch.tensor([sample.delivered for sample in samples], dtype=torch.bool),
        sentence_row=torch.tensor(
            [i for i, text, _ in sentences for _ in range(len(text))], dtype=torch.int64
        ),
        sentence_text=torch.zeros(0, 1, dtype=torch.int64),
        sentence_heatmap=torch.zeros(0, 1, 1, 1),
        skipped=[name for sample in samples for name in sample.skipped],
    )
    if maps:
        batch.heatmap = torch.stack([heatmap for _, heatmap in maps])
    if sentences:
        batch.sentence_text = torch.cat([text for _, text, _ in sentences])
        batch.sentence_heatmap = torch.cat([heatmap for *_, heatmap in sentences])
    return batch


def _empty_batch() -> SampleBatch:
    """Without a sample nothing has a size of its own: sides, lengths are 1."""
    return SampleBatch(
        image=torch.zeros(0, 3, 1, 1),
        text=torch.zeros(0, 1, dtype=torch.int64),
        sample_id=torch.zeros(0, dtype=torch.int64),
        lam=torch.zeros(0),
        annotated=torch.zeros(0, dtype=torch.int64),
        heatmap=torch.zeros(0, 1, 1, 1),
        delivered=torch.zeros(0, dtype=torch.bool),
        sentence_row=torch.zeros(0, dtype=torch.int64),
        sentence_text=torch.zeros(0, 1, dtype=torch.int64),
        sentence_heatmap=torch.zeros(0, 1, 1, 1),
        skipped=[],
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
def seeded_randomness(seed: Sequence[int] | np.random.SeedSequence) -> Iterator[None]:
    """Seed the global generators of the CPU, which transforms draw from, and leave them as they
    were.
    """
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    state = random.getstate(), np.random.get_state()
    number = int(sequence.generate_state(1)[0])
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
