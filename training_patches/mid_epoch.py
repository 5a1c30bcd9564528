"""A loader that resumes in the middle of an epoch, with the batches and draws of the first run.

The epoch is built exactly as at its start: the same random state gives the same order of samples
and the same seeds of the data workers. Consumed batches pass as placeholders and are not decoded.
Transforms draw from the random streams of the worker that decodes. So every batch carries its
worker's random state, which the worker restores on resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .pass_guard import PassGuard
from .resume import random_state, set_random_state
from .signals import ignore_in_worker


@dataclass(frozen=True)
class WorkerState:
    """The state of a data worker after a batch.

    `random` is packed on its way to the main process: a tensor would need a file descriptor there.
    """

    worker: int
    taken: int  # samples taken from its shards in this epoch, bad ones too; 0 for tables
    random: dict[str, Any] | None  # None without worker processes: the main process's state counts


@dataclass(frozen=True)
class Position:
    """Where an epoch is resumed on one rank: before batch `batch`."""

    batch: int
    start: Mapping[str, Any]  # `random_state` before the first batch of the epoch
    now: Mapping[str, Any]  # `random_state` after the last consumed batch
    workers: Mapping[int, WorkerState] = field(default_factory=dict)  # those with a consumed batch

    def passing(self, worker: int, workers: int) -> int:
        """The number of consumed batches of `worker` out of `workers`, which take turns."""
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
    """A random state with arrays instead of tensors, 4 bytes a number instead of 8."""
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


class Table(Protocol):
    """A map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class ResumableTable(Dataset):
    """A map-style data set whose consumed batches pass as placeholders in a resumed epoch."""

    def __init__(self, samples: Table, collate: Callable[[list[Any]], Any]) -> None:
        self.samples, self.collate_samples = samples, collate
        self.begin_epoch(0, None)

    def begin_epoch(self, epoch: int, position: Position | None) -> None:
        """Call it in the main process before the workers start; they live for one epoch."""
        self.position, self.count = position, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: Sequence[int]) -> list[Any] | None:
        self.count += 1
        position = self.position
        passing = 0 if position is None else position.passing(*_this_worker())
        if self.count > passing:
            return [self.samples[i] for i in indices]
        if position is not None and self.count == passing:
            _restore_worker(position)
        return None

    def collate(self, samples: list[Any] | None) -> tuple[Any, WorkerState | None]:
        """(batch, state of its worker), or (None, None) for a consumed batch."""
        return (None, None) if samples is None else (self.collate_samples(samples), _worker_state())


class ShardProgress:
    """The progress of a worker in the epoch, shared by the stages around its decoding."""

    def __init__(self, shared_epoch: Any) -> None:
        self.shared_epoch = shared_epoch
        self.epoch, self.taken, self.to_pass, self.batches = -1, 0, 0, 0
        self.begin_epoch(-1, None)

    def begin_epoch(self, epoch: int, position: Position | None) -> None:
        """Call it in the main process before the workers start; they outlive `epoch`."""
        self.position_epoch, self.position = epoch, position

    def begin_pass(self) -> None:
        """Call it before each pass over the shards; an epoch may need several."""
        epoch = self.shared_epoch.get_value()
        if epoch == self.epoch:
            return
        self.epoch, self.taken, self.to_pass, self.batches = epoch, 0, 0, 0
        if self.position is not None and self.position_epoch == epoch:
            self.batches = self.position.passing(*_this_worker())
            state = self.position.workers.get(_this_worker()[0])
            self.to_pass = state.taken if state else 0

    def take(self) -> bool:
        """Count a sample, and return whether it must be decoded."""
        self.taken += 1
        if self.position is not None and self.taken == self.to_pass:
            _restore_worker(self.position)
        return self.taken > self.to_pass

    def placeholders(self) -> int:
        """The number of consumed batches; 0 from the second call of an epoch on."""
        count, self.batches = self.batches, 0
        return count


class TakeSamples(wds.PipelineStage):
    """Stage before the decoding: skips the members of consumed samples."""

    def __init__(self, progress: ShardProgress, guard: PassGuard) -> None:
        self.progress, self.guard = progress, guard

    def run(self, source: Any) -> Iterator[Any]:
        self.progress.begin_pass()  # now, not at the first sample: `GiveBatches` needs it earlier
        return self._take(source)

    def _take(self, source: Any) -> Iterator[Any]:
        for members in source:
            if self.progress.take():
                yield members
            else:
                self.guard.pass_over()


class GiveBatches(wds.PipelineStage):
    """Stage instead of webdataset's batching: placeholders, then (batch, `WorkerState`).

    webdataset decodes the first sample of the next batch before it yields a batch, so no state
    belongs to the end of a batch. Samples that fill no batch in a pass are dropped, as there.
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

    `num_batches` and `num_samples` are those of a whole epoch. `keeps_workers`: whether the workers
    live for the whole run.
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
        """Call it before iteration; `position`: where the epoch is resumed, None at its start."""
        self.epoch, self.position = epoch, position
        self.start: Mapping[str, Any] | None = None
        self.states: dict[int, WorkerState] = dict(position.workers) if position else {}
        self.parts.begin_epoch(epoch, position)

    @property
    def dataset(self) -> Table | None:
        """The samples of a table, None for shards."""
        return self.parts.samples if isinstance(self.parts, ResumableTable) else None

    @property
    def first_batch(self) -> int:
        """Number of the first batch that iteration yields."""
        return self.position.batch if self.position else 0

    def __iter__(self) -> Iterator[Any]:
        position = self.position
        if position is not None:
            set_random_state(position.start)
        self.start = random_state()
        if position is not None and position.batch == self.num_batches:
            set_random_state(position.now)
            return
        # Workers of a whole run are seeded once, in epoch 0. A resumed run starts its workers in a
        # later epoch, which draws a seed: the state before that draw is restored.
        before = torch.get_rng_state() if self.keeps_workers and self.epoch > 0 else None
        for i, (batch, state) in enumerate(self.loader):
            if before is not None:
                torch.set_rng_state(before)
                before = None
            if position is None or i >= position.batch:
                self.states[state.worker] = state
                yield batch
            elif i + 1 == position.batch:
                set_random_state(position.now)

    def checkpoint_state(self) -> dict[str, Any]:
        """This rank's part of a `Position`, without `batch` and `now`, in tensors and numbers."""
        assert self.start is not None, "an epoch has begun"
        workers = {}
        for number, state in self.states.items():
            unpacked = state.random and _unpacked(state.random)
            workers[number] = {"taken": state.taken, "random": unpacked}
        return {"start": dict(self.start), "workers": workers}


def position_from(batch: int, now: Mapping[str, Any], state: Mapping[str, Any]) -> Position:
    """The `Position` of a stored `ResumableLoader.checkpoint_state`."""
    workers = {
        number: WorkerState(number, worker["taken"], worker["random"])
        for number, worker in state["workers"].items()
    }
    return Position(batch, state["start"], now, workers)


def resumable(loader: Any, shared_epoch: Any = None) -> ResumableLoader:
    """Wrap open_clip's loader of our samples: a DataLoader, or a WebLoader of our pipeline."""
    counts = loader.num_batches, loader.num_samples
    if isinstance(loader, DataLoader):
        table = ResumableTable(cast(Table, loader.dataset), loader.collate_fn)
        # it draws as open_clip's loader does: in its batch sampler, and one seed of the workers
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
    inner.pin_memory = torch.cuda.is_available()  # as open_clip's loader of tables does
    return ResumableLoader(loader, progress, *counts, keeps_workers=inner.persistent_workers)
