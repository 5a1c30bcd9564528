"""Raw samples of gaze to fixations, by the detectors of pymovements (extra `annotations`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.tables.missing_text import is_missing
from ...gaze import Fixations
from ..record import LeaveOut, Recording
from .options import TIMES, Detection, GazeSetting
from .placement import Placement, make_placement
from .rows import named_unit, numbers

LEAST = 6  # samples for a velocity
LARGEST_GRID = 50_000_000  # samples: 14 hours at 1000 Hz
# medians of the interval between samples: 0.5 to 40 ms
LONGEST_S, LONGEST_MS = 0.2, 200.0


class Detected(NamedTuple):
    """`start` and `duration` in seconds; x and y are means, in the unit of the samples."""

    x: np.ndarray
    y: np.ndarray
    start: np.ndarray
    duration: np.ndarray
    data_loss: float  # share of the samples without a position
    precision: float  # root mean square of the steps within fixations; degrees or --raw-units
    rate: float  # samples per second


def detection_facts(detection: Detection) -> dict[str, Any]:
    """The parameters, for the manifest; {} without a detector."""
    if detection.detector is None:
        return {}
    pymovements = _pymovements()
    unit = "unit of the file" if detection.raw_units else "degrees"
    threshold = (
        {"velocity threshold per second": detection.velocity, "velocity": detection.method}
        if detection.detector == "ivt"
        else {"dispersion threshold": detection.dispersion}
    )
    return {
        "detector": f"pymovements {pymovements.__version__} {detection.detector}",
        "unit": unit,
        **threshold,
        "shortest fixation, seconds": detection.shortest,
        "longest filled gap, seconds": detection.gap,
        "margin of longer gaps, seconds": detection.margin,
    }


def detect(
    time: np.ndarray, xy: np.ndarray, placement: Placement, detection: Detection, where: str
) -> Detected:
    """Find fixations in samples: `time` (N,) in seconds, `xy` (N, 2), NaN where missing.

    Samples are put on a regular grid. Gaps of up to `detection.gap` are filled linearly for the
    detector; longer ones, such as blinks, end a fixation, and `detection.margin` around them is
    left out. The position of a fixation is the mean of its measured samples.

    Raises:
        UserError: no detector was named, no degrees without size and distance of the screen, times
            that do not grow, or pymovements is not installed.
    """
    if detection.detector is None:
        raise UserError(
            f"{where}: raw samples; expected fixations, or --detector ivt or idt to find them."
        )
    grid, interval, first = _regular(time, xy, where)
    missing = np.isnan(grid).any(axis=1)
    degrees = grid if detection.raw_units else placement.to_degrees(grid)
    if degrees is None:
        raise UserError(
            f"{where}: thresholds in degrees; expected --screen WxH, --screen-cm WxH and"
            " --distance-cm, with positions on the screen, or --raw-units for thresholds in the"
            " unit of the file."
        )
    found = []
    for begin, end in _segments(missing, detection, interval):
        inner = _filled(degrees[begin:end])
        if inner is not None:
            found += [(begin + a, begin + b) for a, b in _fixations(inner, detection, interval)]
    rows = [
        (*np.nanmean(grid[a : b + 1], axis=0), first + a * interval, (b - a + 1) * interval)
        for a, b in found
        if not missing[a : b + 1].all()
    ]
    x, y, start, duration = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Detected(
        *(x, y, start, duration),
        data_loss=float(missing.mean()),
        precision=_precision(degrees, found),
        rate=1 / interval,
    )


def recordings_of_samples(
    frame: pd.DataFrame,
    columns: dict[str, str],
    where: str,
    unit: str,
    setting: GazeSetting,
    leave_out: LeaveOut,
) -> Iterator[Recording]:
    """The recordings of a table of raw samples: one for each viewing of an image by a reader."""
    name = columns.get("time", columns.get("start"))
    if name is None:
        raise UserError(
            f"{where}: no column for duration (fixations) or time (raw samples) was recognised"
            f" among {list(frame.columns)}; name it with --gaze-columns duration=COLUMN."
        )
    if setting.detection.detector is None:
        raise UserError(
            f"{where}: times without durations (column {name!r}), as raw samples have; expected"
            " --gaze-columns duration=COLUMN, or --detector ivt or idt to find fixations."
        )
    values = numbers(frame, [name, columns["x"], columns["y"]], where)
    factor = sample_unit(values[:, 0], setting.time or named_unit(name, TIMES), where)
    keys = pd.DataFrame(
        {
            role: frame[columns[role]].astype(str).str.strip() if role in columns else ""
            for role in ("image", "reader", "trial")
        },
        index=frame.index,
    )
    if "image" not in columns:
        keys["image"] = where.rpartition("/")[2].partition(".")[0]
    for (image, reader, _), part in keys.groupby(["image", "reader", "trial"], sort=False):
        at = frame.index.get_indexer(part.index)
        place = f"{where}, row {int(part.index[0]) + 1}"
        if is_missing(str(image)):
            leave_out("gaze without an image", place)
            continue
        placement = make_placement(setting, unit, where)
        yield from recording_of_samples(
            values[at, 0] * factor,
            values[at, 1:],
            str(image),
            str(reader),
            place,
            placement,
            setting,
            leave_out,
        )


def recording_of_samples(
    time: np.ndarray,
    xy: np.ndarray,
    image: str,
    reader: str,
    where: str,
    placement: Placement,
    setting: GazeSetting,
    leave_out: LeaveOut,
) -> Iterator[Recording]:
    """One recording, or none if no fixation was found (counted). Times count from the first."""
    if np.isfinite(xy).all(axis=1).sum() < LEAST:
        leave_out("fewer than six samples with a position", f"{where} ({image})")
        return
    result = detect(time, xy, placement, setting.detection, where)
    if not len(result.x):
        leave_out("no fixation found in samples", f"{where} ({image})")
        return
    quality = [("data loss", result.data_loss), ("samples per second", result.rate)]
    if np.isfinite(result.precision):
        unit = "unit of the file" if setting.detection.raw_units else "degrees"
        quality.append((f"precision, {unit}", result.precision))
    yield Recording(
        image=image,
        fixations=Fixations(result.x, result.y, result.duration, result.start),
        where=where,
        annotator=reader,
        place=placement,
        quality=tuple(quality),
    )


def sample_unit(time: np.ndarray, named: str | None, where: str) -> float:
    """Seconds per unit of the times of samples; recognised from their intervals."""
    if named is not None:
        return TIMES[named]
    steps = np.diff(time)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if not len(steps):
        raise UserError(f"{where}: times do not grow; expected the time of each sample.")
    middle = float(np.median(steps))
    if middle <= LONGEST_S:
        return 1.0
    return TIMES["ms"] if middle <= LONGEST_MS else TIMES["us"]


def _regular(time: np.ndarray, xy: np.ndarray, where: str) -> tuple[np.ndarray, float, float]:
    """(positions (M, 2) on a regular grid, NaN where missing; interval; time of the first)."""
    if np.isnan(time).any():
        raise UserError(f"{where}: a sample without a time; expected the time of each sample.")
    steps = np.diff(time)
    if (steps < 0).any():
        row = int(np.flatnonzero(steps < 0)[0]) + 1
        raise UserError(
            f"{where}: the time of sample {row + 1} is {time[row]:g} s after {time[row - 1]:g} s;"
            " expected times that grow. If these are several trials, name their column with"
            " --gaze-columns trial=COLUMN."
        )
    interval = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if not interval > 0:
        raise UserError(f"{where}: all samples have one time; expected times that grow.")
    at = np.rint((time - time[0]) / interval).astype(np.int64)
    if at[-1] >= LARGEST_GRID:
        raise UserError(
            f"{where}: samples over {time[-1] - time[0]:g} s with {interval:g} s between them;"
            " expected one viewing. Name the unit with --time-unit, or the trials with"
            " --gaze-columns trial=COLUMN."
        )
    grid = np.full((int(at[-1]) + 1, 2), np.nan)
    grid[at] = np.where(np.isfinite(xy).all(axis=1, keepdims=True), xy, np.nan)
    return grid, interval, float(time[0])


def _segments(missing: np.ndarray, detection: Detection, interval: float) -> list[tuple[int, int]]:
    """(begin, end) of the stretches between long gaps, without the margin around these."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
    longest = detection.gap / interval + 1e-6
    margin = int(round(detection.margin / interval))
    segments, begin = [], 0
    for start, end in zip(edges[::2], edges[1::2]):
        if end - start > longest:
            segments.append((begin, max(int(start) - margin, begin)))
            begin = min(int(end) + margin, len(missing))
    segments.append((begin, len(missing)))
    return [(a, b) for a, b in segments if b - a >= LEAST]


def _filled(values: np.ndarray) -> np.ndarray | None:
    known = np.isfinite(values).all(axis=1)
    if known.sum() < 2:
        return None
    at = np.arange(len(values))
    return np.stack([np.interp(at, at[known], values[known, i]) for i in (0, 1)], axis=1)


def _fixations(values: np.ndarray, detection: Detection, interval: float) -> list[tuple[int, int]]:
    """(first, last sample) of each fixation in `values` (N, 2) without gaps."""
    pymovements = _pymovements()
    # the detectors count samples from first to last
    shortest = max(2, int(round(detection.shortest / interval)))
    if len(values) <= shortest:
        return []
    if detection.detector == "ivt":
        velocity = pymovements.transforms.numpy.pos2vel(values, 1 / interval, detection.method)
        events = pymovements.events.ivt(
            velocity, minimum_duration=shortest, velocity_threshold=detection.velocity
        )
    else:
        events = pymovements.events.idt(
            values, minimum_duration=shortest, dispersion_threshold=detection.dispersion
        )
    frame = events.frame
    found = []
    for first, last in zip(frame["onset"].to_list(), frame["offset"].to_list()):
        # I-DT of pymovements ends with the first sample that is too far away
        far = np.ptp(values[first : last + 1], axis=0).sum() > detection.dispersion
        found.append((int(first), int(last) - int(detection.detector == "idt" and far)))
    return found


def _precision(values: np.ndarray, found: list[tuple[int, int]]) -> float:
    steps = [np.diff(values[a : b + 1], axis=0) for a, b in found]
    squares = (np.concatenate(steps) ** 2).sum(axis=1) if steps else np.zeros(0)
    known = squares[np.isfinite(squares)]
    return float(np.sqrt(known.mean())) if len(known) else np.nan


def _pymovements() -> Any:
    try:
        import pymovements.events
        import pymovements.transforms.numpy
    except ImportError as error:
        raise UserError(
            "--detector: fixations in raw samples need pymovements; pip install"
            " 'openclip_eclip[annotations]'."
        ) from error
    return pymovements
