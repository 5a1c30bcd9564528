"""The user's tables as the benchmark's own, and the tasks that the test data allow."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...attention.methods import trained_method
from ...config import UserError
from ...data.shards.stream import expand_paths
from ...data.tables.csv_source import (
    CsvTable,
    read_column_names,
    read_columns,
    read_csv_table,
)
from ...data.tables.missing_text import is_missing
from ...evaluate.inputs.encoder import RANDOM, load_encoder
from ...files import sha256, write_whole
from ..rows import Flags

GROUNDING = "grounding"  # the task that measures attention
MOST_LOADERS = 4
CACHED = 100 * 2**20  # bytes of image files that a worker keeps in memory, decoded


@dataclass(frozen=True)
class Data:
    """The data of a benchmark, under OUT/data.

    `train`: a table or shards; `rows`: number of training samples; `annotated`: of them with a map,
    None for shards; `tasks`: {task of openclip_eclip.evaluate: its flags}; `size`: bytes of all
    image files, None for shards; `facts`: what identifies the data, for the settings of the folder.
    """

    train: str
    validation: Path
    test: Path
    rows: int
    annotated: int | None
    tasks: Mapping[str, Flags]
    size: int | None
    facts: Mapping[str, Any]

    @property
    def is_small(self) -> bool:
        """Whether all images fit in memory."""
        return self.size is not None and self.size <= CACHED

    @property
    def loader_processes(self) -> int:
        """The default of --workers; each process reads whole shards."""
        if self.is_small:
            return 0
        return MOST_LOADERS if self.train.endswith(".csv") else min(MOST_LOADERS, self.shards)

    @property
    def shards(self) -> int:
        """The number of shards of the training data."""
        return len(expand_paths(self.train))


def read_data(args: argparse.Namespace, model: str) -> Data:
    """Check the tables and write them with absolute paths and our column names.

    `model`: the name or folder of the trained model, whose tower says how its attention is read.

    UserError or DataError: a table that cannot be read, no annotation, test images in the training
    data, too few rows.
    """
    folder = args.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    columns = read_column_names(args)
    tables = {
        flag: read_csv_table(path, columns)
        for flag, path in (("--val-data", args.val_data), ("--test-data", args.test_data))
    }
    shards = Path(args.train_data).suffix == ".tar"
    if not shards:
        tables["--train-data"] = read_csv_table(args.train_data, columns)
        if not tables["--train-data"].annotated:
            raise UserError(
                f"--train-data {args.train_data}: no row has a heatmap; expected some, because the"
                f" benchmark tests what they bring.{tables['--train-data'].near_heatmap}"
            )
    elif args.train_num_samples is None:
        raise UserError(
            f"--train-data {args.train_data}: shards; also give their number of samples, with"
            " --train-num-samples."
        )
    _check_disjoint(tables)
    names = {"--train-data": "train.csv", "--val-data": "validation.csv", "--test-data": "test.csv"}
    for flag, table in tables.items():
        if len(table) < 10:
            raise UserError(f"{flag} {table.path}: {len(table)} rows; expected at least 10.")
        _write(table, folder / names[flag], args if flag == "--test-data" else None)
    train = tables.get("--train-data")
    return Data(
        train=str(folder / "train.csv") if train else str(args.train_data),
        validation=folder / "validation.csv",
        test=folder / "test.csv",
        rows=len(train) if train else args.train_num_samples,
        annotated=len(train.annotated) if train else None,
        tasks=_tasks(args, tables["--test-data"], folder, model),
        size=sum(_size(table) for table in tables.values()) if train else None,
        facts={
            **{names[flag]: sha256(folder / names[flag]) for flag in tables},
            **({} if train else {"shards": [str(path) for path in expand_paths(args.train_data)]}),
        },
    )


def _check_disjoint(tables: Mapping[str, CsvTable]) -> None:
    """UserError: an image file in two of the tables."""
    seen: dict[Path, str] = {}
    for flag, table in tables.items():
        for i in range(len(table)):
            path = table.image(i).resolve()
            if seen.setdefault(path, flag) != flag:
                raise UserError(
                    f"{path} is in {seen[path]} and in {flag}; expected different images, because a"
                    " score on training images says nothing. Split by patient where you can."
                )


def _write(table: CsvTable, path: Path, extra: argparse.Namespace | None) -> None:
    """Write filepath, title and heatmap; for the test data also label and patient."""
    frame = pd.DataFrame(
        {
            "filepath": [str(table.image(i).absolute()) for i in range(len(table))],
            "title": table.captions,
            "heatmap": [str(heatmap.absolute()) if heatmap else "" for heatmap in table.heatmaps],
        }
    )
    if extra is not None:
        cells = read_columns(table.path, table.columns.separator)
        for name, column in (("label", extra.label_column), ("patient", extra.patient_column)):
            if column is None:
                continue
            if column not in cells:
                raise UserError(
                    f"--{name}-column {column}: not in {table.path}; found {list(cells.columns)}."
                )
            frame[name] = cells[column].tolist()
            blank = [i for i, cell in enumerate(frame[name]) if is_missing(cell)]
            if name == "patient" and blank:
                raise UserError(
                    f"{table.path}, image {frame['filepath'][blank[0]]}: --patient-column {column}"
                    " is blank; expected a patient in every row."
                )
    write_whole(path, frame.to_csv(index=False, lineterminator="\n").encode())


def _tasks(args: argparse.Namespace, test: CsvTable, folder: Path, model: str) -> dict[str, Flags]:
    """Retrieval always, zero-shot with labels, grounding (attention) with maps.

    There must be maps of two images, and of two patients if these are known.
    """
    tasks: dict[str, Flags] = {"retrieval": []}
    if args.label_column:
        classes, templates = folder / "classes.txt", folder / "templates.txt"
        labels = sorted(set(pd.read_csv(folder / "test.csv", dtype=str)["label"].fillna("")))
        if "" in labels or len(labels) < 2:
            raise UserError(
                f"--label-column {args.label_column}: {len(labels)} labels in {test.path}, blank"
                f" {'among them' if '' in labels else 'nowhere'}; expected two or more, and a label"
                " in every row."
            )
        write_whole(classes, "\n".join(labels).encode())
        write_whole(templates, "\n".join(args.template or ["{c}"]).encode())
        tasks["zero-shot"] = ["--classes", classes, "--templates", templates]
    table = pd.read_csv(folder / "test.csv", dtype=str, keep_default_na=False)
    unit = "patient" if args.patient_column else "filepath"
    if table.loc[table["heatmap"] != "", unit].nunique() >= 2:
        patients: Flags = ["--patient-column", "patient"] if args.patient_column else []
        tasks[GROUNDING] = ["--methods", attention_method(model), *patients]
    return tasks


def attention_method(model: str) -> str:
    """The attention that alignment trains: of the tower's pool, else the similarity to the text."""
    # weights do not matter here, so open_clip's warning that they are random would mislead
    pretrained = None if Path(model).is_dir() else RANDOM
    logging.disable(logging.WARNING)
    try:
        return trained_method(load_encoder(model, pretrained, device="cpu").model)
    finally:
        logging.disable(logging.NOTSET)


def _size(table: CsvTable) -> int:
    """Bytes of all image files; a missing file counts 0 and is an error of the training."""
    paths = (table.image(i) for i in range(len(table)))
    return sum(path.stat().st_size for path in paths if path.is_file())
