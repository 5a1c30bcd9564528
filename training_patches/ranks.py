"""Work on the data before training, shared by ranks, with a long time limit.

The limit of the process group (NCCL: ten minutes) is for training steps. The check of a large data
set takes longer, and the ranks that wait for it must not be killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from openclip_eclip.config import DataError

WAIT = timedelta(hours=24)
T = TypeVar("T")


@contextmanager
def patient_group() -> Iterator[Any]:
    """A group of all ranks that waits on the CPU for `WAIT`, not for the limit of training."""
    group = dist.new_group(backend="gloo", timeout=WAIT)
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def on_rank_zero(args: argparse.Namespace, work: Callable[[], T]) -> T:
    """Run `work` on rank 0; every rank gets its result, or raises its DataError."""
    result: list[Any] = [None]
    if args.world_size == 1:
        return work()
    with patient_group() as group:
        if args.rank == 0:
            result = [_outcome(work)]
        dist.broadcast_object_list(result, src=0, group=group)
    return _result(result[0])


def shared_work(
    args: argparse.Namespace, items: Sequence[Any], work: Callable[[Sequence[Any]], list[T]]
) -> list[T]:
    """`work(items)` with each rank doing a part; every rank gets all results, in order.

    A DataError of one rank is raised on all of them.
    """
    if args.world_size == 1:
        return work(items)
    parts: list[Any] = [None] * args.world_size
    with patient_group() as group:
        dist.all_gather_object(
            parts, _outcome(lambda: work(items[args.rank :: args.world_size])), group=group
        )
    results: list[Any] = [None] * len(items)
    for rank, part in enumerate(parts):
        results[rank :: args.world_size] = _result(part)
    return results


def _outcome(work: Callable[[], T]) -> T | DataError:
    try:
        return work()
    except DataError as error:
        return error


def _result(outcome: Any) -> Any:
    if isinstance(outcome, DataError):
        raise outcome
    return outcome
