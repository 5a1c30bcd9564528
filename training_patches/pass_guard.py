"""Which data worker reads which shards, and an error where a worker can never fill a batch.

A worker drops the batch that its shards do not fill, and begins them again. With fewer samples than
a batch it would read for ever. What the index knows is an error before training; `PassGuard` finds
the rest during training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import open_clip_train.data as upstream
from torch.utils.data import get_worker_info
from webdataset.filters import _shuffle

from openclip_eclip.config import DataError
from openclip_eclip.data.sample import Sample
from openclip_eclip.data.shards.stream import Announced, shard_name
from openclip_eclip.streams import shard_order

MAX_DRAWS = 2_000_000  # most shards to shuffle in the search for a worker with too few samples
# With shards drawn at random: draws without a good sample, in multiples of the number of shards
PATIENCE = 20
# samples that the shuffle may hold back
IN_FLIGHT = upstream._SAMPLE_SHUFFLE_SIZE + upstream._SAMPLE_SHUFFLE_INITIAL


class Share(NamedTuple):
    """The part of an epoch that one worker reads."""

    epoch: int
    rank: int
    worker: int
    shards: int
    samples: int


def check_number(args: argparse.Namespace, shards: int) -> None:
    """DataError for fewer shards than workers of all ranks, since a worker reads whole shards."""
    if getattr(args, "dataset_resampled", False) or shards >= _readers(args):
        return
    fewer = shards // args.world_size
    advice = f"give --workers {fewer}" if fewer else f"start at most {_plural(shards, 'rank')}"
    raise DataError(
        f"{args.train_data}: {_plural(shards, 'shard')} for {_spread(args)}, and each worker "
        f"reads whole shards; {advice}, write more shards, or add --dataset-resampled."
    )


def check_shares(args: argparse.Namespace, counts: Sequence[int], first_epoch: int) -> None:
    """DataError if open_clip gives a worker fewer samples than a batch in some epoch.

    `counts`: the number of good samples of each shard, in order.
    """
    share = (
        None
        if getattr(args, "dataset_resampled", False)
        else smallest_share(args, counts, first_epoch)
    )
    if share is None:
        return
    if _readers(args) == 1:
        raise DataError(
            f"{args.train_data}: {share.samples} samples do not fill one batch of "
            f"{args.batch_size}; lower --batch-size."
        )
    raise DataError(
        f"{args.train_data}: worker {share.worker} of rank {share.rank} has "
        f"{_plural(share.samples, 'sample')} in {_plural(share.shards, 'shard')} in epoch "
        f"{share.epoch}, which do not fill one batch of {args.batch_size} ({len(counts)} shards, "
        f"{sum(counts)} samples, {_spread(args)}); lower --batch-size, take fewer --workers or "
        "ranks, write more shards of equal size, or add --dataset-resampled."
    )


def _readers(args: argparse.Namespace) -> int:
    return max(1, args.workers) * args.world_size


def _spread(args: argparse.Namespace) -> str:
    return f"{_plural(args.world_size, 'rank')} x {_plural(max(1, args.workers), 'worker')}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def smallest_share(
    args: argparse.Namespace, counts: Sequence[int], first_epoch: int
) -> Share | None:
    """A worker that has fewer samples than a batch in some epoch, None if there is none.

    Shards are shuffled and split as open_clip will do it.
    """
    fewest = len(counts) // _readers(args)  # the smallest number of shards that a worker reads
    if sum(sorted(counts)[:fewest]) >= args.batch_size:
        return None  # enough for every shuffle
    epochs = max(first_epoch + 1, args.epochs)
    for epoch in range(
        first_epoch, min(epochs, first_epoch + 1 + MAX_DRAWS // max(1, len(counts)))
    ):
        for share in shares(args, counts, epoch):
            if share.samples < args.batch_size:
                return share
    return None


def shares(args: argparse.Namespace, counts: Sequence[int], epoch: int) -> list[Share]:
    """The part of every worker in an epoch: open_clip's shuffle and split by rank and worker."""
    workers = max(1, args.workers)
    order = list(
        _shuffle(
            iter(counts),
            upstream._SHARD_SHUFFLE_SIZE,
            upstream._SHARD_SHUFFLE_INITIAL,
            shard_order(args.seed, epoch),
        )
    )
    parts = {
        (rank, worker): order[rank :: args.world_size][worker::workers]
        for rank in range(args.world_size)
        for worker in range(workers)
    }
    return [Share(epoch, *key, len(part), sum(part)) for key, part in parts.items()]


class PassGuard:
    """Three counting stages of a worker's pipeline: DataError instead of a loop without a batch.

    `shards` is the stage where shards are named, `read` where samples leave their shard, `good`
    before they become batches. `announced`: the counts of the check for each shard; a whole pass
    must bring all of them, except samples that `skip_bad` leaves out. `draws`: the number of shards
    that are drawn at random without end (--dataset-resampled); 0: a pass ends with the last shard.
    """

    def __init__(
        self,
        path: str,
        batch_size: int,
        rank: int,
        skip_bad: bool,
        announced: Mapping[str, Announced] | None,
        draws: int = 0,
    ) -> None:
        self.path, self.batch_size, self.rank = path, batch_size, rank
        self.skip_bad, self.draws = skip_bad, draws
        self.announced = announced
        self.opened: list[str] = []  # shards of this pass, or drawn since the last good sample
        self.raw = 0
        self.is_whole = True  # no sample of this pass was skipped as consumed

    def shards(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Begin a pass. DataError in an endless pass after many shards without a good sample."""
        self.opened, self.raw, self.is_whole = [], 0, True
        for shard in source:
            if (
                self.draws
                and len(self.opened) > PATIENCE * self.draws
                and (self.raw == 0 or self.raw > 2 * IN_FLIGHT)
            ):
                raise DataError(
                    self._sentence(f"{len(self.opened)} shards drawn in a row gave no good sample")
                )
            self.opened.append(shard["url"])
            yield shard

    def pass_over(self) -> None:
        """Skip a sample that was consumed before the run was interrupted."""
        self.is_whole = False
        if self.draws:
            self.opened, self.raw = [], 0

    def read(self, source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in source:
            self.raw += 1
            yield sample

    def good(self, source: Iterable[Sample]) -> Iterator[Sample]:
        count = annotated = 0
        for sample in source:
            count += 1
            annotated += sample.delivered
            if self.draws:
                self.opened, self.raw = [], 0
            yield sample
        if not self.is_whole:
            return
        if count < self.batch_size:
            raise DataError(
                self._sentence(
                    f"a whole pass over {_plural(len(self.opened), 'shard')} gave {count} good "
                    f"samples of {self.raw}, and no batch of {self.batch_size}"
                )
            )
        if self.announced is not None:
            announced = [self.announced[shard_name(url)] for url in self.opened]
            self._compare(announced, count, annotated)

    def _compare(self, announced: Sequence[Announced], count: int, annotated: int) -> None:
        """DataError where a whole pass differs from the counts of the check for its shards."""
        good = sum(shard.good for shard in announced)
        maps = sum(shard.annotated for shard in announced)
        missing = good - count
        is_equal = annotated == maps and not missing
        # with --on-bad-sample skip, unreadable images are missing: the check does not decode images
        is_explained = annotated >= maps - missing and (annotated > 0 or not maps)
        if is_equal or (self.skip_bad and is_explained):
            return
        raise DataError(
            self._sentence(
                f"the check announced {good} good samples, {maps} of them annotated, and a whole "
                f"pass brought {count} and {annotated}"
            )
        )

    def _sentence(self, reason: str) -> str:
        worker = get_worker_info()
        return (
            f"{self.path}: worker {worker.id if worker else 0} of rank {self.rank}: {reason}. "
            "Repair the samples, lower --batch-size, or take fewer --workers or ranks."
        )
