"""Tables of fixations, or of raw samples: CSV or TSV with any column names."""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.tables.near_names import did_you_mean
from ...data.tables.text import read_table_text
from ..record import LeaveOut, Recording
from .list_cells import are_lists, list_column, list_rows
from .options import TIMES, GazeSetting, add_gaze_arguments, gaze_setting
from .rows import (
    SUFFIX,
    Rows,
    check_durations,
    image_names,
    make_recordings,
    named_unit,
    numbers,
    position_unit,
    start_unit,
    text_column,
    time_unit,
)
from .samples import recordings_of_samples

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".csv.zip", ".tsv.zip")
# Names of columns as `_simplify` leaves them; the first that a table has is taken
NAMES = {
    # a path says more than an id that has the same row
    "image": "filepath imagepath imagefile filename imagename imgname image imageid img imgid"
    " stimulus stimulusname stimulusid stimuli stim file path picture photo dicomid medianame"
    " presentedmedianame presentedstimulusname sceneid",
    "x": "xoriginal fixx fixationx xfixation xposition positionx xpos posx gazex xgaze"
    " currentfixx fixationpointx meanx xmean avgx averagex locationx centroidx xcoord"
    " coordx normposx gazepointx bpogx fpogx xpx px xcenter x",
    "start": "start starttime fixationstart fixstart currentfixstart tstart timestart onset"
    " onsettime starttimestamp timestampstartfixation fixationstarttime begin begintime"
    " eventstart fpogs",
    "end": "end endtime fixationend fixend currentfixend tend timeend offset offsettime"
    " endtimestamp timestampendfixation fixationendtime eventend",
    "duration": "duration fixationduration fixdur fixduration durationfixation currentfixduration"
    " dur gazeeventduration eventduration fixationdur fpogd",
    "time": "time timestamp t recordingtimestamp sampletime trackertime",
    "reader": "reader readerid subject subjectid participant participantid participantname"
    " observer observerid speaker annotator annotatorid user userid viewer recordingsessionlabel"
    " recording sub",
    "trial": "trial trialid trialindex trialnumber trialno",
}
SIDES = ("left", "top", "right", "bottom")
SHOWN = ("shown_xmin", "shown_ymin", "shown_xmax", "shown_ymax")


@dataclass(frozen=True)
class Layout:
    """What a file of a tracker's own software always has; the user's flags count more."""

    columns: dict[str, str]
    unit: str | None = None
    time: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_gaze_arguments(parser)


def claims(path: Path, head: bytes) -> bool:
    """Whether a table has columns of positions, and of durations, times or an image."""
    header = header_of(path, head)
    if header is None:
        return False
    found = guess_columns(header)
    timed = {"duration", "start", "time"} & found.keys()
    return {"x", "y"} <= found.keys() and bool(timed) or list_column(head, header) is not None


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    units: dict[str, Path] = {}
    for path in files:
        frame = read_table_text(path, used=()).frame
        yield from read_frame(frame, path, setting, leave_out, units=units)


def header_of(path: Path, head: bytes) -> list[str] | None:
    """The column names of a table; None for a file that is no table."""
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        return None
    if not name.endswith((".csv", ".tsv", ".txt")):
        try:
            return list(read_table_text(path, used=()).frame.columns)
        except UserError:
            return None
    text = head.decode("utf-8-sig", errors="replace")
    line = next((line for line in text.splitlines() if line.strip()), "")
    separator = "\t" if "\t" in line or "," not in line else ","
    header = next(csv.reader(io.StringIO(line), delimiter=separator), [])
    return header if len(header) > 1 else None


def guess_columns(header: Sequence[str]) -> dict[str, str]:
    """{role: column}: for each role the best known name that the header has."""
    simple: dict[str, str] = {}
    for name in header:
        simple.setdefault(_simplify(name), name)
    found = {}
    for role, names in NAMES.items():
        for name in names.split():
            if name in simple:
                found[role] = simple[name]
                break
    if "x" in found:
        # the twin of x differs in one letter
        for name in header:
            changed = [(a, b) for a, b in zip(found["x"], name) if a != b]
            if len(name) == len(found["x"]) and changed in ([("x", "y")], [("X", "Y")]):
                found["y"] = name
    return found


def read_frame(
    frame: pd.DataFrame,
    path: Path,
    setting: GazeSetting,
    leave_out: LeaveOut,
    layout: Layout = Layout({}),
    units: dict[str, Path] | None = None,
    screen: tuple[float, float] | None = None,
) -> Iterator[Recording]:
    """The recordings of one table. `units`: those of the tables so far, which must be the same."""
    where = str(path)
    columns = _roles(frame, setting, layout, where)
    if "fixations" in columns:
        rows = list_rows(frame, columns, setting, where, leave_out)
    else:
        _require(columns, frame, where, ("x", "y"))
        if "duration" not in columns and not {"start", "end"} <= columns.keys():
            unit = _unit(frame, columns, setting, layout, where, units, path)
            yield from recordings_of_samples(frame, columns, where, unit, setting, leave_out)
            return
        rows = _rows(frame, columns, setting, layout, where)
    check_durations(rows.duration, where, rows.row)
    unit = _unit(frame, columns, setting, layout, where, units, path, rows)
    if not len(rows):
        leave_out("a table without rows", where)
    yield from make_recordings(rows, where, unit, setting, leave_out, screen=screen)


def _roles(frame: pd.DataFrame, setting: GazeSetting, layout: Layout, where: str) -> dict[str, str]:
    header = list(frame.columns)
    for role, name in setting.columns.items():
        if name not in header:
            raise UserError(
                f"{where}: --gaze-columns {role}={name}: no such column; found {header}."
                f"{did_you_mean(name, header)}"
            )
    guessed = guess_columns(header)
    if not {"x", "y"} & setting.columns.keys() and "fixations" not in setting.columns:
        lists = [name for name in header if are_lists(frame[name].astype(str))]
        if "x" not in guessed and lists:
            guessed["fixations"] = lists[0]
    own = {role: name for role, name in layout.columns.items() if name in header}
    if setting.columns.keys() & {"x", "y"}:
        guessed.pop("fixations", None)
    if "duration" in {**guessed, **own, **setting.columns} and "time" in guessed:
        guessed.setdefault("start", guessed["time"])
    return {**guessed, **own, **setting.columns}


def _require(
    columns: dict[str, str], frame: pd.DataFrame, where: str, roles: Sequence[str]
) -> None:
    for role in roles:
        if role not in columns:
            raise UserError(
                f"{where}: no column for {role} was recognised among {list(frame.columns)}; name it"
                f" with --gaze-columns {role}=COLUMN."
            )


def _rows(
    frame: pd.DataFrame,
    columns: dict[str, str],
    setting: GazeSetting,
    layout: Layout,
    where: str,
) -> Rows:
    xy = numbers(frame, [columns["x"], columns["y"]], where)
    row = frame.index.to_numpy() + 1
    image, reader, trial = (
        image_names(frame, columns, where),
        text_column(frame, columns, "reader"),
        text_column(frame, columns, "trial"),
    )
    viewing = list(zip(image, reader or image, trial or image))
    start, duration = _times(frame, columns, setting, layout, where, viewing)
    four = {
        name: numbers(frame, [columns[role] for role in roles], where)
        for name, roles in (
            ("rectangle", SIDES),
            ("shown", SHOWN),
            ("offset", ("offset_x", "offset_y")),
        )
        if _all_or_none(columns, roles, where)
    }
    return Rows(image, xy[:, 0], xy[:, 1], duration, start, reader, trial, **four, row=row)


def _times(
    frame: pd.DataFrame,
    columns: dict[str, str],
    setting: GazeSetting,
    layout: Layout,
    where: str,
    viewing: Sequence[object],
) -> tuple[np.ndarray | None, np.ndarray]:
    """Starts, if the table has them, and durations, in seconds. `viewing`: see `start_unit`.

    A unit in the name of a column counts for that column, --time-unit for all.
    """
    roles = ("start", "end", "duration")
    found: dict[str, str] = {role: columns[role] for role in roles if role in columns}
    values = {role: numbers(frame, [name], where)[:, 0] for role, name in found.items()}
    over = setting.time or layout.time
    named = {role: over or named_unit(name, TIMES) for role, name in found.items()}
    start, length = values.get("start"), "duration" if "duration" in found else "end"
    duration = values[length]
    if length == "end":
        assert start is not None
        first, last = named["start"], named["end"]
        if first and last:
            duration = duration * (TIMES[last] / TIMES[first])
        named["end"] = first or last
        duration = duration - start
    check_durations(duration, where, frame.index.to_numpy() + 1)
    factor = time_unit(duration, named[length], where)
    if start is None:
        return None, duration * factor
    if named["start"] and (layout.time or not setting.time):
        return start * TIMES[named["start"]], duration * factor
    names = f"column {found['start']!r}", f"column {found[length]!r}"
    of_start = start_unit(start, duration, viewing, factor, where, names)
    if length == "end" and of_start != factor:
        raise UserError(
            f"{where}: {names[0]} and {names[1]} have different units; expected one. Name the unit"
            " of both at the end of the columns' names, such as start_s and end_ms."
        )
    return start * of_start, duration * factor


def _all_or_none(columns: dict[str, str], roles: Sequence[str], where: str) -> bool:
    found = [role for role in roles if role in columns]
    if found and len(found) < len(roles):
        raise UserError(
            f"{where}: --gaze-columns {', '.join(found)}; expected all of {', '.join(roles)}."
        )
    return bool(found)


def _unit(
    frame: pd.DataFrame,
    columns: dict[str, str],
    setting: GazeSetting,
    layout: Layout,
    where: str,
    units: dict[str, Path] | None,
    path: Path,
    rows: Rows | None = None,
) -> str:
    """The unit of positions. UserError: another than that of the tables before."""
    if setting.unit is None and layout.unit is not None and "x" not in setting.columns:
        return layout.unit
    if setting.unit is None:
        x, y = (columns.get(axis, "") for axis in "xy")
        of_x, of_y = (named_unit(name, ("pixels", "degrees")) for name in (x, y))
        if of_x and of_y and of_x != of_y:
            raise UserError(
                f"{where}: {x!r} is in {of_x} and {y!r} in {of_y}; expected one unit. Name other"
                " columns with --gaze-columns x=...,y=...."
            )
        if of_x == "degrees":
            return "degrees"
    if rows is None:
        xy = numbers(frame, [columns["x"], columns["y"]], where)
        unit = position_unit(xy[:, 0], xy[:, 1], setting, where)
    else:
        unit = position_unit(rows.x, rows.y, setting, where)
    if units is not None and len(frame):
        units.setdefault(unit, path)
        if len(units) > 1:
            (one, first), (two, second) = list(units.items())[:2]
            raise UserError(
                f"{second}: positions seem to be {two}, but {one} in {first}; expected one unit."
                " Name it with --gaze-unit."
            )
    return unit


def _simplify(name: str) -> str:
    """Lower-case letters and digits only, without a unit at the end."""
    words = re.sub(r"[_.]", " ", name.lower()).strip()
    without = SUFFIX.sub("", words) if len(words) > 2 else words
    letters = re.sub(r"[\W_]+", "", without)
    return letters or re.sub(r"[\W_]+", "", words)
