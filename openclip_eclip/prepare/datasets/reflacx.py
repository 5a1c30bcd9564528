"""REFLACX 1.0.0 (Bigolin Lanfredi et al. 2022): five radiologists' readings of MIMIC-CXR images.

A reading has gaze, ellipses, a chest box and a dictation. SRC is the root with
main_data/metadata_phase_1.csv to _3.csv. Images come from MIMIC-CXR-JPG (--images), texts from the
reports of MIMIC-CXR (--reports) or from the dictations. The splits are those of MIMIC-CXR: many
images are in its test split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...config import UserError
from ...gaze import Boxes, Ellipses, Fixations, GazeError, RenderConfig
from ...gaze.plausible import refuse_units
from ..command import run_plan
from ..gaze_options import add_gaze_arguments, gaze_config
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from ..sentence_windows import add_window_arguments, check_lead, make_windows
from .mimic_files import SPLITS, add_exclusion, image_path, read_excluded, without_subjects
from .mimic_reports import add_report_arguments, add_texts
from .reflacx_files import (
    Reading,
    read_box,
    read_ellipses,
    read_gaze,
    read_metadata,
    read_transcription,
    read_words,
)

Drawing = Fixations | Ellipses | Boxes
SOURCES: dict[str, Callable[[Plan, Reading], Drawing | None]] = {
    "gaze": read_gaze,
    "ellipses": read_ellipses,
    "chest-box": read_box,
}


class Drawn(NamedTuple):
    """One reading, its drawable annotation (None: there is none), and its dictation."""

    reading: Reading
    annotation: Drawing | None
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="root of MIMIC-CXR-JPG, with files/p10/...",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="FOLDER",
        help="root of MIMIC-CXR; its reports replace the dictations as texts",
    )
    add_report_arguments(parser)
    parser.add_argument(
        "--annotation",
        choices=tuple(SOURCES),
        default="gaze",
        help="annotation that is drawn as the heatmap (default: %(default)s)",
    )
    parser.add_argument(
        "--readers",
        choices=("mean", "noisy-or", "one", "all"),
        default="mean",
        help=(
            "treatment of images with several readers; mean, noisy-or: one merged map; one: the"
            " first reader's map; all: one sample for each reader (default: %(default)s)"
        ),
    )
    add_gaze_arguments(parser, "1 degree for gaze; ellipses and boxes have hard edges", "none")
    add_window_arguments(parser)
    add_exclusion(parser)


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each image (--readers all: each reading), in the split of the tables.

    Raises:
        UserError: flags that exclude each other, or tables with errors.
    """
    check_lead(args)
    if args.windows == "sentence" and args.annotation != "gaze":
        raise UserError(
            f"--windows sentence with --annotation {args.annotation}; expected --annotation gaze,"
            " the only one with times."
        )
    plan = Plan("reflacx")
    config = (
        gaze_config(args, 1, "degrees")
        if args.annotation == "gaze"
        else gaze_config(args, None, "pixels")
    )
    if args.annotation != "gaze" and config.unit == "degrees":
        raise UserError(
            f"--unit degrees with --annotation {args.annotation}; expected pixels or width."
        )
    # {dicom_id: its readings}
    images: dict[str, list[Drawn]] = {}
    for reading in read_metadata(plan, args.src):
        drawn = read_drawn(plan, reading, args.annotation, config)
        if drawn is not None:
            images.setdefault(reading.dicom, []).append(drawn)
    readings = [drawn for readings_of_image in images.values() for drawn in readings_of_image]
    refuse_wrong_units(args.src, readings)
    # one group of readings for each sample
    groups = [[drawn] for drawn in readings] if args.readers == "all" else list(images.values())
    items, splits = [], {}
    for group in groups:
        if args.readers == "one":
            # the first reading with a drawable annotation
            group = sorted(group, key=lambda drawn: drawn.annotation is None)[:1]
        item = make_item(plan, group, args, config)
        items.append(item)
        splits[item.key] = group[0].reading.split
    plan.facts["films"], plan.facts["readings"] = len(images), len(readings)
    items = without_subjects(
        plan, items, read_excluded(plan, args.exclude_subjects), "patient is in --exclude-subjects"
    )
    items = (
        add_texts(plan, items, args.reports, args) if args.reports else with_dictation(plan, items)
    )
    plan.splits = {name: [item for item in items if splits[item.key] == name] for name in SPLITS}
    return plan


def read_drawn(plan: Plan, reading: Reading, kind: str, config: RenderConfig) -> Drawn | None:
    """The reading with its annotation; None if its gaze is discarded or missing (counted)."""
    if kind == "gaze":
        if reading.discarded:
            plan.leave_out("reading discarded by the authors", reading.id)
            return None
        if not (reading.folder / "fixations.csv").is_file():
            plan.leave_out("reading without fixations.csv", reading.id)
            return None
    annotation = SOURCES[kind](plan, reading)
    if annotation is not None:
        try:
            if isinstance(annotation, Fixations):
                fixations, dropped = annotation.usable(reading.size, config.weight, config.unit)
                count = len(fixations)
            else:
                areas, dropped = annotation.usable(reading.size)
                count = len(areas.weight)
        except GazeError as error:
            raise UserError(f"{reading.folder}, reading {reading.id}: {error}") from error
        for reason, others in dropped.items():
            plan.leave_out(f"{kind}: {reason}", reading.id, others)
        if count == 0:
            annotation = None
    if annotation is None:
        plan.leave_out(f"{kind}: nothing to draw (the film stays)", reading.id)
    return Drawn(reading, annotation, read_transcription(reading))


def refuse_wrong_units(src: Path, readings: Sequence[Drawn]) -> None:
    """UserError if the positions of all readings together are not in pixels of their images."""
    positions, sides = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for reading, annotation, _ in readings:
        if annotation is None:
            continue
        xy = (
            np.stack([annotation.x, annotation.y], axis=1)
            if isinstance(annotation, Fixations)
            else annotation.xyxy.reshape(-1, 2)
        )
        positions.append(xy)
        sides.append(np.broadcast_to(np.array(reading.size[::-1], dtype=np.float64), xy.shape))
    where = f"{src}, positions of all readings"
    refuse_units(where, np.concatenate(positions), np.concatenate(sides))


def make_item(
    plan: Plan, group: list[Drawn], args: argparse.Namespace, config: RenderConfig
) -> Item:
    """One sample of the readings of one image.

    Its text is the first non-empty dictation. It has labels only if there is one reading.
    """
    first = group[0].reading
    windows: list[Window] = []
    if args.windows == "sentence":
        for drawn in group:
            if isinstance(drawn.annotation, Fixations):
                windows += make_windows(
                    plan,
                    drawn.annotation,
                    read_words(plan, drawn.reading),
                    args.lead,
                    drawn.reading.id,
                )
    columns = {
        "patient": first.patient,
        "study": first.study,
        "readings": " ".join(drawn.reading.id for drawn in group),
        **(first.labels if len(group) == 1 else {}),
    }
    key, merge = (first.id, "one") if args.readers == "all" else (first.dicom, args.readers)
    image = image_path(args.images, first.patient, first.study, first.dicom)
    text = next((drawn.text for drawn in group if drawn.text), "")
    annotations = tuple(drawn.annotation for drawn in group if drawn.annotation is not None)
    return Item(key, image, text, annotations, first.size, columns, tuple(windows), config, merge)


def with_dictation(plan: Plan, items: list[Item]) -> list[Item]:
    """The items with a dictation; discarded readings have none. The others are counted."""
    for item in items:
        if not item.text:
            plan.leave_out("no transcription; --reports has texts for these", item.key)
    return [item for item in items if item.text]
