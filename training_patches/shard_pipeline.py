"""open_clip's webdataset pipeline with our reading at its end, and a repeatable shuffle."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import open_clip_train.data as upstream
import torch
import webdataset as wds
from torch.utils.data import get_worker_info
from webdataset.filters import _shuffle

from openclip_eclip.data.images.options import read_options
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.placebo import PlaceboHeatmaps
from openclip_eclip.data.sample import collate
from openclip_eclip.data.shards.stream import Announced as ShardAnnounced
from openclip_eclip.data.shards.stream import read_shards
from openclip_eclip.data.shards.tar_source import decode_stream, members_to_read
from openclip_eclip.streams import worker_seed

from .pass_guard import PassGuard

# last stages of open_clip's webdataset pipeline by release, which are replaced
TAILS = (
    ("_select", "_decode", "_rename", "_map_dict", "_to_tuple", "_batched"),
    ("_select", "_rename", "_select", "_map_dict", "_map_dict", "_map_dict", "_batched"),
)


def rewire(
    info: upstream.DataInfo,
    transform: JointTransform,
    tokenizer: Callable,
    args: argparse.Namespace,
    heatmaps: bool,
    placebo: PlaceboHeatmaps | None,
    windows: bool,
    announced: Mapping[str, ShardAnnounced] | None,
) -> None:
    """Put our reading and decoding at the end of open_clip's pipeline.

    Its unseeded sample shuffle is replaced by one that depends on (seed, epoch).
    """
    stages = info.dataloader.pipeline[0].dataset.pipeline
    begin = tail_of(stages, "tarfile_to_samples_nothrow", "_shuffle")
    skip = args.on_bad_sample == "skip"
    shuffle = stages[begin + 1]
    resampled = isinstance(stages[0], upstream.ResampledShards2)
    guard = PassGuard(
        args.train_data,
        args.batch_size,
        args.rank,
        skip,
        announced,
        draws=len(stages[0].urls) if resampled else 0,
    )
    stages[begin:] = [
        guard.shards,
        partial(
            read_shards,
            skip_bad=skip,
            announced=announced,
            wanted=members_to_read(args.same_text_by),
        ),
        guard.read,
        SeededShuffle(
            shuffle.kw["bufsize"], shuffle.kw["initial"], args.seed, args.rank, info.shared_epoch
        ),
        partial(
            decode_stream,
            transform=transform,
            tokenize=tokenizer,
            skip_bad=skip,
            placebo=placebo,
            windows=windows,
            heatmaps=heatmaps,
            options=read_options(args),
            group=args.same_text_by,
        ),
        guard.good,
        wds.batched(args.batch_size, partial=False, collation_fn=collate),
    ]
    if resampled:
        stages[0].worker_seed = partial(_worker_seed, args.seed, args.rank)


def tail_of(stages: Sequence[Any], *before: str) -> int:
    """Where the stages `before`, and one of TAILS behind them, begin at the end of a pipeline.

    RuntimeError for another pipeline.
    """
    names = stage_names(stages)
    for tail in TAILS:
        if names[-len(before) - len(tail) :] == (*before, *tail):
            return len(names) - len(before) - len(tail)
    raise RuntimeError(
        f"open_clip's webdataset pipeline is {names}; this version of openclip_eclip expects"
        " another one."
    )


def stage_names(stages: Sequence[Any]) -> tuple[str, ...]:
    """The names of the stages of a webdataset pipeline."""
    return tuple(
        getattr(getattr(stage, "f", stage), "__name__", type(stage).__name__) for stage in stages
    )


def _worker_seed(seed: int, rank: int, epoch: int = 0) -> int:
    """This worker's seed, the same in a resumed run; open_clip's depends on the process."""
    worker = get_worker_info()
    return worker_seed(seed, rank, worker.id if worker else 0, epoch)


class SeededShuffle(wds.PipelineStage):
    """webdataset's sample shuffle as a function of (seed, rank, worker, epoch).

    It also seeds the worker's random augmentation. webdataset seeds the shuffle from the process id
    and the clock, so no run could be resumed or repeated.
    """

    def __init__(
        self, bufsize: int, initial: int, seed: int, rank: int, epoch: upstream.SharedEpoch
    ) -> None:
        self.bufsize, self.initial, self.seed, self.rank, self.epoch = (
            bufsize,
            initial,
            seed,
            rank,
            epoch,
        )

    def run(self, source: Any) -> Any:
        seed = _worker_seed(self.seed, self.rank, self.epoch.get_value())
        if get_worker_info() is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        return _shuffle(source, self.bufsize, self.initial, random.Random(seed))
