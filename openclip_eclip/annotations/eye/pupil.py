"""Pupil Labs (Core): `fixations_on_surface_NAME.csv`; the surface is the image.

Positions are fractions of the surface with the origin at its lower left.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...config import UserError
from ...data.tables.text import read_table_text
from ..record import LeaveOut, Recording
from .options import gaze_setting
from .rows import Rows, check_durations, make_recordings, numbers
from .table import header_of

SURFACE = re.compile(r"fixations_on_surface_(.+)\.csv", re.IGNORECASE)
NEEDED = ("fixation_id", "start_timestamp", "duration", "norm_pos_x", "norm_pos_y")
CAMERA = {"norm_pos_x", "norm_pos_y", "start_timestamp", "duration"}


def claims(path: Path, head: bytes) -> bool:
    header = header_of(path, head)
    return header is not None and set(header) >= CAMERA


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    surfaces = [path for path in files if SURFACE.fullmatch(path.name)]
    if not surfaces:
        raise UserError(
            f"{files[0]}: fixations in the picture of the scene camera; expected"
            " fixations_on_surface_NAME.csv. Define each image as a surface, and export surfaces."
        )
    for path in files:
        match = SURFACE.fullmatch(path.name)
        if match is None:
            leave_out("fixations in the picture of the scene camera", str(path))
            continue
        frame = read_table_text(path, used=()).frame
        missing = [name for name in NEEDED if name not in frame.columns]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}; expected Pupil's export.")
        # one row for each frame of the scene camera
        frame = frame.drop_duplicates("fixation_id")
        where = str(path)
        values = numbers(frame, NEEDED[1:], where)
        check_durations(values[:, 1], where, frame.index.to_numpy() + 1)
        rows = Rows(
            [match[1]] * len(frame),
            values[:, 2],
            1 - values[:, 3],
            values[:, 1] / 1000,
            values[:, 0],
            row=frame.index.to_numpy() + 1,
        )
        unit = setting.unit or "image-fractions"
        yield from make_recordings(rows, where, unit, setting, leave_out)
