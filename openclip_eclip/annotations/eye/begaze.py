"""SMI BeGaze: the table of events, with stimulus, category and fixation positions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...data.tables.text import read_table_text
from ..record import LeaveOut, Recording
from .options import gaze_setting
from .rows import Rows, check_durations, make_recordings, numbers
from .table import header_of

CATEGORIES = ("fixation", "visual intake")
X, Y = "Fixation Position X [px]", "Fixation Position Y [px]"
START, DURATION = "Event Start Trial Time [ms]", "Event Duration [ms]"
NEEDED = ("Stimulus", "Category", X, Y, DURATION)


def claims(path: Path, head: bytes) -> bool:
    header = header_of(path, head)
    return header is not None and {"Stimulus", "Category", X} <= set(header)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    for path in files:
        where = str(path)
        frame = read_table_text(path, used=()).frame
        missing = [name for name in NEEDED if name not in frame.columns]
        if missing:
            raise UserError(f"{where}: no column {', '.join(missing)}; expected BeGaze's export.")
        category = frame["Category"].str.strip().str.lower()
        frame = frame[category.isin(CATEGORIES)]
        eyes = next((name for name in ("Eye L/R", "Eye") if name in frame.columns), None)
        if eyes is not None:
            # both eyes have rows of their own; one is enough
            side = frame[eyes].str.strip().str.lower()
            wanted = setting.eye or ("left" if (side == "left").mean() > 0.5 else "right")
            if set(side) >= {"left", "right"}:
                frame = frame[side == wanted]
        values = numbers(frame, [X, Y, DURATION], where)
        start = numbers(frame, [START], where)[:, 0] / 1000 if START in frame.columns else None
        check_durations(values[:, 2], where, frame.index.to_numpy() + 1)
        column = {name: frame[name].astype(str).tolist() for name in frame.columns}
        rows = Rows(
            column["Stimulus"],
            values[:, 0],
            values[:, 1],
            np.asarray(values[:, 2]) / 1000,
            start,
            column.get("Participant"),
            column.get("Trial"),
            row=frame.index.to_numpy() + 1,
        )
        # BeGaze counts from the stimulus, which fills the screen unless the flags say otherwise
        unit = setting.unit or (
            "screen-pixels" if setting.placement or setting.rectangle else "image-pixels"
        )
        yield from make_recordings(rows, where, unit, setting, leave_out)
