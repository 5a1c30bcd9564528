"""Training data with heatmaps: checked first, then built by open_clip with our samples inside."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip_train.data as upstream
from torch.utils.data import Dataset, Subset

from openclip_eclip.batching.expert_stream import EXPERT_ID
from openclip_eclip.config import SHUFFLES, DataError
from openclip_eclip.data.check import Report, check_table, raise_faults
from openclip_eclip.data.images.options import read_options
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.placebo import PlaceboHeatmaps, entries_placebo, table_placebo
from openclip_eclip.data.repeated_texts import describe_repeats
from openclip_eclip.data.sample import Sample, SampleBatch, Samples, collate, stable_id
from openclip_eclip.data.shards.index import CheckOptions, ShardReport, check_shards, join_reports
from openclip_eclip.data.shards.stream import expand_shards
from openclip_eclip.data.shards.tar_source import TarEntry, TarSamples
from openclip_eclip.data.tables.csv_source import (
    CsvColumns,
    CsvSamples,
    CsvTable,
    read_column_names,
    read_csv_table,
)

from .announced import Announced
from .pass_guard import check_number, check_shares
from .ranks import on_rank_zero, shared_work
from .shard_flags import check_factors, local_shards, train_samples, warn_sizes
from .shard_pipeline import rewire

logger = logging.getLogger(__name__)


@dataclass
class TrainSource:
    """open_clip's DataInfo over our samples, and facts about them before training.

    None stands for a fact that is not known before the data are read.
    """

    info: upstream.DataInfo
    annotated: bool  # whether any sample may have a heatmap
    total: int | None = None  # number of samples, however many of them an epoch takes
    windows: int | None = 0  # number of samples with sentence windows
    # sample_id -> file and row or key, of annotated samples
    names: dict[int, str] = field(default_factory=dict)
    samples: Samples | None = None  # the annotated samples; None also without any
    announced: Announced | None = None  # checks every batch
    header: list[str] = field(default_factory=list)  # columns of the table, for messages


def columns_of(args: argparse.Namespace) -> CsvColumns:
    return replace(read_column_names(args), label=args.csv_label_key, group=args.same_text_by)


def is_table(path: str, dataset_type: str) -> bool:
    """Whether open_clip would read `path` as CSV."""
    return dataset_type == "csv" or (
        dataset_type == "auto" and path.rsplit(".", 1)[-1] in ("csv", "tsv")
    )


def train_source(
    args: argparse.Namespace,
    transform: JointTransform,
    tokenizer: Callable,
    epoch: int,
    heatmaps: bool,
    windows: bool = False,
) -> TrainSource:
    """Check --train-data and build its loader, whose batches are those of `collate`.

    `heatmaps`, `windows`: whether heatmaps and sentence windows are read.
    """
    if args.dataset_type == "synthetic":
        info = upstream.get_synthetic_dataset(args, transform, is_train=True, tokenizer=tokenizer)
        info.dataloader.collate_fn = _collate_plain
        return TrainSource(info, annotated=False)
    if is_table(args.train_data, args.dataset_type):
        return _table_source(args, transform, tokenizer, heatmaps, windows)
    return _shard_source(args, transform, tokenizer, epoch, heatmaps, windows)


def expert_samples(
    args: argparse.Namespace, transform: JointTransform, tokenizer: Callable, windows: bool = False
) -> tuple[CsvSamples | TarSamples, dict[int, str], int]:
    """Check --expert-data and return (annotated samples, names by sample_id, number with windows).

    The number of samples with sentence windows is 0 unless `windows`. DataError if no sample is
    annotated.
    """
    if is_table(args.expert_data, "auto"):
        table = good_rows(args, args.expert_data, heatmaps=True, windows=windows)
        near = table.near_heatmap
        total, table = len(table), table.keep(table.annotated)
        samples: CsvSamples | TarSamples = CsvSamples(
            table,
            transform,
            tokenizer,
            first_id=EXPERT_ID,
            skip_bad=args.on_bad_sample == "skip",
            placebo=_table_placebo(args, transform, table, EXPERT_ID),
            windows=windows,
            options=read_options(args),
        )
        with_windows = table.with_windows
        names = {EXPERT_ID + table.rows[i]: table.name(i) for i in range(len(table))}
    else:
        shards, near = local_shards(args.expert_data), ""
        if shards is None:
            raise DataError(
                "--expert-data must be files of this machine: its samples are read individually."
            )
        reports = shard_reports(
            args,
            shards,
            args.expert_data,
            CheckOptions(windows=windows, read=read_options(args), group=args.same_text_by),
        )
        entries = [entry for report in reports for entry in report.annotated]
        total = sum(report.good for report in reports)
        with_windows = sum(entry.with_windows for entry in entries)
        ids = range(EXPERT_ID, EXPERT_ID + len(entries))
        samples = TarSamples(
            entries,
            transform,
            tokenizer,
            ids,
            _entries_placebo(args, transform, entries, ids),
            windows,
            read_options(args),
            args.same_text_by,
        )
        names = {i: entry.where for i, entry in zip(ids, entries)}
    if not names:
        raise DataError(
            f"--expert-data {args.expert_data}: no annotated sample among {total}; expected"
            f" heatmaps in the column {columns_of(args).heatmap!r} or members heatmap.png, .npy,"
            f" .npz.{near}"
        )
    if len(names) < total:
        logger.info(
            "eclip: --expert-data %s: %d of %d samples are annotated, the others are not used",
            args.expert_data,
            len(names),
            total,
        )
    return samples, names, with_windows if windows else 0


def _good_or_stop(args: argparse.Namespace, report: Report, good: int, path: str) -> None:
    """DataError for bad samples, unless --on-bad-sample is skip, and if none of them is `good`."""
    for warning in report.warnings if args.rank == 0 else ():
        logger.warning("eclip: %s: %s", path, warning)
    if args.on_bad_sample == "stop":
        raise_faults(report, path)
    if not good:
        raise DataError(f"{path}: not one good sample.")


def _warn_faults(faults: Sequence[Any], skipped: int, samples: int, path: str) -> None:
    for fault in faults:
        logger.warning("eclip: skipped bad sample: %s", fault)
    if faults:
        logger.warning("eclip: %s: skipped %d of %d samples", path, skipped, samples)


def good_rows(
    args: argparse.Namespace,
    path: str,
    heatmaps: bool,
    windows: bool,
    images: bool = False,
    heatmap_named: bool = True,
) -> CsvTable:
    """The table without its bad rows.

    Bad rows stop the run or, with --on-bad-sample skip, are named in the log. Rank 0 alone searches
    for files; the other ranks read the table and get the locations from it. `heatmaps`: whether
    they are kept; `images`: whether all are decoded. `heatmap_named` False: a column that
    --csv-heatmap-key names may be missing.
    """
    tables: list[CsvTable] = []  # this rank's, once it is read
    columns = columns_of(args)
    columns = replace(columns, heatmap_named=columns.heatmap_named and heatmap_named)
    if path == args.val_data:  # its classes are not asked for, and its texts are all negatives
        columns = replace(columns, label=None, group=None)

    def read(locations: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        table = read_csv_table(path, columns, locations)
        locations = table.locations
        if not heatmaps:
            table = table.without_heatmaps()
        if images:  # --val-data, where no sentence is read
            table = table.without_windows()
        tables.append(table)
        return locations

    def work() -> tuple[dict[str, np.ndarray], list[int], list[str], int]:
        locations, table = read(), tables[0]
        report = check_table(
            table, windows=windows, decode_images=images, options=read_options(args)
        )
        _good_or_stop(args, report, len(report.good), path)
        bad = np.setdiff1d(np.arange(len(table)), report.good).tolist()
        return locations, bad, [str(fault) for fault in report.faults], report.samples

    locations, bad, faults, samples = on_rank_zero(args, work)
    _warn_faults(faults, len(bad), samples, path)
    if not tables:
        read(locations)
    (table,) = tables
    return table.keep(np.setdiff1d(np.arange(len(table)), bad).tolist()) if bad else table


def shard_reports(
    args: argparse.Namespace, shards: list[Path], path: str, options: CheckOptions
) -> list[ShardReport]:
    """The check's report on each shard; every rank checks a part of them.

    Only annotated samples are sent to all ranks. Bad samples stop the run or, with --on-bad-sample
    skip, are counted and named. DataError if no sample is good.
    """
    reports = shared_work(
        args, shards, lambda part: check_shards(part, options, progress=args.rank == 0)
    )
    report, good = join_reports(reports), sum(report.good for report in reports)
    _good_or_stop(args, report, good, path)
    _warn_faults(report.faults, report.samples - good, report.samples, path)
    return reports


def csv_info(args: argparse.Namespace, samples: Dataset, is_train: bool) -> upstream.DataInfo:
    """The DataInfo that open_clip's get_csv_dataset builds over `samples`."""
    replaced, upstream.CsvDataset = upstream.CsvDataset, lambda *_, **__: samples
    try:
        return upstream.get_csv_dataset(args, None, is_train=is_train)
    finally:
        upstream.CsvDataset = replaced


def _table_source(
    args: argparse.Namespace,
    transform: JointTransform,
    tokenizer: Callable,
    heatmaps: bool,
    windows: bool,
) -> TrainSource:
    # with --expert-data, the named column may be in that table alone
    table = good_rows(args, args.train_data, heatmaps, windows, heatmap_named=not args.expert_data)
    _advise_same_text(args, table.captions)
    samples = CsvSamples(
        table,
        transform,
        tokenizer,
        skip_bad=args.on_bad_sample == "skip",
        placebo=_table_placebo(args, transform, table) if table.annotated else None,
        windows=windows,
        options=read_options(args),
    )
    info = csv_info(args, samples, is_train=True)
    info.dataloader.collate_fn = collate
    if info.dataloader.num_batches == 0:
        raise DataError(
            f"{args.train_data}: {len(table)} samples do not fill one batch of {args.batch_size} on"
            f" each of {args.world_size} ranks; lower --batch-size."
        )
    annotated = table.annotated
    names = {table.rows[i]: table.name(i) for i in annotated}
    return TrainSource(
        info,
        bool(annotated),
        len(table),
        table.with_windows,
        names,
        Subset(samples, annotated) if annotated else None,
        Announced(names, len(table), args.train_data),
        table.header,
    )


def _advise_same_text(args: argparse.Namespace, captions: Sequence[str]) -> None:
    batch = args.batch_size * args.accum_freq * args.world_size
    line = describe_repeats(captions, batch) if args.same_text is None and args.rank == 0 else None
    if line:
        logger.info("eclip: --train-data: %s", line)


def _table_placebo(
    args: argparse.Namespace, transform: JointTransform, table: CsvTable, first_id: int = 0
) -> PlaceboHeatmaps | None:
    kind = args.eclip_placebo
    return table_placebo(kind, args.seed, transform.crop.size, table, first_id) if kind else None


def _entries_placebo(
    args: argparse.Namespace, transform: JointTransform, entries: list[TarEntry], ids: Sequence[int]
) -> PlaceboHeatmaps | None:
    kind = args.eclip_placebo
    return (
        entries_placebo(kind, args.seed, transform.crop.size, entries, ids, args.csv_label_key)
        if kind
        else None
    )


def _shard_source(
    args: argparse.Namespace,
    transform: JointTransform,
    tokenizer: Callable,
    epoch: int,
    heatmaps: bool,
    windows: bool,
) -> TrainSource:
    check_factors(args)
    shards = on_rank_zero(args, lambda: local_shards(args.train_data))
    check_number(args, len(expand_shards(args.train_data)))
    annotated, total, with_windows = heatmaps, None, None
    names, entries, announced = {}, [], None
    if shards is None:
        if args.eclip_placebo in SHUFFLES:
            raise DataError(
                f"--eclip-placebo {args.eclip_placebo} with a --train-data that is"
                " not on this machine: the maps of other samples cannot be read; copy the shards,"
                " or take random, centre, ones or phase-scrambled."
            )
        logger.info("eclip: --train-data is not local: heatmaps are checked as they are read")
        count = train_samples(args, None)
    else:
        reports = shard_reports(
            args,
            shards,
            args.train_data,
            CheckOptions(heatmaps, windows, read=read_options(args), group=args.same_text_by),
        )
        counts = [report.good for report in reports]
        warn_sizes(shards, [report.samples for report in reports])
        check_shares(args, counts, epoch)
        total = sum(counts)
        count = train_samples(args, total)
        with_windows = sum(report.windows for report in reports)
        entries = [entry for report in reports for entry in report.annotated]
        names = {stable_id(entry.where): entry.where for entry in entries}
        annotated = bool(entries)
        announced = {str(report.shard): report.announced for report in reports}
    placebo = (
        None
        if shards is not None and not annotated
        else _entries_placebo(args, transform, entries, list(names))
    )
    filled = argparse.Namespace(**{**vars(args), "train_num_samples": count})
    info = upstream.get_wds_dataset(
        filled, transform, is_train=True, epoch=epoch, tokenizer=tokenizer
    )
    rewire(info, transform, tokenizer, args, heatmaps, placebo, windows, announced)
    samples = (
        TarSamples(
            entries,
            transform,
            tokenizer,
            list(names),
            placebo,
            windows,
            read_options(args),
            args.same_text_by,
        )
        if entries
        else None
    )
    return TrainSource(
        info,
        annotated,
        total,
        with_windows,
        names,
        samples,
        None if total is None else Announced(names, None, args.train_data),
    )


def _collate_plain(pairs: list[Any]) -> SampleBatch:
    """`pairs`: (image, text), or by the release a dict of both."""
    both = (pair.values() if isinstance(pair, dict) else pair for pair in pairs)
    return collate([Sample(image[0], text, i) for i, (image, text) in enumerate(both)])
