"""Localized Narratives (Pont-Tuset et al. 2020): people describe an image and point as they speak.

Source: google.github.io/localized-narratives, open to everybody, CC BY 4.0; the images (COCO 2017,
Open Images, Flickr30k) have their own licences. SRC is a folder of *_localized_narratives*.jsonl,
or one such file. Images are in --images, or in its folders train2017, val2017, train, validation,
val or test. The names of files follow from the ids: 000000000139.jpg of COCO, and ID.jpg of
Open Images and Flickr30k.

The traces are of a mouse, not of the eyes: a person points on purpose at what they name. Positions
of a trace become fixations whose duration is the time until the next position; those within the
same hundredth part of the image are joined. A window of a sentence holds the trace while it was
spoken. Positions off the image are dropped.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...annotations.drawn.values import member, number
from ...annotations.record import Word
from ...config import UserError
from ...data.images.options import ReadOptions, read_options
from ...gaze import Fixations, RenderConfig
from ...json_text import parse_json
from ..command import run_plan
from ..gaze_options import add_gaze_arguments, gaze_config
from ..options import add_shared_arguments
from ..plan import Item, Plan
from ..sentence_windows import add_window_arguments, check_lead, make_windows
from .open_sets import NOT_IN_KEYS, image_size

# ending of dataset_id: (split, folders of the images)
SPLITS = {
    "train": ("train", ("train2017", "train")),
    "train2017": ("train", ("train2017", "train")),
    "val": ("val", ("val2017", "val", "validation")),
    "val2017": ("val", ("val2017", "val", "validation")),
    "validation": ("val", ("validation", "val")),
    "test": ("test", ("test",)),
}
NEAR = (-0.5, 1.5)  # fractions; positions beyond are in another unit
CELLS = 100  # cells along a side; positions of a trace within one are joined
SIGMA = 0.03  # of the image's width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="folder of the images"
    )
    add_gaze_arguments(parser, f"{SIGMA} of the width", "reflect")
    add_window_arguments(parser)
    # people point while they speak, not before
    parser.set_defaults(windows="sentence", lead=0.0)


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each narrative, in the split of its data set.

    Raises:
        UserError: no files, no images, or a line with errors.
    """
    check_lead(args)
    plan, config = Plan("localized-narratives"), gaze_config(args, SIGMA, "width")
    if config.unit == "degrees":
        raise UserError("--unit degrees: there are no degrees; expected pixels or width.")
    options, counts = read_options(args), Counter[str]()
    for path in find_files(args.src):
        plan.tables.append(path)
        for record, where in read_lines(path):
            counts["narratives"] += 1
            item, split = read_narrative(plan, record, where, args, config, options, counts)
            items = plan.splits.setdefault(split, [])
            if item is not None and (args.limit is None or len(items) < args.limit):
                items.append(item)
    plan.facts["narratives"] = counts["narratives"]
    plan.splits = {name: items for name, items in plan.splits.items() if items}
    if not plan.splits:
        raise UserError(
            f"{args.images}: no image of any of {counts['narratives']} narratives"
            f" ({dict(plan.examples)}); expected names such as 000000000139.jpg in the folder"
            " itself or in train2017, val2017, train, validation, val or test."
        )
    return plan


def find_files(src: Path) -> list[Path]:
    """The files of narratives. UserError: there is none."""
    paths = [src] if src.is_file() else sorted(src.glob("*localized_narratives*.jsonl"))
    if not paths:
        raise UserError(f"{src}: no *localized_narratives*.jsonl; expected one at least.")
    return paths


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """(record, its place) of every line."""
    with path.open("rb") as lines:
        for i, line in enumerate(lines):
            if line.strip():
                where = f"{path}, line {i + 1}"
                yield parse_json(line, where), where


def read_narrative(
    plan: Plan,
    record: dict[str, Any],
    where: str,
    args: argparse.Namespace,
    config: RenderConfig,
    options: ReadOptions,
    counts: Counter[str],
) -> tuple[Item | None, str]:
    """(the sample, its split); None: no image, which is counted.

    Raises:
        UserError: another form, an unknown split, or positions that are no fractions.
    """
    dataset = member(record, "dataset_id", str, where)
    identity = str(record.get("image_id", ""))
    name, ending = NOT_IN_KEYS.sub("_", identity), dataset.lower().rpartition("_")[2]
    if not name or name != identity or ending not in SPLITS:
        raise UserError(
            f"{where}: dataset_id {dataset!r}, image_id {identity!r}; expected a data set whose"
            f" name ends in one of {', '.join(SPLITS)}, and an id of letters and digits."
        )
    split, folders = SPLITS[ending]
    image = find_image(args.images, dataset, identity, folders)
    if image is None:
        plan.leave_out("no image file", f"{dataset} {identity}")
        return None, split
    size = image_size(image, options)
    fixations = read_traces(member(record, "traces", list, where), size, where)
    words = tuple(
        Word(
            member(word, "utterance", str, where),
            number(word.get("start_time"), "start_time", where),
            number(word.get("end_time"), "end_time", where),
        )
        for word in member(record, "timed_caption", list, where)
    )
    counts[f"{dataset} {identity}"] += 1
    key = f"{NOT_IN_KEYS.sub('_', dataset)}_{name}_{counts[f'{dataset} {identity}']}"
    windows = (
        make_windows(plan, fixations, words, args.lead, key) if args.windows == "sentence" else ()
    )
    usable = len(fixations.usable(size, config.weight, config.unit)[0])
    if not usable:
        plan.leave_out("trace: nothing on the image (the image stays, without one)", key)
    columns = {
        "patient": f"{dataset.partition('_')[0]}-{identity}",
        "annotator": str(record.get("annotator_id", "")),
        "source": dataset,
    }
    text = " ".join(member(record, "caption", str, where).split())
    annotations = (fixations,) if usable else ()
    return Item(key, image, text, annotations, size, columns, windows, config, colour=True), split


def find_image(root: Path, dataset: str, identity: str, folders: tuple[str, ...]) -> Path | None:
    """The file of an image, in `root` or in one of its folders; None if there is none."""
    is_coco = "coco" in dataset.lower() and identity.isdigit()
    name = f"{int(identity):012d}.jpg" if is_coco else f"{identity}.jpg"
    paths = (folder / name for folder in (root, *(root / folder for folder in folders)))
    return next((path for path in paths if path.is_file()), None)


def read_traces(traces: list[Any], size: tuple[int, int], where: str) -> Fixations:
    """The traces as fixations in pixels of the image of `size` (height, width).

    Raises:
        UserError: positions that are no numbers, or no fractions of the image.
    """
    parts = []
    for segment in traces:
        if not isinstance(segment, list):
            raise UserError(f"{where}: traces of {str(segment)[:40]!r}; expected lists of x, y, t.")
        points = np.array(
            [[number(_value(point, name), name, where) for name in "xyt"] for point in segment]
        ).reshape(-1, 3)
        if len(points) > 1:
            parts.append(join_points(points))
    rows = np.concatenate(parts) if parts else np.zeros((0, 4))
    if len(rows) and not ((rows[:, :2] > NEAR[0]) & (rows[:, :2] < NEAR[1])).mean() > 0.5:
        raise UserError(
            f"{where}: x {rows[:, 0].min():g} to {rows[:, 0].max():g}, y {rows[:, 1].min():g} to"
            f" {rows[:, 1].max():g}; expected fractions of the image."
        )
    return Fixations(rows[:, 0] * size[1], rows[:, 1] * size[0], rows[:, 3], rows[:, 2])


def _value(point: Any, name: str) -> Any:
    return point.get(name) if isinstance(point, dict) else None


def join_points(points: np.ndarray) -> np.ndarray:
    """(K, 4) x, y, start, duration of a trace (N, 3) of x, y, t, ordered by t.

    The last position has no duration. Neighbours in one of CELLS x CELLS cells are joined: the
    position is their mean, weighted by duration.
    """
    points = points[np.argsort(points[:, 2], kind="stable")]
    duration = np.diff(points[:, 2])
    points, duration = points[:-1][duration > 0], duration[duration > 0]
    if not len(points):
        return np.zeros((0, 4))
    cells = np.floor(points[:, :2] * CELLS)
    starts = np.flatnonzero(np.r_[True, (cells[1:] != cells[:-1]).any(axis=1)])
    total = np.add.reduceat(duration, starts)
    xy = np.add.reduceat(points[:, :2] * duration[:, None], starts) / total[:, None]
    return np.column_stack([xy, points[starts, 2], total])
