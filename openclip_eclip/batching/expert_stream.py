"""Separate streams of annotated samples beside the batches of training data.

One is `--expert-data`, whose samples enter the loss only as mixed pairs (v^lam, t). The other holds
oversampled annotated samples of the training data (`--align-oversample`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..config import CurriculumConfig
from ..data.sample import Sample, SampleBatch, Samples, collate, seeded_randomness
from ..streams import EXPERT_CROP
from .curriculum import Curriculum, draw_gate, expert_slots

EXPERT_ID = 1 << 62  # ids of this stream start here, apart from those of the training data
# the curriculum of oversampled samples: all slots are filled
ALWAYS = CurriculumConfig(cold=0, warm=0, cool=0, end=1)


class ExpertSlots(Sampler):
    """Yields for every batch of an epoch the samples that passed the gate: [(slot, index, lam)].

    Slots are numbered through all steps, micro-batches and ranks. The sample in a slot, its draws
    and its crop depend on (seed, slot) alone. So the stream resumes anywhere and takes nothing from
    the random streams of the training data. A rejected sample is never decoded.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        num_batches: int,
        curriculum: Curriculum,
        alpha: float,
        *,
        seed: int,
        accum_freq: int = 1,
        rank: int = 0,
        world_size: int = 1,
        fixed_lam: float | None = None,
    ) -> None:
        self.size, self.batch_size, self.num_batches = size, batch_size, num_batches
        self.curriculum, self.alpha, self.fixed_lam, self.seed = curriculum, alpha, fixed_lam, seed
        self.accum_freq, self.rank, self.world_size = accum_freq, rank, world_size
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int, float]]]:
        steps = self.num_batches // self.accum_freq
        for i in range(self.first_batch, self.num_batches):
            step = steps * self.epoch + i // self.accum_freq
            first = (
                (step * self.accum_freq + i % self.accum_freq) * self.world_size + self.rank
            ) * self.batch_size
            keys = [EXPERT_ID + first + j for j in range(self.batch_size)]
            draws = draw_gate(
                self.seed, step, keys, self.curriculum.probability(step), self.alpha, self.fixed_lam
            )
            if not draws.accepted.any():
                yield []
                continue
            chosen = expert_slots(self.seed, first, self.batch_size, self.size)
            yield [
                (first + int(j), int(chosen[j]), float(draws.lam[j]))
                for j in draws.accepted.nonzero()[0]
            ]


class _Slots(Dataset):
    def __init__(self, samples: Samples, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __getitem__(self, item: tuple[int, int, float]) -> Sample:
        slot, index, lam = item
        with seeded_randomness(EXPERT_CROP.sequence(self.seed, slot)):
            sample = self.samples[index]
        sample.lam = lam
        return sample


def collate_annotated(samples: list[Sample]) -> SampleBatch:
    """`collate`, without the samples whose crop lost the annotated region."""
    return collate([sample for sample in samples if sample.heatmap is not None])


def expert_loader(samples: Samples, slots: ExpertSlots, workers: int) -> DataLoader:
    """A loader with one batch of accepted samples, perhaps empty, for every training batch."""
    # a separate generator: the loader draws one number an epoch, which must not come from the
    # training data's stream
    return DataLoader(
        _Slots(samples, slots.seed),
        batch_sampler=slots,
        num_workers=workers,
        collate_fn=collate_annotated,
        generator=torch.Generator(),
    )
