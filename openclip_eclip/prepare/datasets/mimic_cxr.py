"""MIMIC-CXR: chest X-rays with reports, the official splits, and the evaluation set mimic-5x200.

SRC is the root of MIMIC-CXR-JPG 2.0.0 or 2.1.0 (files/, mimic-cxr-2.0.0-*.csv.gz). The reports are
the .txt files of MIMIC-CXR.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from ...config import UserError
from ...subcommands import seed
from ..command import run_plan
from ..evaluation import choose_per_class
from ..options import add_shared_arguments
from ..plan import EvaluationSet, Item, Plan
from ..tables import find_table, read_labels, read_table
from . import egd_cxr, reflacx_files
from .chexpert import COMPETITION, LABELS
from .mimic_files import (
    SPLITS,
    add_exclusion,
    check_id,
    check_unique,
    find_metadata,
    image_path,
    read_excluded,
    read_official_splits,
    without_subjects,
)
from .mimic_reports import add_report_arguments, add_texts

FRONTAL = ("AP", "PA")
RESCUE = {"postero-anterior": "PA", "antero-posterior": "AP"}  # ViewCodeSequence_CodeMeaning
LABEL_TABLES = {
    "chexpert": "mimic-cxr-2.0.0-chexpert.csv",
    "negbio": "mimic-cxr-2.0.0-negbio.csv",
    "radiologist": "mimic-cxr-2.1.0-test-set-labeled.csv",
}
RULE_5X200 = (
    "GLoRIA's rule for CheXpert (Huang et al. 2021) on the study's labels: AP or PA; the class is 1"
    " and every other label but No Finding is 0 or blank; 200 a class from all official splits, one"
    " image a study, one study a patient"
)
GUARD = "; no patient with gaze in "
NAME_5X200 = "mimic-5x200"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="FOLDER",
        help="root of MIMIC-CXR with the reports, files/p10/... (default: SRC)",
    )
    add_report_arguments(parser)
    parser.add_argument(
        "--views",
        choices=("frontal", "all"),
        default="frontal",
        help="views to write; frontal: AP and PA (default: %(default)s)",
    )
    parser.add_argument(
        "--rescue-views",
        action="store_true",
        help="uses the DICOM view code where ViewPosition is blank",
    )
    parser.add_argument(
        "--labels",
        choices=(*LABEL_TABLES, "none"),
        default="chexpert",
        help=(
            "labels to add as columns; radiologist: the labelled test studies of 2.1.0 (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--evaluation",
        choices=(NAME_5X200, "none"),
        default="none",
        help=(
            "evaluation set to write; its patients are left out of train and validate (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--egd",
        type=Path,
        metavar="FOLDER",
        help="root of EGD-CXR; its patients are kept out of the evaluation set",
    )
    parser.add_argument(
        "--reflacx",
        type=Path,
        metavar="FOLDER",
        help="root of REFLACX; its patients are kept out of the evaluation set",
    )
    parser.add_argument(
        "--allow-gaze-in-evaluation",
        action="store_true",
        help=f"allows {NAME_5X200} without --egd and --reflacx",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of the choice of evaluation images (default: %(default)s)",
    )
    add_exclusion(parser)


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The official splits of images with a report, and the evaluation set from all splits."""
    plan = Plan("mimic-cxr")
    items, splits = read_images(plan, args)
    if args.labels != "none":
        items = join_labels(plan, items, args.src, args.labels)
    items = without_subjects(
        plan, items, read_excluded(plan, args.exclude_subjects), "patient is in --exclude-subjects"
    )
    items = add_texts(plan, items, args.reports or args.src, args)
    plan.splits = {name: [item for item in items if splits[item.key] == name] for name in SPLITS}
    if args.evaluation == NAME_5X200:
        add_evaluation(plan, items, args)
    return plan


def read_images(plan: Plan, args: argparse.Namespace) -> tuple[list[Item], dict[str, str]]:
    """The items of the chosen views, still without texts, and {dicom_id: split}.

    Raises:
        UserError: an id has another form or occurs twice.
    """
    table = find_metadata(args.src)
    code = "ViewCodeSequence_CodeMeaning"
    frame = read_table(
        table,
        [
            "dicom_id",
            "subject_id",
            "study_id",
            "ViewPosition",
            *([code] if args.rescue_views else []),
        ],
    )
    splits, split_table = read_official_splits(args.src)
    plan.tables += [table, split_table]
    check_unique(frame, "dicom_id", table)
    items = []
    views: Counter[str] = Counter()
    codes = frame[code] if args.rescue_views else [""] * len(frame)
    for i, (dicom, subject, study, view, meaning) in enumerate(
        zip(frame["dicom_id"], frame["subject_id"], frame["study_id"], frame["ViewPosition"], codes)
    ):
        check_id(dicom, f"{table}, row {i + 1}, column 'dicom_id'")
        for name, number in (("subject_id", subject), ("study_id", study)):
            if not (number.isascii() and number.isdigit() and len(number) == 8):
                raise UserError(
                    f"{table}, row {i + 1}, column {name!r}: {number!r}; expected 8 digits."
                )
        view = view or RESCUE.get(meaning.strip().lower(), "")
        views[view or "blank"] += 1
        if args.views == "frontal" and view not in FRONTAL:
            plan.leave_out("view is not frontal" if view else "view is not known", dicom)
        elif dicom not in splits:
            plan.leave_out("no row in the table of splits", dicom)
        else:
            columns = {"patient": subject, "study": study, "view": view}
            items.append(
                Item(dicom, image_path(args.src, subject, study, dicom), "", columns=columns)
            )
    plan.facts |= {
        "images in the table": len(frame),
        "patients": frame["subject_id"].nunique(),
        "studies": frame["study_id"].nunique(),
        "views": dict(views.most_common()),
    }
    return items, splits


def join_labels(plan: Plan, items: list[Item], src: Path, source: str) -> list[Item]:
    """The items with the labels of their study as columns.

    Blank labels, and studies without a row in the table, give no columns.

    Raises:
        UserError: a label column is missing, or a study occurs twice.
    """
    table = find_table(src, LABEL_TABLES[source])
    plan.tables.append(table)
    # the labelled test set has another name for this column
    frame = read_table(table, ["study_id"]).rename(columns={"Airspace Opacity": "Lung Opacity"})
    missing = [name for name in LABELS if name not in frame]
    if missing:
        raise UserError(
            f"{table}: no column {', '.join(map(repr, missing))}; found {list(frame.columns)}."
        )
    check_unique(frame, "study_id", table)
    labels = read_labels(frame, LABELS, table)
    rows = {study: i for i, study in enumerate(frame["study_id"])}
    joined, without = [], set()
    for item in items:
        row = rows.get(item.study)
        if row is None:
            without.add(item.study)
            joined.append(item)
            continue
        values = {
            name: float(value) for name, value in zip(LABELS, labels[row]) if not np.isnan(value)
        }
        joined.append(Item(item.key, item.image, item.text, columns={**item.columns, **values}))
    plan.facts["studies without labels"] = len(without)
    plan.facts["label rows without an image"] = len(rows.keys() - {item.study for item in items})
    plan.facts["studies by label"] = {
        name: {
            "1": int((column == 1).sum()),
            "0": int((column == 0).sum()),
            "-1": int((column == -1).sum()),
            "blank": int(np.isnan(column).sum()),
        }
        for name, column in zip(LABELS, labels.T)
    }
    return joined


def add_evaluation(plan: Plan, items: list[Item], args: argparse.Namespace) -> None:
    """Adds mimic-5x200 and leaves its patients out of train and validate.

    Raises:
        UserError: there are no labels to choose by, or the patients with gaze are not known.
    """
    if args.labels == "none":
        raise UserError(
            f"--evaluation {NAME_5X200} with --labels none; expected labels to choose images by,"
            " such as --labels chexpert."
        )
    if not (args.egd or args.reflacx or args.allow_gaze_in_evaluation):
        raise UserError(
            f"--evaluation {NAME_5X200} without --egd and --reflacx; expected the folders of the"
            " gaze data sets you train with, so that none of their patients is evaluated. If you"
            " train without gaze, add --allow-gaze-in-evaluation."
        )
    with_gaze, sources = set(), []
    for name, root, module in (
        ("EGD-CXR", args.egd, egd_cxr),
        ("REFLACX", args.reflacx, reflacx_files),
    ):
        if root:
            with_gaze |= module.read_subjects(plan, root)
            sources.append(name)
    free = [item for item in items if item.patient not in with_gaze]
    plan.facts["frontal images of patients with gaze, not evaluated"] = len(items) - len(free)
    candidates = exclusive(free)
    plan.facts["exclusive frontal images, one a study"] = {
        name: len(images) for name, images in candidates.items()
    }
    chosen = choose_per_class(candidates, 200, args.seed, group="patient")
    rule = (
        RULE_5X200 + (GUARD + " or ".join(sources) if sources else "") + f"; labels: {args.labels}"
    )
    plan.evaluation[NAME_5X200] = EvaluationSet(chosen, list(COMPETITION), rule, args.seed)
    held_out = {item.patient for item in chosen}
    for name in ("train", "validate"):
        plan.splits[name] = without_subjects(
            plan, plan.splits[name], held_out, f"patient is in {NAME_5X200}"
        )


def exclusive(items: list[Item]) -> dict[str, list[Item]]:
    """{class: AP or PA images that have this class and no other}.

    The class is 1; every other label except No Finding is 0 or blank. Of each study, only the first
    image by id is a candidate.
    """
    others = [name for name in LABELS if name != "No Finding"]
    candidates: dict[str, dict[str, Item]] = {name: {} for name in COMPETITION}
    for item in sorted(items, key=lambda item: item.key):
        marked = [name for name in others if item.columns.get(name, 0) != 0]
        if (
            len(marked) == 1
            and marked[0] in candidates
            and item.columns[marked[0]] == 1
            and item.columns["view"] in FRONTAL
        ):
            candidates[marked[0]].setdefault(item.study, item)
    return {name: list(studies.values()) for name, studies in candidates.items()}
