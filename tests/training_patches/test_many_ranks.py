"""What a run on many ranks must not do: hold all that others hold, or repeat experts unnoticed."""

from __future__ import annotations

import argparse
import logging
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_stream import ExpertSlots
from openclip_eclip.config import DataError, EClipConfig
from openclip_eclip.data.shards.index import CheckOptions, ShardReport
from training_patches import train_data
from training_patches.annotated_streams import expert_stream
from training_patches.resume import random_state
from training_patches.session import Session


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_collects_the_state_of_all(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 64 ranks and 60 000 views each, every rank of a node would take 0.4 GB for them."""
    session = Session.__new__(Session)
    session.args = argparse.Namespace(rank=rank, world_size=2)
    session.loader = argparse.Namespace(views=Counter({7: 1}))
    session.saver = argparse.Namespace(group=None)
    session.views_before, session.all_states, session.all_views = Counter({7: 1}), [], Counter()

    def gather(mine: Any, into: list[Any] | None, dst: int, group: Any) -> None:
        assert (into is not None) == (rank == dst == 0)
        if into is not None:
            into[:] = [mine, {"random": random_state(), "views": {7: 2, 9: 4}}]

    monkeypatch.setattr(dist, "gather_object", gather)
    session._collect()
    assert len(session.all_states) == (2 if rank == 0 else 0)
    assert session.all_views == (Counter({7: 4, 9: 4}) if rank == 0 else Counter())


@pytest.mark.parametrize(
    ("samples", "size", "own_pairs", "advice"),
    [
        (1083, None, "diagonal", "give --expert-batch-size 8"),
        (100, 2, "diagonal", "give --eclip-own-pairs mask"),
        (1083, 8, "diagonal", None),
        (1083, None, "mask", None),
    ],
)
def test_more_slots_than_experts_in_a_step_are_announced(
    samples: int, size: int | None, own_pairs: str, advice: str | None, caplog: Any
) -> None:
    args = argparse.Namespace(
        expert_batch_size=size, batch_size=256, accum_freq=2, world_size=64, rank=0, seed=0
    )
    args.workers = 0
    config = EClipConfig(own_pairs=own_pairs)
    with caplog.at_level(logging.WARNING):
        loader = expert_stream(args, config, range(samples), 4, Curriculum(2, config.curriculum))
    assert isinstance(loader.batch_sampler, ExpertSlots)
    assert loader.batch_sampler.batch_size == (size or 128)
    ends = [record.message.rsplit("; ", 1)[1] for record in caplog.records]
    assert ends == ([advice] if advice else [])


def test_reports_of_shards_take_no_memory_for_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of ten million good samples would take 0.4 GB on every rank."""
    found = [ShardReport(Path("a.tar"), 10**7, 0, 10**7, 0, [], [])]
    monkeypatch.setattr(train_data, "check_shards", lambda *_, **__: found)
    args = argparse.Namespace(rank=0, world_size=1, on_bad_sample="stop")
    tracemalloc.start()
    try:
        reports = train_data.shard_reports(args, [Path("a.tar")], "a.tar", CheckOptions())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reports == found and peak < 1 << 20
    found[0].good = 0
    with pytest.raises(DataError, match="not one good sample"):
        train_data.shard_reports(args, [Path("a.tar")], "a.tar", CheckOptions())
