"""VinDr-CXR (Nguyen et al. 2022): boxes of 22 findings on chest X-rays, three radiologists each.

Source: physionet.org/content/vindr-cxr (15 000 images for training, 3000 for test), PhysioNet
Credentialed Health Data License 1.5.0: a signed agreement and training; the training part is also
on Kaggle, under the rules of its challenge. SRC is either

* PhysioNet's: annotations/annotations_train.csv and annotations_test.csv, train/ and test/;
* or Kaggle's: train.csv and train/.

Images are DICOM (extra `dicom`), or PNG or JPEG of the original size. Each image of train has the
boxes of three radiologists, which are merged as several readers; those of test are agreed on.

There are no reports: texts are made from the findings of at least one radiologist, and each finding
is a phrase window with the boxes of all. The tables name no patients, so splits are by image.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...data.images.options import ReadOptions, read_options
from ...gaze import Boxes
from ..command import run_plan
from ..images import list_images
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from ..tables import find_table, read_numbers, read_table
from .open_sets import Keys, check_boxes, findings_text, image_size, without_missing_images

BOX = ["x_min", "y_min", "x_max", "y_max"]  # pixels of the original
NO_FINDING = "No finding"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--readers",
        choices=("mean", "noisy-or", "one"),
        default="mean",
        help=(
            "how the maps of several radiologists are merged; one: the first one's map (default:"
            " %(default)s)"
        ),
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The splits train and test, as far as SRC has them. UserError: tables with errors."""
    plan, keys = Plan("vindr-cxr"), Keys()
    folder = args.src / "annotations"
    if not folder.is_dir():
        plan.splits["train"] = read_split(
            plan, args, find_table(args.src, "train.csv"), args.src / "train", keys
        )
        return plan
    for split in ("train", "test"):
        table = find_table(folder, f"annotations_{split}.csv")
        plan.splits[split] = read_split(plan, args, table, args.src / split, keys)
    return plan


def read_split(
    plan: Plan, args: argparse.Namespace, table: Path, folder: Path, keys: Keys
) -> list[Item]:
    """One item for each image of a table, in the order of ids."""
    plan.tables.append(table)
    frame = read_table(table, ["image_id", "class_name", *BOX])
    positions, files = read_numbers(frame, BOX), list_images([folder])
    check_rows(frame, positions, table)
    options, items = read_options(args), []
    for identity, rows in sorted(frame.groupby("image_id").indices.items()):
        where = f"{table}, row {rows[0] + 1}, column 'image_id'"
        image = files.get(identity, folder / f"{identity}.dicom")
        key = keys.make(identity, where)
        items.append(read_image(frame, rows, positions, image, key, table, args.readers, options))
    plan.facts[f"images of {folder.name}"] = len(items)
    plan.facts[f"boxes of {folder.name}"] = sum(
        len(shape.xyxy) for item in items for shape in item.annotations if isinstance(shape, Boxes)
    )
    return without_missing_images(plan, items, folder)


def check_rows(frame: pd.DataFrame, positions: np.ndarray, table: Path) -> None:
    """UserError: a finding without a box, or "No finding" with one."""
    blank = (frame[BOX].apply(lambda column: column.str.strip()) == "").to_numpy()
    none = (frame["class_name"].str.strip() == NO_FINDING).to_numpy()
    # Kaggle's copies may give "No finding" the box 0, 0, 1, 1
    empty = blank.all(axis=1) | (positions == [0, 0, 1, 1]).all(axis=1)
    wrong = np.where(none, ~empty, ~np.isfinite(positions).all(axis=1))
    wrong |= (frame["class_name"].str.strip() == "").to_numpy()
    for i in np.flatnonzero(wrong)[:1]:
        cells = ", ".join(f"{name}={frame[name].iat[i]!r}" for name in ("class_name", *BOX))
        expected = "blanks" if none[i] else "a finding and its box in pixels"
        raise UserError(f"{table}, row {i + 1}: {cells}; expected {expected}.")


def read_image(
    frame: pd.DataFrame,
    rows: np.ndarray,
    positions: np.ndarray,
    image: Path,
    key: str,
    table: Path,
    merge: str,
    options: ReadOptions,
) -> Item:
    """The sample of one image: one annotation for each radiologist with a box."""
    # the size in the head of a DICOM file would need pydicom, even for --dry-run
    known = image.is_file() and image.suffix.lower() not in (".dcm", ".dicom")
    size = image_size(image, options) if known else None
    readers: dict[str, list[np.ndarray]] = {}
    findings: dict[str, list[np.ndarray]] = {}
    for row in rows:
        name = frame["class_name"].iat[row].strip()
        if name == NO_FINDING:
            continue
        box = check_boxes([positions[row].tolist()], size, f"{table}, row {row + 1}").xyxy[0]
        reader = frame["rad_id"].iat[row] if "rad_id" in frame else ""
        readers.setdefault(reader, []).append(box)
        findings.setdefault(name, []).append(box)
    windows = tuple(
        Window(name.lower(), math.nan, math.nan, Boxes(boxes)) for name, boxes in findings.items()
    )
    columns: dict[str, str | int | float] = {
        "patient": key,
        "label": "|".join(findings) or NO_FINDING,
    }
    if "rad_id" in frame:
        columns["readers"] = " ".join(dict.fromkeys(frame["rad_id"].iloc[rows]))
    annotations = tuple(Boxes(boxes) for _, boxes in sorted(readers.items()))
    text = findings_text(list(findings))
    return Item(key, image, text, annotations, size, columns, windows, merge=merge)
