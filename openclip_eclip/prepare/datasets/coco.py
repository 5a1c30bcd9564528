"""COCO 2017 (Lin et al. 2014): photographs with five captions each, and masks of 80 categories.

Source: cocodataset.org, open to everybody; annotations CC BY 4.0, each photograph under its own
licence (column `license`). SRC has annotations/captions_train2017.json and
instances_train2017.json, the same for val2017, and the images in train2017/ and val2017/. One of
the two parts is enough.

The map of a caption is the masks of what it names. A category is found in a caption by its name,
plurals and synonyms (coco_words.json), and only if the photograph has masks of it. Each name is
a phrase window of its own. Its map has all objects of the category: that of "a man" also has the
woman beside him. Crowds (iscrowd 1) are left out and counted.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...annotations.drawn.coco import read
from ...annotations.drawn.json_files import JsonFile
from ...annotations.drawn.values import image_size, member
from ...config import UserError
from ...gaze import Union
from ..command import run_plan
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from .open_sets import Keys, without_missing_images

PARTS = {"train": "train", "val": "val"}  # split: the beginning of the part's name
WORDS = Path(__file__).with_name("coco_words.json")


class Photo(NamedTuple):
    name: str  # of the file
    size: tuple[int, int] | None  # (height, width)
    license: str


class Named(NamedTuple):
    """A category that a caption names, in the words of the caption."""

    words: str
    category: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--captions",
        choices=("each", "joined"),
        default="each",
        help=(
            "each: a sample for every caption; joined: one for every photograph, with its captions"
            " as one text (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--maps",
        choices=("named", "none"),
        default="named",
        help="named: masks of what the caption names; none: captions alone (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The splits train and val, as far as SRC has them.

    Raises:
        UserError: no captions, no masks (with --maps named), no images, or files with errors.
    """
    plan = Plan("coco")
    for split, beginning in PARTS.items():
        paths = sorted((args.src / "annotations").glob(f"captions_{beginning}*.json"))
        if len(paths) > 1:
            raise UserError(
                f"{paths[0]} and {paths[1]}; expected the captions of one year. Move the others"
                " away."
            )
        if paths:
            plan.splits[split] = read_part(plan, args, paths[0])
    if not plan.splits:
        raise UserError(
            f"{args.src / 'annotations'}: no captions_train*.json and no captions_val*.json;"
            " expected one at least. Check that SRC is the root of COCO."
        )
    return plan


def read_part(plan: Plan, args: argparse.Namespace, path: Path) -> list[Item]:
    """The samples of one file of captions."""
    part = path.stem.removeprefix("captions_")
    masks = (
        read_masks(plan, path.with_name(f"instances_{part}.json")) if args.maps != "none" else {}
    )
    photos, captions = read_captions(plan, path)
    items, keys = [], Keys()
    for identity, texts in captions.items():
        photo = photos[identity]
        shapes = masks.get(photo.name, {})
        columns = {"patient": Path(photo.name).stem, "license": photo.license}
        if shapes:
            columns["label"] = "|".join(sorted(shapes))
        for number, text in enumerate([" ".join(texts)] if args.captions == "joined" else texts):
            stem = Path(photo.name).stem
            key = keys.make(stem if args.captions == "joined" else f"{stem}_{number}", str(path))
            named = [found for found in find_named(text) if found.category in shapes]
            windows = tuple(
                Window(found.words, math.nan, math.nan, Union(shapes[found.category]))
                for found in named
            )
            parts = tuple(shape for found in named for shape in shapes[found.category])
            items.append(
                Item(
                    key,
                    args.src / part / photo.name,
                    text,
                    (Union(parts),) if parts else (),
                    photo.size,
                    columns,
                    windows,
                    colour=True,
                )
            )
    plan.facts[f"photographs of {part}"] = len(captions)
    return without_missing_images(plan, items, args.src / part)


def read_captions(plan: Plan, path: Path) -> tuple[dict[int, Photo], dict[int, list[str]]]:
    """({image id: photograph}, {image id: captions}).

    Raises:
        UserError: an image that occurs twice, or a caption of no image.
    """
    plan.tables.append(path)
    content = JsonFile(path, dict)
    licences = {
        member(record, "id", int, f"{path}, licence {i + 1}"): str(record.get("name", ""))
        for i, record in enumerate(content.items("licenses"))
    }
    photos: dict[int, Photo] = {}
    for i, record in enumerate(content.items("images")):
        where = f"{path}, image {i + 1}"
        identity, name = member(record, "id", int, where), member(record, "file_name", str, where)
        if identity in photos or Path(name).name != name:
            raise UserError(
                f"{where}: id {identity}, file_name {name!r}; expected each id once, and a name"
                " without folders."
            )
        licence = licences.get(record.get("license"), "")
        photos[identity] = Photo(name, image_size(record, where), licence)
    captions: dict[int, list[str]] = {}
    for i, record in enumerate(content.items("annotations")):
        where = f"{path}, caption {i + 1}"
        identity = member(record, "image_id", int, where)
        if identity not in photos:
            raise UserError(f"{where}: image_id {identity}; expected an id of `images`.")
        text = " ".join(member(record, "caption", str, where).split())
        captions.setdefault(identity, []).append(text)
    for identity in photos.keys() - captions.keys():
        plan.leave_out("photograph without a caption", photos[identity].name)
    return photos, captions


def read_masks(plan: Plan, path: Path) -> dict[str, dict[str, tuple[Any, ...]]]:
    """{file name: {category: shapes}}; masks stay encoded. UserError: no such file, or errors."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected the masks beside the captions. Without masks, use"
            " --maps none."
        )
    plan.tables.append(path)
    shapes: dict[str, dict[str, list[Any]]] = {}
    for drawing in read([path], path.parent, argparse.Namespace(), plan.leave_out):
        shapes.setdefault(drawing.image, {}).setdefault(drawing.label, []).append(drawing.shape)
    return {
        name: {category: tuple(parts) for category, parts in categories.items()}
        for name, categories in shapes.items()
    }


def find_named(text: str) -> list[Named]:
    """The categories that a text names, in its order; each category once, by its first name."""
    found: dict[str, str] = {}
    pattern, categories = name_pattern()
    for match in pattern.finditer(text):
        category = categories[" ".join(match[0].lower().split())]
        if category:
            found.setdefault(category, match[0])
    return [Named(words, category) for category, words in found.items()]


@lru_cache(maxsize=1)
def name_pattern() -> tuple[re.Pattern, dict[str, str]]:
    """(pattern of all names, {name in lower case: its category}); "": names no category.

    Longer names come first, so that a hot dog is no dog.
    """
    table = json.loads(WORDS.read_text(encoding="utf-8"))
    categories = {form: "" for name in table["nothing"] for form in forms(name, table["irregular"])}
    for category, names in table["categories"].items():
        for name in (category, *names):
            for form in forms(name, table["irregular"]):
                categories[form] = category
    longest = sorted(categories, key=len, reverse=True)
    alternatives = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in longest)
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE), categories


def forms(name: str, irregular: dict[str, str]) -> Iterator[str]:
    """A name and its plural; of several words, the last is put into the plural."""
    yield name
    *first, last = name.split(" ")
    if last in irregular:
        plural = irregular[last]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        plural = f"{last[:-1]}ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        plural = f"{last}es"
    else:
        plural = f"{last}s"
    yield " ".join([*first, plural])
