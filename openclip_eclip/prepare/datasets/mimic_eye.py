"""MIMIC-Eye 1.0.0 (Hsieh et al. 2023): EGD-CXR and REFLACX in one, with images and reports.

Source: physionet.org/content/mimic-eye-multimodal-datasets (3192 patients), PhysioNet Restricted
Health Data License 1.5.0: a signed agreement. SRC is its folder mimic-eye, with a
folder of each patient and one of tables:

* patient_<subject>/CXR-JPG/s<study>/<dicom>.jpg, CXR-DICOM/s<study>.txt (the report),
  REFLACX/main_data/<reading>/, EyeGaze/audio_segmentation_transcripts/<dicom>/;
* spreadsheets/REFLACX/metadata.csv, EyeGaze/fixations.csv and
  EyeGaze/master_sheet_with_updated_stayId.csv, CXR-JPG/cxr_split.csv, cxr_meta.csv.

The readings of both sets of an image become one sample. EGD-CXR has no pixels per degree, so
Gaussians are in pixels, or in shares of the width. The splits are those of MIMIC-CXR. Nothing but
images, reports and gaze is read; the clinical tables stay unread.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ...config import UserError
from ...gaze import Fixations, RenderConfig
from ..command import run_plan
from ..gaze_options import add_gaze_arguments, gaze_config
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from ..sentence_windows import add_window_arguments, check_lead, make_windows
from ..tables import find_table, read_table
from . import egd_cxr
from .mimic_files import (
    SPLITS,
    add_exclusion,
    check_split,
    check_unique,
    read_excluded,
    read_sizes,
    without_subjects,
)
from .mimic_reports import add_report_arguments, add_texts
from .reflacx import read_drawn
from .reflacx_files import FIXED, read_row, read_words


@dataclasses.dataclass
class Image:
    """An image, and what was recorded of it."""

    patient: str
    study: str
    size: tuple[int, int]  # (height, width)
    gaze: dict[str, Fixations] = dataclasses.field(default_factory=dict)  # {reading: fixations}
    windows: list[Window] = dataclasses.field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--sources",
        nargs="+",
        choices=("egd-cxr", "reflacx"),
        default=["egd-cxr", "reflacx"],
        help="data sets whose gaze is used (default: %(default)s)",
    )
    parser.add_argument(
        "--readers",
        choices=("mean", "noisy-or", "one"),
        default="mean",
        help="how the maps of several readings of an image are merged (default: %(default)s)",
    )
    add_report_arguments(parser)
    add_gaze_arguments(parser, "150 pixels of the original", "reflect")
    add_window_arguments(parser)
    add_exclusion(parser)


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each image with gaze and a report, in the split of MIMIC-CXR.

    Raises:
        UserError: --unit degrees, tables with errors, or sizes of an image that differ.
    """
    check_lead(args)
    plan, config = Plan("mimic-eye"), gaze_config(args, None, "pixels")
    if config.unit == "degrees":
        raise UserError("--unit degrees: EGD-CXR has none; expected pixels or width.")
    images: dict[str, Image] = {}
    if "egd-cxr" in args.sources:
        add_egd(plan, args, config, images)
    if "reflacx" in args.sources:
        add_reflacx(plan, args, config, images)
    items = [make_item(args, config, dicom, image) for dicom, image in images.items()]
    excluded = read_excluded(plan, args.exclude_subjects)
    items = without_subjects(plan, items, excluded, "patient is in --exclude-subjects")
    items = add_texts(plan, items, args.src, args, report_path)
    split_of = read_splits(plan, args.src)
    for item in items:
        if item.key not in split_of:
            plan.leave_out("no row in the table of splits", item.key)
    plan.splits = {
        name: [item for item in items if split_of.get(item.key) == name] for name in SPLITS
    }
    plan.facts["images with gaze"] = len(images)
    return plan


def make_item(args: argparse.Namespace, config: RenderConfig, dicom: str, image: Image) -> Item:
    columns = {
        "patient": image.patient,
        "study": image.study,
        "readings": " ".join(image.gaze),
    }
    path = patient_folder(args.src, image.patient) / "CXR-JPG" / f"s{image.study}" / f"{dicom}.jpg"
    annotations = tuple(image.gaze.values())
    windows = tuple(image.windows)
    return Item(dicom, path, "", annotations, image.size, columns, windows, config, args.readers)


def patient_folder(root: Path, subject: str) -> Path:
    return root / f"patient_{subject}"


def report_path(root: Path, subject: str, study: str) -> Path:
    """The report of a study."""
    return patient_folder(root, subject) / "CXR-DICOM" / f"s{study}.txt"


def add_egd(
    plan: Plan, args: argparse.Namespace, config: RenderConfig, images: dict[str, Image]
) -> None:
    """Adds the gaze of EGD-CXR."""
    tables = args.src / "spreadsheets"
    sheet = egd_cxr.read_master_sheet(plan, tables / "EyeGaze")
    meta = find_table(tables, "cxr_meta.csv")
    plan.tables.append(meta)
    sizes = read_sizes(meta, set(sheet["dicom_id"]))
    readings = egd_cxr.read_fixations(plan, tables / "EyeGaze", sheet, sizes, "original")
    for _, row in sheet.iterrows():
        dicom = row["dicom_id"]
        if dicom not in sizes:
            plan.leave_out("no row in cxr_meta.csv", dicom)
            continue
        fixations = readings.get(dicom)
        if fixations is None or not len(fixations.usable(sizes[dicom], config.weight)[0]):
            plan.leave_out("EGD-CXR: no usable fixation", dicom)
            continue
        image = images.setdefault(dicom, Image(row["patient_id"], row["study_id"], sizes[dicom]))
        image.gaze["EGD-CXR"] = fixations
        if args.windows == "sentence":
            folder = patient_folder(args.src, image.patient) / "EyeGaze"
            words = egd_cxr.read_words(plan, folder, dicom)
            image.windows += make_windows(plan, fixations, words, args.lead, dicom)


def add_reflacx(
    plan: Plan, args: argparse.Namespace, config: RenderConfig, images: dict[str, Image]
) -> None:
    """Adds the gaze of REFLACX; its labels, merged by the authors, are not read."""
    table = find_table(args.src / "spreadsheets" / "REFLACX", "metadata.csv")
    plan.tables.append(table)
    frame = read_table(table, FIXED)
    check_unique(frame, "id", table)
    for i, row in enumerate(frame[FIXED].to_dict("records")):
        where = f"{table}, row {i + 1}"
        reading = read_row(row, args.src, where)
        folder = patient_folder(args.src, reading.patient) / "REFLACX" / "main_data" / reading.id
        drawn = read_drawn(plan, dataclasses.replace(reading, folder=folder), "gaze", config)
        if drawn is None or not isinstance(drawn.annotation, Fixations):
            continue
        image = images.setdefault(
            reading.dicom, Image(reading.patient, reading.study, reading.size)
        )
        # the tables of EGD-CXR and REFLACX may round a side up to the next even number
        if any(abs(side - other) > 1 for side, other in zip(image.size, reading.size)):
            raise UserError(
                f"{where}: image {reading.dicom} of {reading.size[0]} x {reading.size[1]} pixels"
                f" (height x width), {image.size[0]} x {image.size[1]} in an earlier row or table;"
                " expected the same."
            )
        image.gaze[reading.id] = drawn.annotation
        if args.windows == "sentence":
            words = read_words(plan, drawn.reading)
            image.windows += make_windows(plan, drawn.annotation, words, args.lead, reading.id)


def read_splits(plan: Plan, root: Path) -> dict[str, str]:
    """{dicom_id: train, validate or test}. UserError: another split, or an image twice."""
    table = find_table(root / "spreadsheets" / "CXR-JPG", "cxr_split.csv")
    plan.tables.append(table)
    frame = read_table(table, ["dicom_id", "split"])
    check_unique(frame, "dicom_id", table)
    for i, split in enumerate(frame["split"]):
        check_split(split, f"{table}, row {i + 1}, column 'split'")
    return dict(zip(frame["dicom_id"], frame["split"]))
