"""Every image and text encoded once: batched, sharded over ranks by whole batches, cached by
content.

Batches are fixed by the order of the data, whatever the number of ranks, so the features are bit
for bit those of one process.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ...config import DataError, UserError
from ...data.sample import read_image
from ...files import write_whole
from .encoder import Encoder, tokenize, truncated
from .eval_set import EvalSet

logger = logging.getLogger(__name__)

READER = "decision 0039"  # features of images that were read in another way are not used again


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. `cache`: folder of features, None for no cache."""

    batch_size: int = 64
    workers: int = 2
    cache: Path | None = None
    skip_bad: bool = False


@dataclass
class ImageFeatures:
    """`unit` (N, D) float32 of length 1; `pooled` (N, W) float32 before the projection, None where
    a tower has none.
    """

    unit: np.ndarray
    pooled: np.ndarray | None


@dataclass
class TextFeatures:
    """`unit` (N, D) float32 of length 1, one a text; `cut`: texts that fill the context length
    (cut, or just fitting).
    """

    unit: np.ndarray
    cut: int


def encode_images(
    encoder: Encoder, data: EvalSet, options: EncodeOptions
) -> tuple[ImageFeatures, EvalSet]:
    """Features of all images and the set they belong to: without its unreadable images if
    `options.skip_bad`.

    DataError: an unreadable image. UserError: NaN features.
    """

    def key() -> str:
        return _key(
            "images", encoder, options, f"{data.content_hash()} {READER} {data.reading.grey_range}"
        )

    found = _cached(options.cache, key, lambda: _encode_image_batches(encoder, data, options))
    bad = found["bad"]
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        if not options.skip_bad:
            raise DataError(
                f"{data.name(first)}: unreadable image; {int(bad.sum())} of {len(data)} are."
                " --on-bad-sample skip leaves them out, counted."
            )
        data = data.keep(~bad, "unreadable image")
    unit, pooled = found["unit"][~bad], found["pooled"][~bad]
    _refuse_nan(unit, data.ids, encoder)
    return ImageFeatures(unit, pooled if pooled.shape[1] else None), data


def encode_texts(encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> TextFeatures:
    """Features of texts in order; equal strings are encoded once. UserError: no text, an empty one,
    NaN features.
    """
    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty or not texts:
        raise UserError(
            f"{len(empty)} of {len(texts)} texts are empty (the first: number"
            f" {empty[0] + 1 if empty else 0}); expected words."
        )
    unique = list(dict.fromkeys(texts))

    def key() -> str:
        vocabulary = tokenize(encoder, unique[:64]).tolist()  # tells one tokenizer from another
        return _key(
            "texts",
            encoder,
            options,
            hashlib.sha256(json.dumps([unique, vocabulary]).encode()).hexdigest(),
        )

    found = _cached(options.cache, key, lambda: _encode_text_batches(encoder, unique, options))
    _refuse_nan(found["unit"], unique, encoder)
    place = {text: i for i, text in enumerate(unique)}
    return TextFeatures(found["unit"][[place[text] for text in texts]], int(found["cut"]))


def rank_and_size() -> tuple[int, int]:
    """Of this process; joins the group of torchrun at the first call."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")  # features travel as objects on the CPU
    return (dist.get_rank(), size) if size > 1 else (0, 1)


def first_rank_only() -> None:
    """Ends the other ranks: what follows the encoding needs one process, and may not ask for its
    rank again.
    """
    rank, size = rank_and_size()
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()  # a process that ends inside its group can abort
    if rank:
        raise SystemExit(0)


class _Images(Dataset):
    """Decoded and transformed; None where an image can not be read."""

    def __init__(self, data: EvalSet, transform: Callable[..., Tensor], rows: list[int]) -> None:
        self.data, self.transform, self.rows = data, transform, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor | None:
        row = self.rows[index]
        try:
            return self.transform(
                read_image(self.data.read(row), self.data.name(row), "RGB", self.data.reading)
            )
        except DataError as error:
            logger.warning("%s", error)
            return None


def _encode_image_batches(
    encoder: Encoder, data: EvalSet, options: EncodeOptions
) -> dict[str, np.ndarray]:
    batches = _own_batches(len(data), options.batch_size)
    rows = [row for batch in batches for row in batch]
    # a batch is cut by hand where images are unreadable, so that the loader's batches are the fixed
    # ones
    sampler, place = [], 0
    for batch in batches:
        sampler.append(list(range(place, place + len(batch))))
        place += len(batch)
    loader = DataLoader(
        _Images(data, encoder.transform, rows),
        batch_sampler=sampler,
        num_workers=options.workers,
        collate_fn=list,
        pin_memory=False,
    )
    parts: list[tuple[list[int], Any, Any]] = []
    for batch, images in zip(
        batches,
        tqdm(
            loader, desc="images", unit="batch", disable=None if rank_and_size()[0] == 0 else True
        ),
        strict=True,
    ):
        good = [row for row, image in zip(batch, images, strict=True) if image is not None]
        if good:
            unit, pooled = encoder.encode_images(
                torch.stack([image for image in images if image is not None])
            )
            parts.append((good, unit.numpy(), None if pooled is None else pooled.numpy()))
    parts = _gather(parts)
    if not parts:
        raise DataError(f"{data.path}: not one readable image.")
    width = 0 if parts[0][2] is None else parts[0][2].shape[1]
    found = {
        "unit": np.zeros((len(data), parts[0][1].shape[1]), np.float32),
        "pooled": np.zeros((len(data), width), np.float32),
        "bad": np.ones(len(data), bool),
    }
    for good, unit, pooled in parts:
        found["unit"][good], found["bad"][good] = unit, False
        if pooled is not None:
            found["pooled"][good] = pooled
    return found


def _encode_text_batches(
    encoder: Encoder, texts: list[str], options: EncodeOptions
) -> dict[str, np.ndarray]:
    tokens = tokenize(encoder, texts)
    # texts that are equal once cut are encoded once: in two batches they might differ in the last
    # bit and not tie
    first: dict[bytes, int] = {}
    place = [first.setdefault(row.tobytes(), len(first)) for row in tokens.numpy()]
    rows = tokens[np.unique(place, return_index=True)[1]]
    parts = []
    for batch in tqdm(
        _own_batches(len(rows), options.batch_size),
        desc="texts",
        unit="batch",
        disable=None if rank_and_size()[0] == 0 else True,
    ):
        parts.append((batch, encoder.encode_texts(rows[batch]).numpy()))
    parts = _gather(parts)
    unit = np.zeros((len(rows), parts[0][1].shape[1]), np.float32)
    for batch, values in parts:
        unit[batch] = values
    return {"unit": unit[place], "cut": np.array(truncated(tokens))}


def _own_batches(count: int, batch_size: int) -> list[list[int]]:
    rank, size = rank_and_size()
    batches = [
        list(range(first, min(first + batch_size, count))) for first in range(0, count, batch_size)
    ]
    return batches[rank::size]


def _gather(parts: list[Any]) -> list[Any]:
    _, size = rank_and_size()
    if size == 1:
        return parts
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, parts)
    return [part for own in gathered for part in own]


def _key(kind: str, encoder: Encoder, options: EncodeOptions, content: str) -> str:
    # the batch size is part of it: matrix products round by their shape
    facts = [
        kind,
        encoder.facts["weights_hash"],
        encoder.facts["transform"],
        encoder.precision,
        str(encoder.device.type),
        options.batch_size,
        content,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _cached(
    cache: Path | None, key: Callable[[], str], encode: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """`encode()`, or what it gave before. Rank 0 alone looks, so that all ranks do the same."""
    path = None if cache is None or rank_and_size()[0] else cache / f"{key()}.npz"
    arrays = None if path is None else _load(path)
    if rank_and_size()[1] > 1:
        shared = [arrays]
        dist.broadcast_object_list(shared)
        arrays = shared[0]
    if arrays is None:
        arrays = encode()
        if path is not None:
            buffer = io.BytesIO()
            # numpy's stub takes any name for its own flag allow_pickle
            np.savez(buffer, **arrays)  # type: ignore[arg-type]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, buffer.getvalue())
    return arrays


def _load(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("eclip: %s: damaged (%s); encoding again", path, error)
        return None


def _refuse_nan(values: np.ndarray, names: Sequence[str], encoder: Encoder) -> None:
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        advice = (
            f"with --precision {encoder.precision} an overflow is possible: try fp32"
            if encoder.precision != "fp32"
            else "the weights or the images are not what they should be: try an older checkpoint"
        )
        raise UserError(
            f"{int(wrong.sum())} of {len(values)} features are NaN or infinite, the first of"
            f" {names[int(np.flatnonzero(wrong)[0])]!r}; {advice}."
        )
