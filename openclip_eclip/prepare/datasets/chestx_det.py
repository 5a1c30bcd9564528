"""ChestX-Det (Lian et al. 2021): outlines of 13 findings on 3543 images of ChestX-ray14.

Source: github.com/Deepwise-AILab/ChestX-Det-Dataset, open to everybody without an agreement; the
images are those of the NIH (free to use, with its source named). SRC has ChestX_Det_train.json and
ChestX_Det_test.json, and the images in train_data/ and test_data/, with or without a folder train
or test inside. The outlines were drawn by three radiologists together.

There are no reports: texts are made from the findings, and each finding is a phrase window. File
names do not say which patient an image shows, so splits are the published ones, by image.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ...annotations.drawn.values import check_on_image, member, numbers
from ...config import UserError
from ...gaze import Boxes, Polygons
from ...json_text import read_json
from ..command import run_plan
from ..images import list_images
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from .open_sets import Keys, check_boxes, findings_text, without_missing_images

SIDE = 1024  # pixels of the images; another size is an error
# phrases, where the name of the class alone would be unclear
PHRASES = {"Effusion": "pleural effusion", "Diffuse Nodule": "diffuse nodules"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--shapes",
        choices=("polygons", "boxes"),
        default="polygons",
        help="shapes that are drawn as heatmaps (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The splits train and test. UserError: no file, no images, or records with errors."""
    plan = Plan("chestx-det")
    keys = Keys()
    for split in ("train", "test"):
        path = args.src / f"ChestX_Det_{split}.json"
        if path.is_file():
            plan.splits[split] = read_split(plan, args, path, split, keys)
    if not plan.splits:
        raise UserError(
            f"{args.src}: neither ChestX_Det_train.json nor ChestX_Det_test.json; expected one at"
            " least. Check that SRC is the root of the data set."
        )
    return plan


def read_split(
    plan: Plan, args: argparse.Namespace, path: Path, split: str, keys: Keys
) -> list[Item]:
    """The images of one file."""
    plan.tables.append(path)
    folders = [args.src / f"{split}_data" / split, args.src / f"{split}_data", args.src / split]
    files = list_images(folders)
    items = []
    for i, record in enumerate(read_json(path, list)):
        where = f"{path}, record {i + 1}"
        name = member(record, "file_name", str, where)
        stem = name.rpartition(".")[0]
        shapes = read_shapes(record, args.shapes, where)
        windows = tuple(
            Window(PHRASES.get(label, label.lower()), math.nan, math.nan, shape)
            for label, shape in shapes.items()
        )
        everything = join(list(shapes.values()))
        text = findings_text([window.sentence for window in windows])
        key = keys.make(stem, f"{where}, key 'file_name'")
        columns = {"patient": key, "label": "|".join(shapes) or "No Finding"}
        items.append(
            Item(
                key,
                files.get(stem, folders[0] / name),
                text,
                (everything,) if everything is not None else (),
                (SIDE, SIDE),
                columns,
                windows,
            )
        )
    plan.facts[f"images of {split}"] = len(items)
    return without_missing_images(plan, items, folders[1])


def read_shapes(record: dict[str, Any], kind: str, where: str) -> dict[str, Boxes | Polygons]:
    """{finding: its outlines or boxes}, in the order of the record.

    Raises:
        UserError: lists of different lengths, or a shape with errors.
    """
    labels = member(record, "syms", list, where)
    given = member(record, kind, list, where)
    if len(given) != len(labels):
        raise UserError(
            f"{where}: {len(labels)} syms, {len(given)} {kind}; expected the same number."
        )
    shapes: dict[str, list[Boxes | Polygons]] = {}
    for label, values in zip(labels, given):
        if not isinstance(label, str) or not label.strip():
            raise UserError(f"{where}: {label!r} in syms; expected the name of a finding.")
        shape = (
            check_boxes([values], (SIDE, SIDE), where)
            if kind == "boxes"
            else read_outline(values, where)
        )
        shapes.setdefault(label.strip(), []).append(shape)
    return {label: joined for label, parts in shapes.items() if (joined := join(parts)) is not None}


def read_outline(values: Any, where: str) -> Polygons:
    """One outline of x, y. UserError: too few points, no numbers, or off the image."""
    if not isinstance(values, list) or len(values) < 3:
        raise UserError(f"{where}: outline {str(values)[:60]!r}; expected at least 3 points.")
    points = [numbers(point, "polygons", where) for point in values]
    if any(len(point) != 2 for point in points):
        raise UserError(f"{where}: outline {str(values)[:60]!r}; expected points of x and y.")
    outline = Polygons([points])
    check_on_image(outline, (SIDE, SIDE), where)
    return outline


def join(parts: list[Boxes | Polygons]) -> Boxes | Polygons | None:
    """All shapes of one kind in one; None without any."""
    if not parts:
        return None
    if isinstance(parts[0], Boxes):
        return Boxes([box for part in parts if isinstance(part, Boxes) for box in part.xyxy])
    return Polygons(
        [line for part in parts if isinstance(part, Polygons) for line in part.outlines]
    )
