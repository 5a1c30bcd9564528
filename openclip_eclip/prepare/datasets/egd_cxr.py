"""EGD-CXR 1.0.0 (Karargyris et al. 2021): one radiologist's gaze on 1083 images of MIMIC-CXR.

The data set has fixations and dictations. SRC is the root with master_sheet.csv and fixations.csv.
Images come from MIMIC-CXR-JPG (--images), texts from the reports of MIMIC-CXR.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd

from ...annotations.record import Word
from ...config import UserError
from ...gaze import Fixations
from ...gaze.plausible import refuse_pixels, refuse_units
from ..command import run_plan
from ..gaze_options import add_gaze_arguments, gaze_config
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from ..sentence_windows import add_window_arguments, check_lead, make_windows
from ..tables import find_table, read_numbers, read_table
from .mimic_files import (
    SPLITS,
    add_exclusion,
    check_id,
    check_unique,
    find_metadata,
    image_path,
    read_excluded,
    read_official_splits,
    read_place,
    read_sizes,
    without_subjects,
)
from .mimic_reports import add_report_arguments, add_texts

SCREEN = (1920, 1080)  # width, height in pixels
CLASSES = ("Normal", "CHF", "pneumonia")  # mutually exclusive
# length of the ids of calibration dots, in characters: after every 20th image a white dot was
# shown, under a dicom_id without its last five characters
CALIBRATION = 39
GAZE = ["FPOGS", "FPOGD", "FPOGV"]
POSITIONS = {"original": ["X_ORIGINAL", "Y_ORIGINAL"], "screen": ["FPOGX", "FPOGY"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="root of MIMIC-CXR-JPG, with its metadata table",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="FOLDER",
        help="root of MIMIC-CXR with the reports, files/p10/... (default: --images)",
    )
    add_report_arguments(parser)
    add_gaze_arguments(parser, "150 pixels of the original, as in the authors' code", "reflect")
    parser.add_argument(
        "--positions",
        choices=tuple(POSITIONS),
        default="original",
        help=(
            "source of the positions; original: the pixels in the table; screen: computed from"
            " screen fractions and pads (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--split",
        choices=("none", "authors", "official"),
        default="none",
        help=(
            "splits to write; none: train only; authors: 80/10/10 by patient; official: those of"
            " MIMIC-CXR (default: %(default)s)"
        ),
    )
    add_window_arguments(parser)
    add_exclusion(parser)


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each image of the master sheet that has a report.

    An item is annotated if at least one of its fixations can be drawn.

    Raises:
        UserError: --unit degrees, a table with errors, or no usable fixation at all.
    """
    check_lead(args)
    plan, config = Plan("egd-cxr"), gaze_config(args, None, "pixels")
    if config.unit == "degrees":
        raise UserError(
            "--unit degrees: EGD-CXR has no pixels per degree; expected pixels or width."
        )
    sheet = read_master_sheet(plan, args.src)
    metadata = find_metadata(args.images)
    plan.tables.append(metadata)
    sizes = read_sizes(metadata, set(sheet["dicom_id"]))
    readings = read_fixations(plan, args.src, sheet, sizes, args.positions)
    items = []
    for _, row in sheet.iterrows():
        dicom = row["dicom_id"]
        if dicom not in sizes:
            plan.leave_out("no row in MIMIC-CXR's metadata", dicom)
            continue
        fixations = readings.get(dicom)
        if fixations is not None and not len(
            fixations.usable(sizes[dicom], config.weight, config.unit)[0]
        ):
            fixations = None
        if fixations is None:
            plan.leave_out("heatmap: no usable fixation (the film stays, without one)", dicom)
        windows: tuple[Window, ...] = ()
        if args.windows == "sentence" and fixations is not None:
            windows = make_windows(
                plan, fixations, read_words(plan, args.src, dicom), args.lead, dicom
            )
        columns = {"patient": row["patient_id"], "study": row["study_id"], **disease(row)}
        image = image_path(args.images, row["patient_id"], row["study_id"], dicom)
        items.append(
            Item(
                dicom,
                image,
                "",
                () if fixations is None else (fixations,),
                sizes[dicom],
                columns,
                windows,
                config,
            )
        )
    if items and not any(item.annotations for item in items):
        raise UserError(
            f"{find_table(args.src, 'fixations.csv')}: no usable fixation on any of"
            f" {len(items)} images ({dict(plan.left_out)}); expected positions in the columns"
            f" {POSITIONS[args.positions]}."
        )
    items = without_subjects(
        plan, items, read_excluded(plan, args.exclude_subjects), "patient is in --exclude-subjects"
    )
    items = add_texts(plan, items, args.reports or args.images, args)
    plan.splits = split_items(plan, items, sheet, args)
    return plan


def read_subjects(plan: Plan, root: Path) -> set[str]:
    """MIMIC-CXR's subject ids of the patients with gaze."""
    return set(read_master_sheet(plan, root)["patient_id"])


def read_master_sheet(plan: Plan, root: Path) -> pd.DataFrame:
    """The master sheet, with one row for each image.

    The last field of a row has quoted line breaks, so a row may take several lines.

    Raises:
        UserError: an id or path has another form, a path does not fit its row, or an image occurs
            twice.
    """
    # MIMIC-Eye gives it another name
    table = find_table(root, "master_sheet.csv", "master_sheet_with_updated_stayId.csv")
    frame = read_table(table, ["dicom_id", "path", "study_id", "patient_id"])
    check_unique(frame, "dicom_id", table)
    columns = (frame[name] for name in ("dicom_id", "path", "study_id", "patient_id"))
    for i, (dicom, path, study, patient) in enumerate(zip(*columns)):
        where = f"{table}, row {i + 1}, column"
        check_id(dicom, f"{where} 'dicom_id'")
        if read_place(path, f"{where} 'path'") != (patient, study, dicom):
            raise UserError(
                f"{where} 'path': {path!r}; expected the path of patient {patient}, study {study},"
                f" {dicom}."
            )
    plan.tables.append(table)
    plan.facts["EGD-CXR films"], plan.facts["EGD-CXR patients"] = (
        len(frame),
        frame["patient_id"].nunique(),
    )
    return frame


def disease(row: pd.Series) -> dict[str, str]:
    """The class of an image in the master sheet, if it has exactly one."""
    names = [name for name in CLASSES if str(row.get(name, "")).strip() in ("1", "1.0")]
    return {"class": names[0]} if len(names) == 1 else {}


def read_fixations(
    plan: Plan, root: Path, sheet: pd.DataFrame, sizes: dict[str, tuple[int, int]], positions: str
) -> dict[str, Fixations]:
    """{dicom_id: valid fixations}.

    Calibration dots, unknown ids, invalid rows and rows outside the image are dropped and counted.
    """
    table = find_table(root, "fixations.csv")
    plan.tables.append(table)
    frame = read_table(table, ["DICOM_ID", *GAZE, *POSITIONS[positions]])
    plan.facts["fixation rows"] = len(frame)
    ids = frame["DICOM_ID"].str.strip()
    numbers = read_numbers(frame, [*GAZE, *POSITIONS[positions]])
    valid = numbers[:, 2] == 1
    if positions == "screen":
        refuse_pixels(f"{table}, columns {', '.join(POSITIONS[positions])}", numbers[valid, 3:])
    xy = (
        numbers[:, 3:]
        if positions == "original"
        else screen_to_image(numbers[:, 3:], ids, sheet, sizes, root)
    )
    length = ids.str.len().to_numpy()
    # (rows, 2) width and height; NaN without a size: such images are left out later, as a whole
    heights_widths = [sizes.get(name, (np.nan, np.nan)) for name in ids]
    sides = np.array(heights_widths, dtype=np.float64).reshape(-1, 2)[:, ::-1]
    if positions == "original":
        refuse_units(f"{table}, columns {', '.join(POSITIONS[positions])}", xy[valid], sides[valid])
    # the authors rounded odd sides up to even ones, so a position may be one pixel too far
    beyond = sides + sides % 2
    tests = {
        "fixations: calibration dot (an id of 39 characters)": length == CALIBRATION,
        "fixations: id is not in the master sheet": ~ids.isin(set(sheet["dicom_id"])).to_numpy(),
        "fixations: invalid (FPOGV is not 1)": numbers[:, 2] != 1,
        "fixations: no positive duration": ~(numbers[:, 1] > 0),
        "fixations: no position": ~np.isfinite(xy).all(axis=1),
        "fixations: off the film": ((xy < 0) | (xy >= beyond)).any(axis=1),
    }
    left = np.ones(len(frame), dtype=bool)
    for reason, fails in tests.items():
        rows = np.flatnonzero(left & fails)
        if len(rows):
            plan.leave_out(reason, f"row {rows[0] + 1}", len(rows))
        left &= ~fails
    xy = np.minimum(xy, sides - 1)
    return {
        name: Fixations(xy[rows, 0], xy[rows, 1], numbers[rows, 1], numbers[rows, 0])
        for name, rows in (
            pd.Series(np.flatnonzero(left)).groupby(ids[left].to_numpy()).agg(list).items()
        )
    }


def screen_to_image(
    fractions: np.ndarray,
    ids: pd.Series,
    sheet: pd.DataFrame,
    sizes: dict[str, tuple[int, int]],
    root: Path,
) -> np.ndarray:
    """Maps fractions of the screen (N, 2) to whole pixels of the image, as the authors do.

    X = trunc(W / (1920 - left - right) * (x - left)), and y likewise with 1080. W and H are rounded
    up to even numbers. Positions outside the image or on its edge become -1.

    Raises:
        UserError: there are no pad columns, or the pads leave no area of the screen.
    """
    names = [
        [f"image_{side}{suffix}" for side in ("left", "top", "right", "bottom")]
        for suffix in ("_pad", "")
    ]
    columns = next((four for four in names if set(four) <= set(sheet.columns)), None)
    if columns is None:
        raise UserError(
            f"{root / 'master_sheet.csv'}: no columns {', '.join(names[0])}; expected the pads that"
            " map the screen to the image. Without them, use --positions original."
        )
    pads = read_numbers(sheet, columns)
    wrong = ~((pads[:, :2] + pads[:, 2:] < SCREEN) & (pads[:, :2] >= 0) & (pads[:, 2:] >= 0)).all(
        axis=1
    )
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{root / 'master_sheet.csv'}, row {row + 1}: pads {pads[row].tolist()} (left, top,"
            f" right, bottom); expected 0 or more, together less than the screen of {SCREEN[0]} x"
            f" {SCREEN[1]}. Without correct pads, use --positions original."
        )
    sheet_rows = {name: i for i, name in enumerate(sheet["dicom_id"])}
    known = np.array([sheet_rows.get(name, -1) if name in sizes else -1 for name in ids])
    pad = pads[known]  # (N, 4); the last row for unknown ids, which become -1 below
    heights_widths = [sizes.get(name, (1, 1)) for name in ids]
    sides = np.array(heights_widths, dtype=np.float64).reshape(-1, 2)[:, ::-1]
    # (N, 2) size of the shown image, and position in it, both in screen pixels
    inner = np.array(SCREEN) - pad[:, :2] - pad[:, 2:]
    position = fractions * SCREEN - pad[:, :2]
    xy = np.trunc((sides + sides % 2) / inner * position)
    outside = ((position <= 0) | (position >= inner)).any(axis=1)
    outside &= np.isfinite(position).all(axis=1)
    xy[outside | (known < 0)] = -1
    return xy


def read_words(plan: Plan, root: Path, dicom: str) -> list[Word]:
    """The phrases of a dictation; a missing transcript gives none and is counted.

    Raises:
        UserError: the transcript is not JSON of the expected form.
    """
    path = root / "audio_segmentation_transcripts" / dicom / "transcript.json"
    if not path.is_file():
        plan.leave_out("windows: no transcript", dicom)
        return []
    try:
        phrases = json.loads(path.read_text(encoding="utf-8"))["time_stamped_text"]
        return [
            Word(str(phrase["phrase"]), float(phrase["begin_time"]), float(phrase["end_time"]))
            for phrase in phrases
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: {error!r}; expected time_stamped_text, a list of phrase, begin_time and"
            " end_time."
        ) from error


def split_items(
    plan: Plan, items: list[Item], sheet: pd.DataFrame, args: argparse.Namespace
) -> dict[str, list[Item]]:
    """{split: items}, as --split says."""
    if args.split == "none":
        return {"train": items}
    if args.split == "official":
        split_of, table = read_official_splits(args.images)
        plan.tables.append(table)
        for item in items:
            if item.key not in split_of:
                plan.leave_out("no row in the table of splits", item.key)
        return {name: [item for item in items if split_of.get(item.key) == name] for name in SPLITS}
    # The authors shuffle the unique patients with Python's random and seed 1. Their order before
    # the shuffle is unknown; here it is the order of the sheet.
    patients = list(dict.fromkeys(sheet["patient_id"]))
    random.Random(1).shuffle(patients)
    ends = int(0.8 * len(patients)), int(0.9 * len(patients))
    groups = {
        "train": {*patients[: ends[0]]},
        "validate": {*patients[ends[0] : ends[1]]},
        "test": {*patients[ends[1] :]},
    }
    return {
        name: [item for item in items if item.patient in group] for name, group in groups.items()
    }
