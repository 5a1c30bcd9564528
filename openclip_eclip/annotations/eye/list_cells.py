"""Tables that have all fixations of a viewing in one cell: [[x, y, duration], ...]."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd

from ...config import UserError
from ..record import LeaveOut
from .options import TIMES, GazeSetting
from .rows import Rows, image_names, named_unit, start_unit, text_column, time_unit


def list_rows(
    frame: pd.DataFrame,
    columns: dict[str, str],
    setting: GazeSetting,
    where: str,
    leave_out: LeaveOut,
) -> Rows:
    """Rows of a table that has all fixations of a viewing in one cell: [[x, y, duration], ...].

    A viewing without fixations is counted and named.
    """
    name = columns["fixations"]
    images = image_names(frame, columns, where)
    fields: list[list[float]] = []
    owners: list[int] = []
    for i, cell in enumerate(frame[name]):
        place = f"{where}, row {i + 1}, column {name!r}"
        if not str(cell).strip():
            leave_out("a viewing without fixations", f"{where}, row {i + 1} ({images[i]})")
            continue
        try:
            values = np.asarray(json.loads(cell), dtype=np.float64)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise UserError(
                f"{place}: {str(cell)[:60]!r} is no list of numbers ({error}); expected"
                " [[x, y, duration], ...]."
            ) from error
        if not values.size:
            leave_out("a viewing without fixations", f"{where}, row {i + 1} ({images[i]})")
            continue
        if values.ndim != 2 or values.shape[1] not in (3, 4):
            raise UserError(
                f"{place}: a list of shape {values.shape}; expected fixations of x, y and duration,"
                " or x, y, start and duration."
            )
        fields += [[*row[:2], np.nan, row[2]] if len(row) == 3 else list(row) for row in values]
        owners += [i] * len(values)
    array = np.array(fields, dtype=np.float64).reshape(-1, 4)
    part = frame.iloc[owners]
    duration, start = array[:, 3], None if np.isnan(array[:, 2]).all() else array[:, 2]
    named = setting.time or named_unit(name, TIMES)
    if named or (duration > 0).any():
        factor = time_unit(duration, named, where)
        if start is not None:
            names = f"start in column {name!r}", "its duration"
            start = start * start_unit(start, duration, owners, factor, where, names)
        duration = duration * factor
    return Rows(
        image_names(part, columns, where),
        *(array[:, 0], array[:, 1], duration, start),
        text_column(part, columns, "reader"),
        [str(owner) for owner in owners],  # each cell is a viewing of its own
        row=np.array(owners, dtype=int) + 1,
    )


def list_column(head: bytes, header: Sequence[str]) -> str | None:
    """The column of a table whose first cell with a fixation is a list of lists."""
    lines = io.StringIO(head.decode("utf-8-sig", errors="replace"))
    separator = "\t" if "\t" in lines.readline() else ","
    try:
        rows = list(csv.reader(lines, delimiter=separator))
    except csv.Error:
        return None
    columns = zip_longest(*rows, fillvalue="")
    return next((name for name, cells in zip(header, columns) if are_lists(cells)), None)


def are_lists(cells: Iterable[str]) -> bool:
    """Whether cells are lists of fixations; viewings without a fixation, blank or [], may lead."""
    texts = (cell.strip() for cell in cells)
    first = next((text for text in texts if text not in ("", "[]")), None)
    return first is not None and first.startswith("[[")
