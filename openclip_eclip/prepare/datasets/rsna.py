"""RSNA Pneumonia Detection Challenge 2018 (Kaggle, stage 2): chest X-rays with boxes of opacities.

There are no reports: texts are made from the labels. SRC has one of two layouts. Kaggle's folder
has images as DICOM, or exported as JPEG or PNG. The layout with ready-made splits has
`SPLIT_labels.csv` beside `SPLIT_images/`, with splits train, valid (or val) and test.

An id stands for one image. The tables do not say which NIH patient it shows, so splits are by
image.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...config import UserError
from ...gaze import Boxes
from ...gaze.plausible import refuse_box_units
from ...subcommands import seed
from ..command import run_plan
from ..evaluation import choose_per_class, with_columns
from ..images import list_images
from ..options import add_shared_arguments
from ..plan import EvaluationSet, Item, Plan
from ..tables import find_table, read_numbers, read_table

CLASSES = ("No pneumonia", "Pneumonia")  # Target 0 and 1
BOX = ("x", "y", "width", "height")  # pixels of the 1024 x 1024 image; (x, y): top left corner
SIDE = 1024
DETAILED = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")
RULE_GLORIA = (
    "GLoRIA (Huang et al. 2021): images sorted by id, 70 / 15 / 15 by two scikit-learn splits with"
    " seed 0; this is the test part with its own share of positives"
)
RULE_BALANCED = (
    "the positives of GLoRIA's test part and as many of its negatives, drawn with the seed; MedCLIP"
    " and published F1 scores suggest a balanced set, none defines it"
)
RULE_GIVEN = "test_labels.csv as it came with the images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--evaluation",
        nargs="+",
        choices=("rsna-gloria", "rsna-balanced", "none"),
        default=["rsna-gloria", "rsna-balanced"],
        help=(
            "evaluation sets to write; with ready-made splits, rsna-given replaces rsna-gloria"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--boxes",
        choices=("heatmap", "none"),
        default="heatmap",
        help=(
            "heatmap: draws the boxes as heatmaps; none: required if exported images are not"
            " 1024 x 1024 (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of the negatives of rsna-balanced (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The splits train, valid and test, and the evaluation sets from test."""
    plan = Plan("rsna")
    if not any(args.src.glob("stage_2_train_labels.csv*")) and any(
        args.src.glob("test_labels.csv*")
    ):
        return _given_splits(plan, args)
    table = find_table(args.src, "stage_2_train_labels.csv")
    folders = [args.src / name for name in ("stage_2_train_images", "train_images", "images")]
    items = read_images(plan, table, folders, args.boxes)
    if any(args.src.glob("stage_2_detailed_class_info.csv*")):
        items = _add_classes(plan, find_table(args.src, "stage_2_detailed_class_info.csv"), items)
    plan.splits = split_gloria(items)
    _sets(plan, args, {"rsna-gloria": RULE_GLORIA, "rsna-balanced": RULE_BALANCED})
    return plan


def read_images(plan: Plan, table: Path, folders: Sequence[Path], boxes: str) -> list[Item]:
    """One item for each id, in the order of ids.

    Raises:
        UserError: a positive image has no box, a negative image has one, or an image has two
            Targets.
    """
    with_boxes = boxes == "heatmap"
    frame = read_table(table, ["patientId", "Target", *(BOX if with_boxes else ())])
    plan.tables.append(table)
    targets = frame["Target"].str.strip()
    for i in np.flatnonzero(~targets.isin(["0", "1"]))[:1]:
        raise UserError(
            f"{table}, row {i + 1}, column 'Target': {frame['Target'][i]!r}; expected 0 or 1."
        )
    disagree = (targets != targets.groupby(frame["patientId"]).transform("first")).to_numpy()
    for i in np.flatnonzero(disagree)[:1]:
        raise UserError(
            f"{table}, row {i + 1}, column 'Target': {targets[i]} for {frame['patientId'][i]},"
            " but another value in an earlier row; expected the same in all rows of an image."
        )
    positions = _read_boxes(frame, targets, table) if with_boxes else None
    files = list_images(folders)
    items = []
    for identity, rows in sorted(frame.groupby("patientId").indices.items()):
        if not _is_name(identity):
            raise UserError(
                f"{table}, row {rows[0] + 1}, column 'patientId': {identity!r}; expected letters,"
                " digits, - and _."
            )
        target = int(targets[rows[0]])
        drawn = () if positions is None or not target else (Boxes.from_xywh(positions[rows]),)
        text = (
            "Findings: lung opacity, suspicious for pneumonia."
            if target
            else "No sign of pneumonia."
        )
        image = files.get(identity, folders[0] / f"{identity}.dcm")
        items.append(
            Item(
                identity,
                image,
                text,
                drawn,
                (SIDE, SIDE) if drawn else None,
                columns={"patient": identity, "label": CLASSES[target], "Target": target},
            )
        )
    boxes_drawn = 0 if positions is None else int(np.isfinite(positions).all(axis=1).sum())
    plan.facts |= {
        "rows": plan.facts.get("rows", 0) + len(frame),
        "images": plan.facts.get("images", 0) + len(items),
        "positive images": (
            plan.facts.get("positive images", 0)
            + sum(item.columns["Target"] == 1 for item in items)
        ),
        "boxes": plan.facts.get("boxes", 0) + boxes_drawn,
    }
    return items


def _is_name(identity: str) -> bool:
    """Whether an id can be the name of a file and of a member of a shard."""
    return bool(identity) and identity.replace("-", "").replace("_", "").isalnum()


def _read_boxes(frame: pd.DataFrame, targets: pd.Series, table: Path) -> np.ndarray:
    """(rows, 4) float64: x, y, width, height in pixels; NaN where Target is 0.

    Raises:
        UserError: a box is missing, unexpected, empty or outside the image.
    """
    positions = read_numbers(frame, BOX)
    blank = (frame[list(BOX)].apply(lambda column: column.str.strip()) == "").to_numpy()
    positive = (targets == "1").to_numpy()
    inside = (
        (positions[:, :2] >= 0).all(axis=1)
        & (positions[:, 2:] > 0).all(axis=1)
        & (positions[:, :2] + positions[:, 2:] <= SIDE).all(axis=1)
    )
    for i in np.flatnonzero(np.where(positive, ~inside, ~blank.all(axis=1)))[:1]:
        cells = ", ".join(f"{name}={frame[name][i]!r}" for name in BOX)
        expected = f"a box within {SIDE} x {SIDE} pixels" if positive[i] else "blanks"
        raise UserError(
            f"{table}, row {i + 1}, columns {', '.join(BOX)}: {cells}; expected {expected} for"
            f" Target {targets[i]}."
        )
    refuse_box_units(f"{table}, columns {', '.join(BOX)}", positions, SIDE)
    return positions


def _add_classes(plan: Plan, table: Path, items: list[Item]) -> list[Item]:
    """Adds the column `class` of the second table, which has one row for each box.

    Raises:
        UserError: an unknown class, or a class that contradicts Target.
    """
    frame = read_table(table, ["patientId", "class"])
    plan.tables.append(table)
    for i in np.flatnonzero(~frame["class"].isin(DETAILED))[:1]:
        raise UserError(
            f"{table}, row {i + 1}, column 'class': {frame['class'][i]!r}; expected one of"
            f" {', '.join(DETAILED)}."
        )
    classes = dict(zip(frame["patientId"], frame["class"]))
    plan.facts["images by class"] = dict(Counter(classes.values()))
    for item in items:
        target = item.columns["Target"]
        if item.key in classes and (classes[item.key] == "Lung Opacity") != (target == 1):
            raise UserError(
                f"{table}: {item.key} has class {classes[item.key]!r} and Target {target}; expected"
                " Lung Opacity exactly where Target is 1. Check that the tables are of the same"
                " release."
            )
    return [with_columns(item, **{"class": classes.get(item.key, "")}) for item in items]


def split_gloria(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The splits train, valid and test (70 / 15 / 15), as in GLoRIA's code.

    That code calls the first half of its second split "test".

    Raises:
        UserError: scikit-learn is not installed, or there are fewer than 7 images.
    """
    try:
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UserError(
            "GLoRIA's split needs scikit-learn: pip install 'openclip_eclip[prepare]'"
        ) from error
    items = sorted(items, key=lambda item: item.key)
    if len(items) < 7:
        raise UserError(f"rsna: {len(items)} images; expected at least 7 to split 70 / 15 / 15.")
    train, rest = train_test_split(items, test_size=0.3, random_state=0)
    test, valid = train_test_split(rest, test_size=0.5, random_state=0)
    return {"train": train, "valid": valid, "test": test}


def _given_splits(plan: Plan, args: argparse.Namespace) -> Plan:
    """The plan for ready-made splits: `SPLIT_labels.csv` and `SPLIT_images/`.

    The tables have patientId and Target; boxes are optional.
    """
    for split, names in (("train", ("train",)), ("valid", ("valid", "val")), ("test", ("test",))):
        if any(any(args.src.glob(f"{name}_labels.csv*")) for name in names):
            table = find_table(args.src, *(f"{name}_labels.csv" for name in names))
            folder = args.src / table.name.replace("_labels", "_images").split(".")[0]
            has_boxes = set(BOX) <= set(read_table(table, ["patientId", "Target"]))
            plan.splits[split] = read_images(
                plan, table, [folder], args.boxes if has_boxes else "none"
            )
    _sets(
        plan,
        args,
        {
            "rsna-given": RULE_GIVEN,
            "rsna-balanced": RULE_BALANCED.replace("GLoRIA's test part", "test_labels.csv"),
        },
    )
    return plan


def _sets(plan: Plan, args: argparse.Namespace, rules: dict[str, str]) -> None:
    """Adds the requested evaluation sets: the whole test split, and a balanced subset of it.

    `rules`: {name: rule} of the two sets, in this order.
    """
    whole, balanced = rules
    test = plan.splits["test"]
    if "none" in args.evaluation:
        return
    if "rsna-gloria" in args.evaluation:
        plan.evaluation[whole] = EvaluationSet(test, list(CLASSES), rules[whole])
    if "rsna-balanced" in args.evaluation:
        by_class = {
            name: [item for item in test if item.columns["label"] == name] for name in CLASSES
        }
        count = min(len(items) for items in by_class.values())
        plan.evaluation[balanced] = EvaluationSet(
            choose_per_class(by_class, count, args.seed), list(CLASSES), rules[balanced], args.seed
        )
