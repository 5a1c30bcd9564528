"""Wraps open_clip's loader: attaches the gate's decisions to every batch (Alg. 1, l. 6-9)."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..config import EClipConfig
from ..data.map_tensors import join_maps
from ..data.sample import SampleBatch
from .curriculum import Curriculum, draw_gate
from .expert_batch import ExpertBatch
from .expert_stream import ExpertSlots
from .sentence_draw import join_sentences
from .waiting import Waiting

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """The wrapped loader; it may also have a `first_batch`."""

    num_batches: int
    num_samples: int

    def __iter__(self) -> Iterator[SampleBatch]: ...


class Announcements(Protocol):
    """The heatmaps that the check of the data has found."""

    def see(self, samples: SampleBatch) -> None:
        """DataError where a batch disagrees with the check."""


class PlannedLoader:
    """Yields (ExpertBatch, text) for open_clip's loop.

    `num_batches` and `num_samples` are the wrapped loader's. `after_step(step, batches)` is called
    after each optimiser step, with the number of finished batches of the epoch. Iteration begins at
    `first_batch` where the wrapped loader resumes an epoch. `views` counts the mixed pairs of each
    annotated sample on this rank, `waiting` measures how long the loop waits for a batch.
    """

    def __init__(
        self,
        loader: Batches,
        config: EClipConfig,
        curriculum: Curriculum,
        *,
        seed: int,
        accum_freq: int = 1,
        annotated: bool = True,
        mixes: bool = True,
        expert: DataLoader | None = None,
        oversample: DataLoader | None = None,
        objectives: Sequence[Any] = (),
        after_step: Callable[[int, int], None] | None = None,
        announced: Announcements | None = None,
        same_image: Mapping[int, int] | None = None,
        same_text: bool = False,
    ) -> None:
        self.loader, self.config, self.curriculum = loader, config, curriculum
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples
        self.seed, self.accum_freq, self.after_step = seed, accum_freq, after_step
        self.expert, self.oversample = expert, oversample
        # checks every batch against the heatmaps that the check of the data found
        self.announced = announced
        self.objectives = objectives  # each draws for every batch
        self.mixes = mixes  # annotated samples of the wrapped loader may become mixed pairs
        # whether any heatmap exists; without one, the run is bit-for-bit CLIP, without priming
        self.annotated = annotated
        # id of a sample of the separate stream -> id of the training sample with the same image
        self.same_image = same_image or {}
        self.same_text = same_text  # batches say which texts are the same
        self.epoch = 0
        self.views: Counter[int] = Counter()
        self.skipped = 0
        self.lam_sum, self.lam_count = 0.0, 0  # since the log last read them
        self.waiting = Waiting()

    def __len__(self) -> int:
        return self.num_batches

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps, as open_clip's loop counts them."""
        return self.num_batches // self.accum_freq

    @property
    def first_batch(self) -> int:
        """Number, within the epoch, of the first batch that iteration yields."""
        return getattr(self.loader, "first_batch", 0)

    def __iter__(self) -> Iterator[tuple[ExpertBatch, Tensor]]:
        for i, batch in enumerate(self.waiting.watch(self._planned()), self.first_batch):
            yield batch
            if self.after_step is not None and (i + 1) % self.accum_freq == 0:
                self.after_step(self._step(i), i + 1)

    def _planned(self) -> Iterator[tuple[ExpertBatch, Tensor]]:
        batches = enumerate(self.loader, self.first_batch)
        experts, oversampled = self._stream(self.expert), self._stream(self.oversample)
        for i, samples in batches:
            batch = self.plan(samples, self._step(i), next(experts), next(oversampled))
            yield batch, samples.text

    def _step(self, batch: int) -> int:
        """The optimiser step of a batch of this epoch."""
        return self.steps_per_epoch * self.epoch + batch // self.accum_freq

    def _stream(self, loader: DataLoader | None) -> Iterator[SampleBatch | None]:
        """One batch of `loader` for every batch of this epoch; None if empty or without loader."""
        if loader is None:
            return itertools.repeat(None)
        slots = loader.batch_sampler
        assert isinstance(slots, ExpertSlots), "the loader comes from `expert_loader`"
        slots.epoch, slots.first_batch = self.epoch, self.first_batch
        return (samples if len(samples) else None for samples in loader)

    def plan(
        self,
        samples: SampleBatch,
        step: int,
        expert: SampleBatch | None = None,
        oversampled: SampleBatch | None = None,
    ) -> ExpertBatch:
        """The `ExpertBatch` of one batch at optimiser step `step`.

        `samples` are of the training data, `expert` of the separate stream.
        """
        self._report_skipped(samples.skipped)
        if self.announced is not None:
            self.announced.see(samples)
        streams = [stream for stream in (expert, oversampled) if stream is not None]
        empty = any(objective.needs_empty_windows for objective in self.objectives)
        sentences = join_sentences([samples, *streams], self.seed, step, empty)
        batch = ExpertBatch(
            **self._mixed_pairs(samples, step, expert),
            image=samples.image,
            sample_id=samples.sample_id,
            is_priming=self._is_priming(step),
            sentence_row=sentences.row,
            sentence_text=sentences.text,
            sentence_heatmap=sentences.heatmap,
            sentence_region=sentences.region,
        )
        if self.same_text:
            keys = [stream.text_key for stream in (samples, expert) if stream is not None]
            batch.text_key = torch.cat(keys)
        if oversampled is not None:
            batch.oversampled_image = oversampled.image
            batch.oversampled_text = oversampled.text
            batch.oversampled_heatmap = oversampled.heatmap
        # all heatmaps, whatever the gate decided, where an objective needs them
        is_needed = any(objective.needs_heatmaps for objective in self.objectives)
        count = len(samples.annotated) if is_needed else 0
        batch.annotated = samples.annotated[:count]
        batch.annotated_heatmap = samples.heatmap[:count]
        texts = samples.text if expert is None else torch.cat([samples.text, expert.text])
        for objective in self.objectives:
            batch.draws.update(objective.draw(self.seed, step, self.epoch, samples.sample_id))
            batch.draws.update(objective.count(texts))
        return batch

    def _mixed_pairs(
        self, samples: SampleBatch, step: int, expert: SampleBatch | None
    ) -> dict[str, Any]:
        """The entries of an `ExpertBatch` for its M = M1 + M2 mixed pairs, which are counted.

        They are the samples of the batch that the gate accepts, then all of `expert`, whose gate is
        `ExpertSlots`.
        """
        candidates = samples.annotated if self.mixes else samples.annotated[:0]  # rows, (N,)
        draws = draw_gate(
            self.seed,
            step,
            samples.sample_id[candidates].tolist(),
            self.curriculum.probability(step),
            self.config.alpha,
            self.config.lam,
        )
        accepted = torch.from_numpy(draws.accepted)  # (N,) bool
        index = candidates[accepted]  # (M1,)
        heatmap = samples.heatmap[: len(candidates)][accepted]  # (M1, 1, H, W)
        lam = torch.from_numpy(draws.lam)[accepted]
        mixed_id = samples.sample_id[index]
        if expert is not None:
            heatmap = join_maps([heatmap, expert.heatmap])  # (M, 1, H, W)
            lam = torch.cat([lam, expert.lam])
            mixed_id = torch.cat([mixed_id, expert.sample_id])
        ids = mixed_id.tolist()
        self.views.update(ids)
        self.lam_sum, self.lam_count = self.lam_sum + float(lam.sum()), self.lam_count + len(lam)
        return {
            "mix_index": index,
            "heatmap": heatmap,
            "lam": lam,
            "mixed_id": torch.tensor([self.same_image.get(i, i) for i in ids], dtype=torch.int64),
            "expert_image": samples.image[:0] if expert is None else expert.image,
            "expert_text": (
                torch.zeros(0, 1, dtype=torch.int64) if expert is None else expert.text
            ),
        }

    def _is_priming(self, step: int) -> bool:
        primes = self.config.processor is not None and self.annotated
        return primes and self.config.priming_weight > 0 and self.curriculum.is_priming(step)

    def _report_skipped(self, names: list[str]) -> None:
        self.skipped += len(names)
        for name in names:
            logger.warning("eclip: skipped bad sample %d: %s", self.skipped, name)
