"""MS-CXR (Boecking et al. 2022): phrases of reports of MIMIC-CXR with boxes by radiologists.

Source: physionet.org/content/ms-cxr (1162 pairs of an image and a phrase, 8 findings), PhysioNet
Credentialed Health Data License 1.5.0: a signed agreement and training. SRC has
MS_CXR_Local_Alignment_v1.*.csv; images come from MIMIC-CXR-JPG (--images), texts from the reports
of MIMIC-CXR (--reports), or without --reports from the phrases alone.

Each phrase is a window; several boxes of one phrase are one region. The set is mostly used to test
grounding: keep its patients out of training with --exclude-subjects of `prepare mimic-cxr`, which
reads the table that this command writes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...gaze import Boxes
from ..command import run_plan
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from ..tables import find_table, read_numbers, read_table
from .mimic_files import (
    add_exclusion,
    check_id,
    image_path,
    read_excluded,
    read_place,
    without_subjects,
)
from .mimic_reports import add_report_arguments, add_texts
from .open_sets import check_boxes

BOX = ["x", "y", "w", "h"]  # pixels of the original; (x, y): top left corner
SIZE = ["image_height", "image_width"]
SPLITS = ("train", "val", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="root of MIMIC-CXR-JPG"
    )
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="FOLDER",
        help="root of MIMIC-CXR; its reports replace the phrases as texts",
    )
    add_report_arguments(parser)
    add_exclusion(parser)


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each image, in the split of the table (from release 1.1 on), else in test.

    Raises:
        UserError: a cell has another form, or rows of one image disagree.
    """
    plan = Plan("ms-cxr")
    table = find_table(args.src, "MS_CXR_Local_Alignment_v*.csv")
    plan.tables.append(table)
    columns = ["dicom_id", "category_name", "label_text", "path", *BOX, *SIZE]
    frame = read_table(table, columns)
    positions, sizes = read_numbers(frame, BOX), read_numbers(frame, SIZE)
    splits: dict[str, str] = {}
    items = []
    for dicom, rows in frame.groupby("dicom_id", sort=False).indices.items():
        item, splits[dicom] = read_image(frame, rows, positions, sizes, table, args.images)
        items.append(item)
    plan.facts |= {
        "rows": len(frame),
        "images": len(items),
        "phrases": sum(len(item.windows) for item in items),
    }
    excluded = read_excluded(plan, args.exclude_subjects)
    items = without_subjects(plan, items, excluded, "patient is in --exclude-subjects")
    if args.reports:
        items = add_texts(plan, items, args.reports, args)
    for name in SPLITS:
        chosen = [item for item in items if splits[item.key] == name]
        if chosen:
            plan.splits[name] = chosen
    return plan


def read_image(
    frame: pd.DataFrame,
    rows: Sequence[int],
    positions: np.ndarray,
    sizes: np.ndarray,
    table: Path,
    images: Path,
) -> tuple[Item, str]:
    """(the sample of one image, its split)."""
    first = rows[0]
    cells = frame.iloc[first]
    where = f"{table}, row {first + 1}"
    check_id(cells["dicom_id"], f"{where}, column 'dicom_id'")
    subject, study, dicom = read_place(cells["path"], f"{where}, column 'path'")
    split = cells["split"] if "split" in frame else "test"
    if dicom != cells["dicom_id"] or split not in SPLITS:
        raise UserError(
            f"{where}: path {cells['path']!r}, split {split!r}; expected the path of"
            f" {cells['dicom_id']}, and one of {', '.join(SPLITS)}."
        )
    names = [name for name in ("path", *SIZE, "split") if name in frame]
    phrases: dict[str, list[np.ndarray]] = {}
    for row in rows:
        where = f"{table}, row {row + 1}"
        if (frame.iloc[row][names] != cells[names]).any():
            raise UserError(
                f"{where}: {', '.join(names)} of {dicom} differ from row {first + 1}; expected the"
                " same."
            )
        if not (sizes[row] > 0).all() or (sizes[row] % 1).any():
            raise UserError(
                f"{where}, columns {', '.join(SIZE)}: {frame.iloc[row][SIZE].tolist()}; expected"
                " pixels of the original image."
            )
        text = " ".join(frame["label_text"].iat[row].split())
        if not text:
            raise UserError(f"{where}, column 'label_text': blank; expected a phrase.")
        x, y, width, height = positions[row].tolist()
        corners = [x, y, x + width, y + height]
        if not np.isfinite(corners).all():
            raise UserError(
                f"{where}, columns {', '.join(BOX)}: {frame.iloc[row][BOX].tolist()}; expected"
                " numbers."
            )
        size = int(sizes[row, 0]), int(sizes[row, 1])
        phrases.setdefault(text, []).append(check_boxes([corners], size, where).xyxy[0])
    windows = tuple(
        Window(text, math.nan, math.nan, Boxes(boxes)) for text, boxes in phrases.items()
    )
    everything = Boxes([box for boxes in phrases.values() for box in boxes])
    labels = dict.fromkeys(frame["category_name"].iloc[list(rows)].str.strip())
    columns = {"patient": subject, "study": study, "label": "|".join(labels)}
    text = " ".join(phrase if phrase.endswith(".") else f"{phrase}." for phrase in phrases)
    image = image_path(images, subject, study, dicom)
    return Item(dicom, image, text, (everything,), size, columns, windows), split
