"""One rank of a large run without the others: its real data plan, in a single process.

torch's "fake" process group says which rank this is. What ranks exchange before training is handed
over here. No image is read: the stages that read and decode samples yield their numbers instead.
"""

from __future__ import annotations

import contextlib
import gc
import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import open_clip_train.main as host
import torch.distributed as dist
from load import MODEL
from open_clip.transform import image_transform
from peak_memory import peak_mib
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import _utils

import training_patches.train_data as train_data
from openclip_eclip.data.shards.stream import shard_name
from training_patches.release_3_3 import Patches

Outcome = Callable[..., Any]


def memory_mib() -> float:
    """Memory of this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


@contextlib.contextmanager
def rank_of(rank: int, ranks: int, shared: Outcome, on_zero: Outcome) -> Iterator[None]:
    """This process is `rank`; `shared`, `on_zero` stand for `shared_work` and `on_rank_zero`."""
    before = train_data.shared_work, train_data.on_rank_zero
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    train_data.shared_work, train_data.on_rank_zero = shared, on_zero
    try:
        yield
    finally:
        train_data.shared_work, train_data.on_rank_zero = before
        dist.destroy_process_group()


def build(rank: int, ranks: int, flags: Sequence[object]) -> Any:
    """open_clip's DataInfo of a rank, as training builds it."""
    patches = Patches()
    patches.originals = {"parse_args": host.parse_args}
    args = patches.parse_args(["--model", "tiny", "--epochs", "2", *map(str, flags)])
    args.rank, args.world_size, args.distributed = rank, ranks, True
    transform = image_transform(32, is_train=True)
    return patches.session.build_data(transform, open_clip.get_tokenizer("tiny"), 0)


class Exchange:
    """What a rank sends and receives before training; the other ranks' parts come from a file."""

    def __init__(self, rank: int, others: Path) -> None:
        self.rank, self.others = rank, others
        self.received = 0  # bytes

    def shared(self, args: Any, items: Sequence[Any], work: Callable) -> list[Any]:
        mine = pickle.dumps(work(items[self.rank :: args.world_size]))
        results: list[Any] = [None] * len(items)
        with open(self.others, "rb") as file:
            for rank in range(args.world_size):
                part = pickle.load(file)
                self.received += len(part)
                results[rank :: args.world_size] = pickle.loads(mine if rank == self.rank else part)
        return results


def start_cost(
    rank: int, ranks: int, flags: Sequence[object], shared: Outcome, on_zero: Outcome
) -> tuple[dict[str, float], Any]:
    """What the data of a rank cost at its start, and the DataInfo, which holds that memory."""
    gc.collect()
    before, cpu = memory_mib(), time.process_time()
    with rank_of(rank, ranks, shared, on_zero):
        info = build(rank, ranks, flags)
    cpu = time.process_time() - cpu
    peak = peak_mib() - before
    gc.collect()
    return {"cpu_s": cpu, "kept_mib": memory_mib() - before, "peak_mib": peak}, info


# ---- an epoch of shards


def _pipeline(info: Any) -> Any:
    return info.dataloader.loader.loader.pipeline[0].dataset


def stages_of(info: Any) -> list[Any]:
    """The stages of a loader of shards."""
    return _pipeline(info).pipeline


@contextlib.contextmanager
def worker_of(worker: int, workers: int) -> Iterator[None]:
    """This process is a data worker."""
    _utils.worker._worker_info = _utils.worker.WorkerInfo(
        id=worker, num_workers=workers, seed=worker, dataset=None
    )
    try:
        yield
    finally:
        _utils.worker._worker_info = None


class Passed:
    """Stands for a decoded sample in the stages that only count."""

    __slots__ = ("delivered", "number", "skipped")

    def __init__(self, number: int, delivered: bool) -> None:
        self.number, self.delivered = number, delivered


def _numbers(source: Any, first: dict[str, int], samples: int) -> Iterator[dict[str, Any]]:
    """Instead of `read_shards`: the numbers of a shard's samples, through all shards."""
    for shard in source:
        start = first[shard_name(shard["url"])]
        for number in range(start, start + samples):
            yield {"number": number}


def _passed(source: Any, annotated: np.ndarray) -> Iterator[Passed]:
    """Instead of `decode_stream`."""
    for sample in source:
        number = sample["number"]
        yield Passed(number, bool(annotated[number]))


def shard_batches(
    info: Any, workers: int, shards: Sequence[Path], samples: int, annotated: np.ndarray
) -> np.ndarray:
    """The samples of a rank's epoch, (batches, batch size), by the real stages of its loader.

    `annotated` (all samples,) bool. Workers take turns, as in torch's loader.
    """
    stages = stages_of(info)
    first = {str(shard): number * samples for number, shard in enumerate(shards)}
    for i, stage in enumerate(stages):
        name = getattr(getattr(stage, "func", stage), "__name__", type(stage).__name__)
        if name == "good":  # the reports do not have all annotated samples
            stage.__self__.announced = None
        if name == "read_shards":
            stages[i] = partial(_numbers, first=first, samples=samples)
        elif name == "decode_stream":
            stages[i] = partial(_passed, annotated=annotated)
        elif name == "GiveBatches":
            stage.collate = lambda some: np.array([sample.number for sample in some])
    parts = []
    for worker in range(workers):
        with worker_of(worker, workers):
            parts.append(np.stack([batch for batch, _ in _pipeline(info)]))
    # worker w gives the batches w, w + workers, ...
    return np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])


def add_model(folder: Path) -> None:
    """The model `tiny`, whose tokenizer the plan needs."""
    path = folder / "tiny.json"
    path.write_text(json.dumps(MODEL))
    open_clip.add_model_config(path)
