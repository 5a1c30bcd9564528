"""Gazepoint Analysis: `_fixations.csv`, or `_all_gaze.csv`; positions are fractions of the screen.

Times are those of the tracker (FPOGS), not of the image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...config import UserError
from ...data.tables.text import read_table_text
from ..record import LeaveOut, Recording
from .options import gaze_setting
from .rows import numbers
from .table import Layout, header_of, read_frame

NEEDED = ("FPOGX", "FPOGY", "FPOGS", "FPOGD", "MEDIA_NAME")
LAYOUT = Layout(
    {"image": "MEDIA_NAME", "x": "FPOGX", "y": "FPOGY", "start": "FPOGS", "duration": "FPOGD"},
    "screen-fractions",
    "s",
)


def claims(path: Path, head: bytes) -> bool:
    header = header_of(path, head)
    return header is not None and {"FPOGX", "MEDIA_NAME"} <= set(header)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    for path in files:
        frame = read_table_text(path, used=()).frame
        missing = [name for name in NEEDED if name not in frame.columns]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}; expected Gazepoint's export.")
        if "FPOGV" in frame.columns:
            invalid = numbers(frame, ["FPOGV"], str(path))[:, 0] == 0
            if invalid.any():
                leave_out("fixations that Gazepoint calls invalid", str(path))
            frame = frame[~invalid]
        if "FPOGID" in frame.columns:
            # of a fixation's samples the last has its whole duration
            frame = frame.drop_duplicates(["MEDIA_NAME", "FPOGID"], keep="last")
        reader = path.stem.removesuffix("_fixations").removesuffix("_all_gaze")
        if "USER" not in frame.columns:
            frame = frame.assign(USER=reader)
        layout = Layout({**LAYOUT.columns, "reader": "USER"}, LAYOUT.unit, LAYOUT.time)
        yield from read_frame(frame, path, setting, leave_out, layout)
