"""A dry run of the data plan of 64 ranks over ten million pairs, on one small machine.

    python scripts/costs/scale.py --work WORK --out docs/results/scale.md

Each rank's plan is built as training builds it (`scale_ranks`), and no image is read. The shards
are hard links to one shard; the check of a few is measured, and their record is written for all.
The epoch of all ranks is counted at a scale of 1 / 32: shards, batches and shuffle buffers of that
part of the samples, but as many shards, ranks, workers and batches. Some ranks are counted in full.
CPU seconds count, since other work may run beside it. It takes about four minutes of one core, 4 GB
of memory and 1 GB of disk. Each part runs in a process of its own; its figures stay in WORK.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

NODES, GPUS, WORKERS, BATCH = 8, 8, 8, 256
RANKS = NODES * GPUS
READERS = RANKS * WORKERS
SAMPLES, SHARDS = 1024, 19 * READERS  # a worker's 19 shards are 76 whole batches
PLAIN_SAMPLES, PLAIN_SHARDS = 1000, 10_000  # as `prepare` writes ten million by default
SHARE = 20  # one sample in 20 has a heatmap
ROWS, CHECKED_ROWS = 10_000_000, 500_000
SCALE, SOME = 32, (0, 21, 42, 63)  # of epochs that are counted for all ranks; ranks in full
EXPERTS = 1083  # images of EGD-CXR
FLAGS = ["--method", "align", "--workers", WORKERS, "--warmup", 1]
FLAGS += ["--device", "cpu", "--precision", "fp32"]


def shards_of(work: Path, count: int) -> list[Path]:
    return [work / "shards" / f"train-{i:06d}.tar" for i in range(count)]


def shard_flags(work: Path, count: int) -> list[object]:
    return [*FLAGS, "--train-data", f"{work}/shards/train-{{000000..{count - 1:06d}}}.tar"]


def table_flags(work: Path, rows: int) -> list[object]:
    return [*FLAGS, "--train-data", work / f"rows{rows}" / "train.csv"]


# ---- parts, each in a process of its own


def files(work: Path) -> dict[str, float]:
    """Writes shards, their records, and what every rank sends to the others."""
    from load import write_rows, write_shards

    from openclip_eclip.data.images.options import ReadOptions
    from openclip_eclip.data.shards import index

    options = index.CheckOptions(True, False, read=ReadOptions())
    write_shards(work / "shards", 1, SAMPLES, SHARE)
    shards = shards_of(work, max(SHARDS, PLAIN_SHARDS))
    for shard in shards[1:]:
        os.link(shards[0], shard)
    few = shards[:16]
    cpu = time.process_time()
    report = index.check_shards(few, options, progress=False)[0]
    first = (time.process_time() - cpu) / len(few)
    for shard in shards[len(few) :]:
        entries = [replace(entry, shard=shard) for entry in report.annotated]
        index._store(replace(report, shard=shard, annotated=entries), os.stat(shard), options)
    cpu = time.process_time()
    reports = index.check_shards(shards[:SHARDS], options, progress=False)
    later = (time.process_time() - cpu) / SHARDS
    with open(work / "exchange", "wb") as file:
        for rank in range(RANKS):
            pickle.dump(pickle.dumps(reports[rank::RANKS]), file)
    for rows in (ROWS, CHECKED_ROWS):
        write_rows(work / f"rows{rows}", rows, SHARE)
    size = sum(path.stat().st_size for path in (work / "shards" / index.FOLDER).iterdir())
    return {"first_s": first, "later_s": later, "record_kb": size / len(shards) / 1000}


def start_shards(work: Path, rank: int) -> dict[str, float]:
    """The later start of a rank: its own shards' records, all ranks' reports, the plan."""
    import scale_ranks

    exchange = scale_ranks.Exchange(rank, work / "exchange")
    cost, _ = scale_ranks.start_cost(
        rank,
        RANKS,
        [*shard_flags(work, SHARDS), "--batch-size", BATCH],
        exchange.shared,
        lambda args, do: do(),
    )
    return cost | {"received_mib": exchange.received / 2**20}


def start_table(work: Path, rank: int, rows: int) -> dict[str, float]:
    """The start of a rank with a table. Only rank 0 asks for the files and checks the rows."""
    import scale_ranks

    bits = np.packbits(np.ones(rows, bool))
    locations = {"images": bits, "heatmaps": bits, "windows": bits[:0]}

    def on_zero(args: Any, do: Callable) -> Any:
        return do() if rank == 0 else (locations, [], [], rows)

    return scale_ranks.start_cost(
        rank, RANKS, [*table_flags(work, rows), "--batch-size", BATCH], None, on_zero
    )[0]


def shard_epoch(
    work: Path,
    count: int,
    samples: int,
    *flags: object,
    ranks: Sequence[int] = range(RANKS),
    scale: int = SCALE,
) -> dict[str, Any]:
    """The first epoch of some ranks, at a scale of 1 / `scale`."""
    import open_clip_train.data as upstream
    import scale_ranks

    samples //= scale
    upstream._SAMPLE_SHUFFLE_SIZE //= scale
    upstream._SAMPLE_SHUFFLE_INITIAL //= scale
    shards = shards_of(work, count)
    every = [*shard_flags(work, count), "--batch-size", BATCH // scale, *flags]
    reports = _reports(shards, samples)  # the start is measured elsewhere
    spread = np.arange(count * samples) % SHARE == 0
    begun, epoch = time.process_time(), []
    for rank in ranks:
        with scale_ranks.rank_of(rank, RANKS, lambda *_: reports, lambda *_: shards):
            info = scale_ranks.build(rank, RANKS, every)
            epoch.append(scale_ranks.shard_batches(info, WORKERS, shards, samples, spread))
    batches = np.stack(epoch)  # (ranks, batches, batch size)
    # the same number of annotated samples, all in the last shards
    behind = np.arange(count * samples) >= count * samples - spread.sum()
    shard = batches[:, :, 0] // samples
    order = float(np.corrcoef(shard.mean(axis=0), np.arange(batches.shape[1]))[0, 1])
    numbers = batches.ravel()
    read = np.unique(numbers // samples)  # shards, all of them with all ranks
    place = np.searchsorted(read, numbers // samples) * samples + numbers % samples
    figures = {"cpu_s": time.process_time() - begun, "order": order}
    figures |= seen(place, len(read) * samples)
    figures |= {"shards": len(read), "batches": batches.shape[1]}
    return figures | {"spread": annotated(spread[batches]), "behind": annotated(behind[batches])}


def resampled(work: Path) -> dict[str, float]:
    """The shards that all workers draw in an epoch with --dataset-resampled, a worker's 19 each."""
    from itertools import islice

    import scale_ranks

    from training_patches.shard_pipeline import _worker_seed

    flags = [*shard_flags(work, SHARDS), "--batch-size", BATCH, "--dataset-resampled"]
    shards = shards_of(work, SHARDS)
    reports = _reports(shards, SAMPLES)
    with scale_ranks.rank_of(0, RANKS, lambda *_: reports, lambda *_: shards):
        info = scale_ranks.build(0, RANKS, flags)
    stage = scale_ranks.stages_of(info)[0]
    drawn = []
    for rank in range(RANKS):
        stage.worker_seed = partial(_worker_seed, 0, rank)  # as `rewire` sets it
        for worker in range(WORKERS):
            with scale_ranks.worker_of(worker, WORKERS):
                urls = [entry["url"] for entry in islice(stage, SHARDS // READERS)]
            drawn += [int(url.rsplit("-", 1)[1].removesuffix(".tar")) for url in urls]
    return seen(np.array(drawn), SHARDS) | {"batches": info.dataloader.num_batches}


def _reports(shards: Sequence[Path], samples: int) -> list[Any]:
    """The check's reports, in which one annotated sample stands for all."""
    from openclip_eclip.data.shards import index
    from openclip_eclip.data.shards.tar_source import TarEntry

    entry = TarEntry(shards[0], "0", {"txt": (0, 0), "png": (0, 0), "heatmap.png": (0, 0)})
    report = index.ShardReport(shards[0], samples, 1, samples, 0, [], [entry])
    return [replace(report, shard=shard) for shard in shards]


def seen(numbers: np.ndarray, total: int) -> dict[str, float]:
    """Shares of the samples that come never, once, more often, and the most views of one."""
    counts = np.bincount(numbers, minlength=total)
    shares = [float((counts == times).mean()) for times in (0, 1)]
    more = float((counts > 1).mean())
    return {"never": shares[0], "once": shares[1], "more": more, "most": int(counts.max())}


def annotated(marks: np.ndarray) -> dict[str, float]:
    """`marks` (ranks, batches, batch size) bool."""
    counts = marks.sum(axis=2)  # (ranks, batches)
    share = marks.mean(axis=(1, 2))
    return {
        "smallest": float(share.min()),
        "mean": float(share.mean()),
        "largest": float(share.max()),
        "empty": float((counts == 0).mean()),
        "most": int(counts.max()),
    }


def table_epoch(work: Path) -> dict[str, float]:
    """The first epoch of all ranks over a table, by torch's sampler, at a scale of 1 / SCALE."""
    from peak_memory import peak_mib
    from torch.utils.data import BatchSampler, DistributedSampler

    numbers = []
    for rank in range(RANKS):
        sampler = DistributedSampler(range(ROWS // SCALE), num_replicas=RANKS, rank=rank)
        numbers.append(np.array(list(BatchSampler(sampler, BATCH // SCALE, drop_last=True))))
    figures = seen(np.concatenate(numbers).ravel(), ROWS // SCALE) | {"batches": len(numbers[0])}
    before, cpu = peak_mib(), time.process_time()
    next(iter(DistributedSampler(range(ROWS), num_replicas=RANKS, rank=0)))
    return figures | {"cpu_s": time.process_time() - cpu, "peak_mib": peak_mib() - before}


def experts(work: Path) -> dict[str, float]:
    """The separate stream of annotated samples: 50 steps of all ranks, and the time of a batch."""
    from openclip_eclip.batching.curriculum import Curriculum
    from openclip_eclip.batching.expert_stream import ALWAYS, ExpertSlots

    steps, figures = 50, {}
    for size, batch in ((EXPERTS, BATCH // 2), (EXPERTS, EXPERTS // RANKS), (ROWS // SHARE, 16)):
        slots: list[int] = []
        most, begun = 0, time.process_time()
        drawn = [
            list(
                ExpertSlots(
                    *(size, batch, steps, Curriculum(1, ALWAYS), 0.3),
                    seed=0,
                    rank=rank,
                    world_size=RANKS,
                )
            )
            for rank in range(RANKS)
        ]
        cpu = time.process_time() - begun
        for step in range(steps):
            of_step = [item for rank in drawn for item in rank[step]]
            slots += [slot for slot, *_ in of_step]
            most = max(most, int(np.bincount([index for _, index, _ in of_step]).max()))
        assert sorted(slots) == list(range(steps * RANKS * batch)), "each slot once"
        figures[f"{size} x {batch}"] = {"ms": 1000 * cpu / steps / RANKS, "most": most}
    return figures


PARTS: dict[str, Callable[[Path], Any]] = {
    "files": files,
    "start, shards": lambda work: start_shards(work, 0),
    "epoch, even": lambda work: shard_epoch(work, SHARDS, SAMPLES),
    "epoch, some ranks": lambda work: shard_epoch(work, SHARDS, SAMPLES, ranks=SOME, scale=1),
    "epoch, plain": lambda work: shard_epoch(
        work, PLAIN_SHARDS, PLAIN_SAMPLES, ranks=SOME, scale=1
    ),
    "start, table": lambda work: start_table(work, 1, ROWS),
    "start, table, first rank": lambda work: start_table(work, 0, CHECKED_ROWS),
    "epoch, table": table_epoch,
    "epoch, resampled": resampled,
    "experts": experts,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of data and figures")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if args.part:
        import scale_ranks

        scale_ranks.add_model(work)
        print(json.dumps(PARTS[args.part](work)))
        return
    kept = work / "figures.json"
    figures = json.loads(kept.read_text()) if kept.is_file() else {}
    for part in PARTS:
        if part not in figures:
            command = [
                sys.executable,
                "-W",
                "ignore",
                __file__,
                "--work",
                str(work),
                "--part",
                part,
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=work)
            figures[part] = json.loads(done.stdout.splitlines()[-1])
            kept.write_text(json.dumps(figures, indent=1) + "\n")
            print(part, json.dumps(figures[part]), flush=True)
    if args.out:
        from scale_page import page

        args.out.write_text("\n".join(page(figures)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
