"""The plan of a batch: whom the gate takes, what is decoded, in which order."""

from __future__ import annotations

import torch

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_stream import ALWAYS, ExpertSlots, expert_loader
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.config import CurriculumConfig, EClipConfig
from openclip_eclip.data.sample import Sample, collate


def plan(rows: list[int], probability: float, **options) -> tuple:
    samples = [
        Sample(
            torch.full((3, 4, 4), float(i)),
            torch.zeros(5, dtype=torch.int64),
            10 + i,
            torch.ones(1, 4, 4) * i if i in rows else None,
        )
        for i in range(4)
    ]
    loader = type("Loader", (list,), {"num_batches": 2, "num_samples": 8})(
        [collate(samples), collate(samples)]
    )
    config = EClipConfig(curriculum=CurriculumConfig(cold=0.5, warm=0, cool=0, end=probability))
    planned = PlannedLoader(loader, config, Curriculum(2, config.curriculum), seed=0, **options)
    return [batch for batch, _ in planned], planned


def test_plan_primes_in_cold_start_and_mixes_afterwards() -> None:
    (cold, rest), planned = plan([1, 3], 1.0)
    assert cold.is_priming and len(cold.lam) == 0 and not rest.is_priming
    assert (
        rest.mix_index.tolist() == [1, 3]
        and rest.mixed_id.tolist() == [11, 13]
        and (rest.lam < 1).all()
    )
    assert rest.heatmap[1].mean() == 3 and planned.views == {11: 1, 13: 1}
    (cold, rest), _ = plan([], 1.0, annotated=False)
    assert not cold.is_priming and len(rest.lam) == 0


class Counting(torch.utils.data.Dataset):
    read: list[int] = []

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        heatmap = None if index == 0 else torch.ones(1, 4, 4)  # sample 0: the crop lost the region
        return Sample(torch.rand(3, 4, 4), torch.zeros(5, dtype=torch.int64), 100 + index, heatmap)


def test_refused_expert_samples_are_never_decoded() -> None:
    def batches(probability: float) -> tuple[list, int]:
        Counting.read = []
        curriculum = Curriculum(40, CurriculumConfig(cold=0.5, warm=0, cool=0, end=probability))
        slots = ExpertSlots(10, 5, 40, curriculum, EClipConfig().alpha, seed=0)
        loaded = list(expert_loader(Counting(), slots, workers=0))
        return loaded, len(Counting.read)

    closed, decoded = batches(0.0)
    assert (
        len(closed) == 40 and decoded == 0 and all(len(fields.sample_id) == 0 for fields in closed)
    )
    half, decoded = batches(0.5)
    used = sum(len(fields.sample_id) for fields in half)
    assert 30 < decoded < 70 and used == decoded - Counting.read.count(0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, _ = batches(0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.lam, b.lam) for a, b in zip(half, again)
    )


def test_expert_stream_is_the_same_however_it_is_spread() -> None:
    curriculum = Curriculum(6, CurriculumConfig(cold=0, warm=0, cool=0, end=0.7))
    whole = list(ExpertSlots(7, 4, 6, curriculum, EClipConfig().alpha, seed=2))
    ranks = [
        list(ExpertSlots(7, 2, 6, curriculum, EClipConfig().alpha, seed=2, rank=rank, world_size=2))
        for rank in (0, 1)
    ]
    assert [a + b for a, b in zip(*ranks)] == whole
    accumulated = list(ExpertSlots(7, 2, 12, curriculum, EClipConfig().alpha, seed=2, accum_freq=2))
    assert [a + b for a, b in zip(accumulated[::2], accumulated[1::2])] == whole
    second = ExpertSlots(7, 4, 3, curriculum, EClipConfig().alpha, seed=2)
    second.epoch = 1
    assert list(second) == whole[3:]


def test_expert_batch_joins_the_carrier() -> None:
    curriculum = Curriculum(2, CurriculumConfig(cold=0.5, warm=0, cool=0, end=1.0))
    slots = ExpertSlots(10, 3, 2, curriculum, EClipConfig().alpha, seed=0)
    (_, rest), planned = plan([2], 1.0, expert=expert_loader(Counting(), slots, workers=0))
    extra = len(rest.expert_image)
    assert (
        extra in (2, 3)
        and rest.expert_text.shape == (extra, 5)
        and len(rest.lam) == len(rest.heatmap) == 1 + extra
    )
    assert rest.mixed_id.tolist()[0] == 12 and min(rest.mixed_id.tolist()[1:]) >= 100


def test_what_is_shown_once_more_comes_equally_often_in_an_order_of_each_epoch() -> None:
    """Five of ten for each of two batches; nothing of it becomes a pair."""
    Counting.read = []
    (cold, rest), planned = plan(
        [2],
        1.0,
        oversample=expert_loader(
            Counting(),
            ExpertSlots(10, 5, 2, Curriculum(1, ALWAYS), EClipConfig().alpha, seed=0),
            workers=0,
        ),
    )
    planned.epoch = 1
    again = [batch for batch, _ in planned]
    assert (
        sorted(Counting.read[:10]) == sorted(Counting.read[10:]) == list(range(10))
        and Counting.read[:10] != Counting.read[10:]
    )
    # the crop of sample 0 lost the region
    assert (
        sum(len(batch.oversampled_image) for batch in (cold, rest))
        == sum(len(batch.oversampled_image) for batch in again)
        == 9
    )
    assert (
        rest.oversampled_text.shape[1:] == (5,)
        and rest.oversampled_heatmap.shape[1:] == (1, 4, 4)
        and rest.mixed_id.tolist() == [12]
        and len(rest.expert_image) == 0
    )
    assert (
        rest.to(dtype=torch.bfloat16).oversampled_image.dtype
        == rest.to(dtype=torch.bfloat16).oversampled_heatmap.dtype
        == torch.bfloat16
    )
