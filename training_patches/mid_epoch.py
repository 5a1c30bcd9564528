"""A loader that begins in the middle of an epoch, with the batches and draws of the run before.

The epoch is built exactly as at its start: from the same random state come the same order of
samples and the same seeds of the data workers. Batches that were consumed then pass as
placeholders, undecoded. Transforms draw from the running random streams of the worker that
decodes, so every batch carries its worker's state, and the worker takes it up where it left off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .pass_guard import PassGuard
from .resume import random_state, set_random_state
from .signals import ignore_in_worker


@dataclass(frozen=True)
class WorkerState:
    """Of a data worker once it had made a batch.

    `random` is packed on its way to the main process: a tensor would take a file descriptor there.
    """

    worker: int
    taken: int  # samples it had taken from its shards in this epoch, bad ones too; 0 for tables
    random: dict[str, Any] | None  # None without worker processes: it is the main process's


@dataclass(frozen=True)
class Position:
    """Where an epoch is continued on one rank: before batch `batch`."""

    batch: int
    start: Mapping[str, Any]  # `random_state` before the first batch of the epoch
    now: Mapping[str, Any]  # and after the last one that was consumed
    workers: Mapping[int, WorkerState] = field(default_factory=dict)  # with a consumed batch

    def passing(self, worker: int, workers: int) -> int:
        """How many of the consumed batches `worker` of `workers` made: they take turns."""
        return len(range(worker, self.batch, workers))


def _this_worker() -> tuple[int, int]:
    """(number, count); (0, 1) without worker processes."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _worker_state(taken: int = 0) -> WorkerState:
    if get_worker_info() is None:
        return WorkerState(0, taken, None)
    return WorkerState(_this_worker()[0], taken, _packed(random_state(with_cuda=False)))


def _restore_worker(position: Position) -> None:
    state = position.workers.get(_this_worker()[0])
    if state is not None and state.random is not None:
        set_random_state(state.random)


def _packed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays for tensors, of 4 bytes a number where these have 8."""
    return {
        key: (
            value.numpy().astype(np.uint32 if value.dtype == torch.int64 else np.uint8)
            if isinstance(value, torch.Tensor)
            else value
        )
        for key, value in state.items()
    }


def _unpacked(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: (
            torch.from_numpy(value.astype(np.int64 if value.dtype == np.uint32 else np.uint8))
            if isinstance(value, np.ndarray)
            else value
        )
        for key, value in state.items()
    }


class ResumableTable(Dataset):
    """A map-style data set whose first batches pass as placeholders when an epoch is continued."""

    def __init__(self, samples: Dataset, collate: Callable[[list[Any]], Any]) -> None:
        self.samples, self.collate_samples = samples, collate
        self.begin_epoch(0, None)

    def begin_epoch(self, epoch: int, position: Position | None) -> None:
        """In the main process, before the workers are started; they live for one epoch."""
        self.position, self.count = position, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: Sequence[int]) -> list[Any] | None:
        self.count += 1
        passing = self.position.passing(*_this_worker()) if self.position else 0
        if self.count > passing:
            return [self.samples[i] for i in indices]
        if self.count == passing:
            _restore_worker(self.position)
        return None

    def collate(self, samples: list[Any] | None) -> tuple[Any, WorkerState | None]:
        """(batch, state of its worker), or (None, None) for a batch that passes."""
        return (None, None) if samples is None else (self.collate_samples(samples), _worker_state())


class ShardProgress:
    """How far a worker is in the epoch: what the stages around its decoding of shards share."""

    def __init__(self, shared_epoch: Any) -> None:
        self.shared_epoch = shared_epoch
        self.epoch, self.taken, self.to_pass, self.batches = -1, 0, 0, 0
        self.begin_epoch(-1, None)

    def begin_epoch(self, epoch: int, position: Position | None) -> None:
        """In the main process, before the workers are started: they outlive `epoch`."""
        self.position_epoch, self.position = epoch, position

    def begin_pass(self) -> None:
        """Over the shards; an epoch may take several."""
        epoch = self.shared_epoch.get_value()
        if epoch == self.epoch:
            return
        self.epoch, self.taken, self.to_pass, self.batches = epoch, 0, 0, 0
        if self.position is not None and self.position_epoch == epoch:
            self.batches = self.position.passing(*_this_worker())
            state = self.position.workers.get(_this_worker()[0])
            self.to_pass = state.taken if state else 0

    def take(self) -> bool:
        """Count one sample; whether it is to be decoded."""
        self.taken += 1
        if self.taken == self.to_pass:
            _restore_worker(self.position)
        return self.taken > self.to_pass

    def placeholders(self) -> int:
        """How many batches pass, told once an epoch."""
        count, self.batches = self.batches, 0
        return count


class TakeSamples(wds.PipelineStage):
    """Before the decoding: lets the members of consumed samples go by."""

    def __init__(self, progress: ShardProgress, guard: PassGuard) -> None:
        self.progress, self.guard = progress, guard

    def run(self, source: Any) -> Iterator[Any]:
        self.progress.begin_pass()  # now, not at the first sample: `GiveBatches` asks before that
        return self._take(source)

    def _take(self, source: Any) -> Iterator[Any]:
        for members in source:
            if self.progress.take():
                yield members
            else:
                self.guard.pass_over()


class GiveBatches(wds.PipelineStage):
    """Instead of webdataset's batching: placeholders, then (batch, `WorkerState`).

    webdataset decodes the first sample of the next batch before it gives a batch away, so that no
    state belongs to the end of one. Samples that fill no batch in a pass are dropped, as there.
    """

    def __init__(self, progress: ShardProgress, size: int, collate: Callable[..., Any]) -> None:
        self.progress, self.size, self.collate = progress, size, collate

    def run(self, source: Any) -> Iterator[tuple[Any, WorkerState | None]]:
        for _ in range(self.progress.placeholders()):
            yield None, None
        samples: list[Any] = []
        for sample in source:
            samples.append(sample)
            if len(samples) == self.size:
                yield self.collate(samples), _worker_state(self.progress.taken)
                samples = []


class ResumableLoader:
    """Batches of `loader`, from `first_batch` on.

    `num_batches` and `num_samples` are those of a whole epoch. `keeps_workers`: for the whole run.
    """

    def __init__(
        self,
        loader: Any,
        parts: ResumableTable | ShardProgress,
        num_batches: int,
        num_samples: int,
        keeps_workers: bool,
    ) -> None:
        self.loader, self.parts, self.keeps_workers = loader, parts, keeps_workers
        self.num_batches, self.num_samples = num_batches, num_samples
        self.begin_epoch(0, None)

    def begin_epoch(self, epoch: int, position: Position | None) -> None:
        """Before iteration: `position` is where the epoch is continued, None its start."""
        self.epoch, self.position = epoch, position
        self.start: Mapping[str, Any] | None = None
        self.states: dict[int, WorkerState] = dict(position.workers) if position else {}
        self.parts.begin_epoch(epoch, position)

    @property
    def dataset(self) -> Dataset | None:
        """The samples of a table, None for shards."""
        return self.parts.samples if isinstance(self.parts, ResumableTable) else None

    @property
    def first_batch(self) -> int:
        """Number of the first batch that iteration gives."""
        return self.position.batch if self.position else 0

    def __iter__(self) -> Iterator[Any]:
        if self.position is not None:
            set_random_state(self.position.start)
        self.start = random_state()
        if self.first_batch == self.num_batches:
            set_random_state(self.position.now)
            return
        # kept workers are seeded once, in epoch 0: a resumed run draws no seed in a later one
        kept = torch.get_rng_state() if self.keeps_workers and self.epoch > 0 else None
        for i, (batch, state) in enumerate(self.loader):
            if kept is not None:
                torch.set_rng_state(kept)
                kept = None
            if i >= self.first_batch:
                self.states[state.worker] = state
                yield batch
            elif i + 1 == self.first_batch:
                set_random_state(self.position.now)

    def checkpoint_state(self) -> dict[str, Any]:
        """Of this rank, in tensors and numbers: what a `Position` needs beside batch and `now`."""
        workers = {}
        for number, state in self.states.items():
            unpacked = state.random and _unpacked(state.random)
            workers[number] = {"taken": state.taken, "random": unpacked}
        return {"start": dict(self.start), "workers": workers}


def position_from(batch: int, now: Mapping[str, Any], state: Mapping[str, Any]) -> Position:
    """Undo `ResumableLoader.checkpoint_state`."""
    workers = {
        number: WorkerState(number, one["taken"], one["random"])
        for number, one in state["workers"].items()
    }
    return Position(batch, state["start"], now, workers)


def resumable(loader: Any, shared_epoch: Any = None) -> ResumableLoader:
    """Of open_clip's loader over our samples: a DataLoader, or a WebLoader of our pipeline."""
    counts = loader.num_batches, loader.num_samples
    if isinstance(loader, DataLoader):
        table = ResumableTable(loader.dataset, loader.collate_fn)
        # draws as open_clip's own does: in its batch sampler, and one seed of the workers an epoch
        batches = DataLoader(
            table,
            batch_sampler=loader.batch_sampler,
            collate_fn=table.collate,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            worker_init_fn=ignore_in_worker,
        )
        return ResumableLoader(batches, table, *counts, keeps_workers=False)
    inner, progress = loader.pipeline[0], ShardProgress(shared_epoch)
    stages = inner.dataset.pipeline
    names = [
        getattr(getattr(stage, "func", getattr(stage, "f", None)), "__name__", "")
        for stage in stages
    ]
    decoding, batching = names.index("decode_stream"), names.index("_batched")
    size, collate = stages[batching].args[0], stages[batching].kw["collation_fn"]
    stages[batching] = GiveBatches(progress, size, collate)
    owners = (getattr(stage, "__self__", None) for stage in stages)
    guard = next(owner for owner in owners if isinstance(owner, PassGuard))
    stages.insert(decoding, TakeSamples(progress, guard))
    inner.worker_init_fn = ignore_in_worker
    return ResumableLoader(loader, progress, *counts, keeps_workers=inner.persistent_workers)
