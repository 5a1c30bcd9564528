"""--val-data of a table: read as --train-data is, where open_clip takes paths as written alone and finds a bad row when it comes to it."""
from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Callable

import open_clip_train.data as upstream
from torch import Tensor
from torch.utils.data import Dataset

from ..data.csv_source import CsvTable, read_csv_table
from ..data.sample import read_image
from .train_data import columns_of, csv_info, good_rows


class CsvPairs(Dataset):
    """Rows as open_clip's CsvDataset gives them: image (3, H, W) float32, tokens (L,) int64. DataError for an image that can not be read."""

    def __init__(self, table: CsvTable, transform: Callable, tokenize: Callable) -> None:
        self.table, self.transform, self.tokenize = table, transform, tokenize

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = read_image(self.table.images[index], f"{self.table.name(index)}: {self.table.images[index]}")
        return self.transform(image), self.tokenize([self.table.captions[index]])[0]


def val_source(args: argparse.Namespace, transform: Callable, tokenizer: Callable) -> upstream.DataInfo:
    """Check --val-data, a table, and build its loader; heatmaps are ignored. DataError before training starts."""
    table = read_csv_table(args.val_data, replace(columns_of(args), heatmap_named=False))
    table.heatmaps = [None] * len(table)
    return csv_info(args, CsvPairs(good_rows(args, table, args.val_data, windows=False), transform, tokenizer), is_train=False)
