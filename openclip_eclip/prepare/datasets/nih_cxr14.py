"""NIH ChestX-ray14 (Wang et al. 2017): chest X-rays with text-mined labels, 880 of them with boxes.

Evaluation sets: cxr-14x100 (with two class lists) and cxr8. There are no reports: texts are made
from the labels. Images are in `images/`, or in `images_001/images/` ... `images_012/images/` as on
Kaggle. Boxes are drawn from BBox_List_2017.csv if it exists; they are positions in the original
1024 x 1024 PNGs.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...gaze import Boxes
from ...gaze.plausible import refuse_box_units
from ...subcommands import seed
from ..command import run_plan
from ..evaluation import choose_per_class
from ..images import list_images
from ..options import add_shared_arguments
from ..plan import EvaluationSet, Item, Plan
from ..tables import find_table, read_numbers, read_table

NO_FINDING = "No Finding"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
BOX_CLASSES = FINDINGS[:8]  # ChestX-ray8
CLASS_LISTS = {
    # as in the eCLIP authors' code: No Finding and 13 others, without Hernia
    "cxr-14x100-no-finding": (NO_FINDING, *FINDINGS[:-1]),
    # as in the eCLIP paper: "14 abnormalities"
    "cxr-14x100-hernia": FINDINGS,
}
RULES = {
    "cxr-14x100-no-finding": (
        "100 images a class with that label alone, at most one image a patient; classes of the"
        " eCLIP authors' code"
    ),
    "cxr-14x100-hernia": (
        "100 images a class with that label alone; the 14 abnormalities of the eCLIP paper; at most"
        " one image a patient but for Hernia, which has 110 such images of 79 patients"
    ),
    "cxr8": (
        "all images of test_list.txt, the 8 classes of ChestX-ray8 as 0/1 columns; probes are"
        " fitted on the training split, which has the same columns"
    ),
}
NAME = re.compile(r"(\d{8})_\d{3}\.png")
BOX = ("Bbox [x", "y", "w", "h]")  # the name "Bbox [x,y,w,h]" is split at its own commas
SIDE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--evaluation",
        nargs="+",
        choices=(*RULES, "none"),
        default=list(RULES),
        help=(
            "evaluation sets to write; their patients are left out of the training split (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--pool",
        choices=("all", "test"),
        default="all",
        help=(
            "images to choose cxr-14x100 from; in test, some classes may be too small (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--split",
        choices=("official", "none"),
        default="official",
        help=(
            "official: splits by train_val_list.txt and test_list.txt; none: all images are"
            " training images, and there is no cxr8 (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--boxes",
        choices=("heatmap", "none"),
        default="heatmap",
        help=(
            "heatmap: draws the boxes as heatmaps; none: required if images are not 1024 x 1024"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of the choice of evaluation images (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The splits train and test by the official lists, and the evaluation sets.

    The patients of cxr-14x100 are left out of train.
    """
    plan = Plan("nih-cxr14")
    items = read_images(plan, args.src, _boxes(plan, args))
    plan.splits = (
        _official(plan, args.src, items)
        if args.split == "official"
        else {"train": list(items.values())}
    )
    if "none" in args.evaluation:
        return plan
    wanted = [name for name in CLASS_LISTS if name in args.evaluation]
    pool = plan.splits.get("test", []) if args.pool == "test" else list(items.values())
    chosen = _choose(pool, {label for name in wanted for label in CLASS_LISTS[name]}, args.seed)
    for name in wanted:
        images = [item for label in CLASS_LISTS[name] for item in chosen[label]]
        plan.evaluation[name] = EvaluationSet(
            images, list(CLASS_LISTS[name]), RULES[name], args.seed
        )
    held_out = {item.patient for name in wanted for item in plan.evaluation[name].items}
    kept = [item for item in plan.splits["train"] if item.patient not in held_out]
    if len(kept) < len(plan.splits["train"]):
        plan.leave_out(
            "patient is in cxr-14x100", sorted(held_out)[0], len(plan.splits["train"]) - len(kept)
        )
        plan.splits["train"] = kept
    if "cxr8" in args.evaluation and "test" in plan.splits:
        plan.evaluation["cxr8"] = EvaluationSet(
            plan.splits["test"], list(BOX_CLASSES), RULES["cxr8"]
        )
    return plan


def _choose(pool: Sequence[Item], labels: set[str], seed: int) -> dict[str, list[Item]]:
    """{label: its 100 images}.

    The two class lists share the images of their common labels, so fewer patients are held out.
    """
    alone = {
        label: [item for item in pool if _only(item, label)]
        for label in (NO_FINDING, *FINDINGS)
        if label in labels
    }
    hernia = {"Hernia": alone.pop("Hernia")} if "Hernia" in alone else {}
    chosen = choose_per_class(alone, 100, seed, group="patient") + choose_per_class(
        hernia, 100, seed
    )
    return {label: [item for item in chosen if item.columns["label"] == label] for label in labels}


def read_images(plan: Plan, src: Path, boxes: dict[str, Boxes]) -> dict[str, Item]:
    """{image name: item} of the table.

    Raises:
        UserError: an unknown label, No Finding beside other labels, or an image name that has
            another form or occurs twice.
    """
    table = find_table(src, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    frame = read_table(table, ["Image Index", "Finding Labels", "Patient ID"])
    plan.tables.append(table)
    files = list_images(
        [src / "images", *sorted(src.glob("images_*/images")), *sorted(src.glob("images_*"))]
    )
    items: dict[str, Item] = {}
    for i, (name, cell, patient) in enumerate(
        zip(frame["Image Index"], frame["Finding Labels"], frame["Patient ID"])
    ):
        where = f"{table}, row {i + 1}, column"
        match = NAME.fullmatch(name)
        if (
            match is None
            or not (patient.isascii() and patient.isdigit())
            or int(match[1]) != int(patient)
        ):
            raise UserError(
                f"{where} 'Image Index': {name!r} of patient {patient!r}; expected PATIENT_NNN.png"
                " with 8 and 3 digits."
            )
        if name in items:
            raise UserError(
                f"{where} 'Image Index': {name!r} occurs twice; expected each image once."
            )
        labels = cell.split("|")
        unknown = [label for label in labels if label not in (NO_FINDING, *FINDINGS)]
        if unknown or (NO_FINDING in labels and len(labels) > 1):
            raise UserError(
                f"{where} 'Finding Labels': {cell!r}; expected only No Finding, or some of"
                f" {', '.join(FINDINGS)}, separated by bars."
            )
        columns = {"patient": match[1], **{label: int(label in labels) for label in FINDINGS}}
        annotations = (boxes[name],) if name in boxes else ()
        key = name.removesuffix(".png")
        items[name] = Item(
            key,
            files.get(key, src / "images" / name),
            describe(labels),
            annotations,
            (SIDE, SIDE) if annotations else None,
            columns,
        )
    absent = [name for name in boxes if name not in items]
    if absent:
        raise UserError(
            f"BBox_List_2017.csv: {absent[0]} is not in {table}; expected the table it belongs to."
        )
    alone = Counter(cell for cell in frame["Finding Labels"] if "|" not in cell)
    plan.facts |= {
        "rows": len(frame),
        "patients": frame["Patient ID"].nunique(),
        "images by label": {
            label: sum(item.columns[label] == 1 for item in items.values()) for label in FINDINGS
        },
        "images with that label alone": dict(alone.most_common()),
    }
    return items


def describe(labels: list[str]) -> str:
    """A sentence that names the labels, or "No finding."."""
    if labels == [NO_FINDING]:
        return "No finding."
    return f"Findings: {', '.join(label.replace('_', ' ').lower() for label in labels)}."


def _only(item: Item, label: str) -> bool:
    """Whether this is the only label of an image; No Finding means that no other label is 1."""
    positive = [name for name in FINDINGS if item.columns[name] == 1]
    return positive == ([] if label == NO_FINDING else [label])


def _boxes(plan: Plan, args: argparse.Namespace) -> dict[str, Boxes]:
    """{image name: its boxes}.

    Raises:
        UserError: a box is empty, outside the image, or has an unknown label.
    """
    if args.boxes == "none" or not any(args.src.glob("BBox_List_2017.csv*")):
        return {}
    table = find_table(args.src, "BBox_List_2017.csv")
    frame = read_table(table, ["Image Index", "Finding Label", *BOX])
    plan.tables.append(table)
    # only this table writes Infiltrate
    labels = frame["Finding Label"].replace("Infiltrate", "Infiltration")
    xywh = read_numbers(frame, BOX)
    inside = (
        (xywh[:, :2] >= 0).all(axis=1)
        & (xywh[:, 2:] > 0).all(axis=1)
        & (xywh[:, :2] + xywh[:, 2:] <= SIDE).all(axis=1)
    )
    for i in np.flatnonzero(~inside | ~labels.isin(BOX_CLASSES).to_numpy())[:1]:
        raise UserError(
            f"{table}, row {i + 1}: {frame['Finding Label'][i]!r} at x, y, w, h {xywh[i].tolist()};"
            f" expected one of {', '.join(BOX_CLASSES)} within {SIDE} x {SIDE} pixels."
        )
    refuse_box_units(f"{table}, x, y, w, h", xywh, SIDE)
    plan.facts |= {
        "boxes": len(frame),
        "images with boxes": frame["Image Index"].nunique(),
        "boxes by label": dict(Counter(labels)),
    }
    return {
        name: Boxes.from_xywh(xywh[rows])
        for name, rows in frame.groupby("Image Index").indices.items()
    }


def _official(plan: Plan, src: Path, items: dict[str, Item]) -> dict[str, list[Item]]:
    """The splits train and test by the two lists; images in neither list are counted.

    Raises:
        UserError: a list is missing or unreadable, an image is not in the table, or an image is
            listed twice.
    """
    splits: dict[str, list[Item]] = {}
    split_of: dict[str, str] = {}
    for split, file in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
        path = src / file
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; expected the data set's official lists. Download both, or"
                " use --split none."
            )
        plan.tables.append(path)
        try:
            names = path.read_text(encoding="utf-8").split()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: not UTF-8 ({error}); expected one image name a line."
            ) from error
        for i, name in enumerate(names):
            if name not in items or name in split_of:
                problem = (
                    f"already in {split_of[name]}"
                    if name in split_of
                    else "not in the table of labels"
                )
                raise UserError(
                    f"{path}, line {i + 1}: {name} is {problem}; expected each image of the table"
                    " once in one list."
                )
            split_of[name] = split
            splits.setdefault(split, []).append(items[name])
    for name in items:
        if name not in split_of:
            plan.leave_out("in neither list", name)
    return {
        split: sorted(splits.get(split, []), key=lambda item: item.key)
        for split in ("train", "test")
    }
