"""--val-data of a table: read as --train-data is, where open_clip takes paths as written alone and finds a bad row when it comes to it."""
from __future__ import annotations

import argparse
from typing import Callable

import open_clip_train.data as upstream
from torch import Tensor
from torch.utils.data import Dataset

from ..data.csv_source import CsvTable, read_csv_table
from ..data.read_options import ReadOptions, read_options
from ..data.sample import read_image
from .train_data import columns_of, csv_info, good_rows


class CsvPairs(Dataset):
    """Rows as open_clip's CsvDataset gives them: image (3, H, W) float32, tokens (L,) int64. DataError for an image that can not be read."""

    def __init__(self, table: CsvTable, transform: Callable, tokenize: Callable, options: ReadOptions = ReadOptions()) -> None:
        self.table, self.transform, self.tokenize, self.options = table, transform, tokenize, options

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = read_image(self.table.images[index], f"{self.table.name(index)}: {self.table.images[index]}", options=self.options)
        return self.transform(image), self.tokenize([self.table.captions[index]])[0]


def val_source(args: argparse.Namespace, transform: Callable, tokenizer: Callable) -> upstream.DataInfo:
    """Check --val-data, a table, and build its loader; heatmaps are ignored. DataError before training starts."""
    table = read_csv_table(args.val_data, columns_of(args))
    table.heatmaps = [None] * len(table)
    pairs = CsvPairs(good_rows(args, table, args.val_data, windows=False), transform, tokenizer, read_options(args))
    return csv_info(args, pairs, is_train=False)
