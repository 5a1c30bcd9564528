"""The random streams of training: separate for each purpose, with unchanged numbers.

So a run of an older version can be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import openclip_eclip
from openclip_eclip.batching.curriculum import Curriculum, draw_gate, expert_slots
from openclip_eclip.batching.expert_stream import EXPERT_ID, ExpertSlots, expert_loader
from openclip_eclip.batching.sentence_draw import draw_sentences
from openclip_eclip.config import CurriculumConfig
from openclip_eclip.data.placebo import PlaceboHeatmaps, choose_donors
from openclip_eclip.data.sample import Sample, collate, seeded_randomness
from openclip_eclip.objectives.dacl import Dacl, DaclConfig, binary_mask
from openclip_eclip.objectives.m3_mix import M3Mix
from openclip_eclip.streams import GATE, SHARED, STREAMS
from training_patches.caption_length import announce_lengths
from training_patches.pass_guard import shares
from training_patches.run_log import RunLog
from training_patches.shard_pipeline import SeededShuffle

IDS = torch.tensor([1, 2, 40, (1 << 59) + 7])  # rows of a table, and a sample known by its name


def digest(*values: Any) -> str:
    """A digest of arrays and tensors: bits, shapes and types."""
    result = hashlib.sha256()
    for value in values:
        array = np.asarray(value)
        result.update(f"{array.shape} {array.dtype.str}".encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()[:16]


def global_draws() -> list[float]:
    """The next numbers of each global generator, as a transform would draw them."""
    return [random.random(), float(np.random.random()), float(torch.rand(1, dtype=torch.float64))]


class Drawing(torch.utils.data.Dataset):
    """Ten samples whose image holds draws of the global generators."""

    def __getitem__(self, index: int) -> Sample:
        image = torch.tensor(global_draws(), dtype=torch.float64)[:, None, None]
        return Sample(image, torch.zeros(2, dtype=torch.int64), index, torch.ones(1, 1, 1))

    def __len__(self) -> int:
        return 10


def test_no_two_purposes_share_a_stream_except_the_listed_ones() -> None:
    """Over small keys, where streams could coincide; sample ids begin at 1, the rest at 0."""
    seen: dict[tuple, set[str]] = {}
    for name, stream in STREAMS.items():
        names = (*stream.key, *stream.spawned)
        for key in itertools.product(*(range(one == "sample", 4) for one in names)):
            state = tuple(stream.sequence(3, *key).generate_state(4).tolist())
            # a seed for another generator and a generator give different numbers
            seen.setdefault((stream.seeds_others, state), set()).add(name)
    together = {
        frozenset(pair) for names in seen.values() for pair in itertools.combinations(names, 2)
    }
    assert together == SHARED
    spawned = [stream.spawn for stream in STREAMS.values() if stream.spawn is not None]
    # sentences and DACL's partners: apart by the id, which is never 0
    assert sorted(spawned) == [1, 1, 2, 3, 4]


def test_key_needs_a_number_for_each_name() -> None:
    for key in ((17,), (17, 1, 2)):
        with pytest.raises(ValueError, match="expected numbers for"):
            GATE.sequence(3, *key)


def test_only_streams_makes_generators_in_training() -> None:
    """Generators of numpy and Python; those of torch are seeded by numbers from these."""
    root = Path(openclip_eclip.__file__).parent
    files = [root / name for name in ("batching", "objectives", "towers", "data")]
    files = [path for folder in files for path in folder.rglob("*.py")]
    files += [*root.glob("*.py"), *(root.parent / "training_patches").glob("*.py")]
    made = re.compile(r"default_rng|SeedSequence\(|RandomState|random\.Random\(")
    result = {path.name: made.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: calls for name, calls in result.items() if calls} == {
        "streams.py": ["SeedSequence(", "default_rng", "random.Random("],
        "sample.py": ["SeedSequence("],  # `seeded_randomness` of a list of numbers
        "shard_pipeline.py": ["random.Random("],  # of `worker_seed`
    }


def test_gate() -> None:
    draws = draw_gate(3, 17, [1, 2, 40, (1 << 59) + 7, EXPERT_ID + 5], 0.5, 0.3)
    assert digest(draws.accepted, draws.lam) == "3a2356498e2b655f"


def test_order_and_crops_of_the_separate_stream() -> None:
    assert expert_slots(3, 8, 14, 10).tolist() == [3, 8, 4, 1, 2, 8, 5, 0, 7, 9, 6, 3, 7, 4]
    always = Curriculum(2, CurriculumConfig(cold=0, warm=0, cool=0, end=1))
    loader = expert_loader(Drawing(), ExpertSlots(10, 3, 2, always, 0.3, seed=3), workers=0)
    assert digest(*[samples.image for samples in loader]) == "46f5b3af1b035f74"


def test_sentences() -> None:
    count = 14
    sample = Sample(torch.zeros(3, 1, 1), torch.zeros(2, dtype=torch.int64), 40)
    sample.sentence_text = torch.arange(count)[:, None].expand(-1, 2)
    sample.sentence_heatmap = torch.ones(count, 1, 1, 1)
    drawn = draw_sentences(collate([sample]), 3, 17).text[:, 0]
    assert drawn.tolist() == [0, 1, 2, 6, 8, 9, 11, 13]


@pytest.mark.parametrize(
    "form,step,expected",
    [
        ("original", 17, "eef766ce6ddab901"),
        ("release", 17, "030a33044d500ae4"),
        ("plus", 17, "2d0304d8d736fa57"),
        ("plus", 18, "567e55a24430176e"),
        ("plus", 19, "a9e3fcd4b62845b0"),
    ],
)
def test_dacl(form: str, step: int, expected: str) -> None:
    draws = Dacl(DaclConfig(form=form)).draw(3, step, 0, IDS)
    assert digest(*[draws[name] for name in sorted(draws)]) == expected


def test_dacl_masks() -> None:
    mask = binary_mask(torch.zeros(2, 3, 8, 8), torch.tensor([0.3, 0.7]), np.array([5, 1 << 61]))
    assert digest(mask) == "4b15de97646900a1"


def test_m3_mix() -> None:
    assert digest(M3Mix().draw(3, 17, 0, IDS)["m3_mix_draws"]) == "4976cb90c9b2d2c8"


def test_placebo() -> None:
    heatmap = np.linspace(0.1, 1, 48, dtype=np.float32).reshape(6, 8)
    noise = PlaceboHeatmaps("random", 3, (6, 8))
    assert digest(noise(1, heatmap), noise((1 << 59) + 7, heatmap)) == "8bae061ba9794736"
    phases = PlaceboHeatmaps("phase-scrambled", 3, (6, 8))(1, heatmap)
    # not bit for bit: a Fourier transform rounds otherwise on another machine
    assert phases[0, :3].tolist() == pytest.approx([0.70814025, 0.67055154, 0.62587982], rel=1e-5)
    images = list("aabcdefg")
    assert choose_donors(3, images, None, images) == [2, 3, 4, 6, 7, 1, 5, 0]


def test_workers_and_shuffle_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """By (seed, rank, worker, epoch); with worker processes also the global generators."""
    epoch = SimpleNamespace(get_value=lambda: 5)
    orders = []
    for rank, worker in ((0, None), (1, None), (1, 1)):
        info = None if worker is None else SimpleNamespace(id=worker)
        monkeypatch.setattr(
            "training_patches.shard_pipeline.get_worker_info", lambda info=info: info
        )
        with seeded_randomness([0]):
            order = list(SeededShuffle(8, 4, 3, rank, epoch).run(iter(range(12))))
            orders.append((order, global_draws()))
    assert digest(*[value for pair in orders for value in pair]) == "1fa63012b22a0608"
    args = argparse.Namespace(seed=3, batch_size=2, world_size=2, workers=2)
    assert [share.samples for share in shares(args, range(1, 9), 5)] == [9, 9, 10, 8]


def test_figures_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in figures, and draws of a tokenizer while captions are counted.

    Both leave the streams of training unchanged.
    """
    args = argparse.Namespace(
        seed=3,
        rank=0,
        world_size=1,
        local_rank=0,
        distributed=False,
        log_local=False,
        dataset_type="csv",
    )
    log = RunLog(args, SimpleNamespace())
    log.take_examples(Drawing())
    images, _ = log.examples
    assert digest(images) == "9ebf83d52b23168c"
    seen = []
    monkeypatch.setattr("training_patches.caption_length._texts", lambda *_: [(["a"], 1)])
    monkeypatch.setattr(
        "training_patches.caption_length.count_cut", lambda *_: seen.append(global_draws()) or 0
    )
    before = torch.get_rng_state()
    announce_lengths(args, "--train-data", None, lambda texts: torch.zeros(1, 4), False)
    assert digest(seen) == "5899b2ee3f126412" and torch.equal(before, torch.get_rng_state())
