"""PadChest-GR (Castro et al. 2024, arXiv 2411.05085): sentences of reports with boxes.

Source: bimcv.cipf.es/bimcv-projects/padchest-gr (4555 frontal chest X-rays of PadChest), on
request, for research under its agreement. SRC has grounded_reports_*.json and master_table.csv;
images are PNG files in --images (default: SRC/Padchest_GR_files, and its folder PadChest_GR).

Each sentence that names a finding present is a window, in English or Spanish (--language). Boxes
are of up to two readers (`boxes`, `extra_boxes`), as fractions of the image; the maps of both are
merged. The text is all sentences, those on absent findings too. Splits are the authors', by
patient.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...annotations.drawn.values import member
from ...config import UserError
from ...data.images.options import read_options
from ...gaze import Boxes
from ...json_text import read_json
from ..command import run_plan
from ..images import list_images
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from ..tables import find_table, read_table
from .open_sets import Keys, check_boxes, image_size

SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
READERS = ("boxes", "extra_boxes")
BEYOND = 0.01  # fractions that boxes may lie beyond the image


class Place(NamedTuple):
    split: str
    patient: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder of the images (default: SRC/Padchest_GR_files)",
    )
    parser.add_argument(
        "--language",
        choices=("en", "es"),
        default="en",
        help="language of texts and phrases (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each study with an image. UserError: files with errors, or no image at all."""
    plan, keys = Plan("padchest-gr"), Keys()
    paths = sorted(args.src.glob("grounded_reports_*.json"))
    if len(paths) != 1:
        raise UserError(
            f"{args.src}: {len(paths)} files grounded_reports_*.json; expected one. Check that SRC"
            " is the root of the data set."
        )
    plan.tables.append(paths[0])
    places = read_places(plan, args.src)
    folder = args.images or args.src / "Padchest_GR_files"
    files, options = list_images([folder, folder / "PadChest_GR"]), read_options(args)
    records = read_json(paths[0], list)
    for i, record in enumerate(records):
        where = f"{paths[0]}, record {i + 1}"
        name = member(record, "ImageID", str, where)
        if name not in places:
            raise UserError(f"{where}: ImageID {name!r} is not in master_table.csv; expected it.")
        image = files.get(name.partition(".")[0])
        key = keys.make(name.partition(".")[0], where)
        if image is None:
            plan.leave_out("no image file", name)
            continue
        size = image_size(image, options)
        split, patient = places[name]
        item = read_item(record, key, image, size, patient, args.language, where)
        plan.splits.setdefault(split, []).append(item)
    plan.facts["studies"] = len(records)
    if not plan.splits:
        raise UserError(f"{folder}: no image of any of {len(records)} studies; expected PNG files.")
    return plan


def read_places(plan: Plan, root: Path) -> dict[str, Place]:
    """{image: its split and patient}; the table has a row for each finding.

    Raises:
        UserError: another split, or an image in two splits.
    """
    table = find_table(root, "master_table.csv")
    plan.tables.append(table)
    frame = read_table(table, ["ImageID", "split"])
    patients = frame["PatientID"] if "PatientID" in frame else frame["ImageID"]
    if "PatientID" not in frame:
        plan.facts["patients"] = "not in the table: splits are checked by image only"
    places: dict[str, Place] = {}
    for i, (name, split, patient) in enumerate(zip(frame["ImageID"], frame["split"], patients)):
        if split not in SPLITS:
            raise UserError(
                f"{table}, row {i + 1}, column 'split': {split!r}; expected one of"
                f" {', '.join(SPLITS)}."
            )
        place = Place(SPLITS[split], patient.strip())
        if places.setdefault(name.strip(), place) != place:
            raise UserError(
                f"{table}, row {i + 1}: split or patient of {name!r} differ from an earlier row;"
                " expected the same."
            )
    return places


def read_item(
    record: dict[str, Any],
    key: str,
    image: Path,
    size: tuple[int, int],
    patient: str,
    language: str,
    where: str,
) -> Item:
    """The sample of one study. UserError: another form, or boxes that are no fractions."""
    sentences, windows, labels = [], [], []
    readers: dict[str, list[np.ndarray]] = {}
    for i, finding in enumerate(member(record, "findings", list, where)):
        place = f"{where}, finding {i + 1}"
        text = " ".join(member(finding, f"sentence_{language}", str, place).split())
        if not text:
            raise UserError(f"{place}: blank sentence_{language}; expected a sentence.")
        sentences.append(text if text.endswith(".") else f"{text}.")
        if not finding.get("abnormal"):
            continue
        labels += [str(label) for label in finding.get("labels") or ()]
        boxes = []
        for reader in READERS:
            drawn = read_boxes(finding.get(reader) or [], size, f"{place}, key {reader!r}")
            readers.setdefault(reader, []).extend(drawn)
            boxes += drawn
        if boxes:
            windows.append(Window(text, math.nan, math.nan, Boxes(boxes)))
    annotations = tuple(Boxes(boxes) for boxes in readers.values() if boxes)
    columns = {
        "patient": patient,
        "study": str(record.get("StudyID", "")),
        "label": "|".join(dict.fromkeys(labels)) or "No finding",
    }
    return Item(key, image, " ".join(sentences), annotations, size, columns, tuple(windows))


def read_boxes(boxes: Any, size: tuple[int, int], where: str) -> list[np.ndarray]:
    """Boxes xmin, ymin, xmax, ymax in pixels, from fractions of the image."""
    if not isinstance(boxes, list):
        raise UserError(f"{where}: {str(boxes)[:60]!r}; expected a list of boxes.")
    fractions = check_boxes(boxes, None, where).xyxy
    if (fractions < -BEYOND).any() or (fractions > 1 + BEYOND).any():
        raise UserError(
            f"{where}: {str(boxes)[:80]}; expected fractions of the image, 0 to 1, not pixels."
        )
    height, width = size
    return list(fractions * [width, height, width, height])
