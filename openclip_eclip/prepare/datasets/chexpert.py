"""CheXpert v1.0 or v1.0-small: labelled chest X-rays, and the evaluation set chexpert-5x200.

The public release has no reports. Texts are made from the labels ("Findings: edema, pleural
effusion."), so that models can be trained on the splits. The format is described by Irvin et al.
2019 and by the tables themselves.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...subcommands import seed
from ..command import run_plan
from ..evaluation import choose_per_class
from ..options import add_shared_arguments
from ..plan import EvaluationSet, Item, Plan
from ..tables import find_table, read_labels, read_table

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
RULE_5X200 = (
    "GLoRIA (Huang et al. 2021): frontal; the class is 1 and every other label but No Finding is 0"
    " or blank; 200 a class, at most one image a patient"
)
# in some copies, the folder has another name than in the table
ALIASES = {"valid": ("valid", "val"), "val": ("valid", "val")}
IMAGE_PATH = re.compile(r"(?:^|/)(train|valid|val|test)/(patient\d+)/(study\d+)/([^/]+)$")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--evaluation",
        choices=("chexpert-5x200", "none"),
        default="chexpert-5x200",
        help=(
            "evaluation set to write; its patients are left out of the training split (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--views",
        choices=("frontal", "all"),
        default="frontal",
        help="views to write (default: %(default)s)",
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
    """The splits train, valid and test (if their tables exist); the evaluation set from train."""
    plan = Plan("chexpert")
    for split, names in (
        ("train", ("train.csv",)),
        ("valid", ("valid.csv",)),
        ("test", ("test_labels.csv", "test.csv")),
    ):
        if split == "train" or any(any(args.src.glob(name + "*")) for name in names):
            table = find_table(args.src, *names)
            plan.splits[split] = read_split(plan, table, args.src, split, args.views)
    if args.evaluation == "chexpert-5x200":
        candidates = exclusive(plan.splits["train"], COMPETITION)
        plan.facts["exclusive frontal images"] = {
            name: len(items) for name, items in candidates.items()
        }
        chosen = choose_per_class(candidates, 200, args.seed, group="patient")
        plan.evaluation["chexpert-5x200"] = EvaluationSet(
            chosen, list(COMPETITION), RULE_5X200, args.seed
        )
        held_out = {item.patient for item in chosen}
        kept = [item for item in plan.splits["train"] if item.patient not in held_out]
        plan.leave_out(
            "patient is in chexpert-5x200",
            sorted(held_out)[0],
            len(plan.splits["train"]) - len(kept),
        )
        plan.splits["train"] = kept
    return plan


def read_split(plan: Plan, table: Path, src: Path, split: str, views: str) -> list[Item]:
    """One item for each row of a table.

    Raises:
        UserError: a competition column is missing, a path or label has another form, or a path
            occurs twice.
    """
    frame = read_table(table, ["Path", *COMPETITION])
    plan.tables.append(table)
    present = [name for name in LABELS if name in frame]
    labels = read_labels(frame, present, table)
    items, seen, patients = [], set(), set()
    views_of_rows = frame["Frontal/Lateral"] if "Frontal/Lateral" in frame else [""] * len(frame)
    folders = {
        name: next(
            (src / other for other in ALIASES.get(name, (name,)) if (src / other).is_dir()),
            src / name,
        )
        for name in ("train", "valid", "val", "test")
    }
    for i, (path, view) in enumerate(zip(frame["Path"], views_of_rows)):
        match = IMAGE_PATH.search(path.strip())
        if match is None:
            raise UserError(
                f"{table}, row {i + 1}, column 'Path': {path!r}; expected"
                " .../train|valid|test/patientN/studyN/view.jpg."
            )
        if path in seen:
            raise UserError(
                f"{table}, row {i + 1}, column 'Path': {path!r} occurs twice; expected each"
                " image once."
            )
        seen.add(path)
        folder, patient, study, name = match.groups()
        patients.add(patient)
        if views == "frontal" and not (view == "Frontal" if view else "frontal" in name):
            plan.leave_out("lateral view", path)
            continue
        image = folders[folder] / patient / study / name
        columns = {
            "patient": patient,
            **{
                label: float(value)
                for label, value in zip(present, labels[i])
                if not np.isnan(value)
            },
        }
        items.append(
            Item(f"{patient}_{study}_{Path(name).stem}", image, describe(columns), columns=columns)
        )
    plan.facts[f"{split} rows"], plan.facts[f"{split} patients"] = len(frame), len(patients)
    plan.facts[f"{split} labels"] = {
        name: {
            "1": int((column == 1).sum()),
            "0": int((column == 0).sum()),
            "-1": int((column == -1).sum()),
            "blank": int(np.isnan(column).sum()),
        }
        for name, column in zip(present, labels.T)
    }
    return items


def exclusive(items: Sequence[Item], classes: Sequence[str]) -> dict[str, list[Item]]:
    """{class: frontal items that have this class and no other}.

    The class is 1; every other label except No Finding is 0 or blank. A -1 (uncertain) excludes the
    item.
    """
    others = [name for name in LABELS if name != "No Finding"]
    return {
        name: [
            item
            for item in items
            if item.image.name.endswith("frontal.jpg")
            and item.columns.get(name) == 1
            and all(item.columns.get(other, 0) == 0 for other in others if other != name)
        ]
        for name in classes
    }


def describe(columns: dict) -> str:
    """A sentence that names the labels that are 1, or "No finding."."""
    findings = [
        name.lower()
        for name in LABELS
        if name not in ("No Finding", "Support Devices") and columns.get(name) == 1
    ]
    return f"Findings: {', '.join(findings)}." if findings else "No finding."
