"""--val-data, which is checked and read like --train-data.

open_clip itself takes a table's paths only as written, and finds a bad row only when it reads it.
It lets webdataset decode every member of a shard, pickles included.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import open_clip_train.data as upstream
import webdataset as wds
from torch import Tensor
from torch.utils.data import Dataset

from openclip_eclip.config import DataError
from openclip_eclip.data.images.options import ReadOptions, read_options
from openclip_eclip.data.sample import read_image
from openclip_eclip.data.shards.index import CheckOptions
from openclip_eclip.data.shards.members import IMAGE_MEMBERS, find_member, member_faults
from openclip_eclip.data.shards.stream import read_shards
from openclip_eclip.data.shards.tar_source import read_caption, sample_content
from openclip_eclip.data.tables.csv_source import CsvTable

from .shard_flags import local_shards
from .shard_pipeline import tail_of
from .train_data import csv_info, good_rows, is_table, shard_reports

logger = logging.getLogger(__name__)

Pair = tuple[Tensor, Tensor]  # image (3, H, W) float32, tokens (L,) int64


class CsvPairs(Dataset):
    """Pairs of open_clip's CsvDataset: image (3, H, W) float32, tokens (L,) int64.

    DataError for an image that cannot be read.
    """

    def __init__(
        self,
        table: CsvTable,
        transform: Callable,
        tokenize: Callable,
        options: ReadOptions = ReadOptions(),
    ) -> None:
        self.table, self.transform = table, transform
        self.tokenize, self.options = tokenize, options

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Pair:
        path = self.table.images[index]
        assert path is not None, "`good_rows` leaves out a row without an image"
        image = read_image(path, f"{self.table.name(index)}: {path}", options=self.options)
        return self.transform(image), self.tokenize([self.table.captions[index]])[0]


def val_source(
    args: argparse.Namespace, transform: Callable, tokenizer: Callable
) -> upstream.DataInfo:
    """Check --val-data with its images, and build its loader; heatmaps are ignored.

    A DataError comes before training starts.
    """
    if not is_table(args.val_data, args.dataset_type):
        return _shard_source(args, transform, tokenizer)
    table = good_rows(
        args, args.val_data, heatmaps=False, windows=False, images=True, heatmap_named=False
    )
    return csv_info(args, CsvPairs(table, transform, tokenizer, read_options(args)), is_train=False)


def _shard_source(
    args: argparse.Namespace, transform: Callable, tokenizer: Callable
) -> upstream.DataInfo:
    shards = local_shards(args.val_data)
    announced, count = None, args.val_num_samples
    if shards is not None:
        options = CheckOptions(heatmaps=False, images=True, read=read_options(args))
        reports = shard_reports(args, shards, args.val_data, options)
        announced = {str(report.shard): report.announced for report in reports}
        count = sum(report.good for report in reports)
        if args.val_num_samples is None:
            logger.info(
                "eclip: --val-num-samples is not given: %d, as counted in the shards", count
            )
        elif args.val_num_samples != count:
            logger.warning(
                "eclip: --val-num-samples %d, but the shards of --val-data hold %d: all of them are"
                " used",
                args.val_num_samples,
                count,
            )
    filled = argparse.Namespace(**{**vars(args), "val_num_samples": count})
    info = upstream.get_wds_dataset(filled, transform, is_train=False, tokenizer=tokenizer)
    stages = info.dataloader.pipeline[0].dataset.pipeline
    begin = tail_of(stages, "tarfile_samples")
    skip = args.on_bad_sample == "skip"
    stages[begin:] = [
        partial(read_shards, skip_bad=skip, announced=announced),
        partial(
            decode_pairs,
            transform=transform,
            tokenize=tokenizer,
            skip_bad=skip,
            options=read_options(args),
        ),
        wds.batched(args.batch_size, partial=True),
    ]
    return info


def decode_pairs(
    stream: Iterable[dict[str, Any]],
    transform: Callable,
    tokenize: Callable,
    skip_bad: bool,
    options: ReadOptions = ReadOptions(),
) -> Iterator[Pair]:
    """Stage of open_clip's webdataset pipeline: raw members in, (image, tokens) out.

    A bad sample is an error or, with `skip_bad`, named in the log.
    """
    for members in stream:
        where = f"{members['__url__']}, {members['__key__']}"
        try:
            content = sample_content(members)
            for member, message in member_faults(content, heatmaps=False, windows=False):
                raise DataError(f"{where}, {member}: {message}.")
            key = find_member(content, IMAGE_MEMBERS)
            assert key is not None, "`member_faults` names a sample without an image"
            pair = (
                transform(read_image(content[key], f"{where}.{key}", mode="RGB", options=options)),
                tokenize([read_caption(content, where)])[0],
            )
        except DataError as error:
            if not skip_bad:
                raise
            logger.warning("eclip: skipped bad sample: %s", error)
            continue
        yield pair
