"""Rows of gaze of one file: numbers from cells, units recognised, one recording per viewing."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.tables.missing_text import is_missing
from ...gaze import Fixations
from ..record import LeaveOut, Recording
from .options import TIMES, GazeSetting
from .placement import make_placement

logger = logging.getLogger(__name__)

# units at the end of a column's name, such as "start [ms]" or "duration_s"
SUFFIX = re.compile(
    r"[\[(]?\b(ms|msec|milliseconds|s|sec|seconds|us|px|pix|pixels|deg|degrees)\b[\])]?$"
)
UNIT_OF_SUFFIX = {
    **dict.fromkeys(("ms", "msec", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "seconds"), "s"),
    "us": "us",
    **dict.fromkeys(("px", "pix", "pixels"), "pixels"),
    **dict.fromkeys(("deg", "degrees"), "degrees"),
}
NEAR_ONE = -0.5, 1.5  # fractions, a little beyond the edge included
BLANK = {"", ".", "-", "nan", "na", "n/a", "none", "null"}
# medians of durations of fixations lie at 0.1 to 1 seconds, far apart in these units
LONGEST_S, LEAST_MS, LONGEST_MS, LEAST_US = 5.0, 20.0, 5000.0, 20000.0
# seconds; a duration beyond these has another unit than one of 0.2
TOO_SHORT, TOO_LONG = 0.002, 20.0
MIXED = 0.1  # share of positions or of durations of another unit
LEAST = 3  # numbers that show another unit, so that one odd cell is not taken for one
# from the start of a fixation to the next one passes its duration, and a little or a lot more
STEP = 0.3, 30.0  # of the median duration


@dataclass(eq=False)
class Rows:
    """N fixations of a file in its own units; fields as in `Fixations`, times in seconds."""

    image: list[str]
    x: np.ndarray
    y: np.ndarray
    duration: np.ndarray
    start: np.ndarray | None = None
    reader: list[str] | None = None
    trial: list[str] | None = None
    rectangle: np.ndarray | None = None  # (N, 4)
    shown: np.ndarray | None = None  # (N, 4)
    offset: np.ndarray | None = None  # (N, 2)
    row: np.ndarray | None = None  # (N,) of the file, from 1; None: 1 to N

    def __len__(self) -> int:
        return len(self.image)


def text_column(frame: pd.DataFrame, columns: dict[str, str], role: str) -> list[str] | None:
    return [str(cell) for cell in frame[columns[role]]] if role in columns else None


def image_names(frame: pd.DataFrame, columns: dict[str, str], where: str) -> list[str]:
    """The image of each row; without a column, the stem of the file for all."""
    names = text_column(frame, columns, "image")
    return [Path(where).name.partition(".")[0]] * len(frame) if names is None else names


def numbers(frame: pd.DataFrame, names: Sequence[str], where: str) -> np.ndarray:
    """(rows, columns) float64, NaN for blank cells. UserError: a cell that is no number."""
    columns = []
    for name in names:
        cells = frame[name].astype(str).str.strip()
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
        wrong = np.isnan(values) & ~cells.str.lower().isin(BLANK).to_numpy()
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            cell = cells.iloc[row]
            comma = " Write a decimal point, not a comma." if "," in cell else ""
            raise UserError(
                f"{where}, row {int(frame.index[row]) + 1}, column {name!r}: {cell!r}; expected a"
                f" number or a blank cell.{comma}"
            )
        columns.append(np.where(np.isfinite(values), values, np.nan))
    return np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0))


def named_unit(column: str, units: Iterable[str]) -> str | None:
    """The unit that the name of a column ends with, if it is one of `units`."""
    match = SUFFIX.search(re.sub(r"[_.]", " ", column.lower()).strip())
    unit = UNIT_OF_SUFFIX[match[1]] if match else ""
    return unit if unit in units else None


def time_unit(durations: np.ndarray, named: str | None, where: str) -> float:
    """Seconds per unit of time: of the named unit, or recognised from durations of fixations.

    Raises:
        UserError: durations of no known unit, or of two units.
    """
    if named is not None:
        return TIMES[named]
    known = durations[np.isfinite(durations) & (durations > 0)]
    if not len(known):
        return 1.0
    middle = float(np.median(known))
    if middle <= LONGEST_S:
        unit = "s"
    elif LEAST_MS <= middle <= LONGEST_MS:
        unit = "ms"
    elif middle >= LEAST_US:
        unit = "us"
    else:
        raise UserError(
            f"{where}: half of the fixations last more than {middle:g}; expected about 0.2 seconds,"
            " 200 ms or 200000 us. Name the unit with --time-unit."
        )
    seconds = known * TIMES[unit]
    other = known[(seconds < TOO_SHORT) | (seconds >= TOO_LONG)]
    if len(other) >= LEAST and len(other) > MIXED * len(known):
        raise UserError(
            f"{where}: half of the fixations last more than {middle:g}, as in {unit}, but"
            f" {len(other)} of {len(known)} such as {other[0]:g}; expected one unit in the whole"
            " column. Convert one part, or name the unit with --time-unit."
        )
    return TIMES[unit]


def start_unit(
    start: np.ndarray,
    duration: np.ndarray,
    viewing: Sequence[object],
    factor: float,
    where: str,
    names: tuple[str, str],
) -> float:
    """Seconds per unit of `start`, whose `duration` has `factor` seconds per unit.

    Told from the steps between the starts of a viewing, which are about as long as the fixations.
    Too few steps: that of the durations.

    Args:
        viewing: (N,) one value for each viewing.
        names: of start and duration, for messages.

    Raises:
        UserError: the steps and the durations fit no two units.
    """
    same = [one == other for one, other in zip(viewing[1:], viewing[:-1])]
    steps = np.diff(start)[np.array(same, dtype=bool)]
    steps = steps[steps > 0]
    known = duration[duration > 0]
    if len(steps) < LEAST or not len(known):
        return factor
    # where both eyes have rows, or viewings are mixed, half of the steps are too short
    step, middle = float(np.quantile(steps, 0.75)), float(np.median(known))
    for power in (0, 1, -1, 2, -2):
        found = factor * 1000.0**power
        unit = next((name for name in TIMES if math.isclose(TIMES[name], found)), None)
        if unit and STEP[0] <= step / middle * 1000.0**power <= STEP[1]:
            if power:
                logger.warning(
                    "eclip: %s: %s is read in %s, another unit than %s: from start to start pass"
                    " %.3g, and fixations last %.3g",
                    *(where, names[0], unit, names[1], step, middle),
                )
            return found
    raise UserError(
        f"{where}: from fixation to fixation {names[0]} grows by {step:.3g}, but {names[1]} is"
        f" {middle:.3g}; expected steps a little longer than the fixations. Name the unit of both"
        " at the end of the columns' names, such as start_s and duration_ms."
    )


def position_unit(x: np.ndarray, y: np.ndarray, setting: GazeSetting, where: str) -> str:
    """The named unit, or pixels or fractions; of the screen if the user says anything on it.

    Raises:
        UserError: some positions are fractions and some are pixels, or x is one and y the other.
    """
    if setting.unit is not None:
        return setting.unit
    on_screen = bool(setting.screen or setting.placement or setting.rectangle)
    of = "screen" if on_screen or "left" in setting.columns else "image"
    known = np.isfinite(x) & np.isfinite(y)
    xy = np.stack([x, y], axis=1)[known]
    if not len(xy):
        return f"{of}-pixels"
    near = (xy >= NEAR_ONE[0]) & (xy <= NEAR_ONE[1])
    as_fractions = (near.mean(axis=0) > 1 - MIXED) & ((xy % 1 != 0).mean(axis=0) > 0.5)
    beyond = near.mean(axis=0) < MIXED
    if len(xy) >= LEAST and (as_fractions & beyond[::-1]).any():
        one, other = "xy" if as_fractions[0] else "yx"
        raise UserError(
            f"{where}: {one} lies within 0 and 1, as fractions do, but {other} is"
            f" {np.median(xy[:, 'xy'.index(other)]):.4g} in the middle, as pixels are; expected one"
            " unit. Convert one of them, or name other columns with --gaze-columns x=...,y=...."
        )
    inside = near.all(axis=1)
    fractions = inside & (xy % 1 != 0).any(axis=1)
    share = fractions.mean()
    if min(share, 1 - inside.mean()) > MIXED:
        raise UserError(
            f"{where}: {share:.0%} of the positions are fractions and {1 - inside.mean():.0%} are"
            " beyond them, as pixels are; expected one unit. Convert one part, or name the unit"
            " with --gaze-unit."
        )
    return f"{of}-fractions" if share > 0.5 and inside.mean() > 1 - MIXED else f"{of}-pixels"


def check_durations(durations: np.ndarray, where: str, row: np.ndarray | None = None) -> None:
    """UserError, with the row, for a negative duration."""
    negative = np.flatnonzero(durations < 0)
    if len(negative):
        at = negative[0] + 1 if row is None else row[negative[0]]
        raise UserError(
            f"{where}, row {at}: a duration of {durations[negative[0]]:g}; expected"
            " at least 0. Are start and end swapped, or in different units?"
        )


def make_recordings(
    rows: Rows,
    where: str,
    unit: str,
    setting: GazeSetting,
    leave_out: LeaveOut,
    quality: tuple[tuple[str, float], ...] = (),
    screen: tuple[float, float] | None = None,
) -> Iterator[Recording]:
    """One recording for each viewing of an image by a reader, in the order of the file."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    number = np.arange(1, len(rows) + 1) if rows.row is None else rows.row
    for i, image in enumerate(rows.image):
        image = image.strip()
        if is_missing(image):
            leave_out("gaze without an image", f"{where}, row {number[i]}")
            continue
        reader = "" if rows.reader is None else rows.reader[i].strip()
        trial = "" if rows.trial is None else rows.trial[i].strip()
        groups.setdefault((image, reader, trial), []).append(i)
    for (image, reader, _), members in groups.items():
        at = np.array(members)
        placement = make_placement(
            setting,
            unit,
            where,
            None if rows.rectangle is None else rows.rectangle[at],
            None if rows.offset is None else rows.offset[at],
            screen,
        )
        if not (np.isfinite(rows.x[at]) & np.isfinite(rows.y[at])).any():
            leave_out("gaze without a position", f"{where}, row {number[members[0]]} ({image})")
            continue
        yield Recording(
            image=image,
            fixations=Fixations(
                rows.x[at],
                rows.y[at],
                rows.duration[at],
                None if rows.start is None else rows.start[at],
                shown=None if rows.shown is None else rows.shown[at],
            ),
            where=f"{where}, row {number[members[0]]}",
            annotator=reader,
            place=placement,
            quality=quality,
        )
