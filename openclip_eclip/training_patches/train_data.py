"""open_clip's training data with heatmaps: checked first, then built by open_clip's own functions with our samples inside."""
from __future__ import annotations

import argparse
import logging
import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import open_clip_train.data as upstream
import torch
import torch.distributed as dist
import webdataset as wds
from torch.utils.data import Dataset, Subset, get_worker_info
from webdataset.filters import _shuffle

from ..config import SHUFFLES
from ..data.check import Report, check_entries, check_table, raise_faults
from ..data.csv_source import CsvColumns, CsvSamples, CsvTable, read_column_names, read_csv_table
from ..data.expert_stream import EXPERT_ID
from ..data.heatmap import DataError
from ..data.heatmap_control import HeatmapControl, entries_control, table_control
from ..data.joint_transform import JointTransform
from ..data.read_options import read_options
from ..data.sample import Sample, collate, stable_id
from ..data.tar_source import TarEntry, TarSamples, decode_stream, index_shard

logger = logging.getLogger(__name__)

REMOTE = ("pipe:", "s3:", "gs:", "http:", "https:", "ftp:", "hf:")
TAIL = ("_select", "_decode", "_rename", "_map_dict", "_to_tuple", "_batched")  # of open_clip's webdataset pipeline


@dataclass
class TrainSource:
    """open_clip's DataInfo over our samples, and what is known of the annotated ones before training."""

    info: upstream.DataInfo
    annotated: bool
    total: int | None = None  # samples, however many of them an epoch takes; None: not known before they come
    windows: int | None = 0  # samples that carry sentence windows; None: not known before they come
    names: dict[int, str] = field(default_factory=dict)  # sample_id -> file and row or key, of annotated samples
    samples: Dataset | None = None  # those with a heatmap, one by one; None: without any, or not known before they come


def on_rank_zero(args: argparse.Namespace, work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 and give its result, or its DataError, to every rank."""
    result: list[Any] = [None]
    if args.rank == 0:
        try:
            result = [work()]
        except DataError as error:
            result = [error]
    if args.world_size > 1:
        dist.broadcast_object_list(result, src=0)
    if isinstance(result[0], DataError):
        raise result[0]
    return result[0]


def columns_of(args: argparse.Namespace) -> CsvColumns:
    return replace(read_column_names(args), label=args.csv_label_key)


def is_table(path: str, dataset_type: str) -> bool:
    """Whether open_clip would read `path` as CSV."""
    return dataset_type == "csv" or (dataset_type == "auto" and path.rsplit(".", 1)[-1] in ("csv", "tsv"))


def train_source(args: argparse.Namespace, transform: JointTransform, tokenizer: Callable, epoch: int,
                 heatmaps: bool, windows: bool = False) -> TrainSource:
    """Check --train-data and build its loader, whose batches are those of `collate`; without `heatmaps` or `windows` these are ignored."""
    if args.dataset_type == "synthetic":
        info = upstream.get_synthetic_dataset(args, transform, is_train=True, tokenizer=tokenizer)
        info.dataloader.collate_fn = _collate_plain
        return TrainSource(info, annotated=False)
    if is_table(args.train_data, args.dataset_type):
        return _table_source(args, transform, tokenizer, heatmaps, windows)
    return _shard_source(args, transform, tokenizer, epoch, heatmaps, windows)


def expert_samples(args: argparse.Namespace, transform: JointTransform, tokenizer: Callable,
                   windows: bool = False) -> tuple[Dataset, dict[int, str], int]:
    """Check --expert-data; its annotated samples, their names by sample_id, and how many carry sentence windows, 0 unless `windows`.

    DataError if no sample is annotated.
    """
    if is_table(args.expert_data, "auto"):
        table = read_csv_table(args.expert_data, columns_of(args))
        table = good_rows(args, table, args.expert_data, windows)
        total, table = len(table), table.keep(table.annotated)
        samples: Dataset = CsvSamples(table, transform, tokenizer, first_id=EXPERT_ID, skip_bad=args.on_bad_sample == "skip",
                                      control=_table_control(args, transform, table, EXPERT_ID), windows=windows,
                                      options=read_options(args))
        told = table.with_windows
        names = {EXPERT_ID + table.rows[i]: table.name(i) for i in range(len(table))}
    else:
        shards = _local_shards(args.expert_data)
        if shards is None:
            raise DataError("--expert-data must be files of this machine: its samples are read one by one.")
        entries, total, _ = _annotated_entries(args, shards, args.expert_data, windows)
        told = sum(entry.with_windows for entry in entries)
        ids = range(EXPERT_ID, EXPERT_ID + len(entries))
        samples = TarSamples(entries, transform, tokenizer, ids, _entries_control(args, transform, entries, ids), windows,
                             read_options(args))
        names = {i: entry.where for i, entry in zip(ids, entries)}
    if not names:
        raise DataError(f"--expert-data {args.expert_data}: no annotated sample among {total}; expected heatmaps in the column "
                        f"{args.csv_heatmap_key!r} or members heatmap.png, .npy, .npz.")
    if len(names) < total:
        logger.info("eclip: --expert-data %s: %d of %d samples are annotated, the others are not used",
                    args.expert_data, len(names), total)
    return samples, names, told if windows else 0


def _checked(args: argparse.Namespace, check: Callable[[], tuple[Report, Any]], path: str) -> Any:
    """What `check` returns beside its report, computed on rank 0 and given to all.

    Faults stop the run or, with --on-bad-sample skip, are counted and named. DataError if no sample is good.
    """
    def work() -> tuple[Any, list[str], tuple[int, int]]:
        report, result = check()
        if args.on_bad_sample == "stop":
            raise_faults(report, path)
        if not report.good:
            raise DataError(f"{path}: not one good sample.")
        return result, [str(fault) for fault in report.faults], (report.samples - len(report.good), report.samples)

    result, faults, counts = on_rank_zero(args, work)
    for fault in faults:
        logger.warning("eclip: skipped bad sample: %s", fault)
    if faults:
        logger.warning("eclip: %s: skipped %d of %d samples", path, *counts)
    return result


def good_rows(args: argparse.Namespace, table: CsvTable, path: str, windows: bool) -> CsvTable:
    """The table without its bad rows, which stop the run or, with --on-bad-sample skip, are named."""
    def check() -> tuple[Report, list[int]]:
        report = check_table(table, windows=windows, options=read_options(args))
        return report, report.good

    return table.keep(_checked(args, check, path))


def _annotated_entries(args: argparse.Namespace, shards: list[Path], path: str, windows: bool) -> tuple[list[TarEntry], int, int]:
    """(good annotated samples of the shards, number of good samples, of those with windows); the others are not sent to all ranks."""
    def check() -> tuple[Report, Any]:
        entries = [entry for shard in shards for entry in index_shard(shard)]
        report = check_entries(entries, windows=windows, options=read_options(args))
        good = [entries[i] for i in report.good]
        return report, ([entry for entry in good if entry.annotated], len(good), sum(entry.with_windows for entry in good))

    return _checked(args, check, path)


def csv_info(args: argparse.Namespace, samples: Dataset, is_train: bool) -> upstream.DataInfo:
    """What open_clip's get_csv_dataset makes of `samples`."""
    replaced, upstream.CsvDataset = upstream.CsvDataset, lambda *_, **__: samples
    try:
        return upstream.get_csv_dataset(args, None, is_train=is_train)
    finally:
        upstream.CsvDataset = replaced


def _table_source(args: argparse.Namespace, transform: JointTransform, tokenizer: Callable, heatmaps: bool, windows: bool) -> TrainSource:
    table = read_csv_table(args.train_data, columns_of(args))
    if not heatmaps:
        table.heatmaps = [None] * len(table)
    table = good_rows(args, table, args.train_data, windows)
    samples = CsvSamples(table, transform, tokenizer, skip_bad=args.on_bad_sample == "skip",
                         control=_table_control(args, transform, table) if table.annotated else None, windows=windows,
                         options=read_options(args))
    info = csv_info(args, samples, is_train=True)
    info.dataloader.collate_fn = collate
    if info.dataloader.num_batches == 0:
        raise DataError(f"{args.train_data}: {len(table)} samples do not fill one batch of {args.batch_size} on each of "
                        f"{args.world_size} ranks; lower --batch-size.")
    annotated = table.annotated
    return TrainSource(info, bool(annotated), len(table), table.with_windows, {table.rows[i]: table.name(i) for i in annotated},
                       Subset(samples, annotated) if annotated else None)


def _table_control(args: argparse.Namespace, transform: JointTransform, table: CsvTable, first_id: int = 0) -> HeatmapControl | None:
    kind = args.eclip_heatmap_control
    return table_control(kind, args.seed, transform.crop.size, table, first_id) if kind else None


def _entries_control(args: argparse.Namespace, transform: JointTransform, entries: list[TarEntry],
                     ids: Sequence[int]) -> HeatmapControl | None:
    kind = args.eclip_heatmap_control
    return entries_control(kind, args.seed, transform.crop.size, entries, ids, args.csv_label_key) if kind else None


def _local_shards(path: str) -> list[Path] | None:
    """The shards behind `path` in open_clip's notation, or None if one is not a file of this machine."""
    urls = upstream.expand_urls(path)[0]
    if any(str(url).startswith(REMOTE) for url in urls):
        return None
    missing = [url for url in urls if not Path(url).is_file()]
    if missing:
        raise DataError(f"{path}: no such shard: {missing[0]} ({len(missing)} of {len(urls)} missing).")
    return [Path(url) for url in urls]


def _shard_source(args: argparse.Namespace, transform: JointTransform, tokenizer: Callable, epoch: int,
                  heatmaps: bool, windows: bool) -> TrainSource:
    shards = on_rank_zero(args, lambda: _local_shards(args.train_data))
    annotated, total, told, names, entries = heatmaps, None, None, {}, []
    if shards is None:
        if args.eclip_heatmap_control in SHUFFLES:
            raise DataError(f"--eclip-heatmap-control {args.eclip_heatmap_control} with a --train-data that is not on this machine: the maps of "
                            "other samples can not be read; copy the shards, or take random, centre, ones or phase-scrambled.")
        logger.info("eclip: --train-data is not local: heatmaps are checked as they come")
    else:
        entries, total, told = _annotated_entries(args, shards, args.train_data, windows)
        entries = entries if heatmaps else []
        annotated, names = bool(entries), {stable_id(entry.where): entry.where for entry in entries}
    control = None if shards is not None and not annotated else _entries_control(args, transform, entries, list(names))
    info = upstream.get_wds_dataset(args, transform, is_train=True, epoch=epoch, tokenizer=tokenizer)
    _rewire(info, transform, tokenizer, args, heatmaps, control, windows)
    samples = TarSamples(entries, transform, tokenizer, list(names), control, windows, read_options(args)) if entries else None
    return TrainSource(info, annotated, total, told, names, samples)


def _rewire(info: upstream.DataInfo, transform: JointTransform, tokenizer: Callable, args: argparse.Namespace,
            heatmaps: bool, control: HeatmapControl | None, windows: bool) -> None:
    """Put our decoding at the end of open_clip's pipeline, and its unseeded sample shuffle under (seed, epoch)."""
    stages = info.dataloader.pipeline[0].dataset.pipeline
    names = tuple(getattr(getattr(stage, "f", stage), "__name__", type(stage).__name__) for stage in stages)
    if names[-len(TAIL) - 2:] != ("tarfile_to_samples_nothrow", "_shuffle", *TAIL):
        raise RuntimeError(f"open_clip's webdataset pipeline is {names}; this version of openclip_eclip knows another one.")
    skip = args.on_bad_sample == "skip"
    shuffle = stages[-len(TAIL) - 1]
    ignore = [] if heatmaps else [wds.map(_without_heatmap)]
    stages[-len(TAIL) - 2:] = [
        partial(upstream.tarfile_to_samples_nothrow, handler=upstream.log_and_continue if skip else _broken_shard),
        SeededShuffle(shuffle.kw["bufsize"], shuffle.kw["initial"], args.seed, args.rank, info.shared_epoch),
        *ignore,
        partial(decode_stream, transform=transform, tokenize=tokenizer, skip_bad=skip, control=control, windows=windows,
                options=read_options(args)),
        wds.batched(args.batch_size, partial=False, collation_fn=collate),
    ]
    if isinstance(stages[0], upstream.ResampledShards2):
        stages[0].worker_seed = partial(_worker_seed, args.seed, args.rank)


def _broken_shard(error: Exception) -> bool:
    raise DataError(f"webdataset shard could not be read: {error!r}") from error


def _without_heatmap(sample: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sample.items() if not key.startswith("heatmap.")}


def _worker_seed(seed: int, rank: int) -> int:
    """Of this data worker, the same in a resumed run (open_clip's own depends on the process)."""
    worker = get_worker_info()
    return int(np.random.SeedSequence([seed, rank, worker.id if worker else 0]).generate_state(1)[0])


class SeededShuffle(wds.PipelineStage):
    """webdataset's sample shuffle, and the worker's random augmentation, as functions of (seed, rank, worker, epoch).

    Upstream seeds the shuffle from the process id and the clock, so that no run could be resumed or repeated.
    """

    def __init__(self, bufsize: int, initial: int, seed: int, rank: int, epoch: upstream.SharedEpoch) -> None:
        self.bufsize, self.initial, self.seed, self.rank, self.epoch = bufsize, initial, seed, rank, epoch

    def run(self, source: Any) -> Any:
        seed = _worker_seed(self.seed, self.rank) + self.epoch.get_value()
        if get_worker_info() is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        return _shuffle(source, self.bufsize, self.initial, random.Random(seed))


def _collate_plain(pairs: list[tuple[Any, torch.Tensor]]) -> Any:
    return collate([Sample(image[0], text, i) for i, (image, text) in enumerate(pairs)])
