"""--cache-tokens: what frozen parts of a model compute is computed once and kept in files.

A result is found by the content of its input, so it fits whatever data, crop or method asks for it,
and several runs and processes share one folder.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .config import UserError
from .content import content_numbers
from .files import make_folder, write_whole
from .run_flags import kept_views
from .towers.kept import Rows, keep_results

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
CHUNK = 64 << 20  # bytes of results a file


def cache_frozen_parts(
    model: nn.Module, args: argparse.Namespace, samples: int | None
) -> list[TokenCache]:
    """Let frozen parts of `model` take results from --cache-tokens, and add what they compute.

    `samples`: number of training samples, for the forecast; None if not known. UserError: a tower
    whose results cannot be kept, or the folder cannot be used.
    """
    views = kept_views(args)
    if views is None:
        return []
    caches: list[TokenCache] = []
    dtype = args.cache_tokens_dtype or "fp16"

    def make(name: str, weights: dict[str, Tensor]) -> Rows:
        # another tower has other files
        part = Path(args.cache_tokens) / f"{name}-{dtype}-{_digest(weights, args.precision)}"
        images = samples * views if samples is not None and name.startswith("image") else None
        caches.append(TokenCache(part, DTYPES[dtype], images))
        return caches[-1].rows

    keep_results(model, make, args.freeze_image)
    return caches


def _digest(weights: dict[str, Tensor], precision: str) -> str:
    # amp rounds within the tower, so its results are others for the same input
    digest = hashlib.blake2b(f"{torch.__version__} {precision}".encode(), digest_size=8)
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class TokenCache:
    """Results by the content of their inputs; files of up to CHUNK bytes hold them."""

    def __init__(self, folder: Path, dtype: torch.dtype, images: int | None) -> None:
        self.folder, self.dtype, self.images = folder, dtype, images
        self.where: dict[tuple[int, int], tuple[Any, int]] = {}  # key -> (file or list, row)
        self.pending: list[Tensor] = []
        self.pending_keys: list[tuple[int, int]] = []
        self.files: set[str] = set()
        self.computed = self.found = 0
        self.name, self.announced = folder.name.split("-")[0], False
        make_folder(folder, "--cache-tokens")
        self.read_files()

    def read_files(self) -> None:
        """Take in what this folder holds, of other processes too."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self.files:
                continue
            try:
                file = safe_open(path, "pt")
                keys, values = file.get_tensor("keys").tolist(), file.get_slice("values")
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"--cache-tokens: {path} cannot be read ({error}); remove it, and it is"
                    " computed again."
                ) from error
            self.files.add(path.name)
            for row, key in enumerate(keys):
                self.where.setdefault((key[0], key[1]), (values, row))

    @torch.no_grad()
    def rows(self, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """`compute(x)`, of which each row depends on the same row of `x` (B, ...) alone.

        What is returned was rounded to the type of the files, whether it was found or computed.
        """
        keys = content_keys(x)
        missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self.where}
        self.computed += len(missing)
        self.found += len(keys) - len(missing)
        dtype = x.dtype if x.is_floating_point() else torch.float32
        if missing:
            index = torch.tensor(sorted(missing.values()), device=x.device)
            self._keep([keys[i] for i in index.tolist()], compute(x[index]).to(self.dtype).cpu())
        stacked = torch.stack([self._row(key) for key in keys])
        return stacked.to(x.device, dtype, non_blocking=True)

    def _row(self, key: tuple[int, int]) -> Tensor:
        holder, row = self.where[key]
        return holder[row]

    def _keep(self, keys: list[tuple[int, int]], values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise UserError(
                "--cache-tokens: results that are not finite in"
                f" {str(self.dtype).removeprefix('torch.')}; take --cache-tokens-dtype fp32."
            )
        size = values[0].numel() * values.element_size()
        if not self.where and self.images is not None:
            self._forecast(size)
        for key, value in zip(keys, values):
            self.where[key] = (self.pending, len(self.pending))
            self.pending.append(value)
        self.pending_keys += keys
        if len(self.pending) * size >= CHUNK:
            self.write()

    def _forecast(self, size: int) -> None:
        assert self.images is not None, "the caller has checked it"
        total, free = size * self.images, shutil.disk_usage(self.folder).free
        logger.info(
            "eclip: --cache-tokens: %.3g kB an image, %.3g MB for %d images, in %s",
            size / 1e3,
            total / 1e6,
            self.images,
            self.folder,
        )
        if total > free:
            raise UserError(
                f"--cache-tokens {self.folder}: {total / 1e9:.1f} GB are needed, {free / 1e9:.1f}"
                " GB are free; name a folder on another disk, lower --cache-crops, or drop"
                " --cache-tokens."
            )

    def end_epoch(self) -> None:
        """Write, and say once how much was found."""
        self.write()
        if self.computed or not self.announced:
            logger.info(
                "eclip: --cache-tokens, %s: %d computed, %d found",
                self.name,
                self.computed,
                self.found,
            )
        self.announced, self.computed, self.found = True, 0, 0

    def write(self) -> None:
        """Write what is not in a file yet, and read what other processes wrote."""
        if self.pending:
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            tensors = {"keys": torch.tensor(self.pending_keys), "values": torch.stack(self.pending)}
            try:
                write_whole(path, save(tensors))
            except OSError as error:
                raise UserError(
                    f"--cache-tokens {path}: {error.strerror}; name a folder on a disk with room,"
                    " in which this run may write."
                ) from error
            for key in self.pending_keys:
                del self.where[key]
            self.pending, self.pending_keys = [], []
        self.read_files()


def content_keys(x: Tensor) -> list[tuple[int, int]]:
    """Two 64-bit numbers for the content of each row of `x` (B, ...), on any device."""
    first, second = content_numbers(x).tolist()
    return list(zip(first, second))
