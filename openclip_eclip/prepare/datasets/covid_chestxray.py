"""The COVID-19 image data collection (Cohen et al. 2020, arXiv 2003.11597): open chest X-rays.

Source: github.com/ieee8023/covid-chestxray-dataset (a clone; about 580 MB), open to everybody.
SRC has metadata.csv and images/. A licence is stated for each image, mostly CC BY-NC-SA; the
column `license` keeps it. Texts are the clinical notes, cleaned to what speaks of the image.

Maps come from two other repositories: the lungs' boxes (--lung-boxes) are
annotations/annotations.json of GeneralBlockchain/covid-19-chest-xray-lung-bounding-boxes-dataset
(CC BY 4.0), the scores of six zones (--scores) are data/public-annotations.csv of
BrixIA/Brixia-score-COVID-19 (CC BY-NC-SA 4.0). A zone is a third of a lung's box by height: A, B, C
from the top are the patient's right lung, on the left of the image; D, E, F are the left lung.

CT and lateral views are left out. Patients are in one split only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...annotations.drawn.values import member, numbers
from ...config import UserError
from ...gaze import Annotation, Boxes, RenderConfig
from ...json_text import read_json
from ..command import run_plan
from ..options import add_shared_arguments
from ..plan import Item, Plan
from ..tables import find_table, read_numbers, read_table
from .covid_notes import clean_note
from .mimic_files import check_unique
from .open_sets import (
    Keys,
    add_split_arguments,
    check_boxes,
    split_by,
    without_missing_images,
)

COLUMNS = ["patientid", "finding", "view", "modality", "filename", "license"]
NOTES = ("clinical_notes", "clinical notes", "notes")  # the names of the releases
CARRIED = ("finding", "view", "license", "url", "doi", "offset", "sex", "age")  # columns, if there
FRONTAL = {"PA", "AP", "AP Supine", "AP Erect", "AP semi erect"}
UNKNOWN = {"", "?"}  # frontal if a radiologist drew two lungs on the image
NO_LICENCE = {"", "listed as authorized for everyone"}  # names no licence
SIDES = {"right lung": 0, "left lung": 1}  # of the patient; the right lung is left in the image
READERS = {"senior": "S", "junior": "J"}
ZONES = "ABCDEF"
HIGHEST = 3  # score of a zone
# neighbouring zones share the pixels of their border
SEAMLESS = RenderConfig(overlap="sum")


class Lungs(NamedTuple):
    boxes: Boxes  # (2, 4), the right lung first
    size: tuple[int, int]  # (height, width)

    @property
    def apart(self) -> bool:
        """Whether the boxes do not overlap."""
        return bool(self.boxes.xyxy[0, 2] <= self.boxes.xyxy[1, 0])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--lung-boxes",
        type=Path,
        metavar="FILE",
        help="annotations.json with the boxes of both lungs (needed by --maps)",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="public-annotations.csv with the Brixia scores (needed by --maps zones)",
    )
    parser.add_argument(
        "--maps",
        choices=("lungs", "zones", "none"),
        help=(
            "heatmaps to draw; lungs: the boxes of both lungs; zones: six zones, weighted by their"
            " scores, the mean of two readers (default: zones with --scores, else lungs with"
            " --lung-boxes, else none)"
        ),
    )
    parser.add_argument(
        "--license",
        choices=("stated", "any"),
        default="stated",
        help="stated: only images with a stated licence; any: all (default: %(default)s)",
    )
    add_split_arguments(parser, "patient")


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each frontal chest X-ray, split by patient.

    Raises:
        UserError: --maps without its files, or files with errors.
    """
    plan = Plan("covid-chestxray")
    maps = args.maps or ("zones" if args.scores else "lungs" if args.lung_boxes else "none")
    for flag, needed in (("lung_boxes", ("lungs", "zones")), ("scores", ("zones",))):
        if maps in needed and getattr(args, flag) is None:
            raise UserError(
                f"--maps {maps} without --{flag.replace('_', '-')}; expected the file of the other"
                " repository, which `openclip-eclip prepare covid-chestxray --help` names."
            )
    lungs = read_lungs(plan, args.lung_boxes) if args.lung_boxes else {}
    scores = read_scores(plan, args.scores) if args.scores else {}
    items = without_missing_images(plan, read_images(plan, args, lungs, scores, maps), args.src)
    plan.facts |= {
        "images": len(items),
        "patients": len({item.patient for item in items}),
        "images with text": sum(bool(item.text) for item in items),
        "patients with text": len({item.patient for item in items if item.text}),
        "images with lung boxes": sum(str(item.columns["source_file"]) in lungs for item in items),
        "images with zone scores": sum(
            str(item.columns["source_file"]) in scores for item in items
        ),
    }
    plan.splits = split_by(items, args, lambda item: item.patient)
    return plan


def read_images(
    plan: Plan,
    args: argparse.Namespace,
    lungs: dict[str, Lungs],
    scores: dict[str, np.ndarray],
    maps: str,
) -> list[Item]:
    """The frontal X-rays of metadata.csv; UserError: a blank or repeated file name, no patient."""
    table = find_table(args.src, "metadata.csv")
    plan.tables.append(table)
    # in some releases, names begin with a blank
    frame = read_table(table, COLUMNS).rename(columns=str.strip)
    notes = next((name for name in NOTES if name in frame), None)
    if notes is None:
        raise UserError(f"{table}: no column 'clinical_notes'; found {list(frame.columns)}.")
    check_unique(frame, "filename", table)
    items, keys, whole = [], Keys(), 0
    for i, row in enumerate(frame.to_dict("records")):
        where, name = f"{table}, row {i + 1}", row["filename"].strip()
        reason = leave_out_reason(row, name in lungs, args.license)
        if reason:
            plan.leave_out(reason, name)
            continue
        if not row["patientid"].strip() or Path(name).name != name:
            raise UserError(
                f"{where}: patientid {row['patientid']!r}, filename {name!r}; expected an id and"
                " the name of a file in images/."
            )
        note = clean_note(row[notes])
        whole += note.whole
        columns = {label: row[label].strip() for label in CARRIED if label in row}
        columns |= {"patient": row["patientid"].strip(), "source_file": name}
        columns |= {"label": columns["finding"], "source": columns.get("url", "")}
        annotations = draw(name, lungs, scores, maps)
        if maps == "zones" and name in scores and not annotations:
            plan.leave_out("zones: every score is 0, or no lung boxes (the image stays)", name)
        size = lungs[name].size if annotations else None
        key = keys.make(name.rpartition(".")[0] or name, f"{where}, column 'filename'")
        config = SEAMLESS if name in lungs and lungs[name].apart else RenderConfig()
        image = args.src / "images" / name
        items.append(Item(key, image, note.text, annotations, size, columns, config=config))
    plan.facts["rows"] = len(frame)
    plan.facts["notes without a word on the image (kept whole)"] = whole
    return items


def leave_out_reason(row: dict[str, str], has_lungs: bool, licences: str) -> str:
    """Why an image is not used; "" if it is."""
    view = row["view"].strip()
    if row["modality"].strip().lower() not in ("x-ray", "xray"):
        return "no X-ray"
    if view not in FRONTAL and not (view in UNKNOWN and has_lungs):
        return "view unknown" if view in UNKNOWN else "lateral or other view"
    if licences == "stated" and row["license"].strip() in NO_LICENCE:
        return "no stated licence (--license any keeps them)"
    return ""


def draw(
    name: str, lungs: dict[str, Lungs], scores: dict[str, np.ndarray], maps: str
) -> tuple[Annotation, ...]:
    """The annotations of an image: the boxes of both lungs, or each reader's zones by score."""
    if maps == "none" or name not in lungs:
        return ()
    if maps == "lungs":
        return (lungs[name].boxes,)
    zones = cut_zones(lungs[name].boxes.xyxy)
    return tuple(
        Boxes(zones[weights > 0], weights[weights > 0])
        for weights in scores.get(name, np.zeros((0, len(ZONES))))
        if weights.any()
    )


def cut_zones(boxes: np.ndarray) -> np.ndarray:
    """(6, 4) zones A to F of the boxes (2, 4) of the right and the left lung: thirds by height."""
    zones = np.repeat(boxes, 3, axis=0)
    third = (boxes[:, 3] - boxes[:, 1]) / 3
    zones[:, 1] += np.repeat(third, 3) * np.tile(np.arange(3), 2)
    zones[:, 3] = zones[:, 1] + np.repeat(third, 3)
    return zones


def read_lungs(plan: Plan, path: Path) -> dict[str, Lungs]:
    """{file name: boxes of the right and the left lung} of COCO JSON.

    Raises:
        UserError: another form, an image without exactly one box of each lung, or boxes outside.
    """
    content = read_json(path)
    plan.tables.append(path)
    names = {}
    for i, category in enumerate(member(content, "categories", list, str(path))):
        where = f"{path}, category {i + 1}"
        name = member(category, "name", str, where).strip().lower()
        if name not in SIDES:
            raise UserError(f"{where}: {name!r}; expected {' and '.join(SIDES)}.")
        names[member(category, "id", int, where)] = SIDES[name]
    images: dict[int, tuple[str, tuple[int, int]]] = {}
    for i, image in enumerate(member(content, "images", list, str(path))):
        where = f"{path}, image {i + 1}"
        height, width = (member(image, side, int, where) for side in ("height", "width"))
        if min(height, width) < 1:
            raise UserError(f"{where}: {height} x {width} pixels; expected a positive size.")
        images[member(image, "id", int, where)] = (
            member(image, "file_name", str, where),
            (height, width),
        )
    boxes: dict[int, dict[int | None, list[Any]]] = {}
    for i, box in enumerate(member(content, "annotations", list, str(path))):
        where = f"{path}, annotation {i + 1}"
        image = member(box, "image_id", int, where)
        xywh = numbers(member(box, "bbox", list, where), "bbox", where).tolist()
        # in the published file, one box has no category
        side = names.get(member(box, "category_id", int, where)) if "category_id" in box else None
        if image not in images or (side is None and "category_id" in box) or len(xywh) != 4:
            raise UserError(
                f"{where}: image {image}, category {box.get('category_id')}, bbox {xywh}; expected"
                " an image and a category of this file, and x, y, width, height."
            )
        x, y, width, height = xywh
        corners = [x, y, x + width, y + height]
        check_boxes([corners], images[image][1], where)
        if side in boxes.setdefault(image, {}):
            raise UserError(f"{where}: a second box of this lung on image {image}; expected one.")
        boxes[image][side] = corners
    lungs = {}
    for image, (name, size) in images.items():
        pair = boxes.get(image, {})
        if None in pair and len(pair) == 2:  # the lung that the other box is not
            pair[1 - next(side for side in pair if side is not None)] = pair.pop(None)
        if len(pair) != 2:
            plan.leave_out("lung boxes: not one of each lung", name)
        else:
            lungs[name] = Lungs(Boxes([pair[0], pair[1]]), size)
    return lungs


def read_scores(plan: Plan, path: Path) -> dict[str, np.ndarray]:
    """{file name: (2, 6) scores of the senior and the junior reader}, 0 to 3.

    Raises:
        UserError: another score, or a file name that occurs twice.
    """
    names = [f"{letter}-{zone}" for letter in READERS.values() for zone in ZONES]
    frame = read_table(path, ["filename", *names])
    plan.tables.append(path)
    check_unique(frame, "filename", path)
    numbers = read_numbers(frame, names)
    wrong = ~np.isin(numbers, np.arange(HIGHEST + 1))
    if wrong.any():
        row, column = (int(indices[0]) for indices in np.nonzero(wrong))
        raise UserError(
            f"{path}, row {row + 1}, column {names[column]!r}: {frame[names[column]].iat[row]!r};"
            f" expected a score from 0 to {HIGHEST}."
        )
    return {
        name.strip(): row.reshape(len(READERS), len(ZONES))
        for name, row in zip(frame["filename"], numbers)
    }
