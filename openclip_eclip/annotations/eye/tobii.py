"""Tobii Pro Lab and Tobii Studio: the TSV of all samples, with their type of eye movement.

Positions are fractions of the media (MCSnorm) where the file has them, then pixels of the media
(MCSpx), then pixels of the screen with the media's position.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.tables.text import read_table_text
from ..record import LeaveOut, Recording
from .options import GazeSetting, gaze_setting
from .rows import Rows, check_durations, make_recordings, numbers
from .table import header_of

TYPE = ("eyemovementtype", "gazeeventtype")
INDEX = ("eyemovementtypeindex", "fixationindex")
MEDIA = ("presentedmedianame", "presentedstimulusname", "medianame")
DURATION = ("gazeeventduration", "eyemovementeventduration")
READER = ("participantname", "recordingname")
TIME = ("recordingtimestamp", "recordingtimestampms", "recordingtimestampus")
SYSTEMS = {"mcsnorm": "image-fractions", "mcspx": "image-pixels", "": "screen-pixels"}
MEDIA_PLACE = (
    ("presentedmediapositionx", "presentedmediapositiony"),
    ("mediaposx", "mediaposy"),
)
MEDIA_SIZE = (("presentedmediawidth", "presentedmediaheight"), ("mediawidth", "mediaheight"))
RESOLUTION = (
    ("recordingresolutionwidth", "recordingresolutionheight"),
    ("recordingmonitorresolutionwidth", "recordingmonitorresolutionheight"),
)
UNITS = re.compile(r"[\[(]([^\])]*)[\])]")


def claims(path: Path, head: bytes) -> bool:
    header = header_of(path, head)
    if header is None:
        return False
    simple = {_simplify(name)[0] for name in header}
    return bool(simple & set(TYPE)) and "fixationpointx" in simple


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    for path in files:
        yield from _read(path, setting, leave_out)


def _read(path: Path, setting: GazeSetting, leave_out: LeaveOut) -> Iterator[Recording]:
    where = str(path)
    frame = read_table_text(path, used=()).frame
    columns: dict[str, dict[str, str]] = {}  # simplified name: {coordinates or unit: column}
    for name in frame.columns:
        simple, unit = _simplify(str(name))
        columns.setdefault(simple, {})[unit] = str(name)
    kind, media, duration = (_one(columns, names, where) for names in (TYPE, MEDIA, DURATION))
    assert kind and media and duration
    index, reader = _one(columns, INDEX), _one(columns, READER)
    fixation = frame[kind].str.strip().str.lower() == "fixation"
    # a fixation has one row for each of its samples
    keys = [name for name in (reader, media, index, duration) if name is not None]
    frame = frame[fixation]
    same = (frame[keys] == frame[keys].shift()).all(axis=1)
    if index is not None:
        same = frame.duplicated(keys)
    frame = frame[~same]
    x, y = columns["fixationpointx"], columns.get("fixationpointy", {})
    system = next((one for one in SYSTEMS if one in x and one in y), None)
    if system is None:
        raise UserError(
            f"{where}: columns {sorted(x.values())} without their y; expected Fixation point X and"
            " Y."
        )
    unit = setting.unit or SYSTEMS[system]
    xy = numbers(frame, [x[system], y[system]], where)
    seconds = numbers(frame, [duration], where)[:, 0] / 1000
    check_durations(seconds, where, frame.index.to_numpy() + 1)
    rows = Rows(
        frame[media].astype(str).tolist(),
        *(xy[:, 0], xy[:, 1], seconds),
        start=_starts(frame, columns, where),
        reader=frame[reader].astype(str).tolist() if reader is not None else None,
        row=frame.index.to_numpy() + 1,
    )
    screen = None
    if unit.startswith("screen"):
        rows.rectangle, screen = _media(frame, columns, where)
    if not len(rows):
        leave_out("a table without fixations", where)
    yield from make_recordings(rows, where, unit, setting, leave_out, screen=screen)


def _starts(frame: pd.DataFrame, columns: dict[str, Any], where: str) -> np.ndarray | None:
    """Seconds since the start of the recording; Pro Lab writes microseconds or milliseconds."""
    found = next((columns[name] for name in TIME if name in columns), None)
    if found is None or not len(frame):
        return None
    ((unit, name),) = list(found.items())[:1]
    times = numbers(frame, [name], where)[:, 0]
    micro = unit in ("us", "μs", "µs") or (not unit and np.nanmax(times) > 1e7)
    return times / (1e6 if micro else 1e3)


def _media(
    frame: pd.DataFrame, columns: dict[str, Any], where: str
) -> tuple[np.ndarray | None, tuple[float, float] | None]:
    """(rectangles of the media on the screen (N, 4), size of the screen), as the file says."""

    def pair(names: tuple[tuple[str, str], ...]) -> np.ndarray | None:
        for two in names:
            if all(name in columns for name in two):
                found = [next(iter(columns[name].values())) for name in two]
                return numbers(frame, found, where)
        return None

    place, size, resolution = pair(MEDIA_PLACE), pair(MEDIA_SIZE), pair(RESOLUTION)
    screen = None
    if resolution is not None and len(resolution) and np.isfinite(resolution[0]).all():
        screen = float(resolution[0, 0]), float(resolution[0, 1])
    if place is None or size is None:
        return None, screen
    return np.concatenate([place, place + size], axis=1), screen


def _one(columns: dict[str, dict[str, str]], names: Sequence[str], where: str = "") -> str | None:
    for name in names:
        if name in columns:
            return next(iter(columns[name].values()))
    if where:
        raise UserError(
            f"{where}: no column {' or '.join(names)} (blanks and case do not count); expected it"
            " in the export of Tobii Pro Lab."
        )
    return None


def _simplify(name: str) -> tuple[str, str]:
    """(letters and digits without what is in brackets, and that: a unit or coordinates)."""
    unit = UNITS.search(name)
    inner = re.sub(r"[\s_]+", "", unit[1].lower()) if unit else ""
    inner = {"dacspx": "", "adcspx": ""}.get(inner, inner)
    return re.sub(r"[\W_]+", "", UNITS.sub("", name).lower()), inner
