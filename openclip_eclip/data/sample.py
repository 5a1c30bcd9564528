"""A sample, a batch of samples, and the readers of images, heatmaps and sentence windows."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..content import content_numbers
from .heatmap import decode_levels, unit_map
from .images.options import ReadOptions
from .images.picture import Frame, orient_maps
from .images.read import read_picture
from .joint_transform import Crop, JointTransform
from .map_tensors import join_maps
from .sentence_windows import Windows, decode_windows

Tokenize = Callable[[list[str]], Tensor]
# (sample_id, true heatmap) -> the heatmap that replaces it, see placebo.py
Placebo = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class Sample:
    """One random view of an image with its caption, and its annotations if it has any."""

    image: Tensor  # (3, H, W) float32
    text: Tensor  # (L,) int64
    sample_id: int
    # (1, H, W), float32 with maximum 1, or uint8 with maximum 255
    heatmap: Tensor | None = None
    lam: float = 1.0
    skipped: list[str] = field(default_factory=list)  # messages on the bad samples it replaces
    sentence_text: Tensor | None = None  # (S, L) int64, of S sentences
    sentence_heatmap: Tensor | None = None  # (S, 1, H, W), as `heatmap`; zeros: no region
    delivered: bool = False  # a heatmap was read, whether or not the crop kept it
    group: str = ""  # its value in the column of --same-text-by

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        values = (self.image, self.text, self.heatmap, self.sentence_text, self.sentence_heatmap)
        return sum(value.nbytes for value in values if value is not None)


class Samples(Protocol):
    """Samples read one by one: `CsvSamples`, `TarSamples`, or a subset of either."""

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
    view: int | None = None,
    crop: Crop | None = None,
) -> Sample:
    """Make one random view of what was read; sentences whose map the crop lost are left out.

    `view`: the number of a view that is the same in every run; None: a new one. `crop`: that of the
    image's draft.
    """
    replacement = None
    if placebo and heatmap is not None:
        replacement = placebo(sample_id, unit_map(heatmap))
    with _known_view(view, image):
        pixels, cropped, maps = transform.with_windows(
            image, heatmap, replacement, windows.heatmaps if windows else (), crop
        )
    sample = Sample(
        pixels, tokenize([caption])[0], sample_id, cropped, delivered=heatmap is not None
    )
    # `maps` has one entry per sentence, None where the crop lost it
    in_view = [(i, values) for i, values in enumerate(maps) if values is not None]
    if windows and in_view:
        sample.sentence_text = tokenize([windows.sentences[i] for i, _ in in_view])
        sample.sentence_heatmap = torch.stack([values for _, values in in_view])
    return sample


@dataclass
class SampleBatch:
    """B samples of one batch, A of them annotated, with T sentences in all."""

    image: Tensor  # (B, 3, H, W) float32
    text: Tensor  # (B, L) int64
    sample_id: Tensor  # (B,) int64
    group: Tensor  # (B,) int64, a number for each value of `Sample.group`, 0 for a blank one
    lam: Tensor  # (B,) float32
    annotated: Tensor  # (A,) int64, rows of the batch that have a heatmap
    # (A, 1, H, W), the heatmaps of these rows: uint8 if all are (255 for 1), else float32
    heatmap: Tensor
    delivered: Tensor  # (B,) bool, a heatmap was read, whether or not the crop kept it
    sentence_row: Tensor  # (T,) int64, the row of the batch that each sentence belongs to
    sentence_text: Tensor  # (T, L) int64
    sentence_heatmap: Tensor  # (T, 1, H, W), as `heatmap`; zeros: a phrase without a region
    skipped: list[str]  # messages on the bad samples that others replace

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def text_key(self) -> Tensor:
        """(B,) int64, equal for texts of one group; without a group, for texts of equal tokens."""
        return torch.where(self.group == 0, content_numbers(self.text)[0], self.group)

    def pin_memory(self) -> SampleBatch:
        """Pin the tensors: torch's loaders pin tensors, lists and dicts, but no dataclass."""
        pinned: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            pinned[entry.name] = value.pin_memory() if isinstance(value, Tensor) else value
        return SampleBatch(**pinned)


def collate(samples: Sequence[Sample]) -> SampleBatch:
    """Join samples to a batch; an empty list gives empty tensors."""
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
        group=torch.tensor(
            [stable_id(sample.group) + 1 if sample.group else 0 for sample in samples],
            dtype=torch.int64,
        ),
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
        batch.heatmap = join_maps([heatmap[None] for _, heatmap in maps])
    if sentences:
        batch.sentence_text = torch.cat([text for _, text, _ in sentences])
        batch.sentence_heatmap = join_maps([heatmap for *_, heatmap in sentences])
    return batch


def _empty_batch() -> SampleBatch:
    """A batch without samples; sides of images and lengths of texts are 1."""
    return SampleBatch(
        image=torch.zeros(0, 3, 1, 1),
        text=torch.zeros(0, 1, dtype=torch.int64),
        sample_id=torch.zeros(0, dtype=torch.int64),
        group=torch.zeros(0, dtype=torch.int64),
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
    """Read an image of mode "L" or "RGB", as `images.read.read_picture` does.

    `mode` converts it, for example to "RGB". Raises DataError with `name`.
    """
    image = read_picture(data, name, options).image
    return image.convert(mode) if mode else image


def read_heatmap(
    data: bytes, name: str, frame: Frame, options: ReadOptions = ReadOptions()
) -> np.ndarray:
    """Decode a heatmap, (h, w) float32, and lay it over the upright image of `frame`.

    Raises a DataError if its aspect ratio is not that of the image.
    """
    return unit_map(read_levels(data, name, frame, options))


def read_levels(
    data: bytes, name: str, frame: Frame, options: ReadOptions = ReadOptions()
) -> np.ndarray:
    """As `read_heatmap`, but uint8 with the file's own values where it has 8 bits or fewer."""
    return orient_maps(decode_levels(data, name, options), frame, name)


def read_windows(
    text: bytes, maps: bytes, name: str, frame: Frame, options: ReadOptions = ReadOptions()
) -> Windows:
    """Decode sentence windows, and lay their maps over the image as `read_heatmap` does."""
    windows = decode_windows(text, maps, name, options=options)
    return windows._replace(heatmaps=orient_maps(windows.heatmaps, frame, name))


@contextmanager
def seeded_randomness(seed: Sequence[int] | np.random.SeedSequence) -> Iterator[None]:
    """Seed the CPU's global generators, which transforms draw from, and restore them at the end."""
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    state = random.getstate(), np.random.get_state()
    number = int(sequence.generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed every GPU too, which nothing restores
        torch.default_generator.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])


@contextmanager
def _known_view(view: int | None, image: Image.Image) -> Iterator[None]:
    """The random draws of a view of an image; None: those that come next.

    The content of the image decides, so that all captions of an image share its views.
    """
    if view is None:
        yield
    else:
        with seeded_randomness([zlib.crc32(image.tobytes()), view]):
            yield


def stable_id(name: str) -> int:
    """An id below 2**60 for the sample of this name, the same in every process."""
    content = name.encode("utf-8", "surrogateescape")  # a name in an archive need not be UTF-8
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 4
