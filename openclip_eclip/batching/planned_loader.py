"""Wraps the host's loader: attaches to every batch what the gate decided for it (Alg. 1, l.
6-9).
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..config import EClipConfig
from .curriculum import Curriculum, draw_gate
from .expert_batch import ExpertBatch
from .sentence_draw import join_sentences

logger = logging.getLogger(__name__)


class PlannedLoader:
    """Yields (ExpertBatch, text) for open_clip's loop; `num_batches` and `num_samples` are the
    wrapped loader's.

    `after_step(step, batches)` is called once the loop has finished an optimiser step, when so many
    batches of the epoch are done. Iteration begins at `first_batch` where the wrapped loader
    continues an epoch. `views` counts the mixed pairs of each annotated sample on this rank.
    """

    def __init__(
        self,
        loader: Iterable,
        config: EClipConfig,
        curriculum: Curriculum,
        *,
        seed: int,
        accum_freq: int = 1,
        annotated: bool = True,
        mixes: bool = True,
        expert: DataLoader | None = None,
        replay: DataLoader | None = None,
        objectives: Sequence[Any] = (),
        after_step: Callable[[int, int], None] | None = None,
        announced: Any = None,
        same_image: Mapping[int, int] | None = None,
    ) -> None:
        self.loader, self.config, self.curriculum = loader, config, curriculum
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples
        self.seed, self.accum_freq, self.expert, self.replay, self.after_step = (
            seed,
            accum_freq,
            expert,
            replay,
            after_step,
        )
        self.announced = (
            announced  # sees every batch: has a sample the heatmap that the check found?
        )
        self.objectives = objectives  # each draws for every batch
        self.mixes = mixes  # annotated samples of the wrapped loader may become mixed pairs
        # any heatmap anywhere: without, this is CLIP to the last bit, priming included
        self.annotated = annotated
        # of the stream's samples: the training sample whose id their pairs carry
        self.same_image = same_image or {}
        self.epoch = 0
        self.views: Counter[int] = Counter()
        self.skipped = 0
        self.lam_sum, self.lam_count = 0.0, 0  # since the log last read them

    def __len__(self) -> int:
        return self.num_batches

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps, as open_clip's loop counts them."""
        return self.num_batches // self.accum_freq

    @property
    def first_batch(self) -> int:
        """Number in the epoch of the first batch that iteration gives."""
        return getattr(self.loader, "first_batch", 0)

    def __iter__(self) -> Iterator[tuple[ExpertBatch, Tensor]]:
        batches = enumerate(self.loader, self.first_batch)
        experts, replays = self._stream(self.expert), self._stream(self.replay)
        for i, (samples, text) in batches:
            step = self.steps_per_epoch * self.epoch + i // self.accum_freq
            yield self.plan(samples, step, next(experts), next(replays)), text
            if self.after_step is not None and (i + 1) % self.accum_freq == 0:
                self.after_step(step, i + 1)

    def _stream(self, loader: DataLoader | None) -> Iterator[tuple[dict[str, Any], Tensor] | None]:
        """One batch for every batch of this epoch; None without a loader, and where nothing is in
        it.
        """
        if loader is None:
            return itertools.repeat(None)
        loader.batch_sampler.epoch, loader.batch_sampler.first_batch = self.epoch, self.first_batch
        return (batch if len(batch[0]["sample_id"]) else None for batch in loader)

    def plan(
        self,
        samples: dict[str, Any],
        step: int,
        expert: tuple[dict[str, Any], Tensor] | None = None,
        replay: tuple[dict[str, Any], Tensor] | None = None,
    ) -> ExpertBatch:
        """The carrier of one batch at optimiser step `step`; `samples`, `expert`, `replay` as
        `collate` returns them.
        """
        self._report_skipped(samples["skipped"])
        if self.announced is not None:
            self.announced.see(samples)
        ids = samples["sample_id"]
        annotated = samples["annotated"] if self.mixes else samples["annotated"][:0]
        draws = draw_gate(
            self.seed,
            step,
            ids[annotated].tolist(),
            self.curriculum.probability(step),
            self.config.alpha,
            self.config.lam,
        )
        accepted = torch.from_numpy(draws.accepted)
        index = annotated[accepted]
        heatmap, lam = (
            samples["heatmap"][: len(annotated)][accepted],
            torch.from_numpy(draws.lam)[accepted],
        )
        mixed_id = ids[index]
        image = samples["image"]
        expert_image, expert_text = image[:0], torch.zeros(0, 1, dtype=torch.int64)
        if expert is not None:
            fields, expert_text = expert
            expert_image = fields["image"]
            heatmap = torch.cat([heatmap, fields["heatmap"]])
            lam = torch.cat([lam, fields["lam"]])
            mixed_id = torch.cat([mixed_id, fields["sample_id"]])
        more = (
            {}
            if replay is None
            else {
                "replay_image": replay[0]["image"],
                "replay_text": replay[1],
                "replay_heatmap": replay[0]["heatmap"],
            }
        )
        streams = [fields for fields, _ in filter(None, (expert, replay))]
        self.views.update(mixed_id.tolist())
        mixed_id = torch.tensor(
            [self.same_image.get(i, i) for i in mixed_id.tolist()], dtype=torch.int64
        )
        self.lam_sum, self.lam_count = self.lam_sum + float(lam.sum()), self.lam_count + len(lam)
        primes = self.config.processor is not None and self.annotated
        priming = primes and self.config.priming_weight > 0 and self.curriculum.is_priming(step)
        drawn: dict[str, Any] = {}
        kept = (
            len(samples["annotated"])
            if any(objective.needs_heatmaps for objective in self.objectives)
            else 0
        )
        for objective in self.objectives:
            drawn.update(objective.draw(self.seed, step, self.epoch, ids))
        return ExpertBatch(
            image,
            ids,
            index,
            heatmap,
            lam,
            mixed_id,
            expert_image,
            expert_text,
            priming,
            samples["annotated"][:kept],
            samples["heatmap"][:kept],
            draws=drawn,
            **more,
            **join_sentences([samples, *streams], self.seed, step),
        )

    def _report_skipped(self, names: list[str]) -> None:
        self.skipped += len(names)
        for name in names:
            logger.warning("eclip: skipped bad sample %d: %s", self.skipped, name)
