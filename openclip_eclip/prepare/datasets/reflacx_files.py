"""Reads the tables of REFLACX: the metadata of three phases, and the folder of each reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ...annotations.record import Word
from ...config import UserError
from ...gaze import Boxes, Ellipses, Fixations
from ..plan import Plan
from ..tables import find_table, read_numbers, read_table
from .mimic_files import check_id, check_split, read_place

READING_ID = re.compile(r"P[123]\d\dR\d{6}")  # phase, trial (00 in phase 3), R, six random digits
FIXED = [
    "id",
    "split",
    "eye_tracking_data_discarded",
    "image",
    "dicom_id",
    "subject_id",
    "image_size_x",
    "image_size_y",
]
FLAGS = {"True": 1, "False": 0}  # support devices, quality issue
CERTAINTIES = {"-1", "0", "1", "2", "3", "4", "5"}  # the authors count 3 and more as present
RECTANGLE = ["xmin", "ymin", "xmax", "ymax"]
SHOWN = [f"{name}_shown_from_image" for name in RECTANGLE]
TIMES = ["timestamp_start_fixation", "timestamp_end_fixation"]
DEGREES = ["angular_resolution_x_pixels_per_degree", "angular_resolution_y_pixels_per_degree"]


@dataclass(frozen=True)
class Reading:
    """One radiologist's reading of one image: a row of the metadata."""

    id: str
    folder: Path  # main_data/<id>
    split: str  # MIMIC-CXR's
    # whether the eye tracking was discarded; such a reading has only ellipses and the chest box
    discarded: bool
    dicom: str
    patient: str
    study: str
    size: tuple[int, int]  # (height, width)
    # {finding: certainty 0 to 5}; the names differ between phases
    labels: dict[str, str | int]


def read_metadata(plan: Plan, root: Path) -> list[Reading]:
    """All readings of the three phases.

    Raises:
        UserError: a cell has another form, an id occurs twice, or the readings of one image have
            different splits, sizes or patients.
    """
    readings: dict[str, Reading] = {}
    first_readings: dict[str, Reading] = {}  # of each image
    for phase in (1, 2, 3):
        table = find_table(root / "main_data", f"metadata_phase_{phase}.csv")
        plan.tables.append(table)
        frame = read_table(table, FIXED)
        for i, row in enumerate(frame.to_dict("records")):
            reading = read_row(row, root, f"{table}, row {i + 1}")
            if reading.id in readings:
                raise UserError(
                    f"{table}, row {i + 1}, column 'id': {reading.id!r} occurs twice; expected each"
                    " once."
                )
            first = first_readings.setdefault(reading.dicom, reading)
            expected = (first.split, first.size, first.patient)
            if (reading.split, reading.size, reading.patient) != expected:
                raise UserError(
                    f"{table}, row {i + 1}: split, size or patient of image {reading.dicom} differ"
                    f" from reading {first.id}; expected the same."
                )
            readings[reading.id] = reading
        plan.facts[f"readings of phase {phase}"] = len(frame)
    return list(readings.values())


def read_subjects(plan: Plan, root: Path) -> set[str]:
    """MIMIC-CXR's subject ids of the patients with any reading."""
    return {reading.patient for reading in read_metadata(plan, root)}


def read_row(row: dict[str, str], root: Path, where: str) -> Reading:
    """One row of the metadata. UserError, beginning with `where`: a cell of another form."""
    if not READING_ID.fullmatch(row["id"]):
        raise UserError(
            f"{where}, column 'id': {row['id']!r}; expected P, phase and trial, R, six digits, such"
            " as P101R000001."
        )
    check_split(row["split"], f"{where}, column 'split'")
    if row["eye_tracking_data_discarded"] not in FLAGS:
        raise UserError(
            f"{where}, column 'eye_tracking_data_discarded':"
            f" {row['eye_tracking_data_discarded']!r}; expected True or False."
        )
    check_id(row["dicom_id"], f"{where}, column 'dicom_id'")
    subject, study, dicom = read_place(row["image"], f"{where}, column 'image'")
    if (subject, dicom) != (row["subject_id"], row["dicom_id"]):
        raise UserError(
            f"{where}, column 'image': {row['image']!r}; expected the path of subject"
            f" {row['subject_id']}, {row['dicom_id']}."
        )
    sides = []
    for name in ("image_size_y", "image_size_x"):
        if not (row[name].isascii() and row[name].isdigit()) or int(row[name]) < 1:
            raise UserError(
                f"{where}, column {name!r}: {row[name]!r}; expected pixels of the original image."
            )
        sides.append(int(row[name]))
    labels: dict[str, str | int] = {}
    for name, cell in row.items():
        if name in FIXED or cell == "":
            continue
        # the column Other holds texts, joined by |
        if name != "Other" and cell not in CERTAINTIES and cell not in FLAGS:
            raise UserError(
                f"{where}, column {name!r}: {cell!r}; expected a certainty from 0 to 5, -1, True or"
                " False."
            )
        labels[name] = cell if name == "Other" else FLAGS[cell] if cell in FLAGS else int(cell)
    return Reading(
        row["id"],
        root / "main_data" / row["id"],
        row["split"],
        row["eye_tracking_data_discarded"] == "True",
        dicom,
        subject,
        study,
        (sides[0], sides[1]),
        labels,
    )


def read_gaze(plan: Plan, reading: Reading) -> Fixations:
    """The fixations of a reading.

    Fixations without a duration, a resolution or a shown part of the image are dropped and counted.
    Positions outside the image are kept here; `Fixations.usable` drops them later. Times start with
    the sound recording, so early ones are negative.
    """
    path = reading.folder / "fixations.csv"
    frame = read_table(path, [*TIMES, "x_position", "y_position", *DEGREES, *SHOWN])
    times, xy, degrees, shown = (
        read_numbers(frame, names)
        for names in (TIMES, ["x_position", "y_position"], DEGREES, SHOWN)
    )
    duration = times[:, 1] - times[:, 0]
    tests = {
        "gaze: end not after start": ~(duration > 0),
        "gaze: no angular resolution": ~(degrees > 0).all(axis=1),
        "gaze: nothing of the film was shown": ~(
            (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
        ),
    }
    left = np.ones(len(frame), dtype=bool)
    for reason, fails in tests.items():
        count = int((left & fails).sum())
        if count:
            plan.leave_out(reason, reading.id, count)
        left &= ~fails
    return Fixations(
        xy[left, 0],
        xy[left, 1],
        duration[left],
        times[left, 0],
        degrees[left, 0],
        degrees[left, 1],
        shown[left],
    )


def read_ellipses(plan: Plan, reading: Reading) -> Ellipses | None:
    """The ellipses of anomalies, weighted by certainty; the table may have no rows."""
    frame = _read_if_there(
        plan, reading, "anomaly_location_ellipses.csv", [*RECTANGLE, "certainty"]
    )
    if frame is None:
        return None
    return Ellipses(read_numbers(frame, RECTANGLE), read_numbers(frame, ["certainty"])[:, 0])


def read_box(plan: Plan, reading: Reading) -> Boxes | None:
    """The box around lungs and heart; UserError unless there is exactly one."""
    frame = _read_if_there(plan, reading, "chest_bounding_box.csv", RECTANGLE)
    if frame is None:
        return None
    if len(frame) != 1:
        raise UserError(
            f"{reading.folder / 'chest_bounding_box.csv'}: {len(frame)} rows; expected exactly one."
        )
    return Boxes(read_numbers(frame, RECTANGLE))


def read_transcription(reading: Reading) -> str:
    """The dictation of a reading in one line; "" if there is none."""
    path = reading.folder / "transcription.txt"
    if not path.is_file():
        return ""
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split())


def read_words(plan: Plan, reading: Reading) -> list[Word]:
    """The dictated words with their times; full stops and commas have rows of their own."""
    frame = _read_if_there(
        plan,
        reading,
        "timestamps_transcription.csv",
        ["word", "timestamp_start_word", "timestamp_end_word"],
    )
    if frame is None:
        return []
    times = read_numbers(frame, ["timestamp_start_word", "timestamp_end_word"])
    return [
        Word(word, float(start), float(end)) for word, (start, end) in zip(frame["word"], times)
    ]


def _read_if_there(
    plan: Plan, reading: Reading, name: str, columns: Sequence[str]
) -> pd.DataFrame | None:
    """A table of a reading; None if it does not exist (counted)."""
    path = reading.folder / name
    if not path.is_file():
        plan.leave_out(f"no {name}", reading.id)
        return None
    return read_table(path, columns)
