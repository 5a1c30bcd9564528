"""Reads the tables of raw data sets, plain or compressed, by column names.

Labels keep blank (not mentioned) apart from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import UserError
from ..data.tables.near_names import did_you_mean
from ..data.tables.text import read_table_text

LABEL_VALUES = {"": np.nan, "1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0}


def find_table(folder: Path, *names: str) -> Path:
    """The first file of `names` (globs allowed) in `folder`: plain, .gz or .zip.

    Raises:
        UserError: there is none; the message lists the names and the content of the folder.
    """
    for name in names:
        for suffix in ("", ".gz", ".zip"):
            paths = sorted(folder.glob(name + suffix))
            if paths:
                return paths[0]
    content = (
        sorted(path.name for path in folder.iterdir())[:10] if folder.is_dir() else "no such folder"
    )
    raise UserError(
        f"{folder}: found none of {', '.join(names)} (plain, .gz or .zip); the folder has"
        f" {content}. Check that SRC is the root of the data set."
    )


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """All columns as text, blanks as "", read by `data.tables.text`.

    Later messages count rows from 1, after the header.

    Raises:
        UserError: a required column is missing.
    """
    frame = read_table_text(path, ",", used=required).frame
    missing = [name for name in required if name not in frame]
    if missing:
        near = "".join(did_you_mean(name, frame.columns) for name in missing)
        raise UserError(
            f"{path}: no column {', '.join(map(repr, missing))}; found {list(frame.columns)}.{near}"
        )
    return frame


def read_labels(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> np.ndarray:
    """(rows, columns) float64: 1, 0, -1 (uncertain) or NaN (not mentioned).

    Raises:
        UserError: another value; the message names file, row and column.
    """
    cells = frame[list(columns)]
    values = cells.apply(lambda column: column.str.strip().map(LABEL_VALUES))
    wrong = values.isna() & (cells.apply(lambda column: column.str.strip()) != "")
    if wrong.to_numpy().any():
        row, column = (int(indices[0]) for indices in np.nonzero(wrong.to_numpy()))
        raise UserError(
            f"{path}, row {row + 1}, column {columns[column]!r}: {cells.iat[row, column]!r};"
            " expected 1, 0, -1 or blank."
        )
    return values.to_numpy(dtype=np.float64)


def read_numbers(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """(rows, columns) float64; NaN where a cell is blank or no number.

    The caller drops and counts such rows.
    """
    return frame[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
