"""Loaders of annotated samples beside the batches: --expert-data, and oversampled training data."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_stream import ALWAYS, ExpertSlots, expert_loader
from openclip_eclip.config import EClipConfig
from openclip_eclip.data.sample import Samples

from .signals import ignore_in_worker
from .train_data import TrainSource

logger = logging.getLogger(__name__)


def expert_stream(
    args: argparse.Namespace,
    config: EClipConfig,
    samples: Samples,
    num_batches: int,
    curriculum: Curriculum,
) -> DataLoader:
    """The loader of --expert-data.

    A warning where a step has more slots than there are samples: copies of a sample in one step are
    negatives of each other unless --eclip-own-pairs says otherwise.
    """
    size = args.expert_batch_size or max(1, args.batch_size // 2)
    batches = args.accum_freq * args.world_size  # of a step
    if size * batches > len(samples) and config.own_pairs == "diagonal" and args.rank == 0:
        enough = len(samples) // batches
        logger.warning(
            "eclip: --expert-data has %d annotated samples, and a step has room for %d, %d on each"
            " rank: copies of a sample in one step count as negatives of each other; give %s",
            len(samples),
            size * batches,
            size * args.accum_freq,
            f"--expert-batch-size {enough}" if enough else "--eclip-own-pairs mask",
        )
    return _stream(args, config, samples, size, num_batches, curriculum)


def oversampled_stream(
    args: argparse.Namespace, config: EClipConfig, source: TrainSource, objectives: Sequence[Any]
) -> DataLoader | None:
    """The stream that fills batches up to an objective's share of annotated images.

    None where the data has at least half of that share.
    """
    wanted = max((objective.oversample for objective in objectives), default=0.0)
    if wanted == 0 or not source.annotated:
        return None
    if source.samples is None:
        logger.warning(
            "eclip: --train-data is not local: its annotated images cannot be oversampled to"
            " fill %.3g %% of a batch",
            100 * wanted,
        )
        return None
    assert source.total is not None, "known samples are counted"
    share = len(source.names) / source.total
    if share >= wanted / 2:
        return None
    count = max(1, round((wanted - share) * args.batch_size))
    logger.info(
        "eclip: %.3g %% of --train-data has heatmaps: each batch of a rank gets %d of these"
        " images once more, for alignment alone",
        100 * share,
        count,
    )
    batches = source.info.dataloader.num_batches
    return _stream(args, config, source.samples, count, batches, Curriculum(1, ALWAYS))


def _stream(
    args: argparse.Namespace,
    config: EClipConfig,
    samples: Samples,
    size: int,
    num_batches: int,
    curriculum: Curriculum,
) -> DataLoader:
    """A loader of up to `size` of `samples` for every batch of the training data."""
    slots = ExpertSlots(
        len(samples),
        size,
        num_batches,
        curriculum,
        config.alpha,
        seed=args.seed,
        accum_freq=args.accum_freq,
        rank=args.rank,
        world_size=args.world_size,
        fixed_lam=config.lam,
    )
    loader = expert_loader(samples, slots, min(2, args.workers))
    loader.worker_init_fn = ignore_in_worker
    return loader
