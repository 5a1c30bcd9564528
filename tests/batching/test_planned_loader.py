"""The planned loader: which samples enter as mixed pairs, which are decoded, and their order."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_stream import ALWAYS, ExpertSlots, expert_loader
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.config import CurriculumConfig, EClipConfig
from openclip_eclip.data.sample import Sample, collate


def plan(rows: list[int], probability: float, **options) -> tuple:
    """(two batches, the loader); of four samples each, those in `rows` are annotated."""
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


def test_batches_prime_in_the_cold_phase_and_are_mixed_afterwards() -> None:
    (cold, rest), planned = plan([1, 3], 1.0)
    assert cold.is_priming and len(cold.lam) == 0
    assert not rest.is_priming
    assert rest.mix_index.tolist() == [1, 3]
    assert rest.mixed_id.tolist() == [11, 13]
    assert (rest.lam < 1).all()
    assert rest.heatmap[1].mean() == 3
    assert planned.views == {11: 1, 13: 1}
    (cold, rest), _ = plan([], 1.0, annotated=False)
    assert not cold.is_priming and len(rest.lam) == 0


class Counting(torch.utils.data.Dataset):
    """A data set that records the samples read; the crop loses the region of sample 0."""

    read: list[int] = []

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        heatmap = None if index == 0 else torch.ones(1, 4, 4)
        return Sample(torch.rand(3, 4, 4), torch.zeros(5, dtype=torch.int64), 100 + index, heatmap)


def test_expert_samples_that_are_not_drawn_are_not_decoded() -> None:
    def batches(probability: float) -> tuple[list, int]:
        Counting.read = []
        curriculum = Curriculum(40, CurriculumConfig(cold=0.5, warm=0, cool=0, end=probability))
        slots = ExpertSlots(10, 5, 40, curriculum, EClipConfig().alpha, seed=0)
        loaded = list(expert_loader(Counting(), slots, workers=0))
        return loaded, len(Counting.read)

    empty, decoded = batches(0.0)
    assert len(empty) == 40 and decoded == 0
    assert all(len(batch.sample_id) == 0 for batch in empty)
    half, decoded = batches(0.5)
    used = sum(len(batch.sample_id) for batch in half)
    assert 30 < decoded < 70
    assert used == decoded - Counting.read.count(0)
    # the same again, without a change of the global generator
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, _ = batches(0.5)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(half, again):
        assert torch.equal(a.image, b.image) and torch.equal(a.lam, b.lam)


def test_the_expert_stream_is_independent_of_ranks_accumulation_and_epochs() -> None:
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


def test_the_expert_batch_is_added_to_the_batch() -> None:
    curriculum = Curriculum(2, CurriculumConfig(cold=0.5, warm=0, cool=0, end=1.0))
    slots = ExpertSlots(10, 3, 2, curriculum, EClipConfig().alpha, seed=0)
    (_, rest), planned = plan([2], 1.0, expert=expert_loader(Counting(), slots, workers=0))
    extra = len(rest.expert_image)
    assert extra in (2, 3)
    assert rest.expert_text.shape == (extra, 5)
    assert len(rest.lam) == len(rest.heatmap) == 1 + extra
    assert rest.mixed_id.tolist()[0] == 12
    assert min(rest.mixed_id.tolist()[1:]) >= 100


def test_oversampled_images_occur_equally_often_in_another_order_per_epoch() -> None:
    """Each of two batches has five of ten samples; none of them becomes a mixed pair."""
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
    second_epoch = [batch for batch, _ in planned]
    first_order, second_order = Counting.read[:10], Counting.read[10:]
    assert sorted(first_order) == sorted(second_order) == list(range(10))
    assert first_order != second_order
    # nine, since the crop of sample 0 lost the region
    assert sum(len(batch.oversampled_image) for batch in (cold, rest)) == 9
    assert sum(len(batch.oversampled_image) for batch in second_epoch) == 9
    assert rest.oversampled_text.shape[1:] == (5,)
    assert rest.oversampled_heatmap.shape[1:] == (1, 4, 4)
    assert rest.mixed_id.tolist() == [12]
    assert len(rest.expert_image) == 0
    half = rest.to(dtype=torch.bfloat16)
    assert half.oversampled_image.dtype == half.oversampled_heatmap.dtype == torch.bfloat16


def test_heatmaps_of_8_bits_become_numbers_when_the_batch_is_moved() -> None:
    """Among them those of an expert stream with other types."""
    levels = torch.arange(0, 256, 17, dtype=torch.uint8).view(1, 4, 4)
    image, text = torch.zeros(3, 4, 4), torch.zeros(5, dtype=torch.int64)
    eight = [
        Sample(image, text, 1, levels, sentence_text=text[None], sentence_heatmap=levels[None]),
        Sample(image, text, 2),
    ]
    exact = [
        replace(
            sample,
            heatmap=sample.heatmap if sample.heatmap is None else sample.heatmap / 255,
            sentence_heatmap=None if sample.heatmap is None else levels[None] / 255,
        )
        for sample in eight
    ]
    config = EClipConfig(curriculum=CurriculumConfig(cold=0, warm=0, cool=0, end=1))
    moved = []
    for samples in (eight, exact):
        loader = type("Loader", (list,), {"num_batches": 1, "num_samples": 2})()
        curriculum = Curriculum(1, config.curriculum)
        planned = PlannedLoader(loader, config, curriculum, seed=0, objectives=[Needing()])
        for expert in (eight, exact, []):
            batch = planned.plan(collate(samples), 0, collate(expert) if expert else None, None)
            if expert is not exact:
                assert batch.heatmap.dtype == samples[0].heatmap.dtype
            moved.append(batch.to(dtype=torch.bfloat16 if expert == [] else torch.float32))
    for first, second in zip(moved[:3], moved[3:]):
        assert len(first.heatmap) and len(first.annotated_heatmap) and len(first.sentence_heatmap)
        for field in fields(first):
            one, two = getattr(first, field.name), getattr(second, field.name)
            if isinstance(one, torch.Tensor):
                assert one.dtype == two.dtype and torch.equal(one, two), field.name


class Needing:
    """An objective that needs every map."""

    needs_heatmaps = needs_windows = needs_empty_windows = True

    def draw(self, *_: object) -> dict:
        return {}

    count = draw
