"""BIDS eye tracking: `_physio.tsv.gz` without a header, its columns in the JSON beside it.

Fixations are those of `_physioevents.tsv.gz` (trial_type fixation), or found in the samples by
--detector. Images are the `stim_file` of `_events.tsv`; its onsets count from the first sample,
less the sidecar's StartTime.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.tables.missing_text import is_missing
from ...data.tables.text import LARGEST_PACKED, PACKED, UNREADABLE, read_table_text
from ...gaze import Fixations
from ...json_text import read_json
from ..record import LeaveOut, Recording
from .options import GazeSetting, gaze_setting
from .placement import make_placement
from .rows import numbers, position_unit, time_unit
from .samples import recording_of_samples, sample_unit

SAMPLES = re.compile(r"(.*?)(_recording-[^_]+)?_(physio|eyetrack)\.tsv(\.gz)?")
TIMES = ("timestamp", "time", "timestamps")
X = ("x_coordinate", "eye1_x_coordinate", "gaze_x", "x")
FOLDERS = ("func", "beh", "eyetrack", "eeg", "meg")
Y = ("y_coordinate", "eye1_y_coordinate", "gaze_y", "y")


class _Shown(NamedTuple):
    image: str
    start: float  # seconds from the first sample
    end: float
    row: int


def claims(path: Path, head: bytes) -> bool:
    return SAMPLES.fullmatch(path.name) is not None and _sidecar(path).is_file()


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    for path in files:
        yield from _read(path, setting, leave_out)


def _read(path: Path, setting: GazeSetting, leave_out: LeaveOut) -> Iterator[Recording]:
    where, sidecar = str(path), _sidecar(path)
    facts = read_json(sidecar)
    names = facts.get("Columns")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{sidecar}: Columns is {str(names)[:60]!r}; expected the column names.")
    x, y = _find(names, X, sidecar), _find(names, Y, sidecar)
    frame = _headless(path, names)
    xy = numbers(frame, [x, y], where)
    time, zero, unit = _seconds(frame, names, facts, setting, where)
    shown = _shown(path, facts, leave_out)
    screen = _screen(facts)
    place = position_unit(xy[:, 0], xy[:, 1], setting, where)
    if setting.unit is None:
        place = place.replace("image", "screen")
    placement = make_placement(setting, place, where, screen=screen)
    subject = re.match(r"sub-([^_]+)", path.name)
    reader = subject[1] if subject else ""
    events = _events(path, zero, unit, setting.time)
    for one in shown:
        at = np.flatnonzero((time >= one.start) & (time < one.end))
        name = f"{where}, event {one.row} ({one.image})"
        if not len(at):
            leave_out("an image without samples", name)
        elif events is None:
            yield from recording_of_samples(
                time[at] - one.start, xy[at], one.image, reader, name, placement, setting, leave_out
            )
        else:
            inside = events[(events[:, 0] >= one.start) & (events[:, 0] < one.end)]
            means = []
            for start, duration in inside:
                part = xy[(time >= start) & (time <= start + duration)]
                part = part[np.isfinite(part).all(axis=1)]
                means.append(part.mean(axis=0) if len(part) else np.full(2, np.nan))
            if not np.isfinite(means).any():
                leave_out("an image without fixations", name)
                continue
            middle = np.array(means)
            loss = float(1 - np.isfinite(xy[at]).all(axis=1).mean())
            yield Recording(
                image=one.image,
                fixations=Fixations(
                    middle[:, 0], middle[:, 1], inside[:, 1], inside[:, 0] - one.start
                ),
                where=name,
                annotator=reader,
                place=placement,
                quality=(("data loss", loss),),
            )


def _sidecar(path: Path) -> Path:
    return path.with_name(re.sub(r"\.tsv(\.gz)?$", ".json", path.name))


def _find(names: list[str], known: Sequence[str], sidecar: Path) -> str:
    found = next((name for name in known if name in names), None)
    if found is None:
        raise UserError(f"{sidecar}: Columns {names}; expected one of {', '.join(known)}.")
    return found


def _headless(path: Path, names: list[str]) -> pd.DataFrame:
    """The table as text. UserError: unreadable, too large, or rows of another length."""
    opener: Any = PACKED.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            content = file.read(LARGEST_PACKED + 1)
        text = content.decode("utf-8")
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable table ({error}).") from error
    if len(content) > LARGEST_PACKED:
        raise UserError(f"{path}: unpacks to more than {LARGEST_PACKED >> 20} MiB; expected less.")
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(names)), None)
    if wrong is not None:
        raise UserError(
            f"{path}, row {wrong + 1}: {len(rows[wrong])} fields; expected {len(names)}, as Columns"
            f" of {_sidecar(path).name} says."
        )
    return pd.DataFrame(rows, columns=names, dtype=object)


def _seconds(
    frame: pd.DataFrame,
    names: list[str],
    facts: dict[str, Any],
    setting: GazeSetting,
    where: str,
) -> tuple[np.ndarray, float, float]:
    """(seconds from the first sample, its time in the unit of the file, seconds per unit)."""
    column = next((name for name in TIMES if name in names), None)
    if column is not None:
        time = numbers(frame, [column], where)[:, 0]
        if not len(time):
            return time, 0.0, 1.0
        unit = sample_unit(time, setting.time, where)
        return (time - time[0]) * unit, float(time[0]), unit
    rate = facts.get("SamplingFrequency")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate > 0:
        raise UserError(
            f"{where}: no column {' or '.join(TIMES)}, and SamplingFrequency is {rate!r}; expected"
            " one of them."
        )
    return np.arange(len(frame)) / rate, 0.0, 1.0


def _shown(path: Path, facts: dict[str, Any], leave_out: LeaveOut) -> list[_Shown]:
    """When each image was shown, from the `_events.tsv` of the same run."""
    match = SAMPLES.fullmatch(path.name)
    assert match is not None
    events = path.with_name(f"{match[1]}_events.tsv")
    # the samples may lie in a folder of their modality, beside that of the events
    for folder in FOLDERS:
        other = path.parent.parent / folder / events.name
        if not events.is_file() and path.parent.name in FOLDERS and other.is_file():
            events = other
    if not events.is_file():
        raise UserError(
            f"{path}: no {events.name} beside it; expected it, with onset, duration and stim_file."
        )
    frame = read_table_text(events, "\t", used=()).frame
    missing = [name for name in ("onset", "duration", "stim_file") if name not in frame.columns]
    if missing:
        raise UserError(f"{events}: no column {', '.join(missing)}; found {list(frame.columns)}.")
    times = numbers(frame, ["onset", "duration"], str(events))
    begin = facts.get("StartTime", 0)
    if isinstance(begin, bool) or not isinstance(begin, (int, float)):
        raise UserError(f"{_sidecar(path)}: StartTime is {begin!r}; expected seconds.")
    shown = []
    for i, (image, (onset, duration)) in enumerate(zip(frame["stim_file"], times)):
        if is_missing(str(image)):
            continue
        if not (np.isfinite(onset) and duration > 0):
            leave_out("an image without a time", f"{events}, row {i + 1}")
            continue
        start = float(onset) - begin
        shown.append(_Shown(str(image).strip(), start, start + float(duration), i + 1))
    if not shown:
        raise UserError(f"{events}: no row has a stim_file and a duration; expected the images.")
    return shown


def _events(path: Path, zero: float, unit: float, named: str | None) -> np.ndarray | None:
    """(N, 2) onset, in seconds from the first sample, and duration; None without the file."""
    for ending in (".tsv.gz", ".tsv"):
        name = re.sub(r"_(physio|eyetrack)\.tsv(\.gz)?$", f"_physioevents{ending}", path.name)
        file = path.with_name(name)
        if not file.is_file():
            continue
        names = read_json(_sidecar(file)).get("Columns") if _sidecar(file).is_file() else None
        if not isinstance(names, list) or not {"onset", "duration", "trial_type"} <= set(names):
            raise UserError(
                f"{_sidecar(file)}: Columns is {str(names)[:60]!r}; expected onset, duration and"
                " trial_type."
            )
        frame = _headless(file, names)
        frame = frame[frame["trial_type"].str.strip() == "fixation"]
        if not len(frame):
            return None
        values = numbers(frame, ["onset", "duration"], str(file))
        # onsets are on the clock of the samples; durations may be in seconds beside a clock of ms
        seconds = values[:, 1] * time_unit(values[:, 1], named, str(file))
        return np.stack([(values[:, 0] - zero) * unit, seconds], axis=1)
    return None


def _screen(facts: dict[str, Any]) -> tuple[float, float] | None:
    stated = facts.get("StimulusPresentation")
    size = (stated if isinstance(stated, dict) else facts).get("ScreenResolution")
    if isinstance(size, list) and len(size) == 2:
        if all(isinstance(side, (int, float)) and side > 0 for side in size):
            return float(size[0]), float(size[1])
    return None
