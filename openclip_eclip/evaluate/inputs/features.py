"""Features of images and texts: each is encoded once, in batches, and cached by content.

Several ranks share the work by whole batches. The order of the data fixes the batches, whatever the
number of ranks. So the features are bit-for-bit identical to those of one process.
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

READER = "decision 0039"  # part of the cache key: how images are read


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. `cache`: folder of cached features, None for no cache."""

    batch_size: int = 64
    workers: int = 2
    cache: Path | None = None
    skip_bad: bool = False


@dataclass
class ImageFeatures:
    """Features of N images.

    `unit` (N, D) float32 of length 1; `pooled` (N, W) float32 before the projection, None if the
    tower does not give them.
    """

    unit: np.ndarray
    pooled: np.ndarray | None


@dataclass
class TextFeatures:
    """Features of N texts.

    `unit` (N, D) float32 of length 1; `cut`: number of texts that fill the context length: these
    were cut, or just fit.
    """

    unit: np.ndarray
    cut: int


def encode_images(
    encoder: Encoder, data: EvalSet, options: EncodeOptions
) -> tuple[ImageFeatures, EvalSet]:
    """Features of all images, and the set of these images.

    `options.skip_bad`: the returned set leaves unreadable images out; else they are a DataError.
    UserError: NaN features.
    """

    def key() -> str:
        return _key(
            "images", encoder, options, f"{data.content_hash()} {READER} {data.reading.grey_range}"
        )

    arrays = _cached(options.cache, key, lambda: _encode_image_batches(encoder, data, options))
    bad = arrays["bad"]
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        if not options.skip_bad:
            raise DataError(
                f"{data.name(first)}: unreadable image; {int(bad.sum())} of {len(data)} images are"
                " unreadable. --on-bad-sample skip leaves them out and counts them."
            )
        data = data.keep(~bad, "unreadable image")
    unit, pooled = arrays["unit"][~bad], arrays["pooled"][~bad]
    _refuse_nan(unit, data.ids, encoder)
    return ImageFeatures(unit, pooled if pooled.shape[1] else None), data


def encode_texts(encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> TextFeatures:
    """Features of texts in their order; equal strings are encoded once.

    UserError: no text, an empty text, or NaN features.
    """
    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty or not texts:
        raise UserError(
            f"{len(empty)} of {len(texts)} texts are empty (the first: number"
            f" {empty[0] + 1 if empty else 0}); expected words."
        )
    unique = list(dict.fromkeys(texts))

    def key() -> str:
        vocabulary = tokenize(encoder, unique[:64]).tolist()  # differs between tokenizers
        return _key(
            "texts",
            encoder,
            options,
            hashlib.sha256(json.dumps([unique, vocabulary]).encode()).hexdigest(),
        )

    arrays = _cached(options.cache, key, lambda: _encode_text_batches(encoder, unique, options))
    _refuse_nan(arrays["unit"], unique, encoder)
    index_of = {text: i for i, text in enumerate(unique)}
    return TextFeatures(arrays["unit"][[index_of[text] for text in texts]], int(arrays["cut"]))


def refuse_processes(task: str) -> None:
    """UserError: several processes of torchrun."""
    if rank_and_size()[1] > 1:
        raise UserError(f"{task} runs in one process; start it without torchrun.")


def rank_and_size() -> tuple[int, int]:
    """(rank, number of ranks) of this process; the first call joins the group of torchrun."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")  # features travel as objects on the CPU
    return (dist.get_rank(), size) if size > 1 else (0, 1)


def first_rank_only() -> None:
    """End all ranks but the first: what follows the encoding needs one process.

    The rank cannot be asked for afterwards.
    """
    rank, size = rank_and_size()
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()  # a process that ends inside its group can abort
    if rank:
        raise SystemExit(0)


class _Images(Dataset):
    """Decoded and transformed images; None for an image that cannot be read."""

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
    batches = _batches_of_rank(len(data), options.batch_size)
    rows = [row for batch in batches for row in batch]
    # unreadable images are removed from a batch after loading, so that batches stay as fixed
    sampler, start = [], 0
    for batch in batches:
        sampler.append(list(range(start, start + len(batch))))
        start += len(batch)
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
    arrays = {
        "unit": np.zeros((len(data), parts[0][1].shape[1]), np.float32),
        "pooled": np.zeros((len(data), width), np.float32),
        "bad": np.ones(len(data), bool),
    }
    for good, unit, pooled in parts:
        arrays["unit"][good], arrays["bad"][good] = unit, False
        if pooled is not None:
            arrays["pooled"][good] = pooled
    return arrays


def _encode_text_batches(
    encoder: Encoder, texts: list[str], options: EncodeOptions
) -> dict[str, np.ndarray]:
    tokens = tokenize(encoder, texts)
    # texts that are equal after the cut are encoded once: in two batches their features might
    # differ by rounding, so that they would not tie
    first: dict[bytes, int] = {}
    row_of = [first.setdefault(row.tobytes(), len(first)) for row in tokens.numpy()]
    rows = tokens[np.unique(row_of, return_index=True)[1]]
    parts = []
    for batch in tqdm(
        _batches_of_rank(len(rows), options.batch_size),
        desc="texts",
        unit="batch",
        disable=None if rank_and_size()[0] == 0 else True,
    ):
        parts.append((batch, encoder.encode_texts(rows[batch]).numpy()))
    parts = _gather(parts)
    unit = np.zeros((len(rows), parts[0][1].shape[1]), np.float32)
    for batch, values in parts:
        unit[batch] = values
    return {"unit": unit[row_of], "cut": np.array(truncated(tokens))}


def _batches_of_rank(count: int, batch_size: int) -> list[list[int]]:
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
    return [part for of_rank in gathered for part in of_rank]


def _key(kind: str, encoder: Encoder, options: EncodeOptions, content: str) -> str:
    # the batch size is part of the key: rounding in matrix products depends on their shape
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
    """The arrays of `encode()`, or the cached arrays of an earlier call.

    Rank 0 alone reads the cache, so that all ranks do the same.
    """
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
        logger.warning("eclip: %s: damaged (%s); the features are encoded again", path, error)
        return None


def _refuse_nan(values: np.ndarray, names: Sequence[str], encoder: Encoder) -> None:
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        advice = (
            f"--precision {encoder.precision} may have caused an overflow: try fp32"
            if encoder.precision != "fp32"
            else "the weights or the images may be damaged: try an older checkpoint"
        )
        raise UserError(
            f"{int(wrong.sum())} of {len(values)} features are NaN or infinite, the first of"
            f" {names[int(np.flatnonzero(wrong)[0])]!r}; {advice}."
        )
