"""What the readers of open data share: splits by a group, keys, sizes and positions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...annotations.drawn.values import numbers
from ...config import UserError
from ...data.images.options import ReadOptions
from ...data.images.read import read_frame
from ...gaze import Boxes
from ...subcommands import seed
from ..plan import Item, Plan

NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_-]+")


def add_split_arguments(parser: argparse.ArgumentParser, group: str) -> None:
    """Adds --seed and --test-share; `group` is what is never in two splits, such as patient."""
    parser.add_argument(
        "--test-share",
        type=float,
        default=0.2,
        metavar="SHARE",
        help=f"share of each {group} in the split test; 0: only train (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help=f"random seed of the split by {group} (default: %(default)s)",
    )


def split_by(
    items: Sequence[Item], args: argparse.Namespace, group: Callable[[Item], str]
) -> dict[str, list[Item]]:
    """{train, test}: a share of the groups, drawn with the seed, is in test.

    Raises:
        UserError: --test-share is no share below 1.
    """
    if not 0 <= args.test_share < 1:
        raise UserError(f"--test-share {args.test_share}: expected at least 0 and less than 1.")
    groups = sorted({group(item) for item in items})
    order = np.random.default_rng(args.seed).permutation(len(groups))
    test = {groups[i] for i in order[: round(args.test_share * len(groups))]}
    splits = {"train": [item for item in items if group(item) not in test]}
    if test:
        splits["test"] = [item for item in items if group(item) in test]
    return splits


class Keys:
    """Makes keys of samples from the names of their images; each is given once."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}

    def make(self, name: str, where: str) -> str:
        """Letters, digits, - and _ of `name`. UserError, beginning with `where`: given before."""
        key = NOT_IN_KEYS.sub("_", name).strip("_")
        if not key or key in self.given:
            raise UserError(
                f"{where}: {name!r} occurs twice, or like {self.given.get(key, '')!r}; expected"
                " each image once, under a name with letters or digits."
            )
        self.given[key] = name
        return key


def image_size(path: Path, options: ReadOptions) -> tuple[int, int]:
    """(height, width) of the image as shown, from the head of its file."""
    return read_frame(path, str(path), options).shown_size


def read_at_most(path: Path, largest: int) -> bytes:
    """The content of a file. UserError: it has more than `largest` bytes."""
    size = path.stat().st_size
    if size > largest:
        raise UserError(f"{path}: {size} bytes; expected at most {largest}.")
    return path.read_bytes()


def check_boxes(boxes: Sequence[Sequence[Any]], size: tuple[int, int] | None, where: str) -> Boxes:
    """Boxes of (N, 4) xmin, ymin, xmax, ymax in pixels.

    Raises:
        UserError, beginning with `where`: no four numbers, empty, or quite outside the image of
            `size` (height, width), if it is known.
    """
    rows = [numbers(box, "boxes", where) for box in boxes]
    if any(len(row) != 4 for row in rows):
        raise UserError(f"{where}: boxes {str(boxes)[:80]}; expected four numbers each.")
    xyxy = np.array(rows).reshape(-1, 4)
    height, width = size or (np.inf, np.inf)
    for box in xyxy:
        left, top, right, bottom = box
        if not (np.isfinite(box).all() and right > left and bottom > top):
            raise UserError(
                f"{where}: box {box.tolist()}; expected xmin, ymin, xmax, ymax with a positive"
                " width and height."
            )
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise UserError(
                f"{where}: box {box.tolist()} (xmin, ymin, xmax, ymax) lies outside the image of"
                f" {height} x {width} pixels (height x width); expected it within."
            )
    return Boxes(xyxy)


def without_missing_images(plan: Plan, items: Sequence[Item], root: Path) -> list[Item]:
    """The items whose image exists; the others are counted.

    Raises:
        UserError: there is no image at all.
    """
    found = [item for item in items if item.image.is_file()]
    if items and not found:
        raise UserError(
            f"{root}: none of {len(items)} images exists, such as {items[0].image}; expected the"
            " images of the data set. Check SRC and the folder of images."
        )
    there = {item.key for item in found}
    for item in items:
        if item.key not in there:
            plan.leave_out("no image file", item.image.name)
    return found


def findings_text(names: Sequence[str]) -> str:
    """A sentence with the names of findings, for data sets without reports."""
    return f"Findings: {', '.join(names).lower()}." if names else "No finding."
