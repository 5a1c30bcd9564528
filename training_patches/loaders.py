"""The loader of plain CLIP, and open_clip's DataInfo around our loaders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import open_clip_train.data as upstream
import torch

from openclip_eclip.batching.waiting import Waiting

from .mid_epoch import ResumableLoader

logger = logging.getLogger(__name__)


class PlainLoader:
    """(image, text) batches of the same checked samples, for the CLIP baseline.

    `after_step`, `first_batch` and `waiting` as in `PlannedLoader`.
    """

    def __init__(
        self, loader: ResumableLoader, accum_freq: int, after_step: Callable[[int, int], None]
    ) -> None:
        self.loader = loader
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples
        self.accum_freq, self.after_step, self.epoch = accum_freq, after_step, 0
        self.waiting = Waiting()

    @property
    def first_batch(self) -> int:
        return self.loader.first_batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        steps = self.num_batches // self.accum_freq
        for i, samples in enumerate(self.waiting.watch(self.loader), self.first_batch):
            for name in samples.skipped:
                logger.warning("eclip: skipped bad sample: %s", name)
            yield samples.image, samples.text
            if (i + 1) % self.accum_freq == 0:
                self.after_step(steps * self.epoch + i // self.accum_freq, i + 1)


class EpochInfo(upstream.DataInfo):
    """open_clip's DataInfo that also sets the epoch of a `PlannedLoader` or `PlainLoader`."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataloader.epoch = epoch
