"""Flickr30k Entities (Plummer et al. 2015, arXiv 1505.04870): captions whose phrases have boxes.

Source: github.com/BryanPlummer/flickr30k_entities (31 783 photographs, 5 captions each, 276 000
boxes); annotations without a stated licence. The photographs are those of Flickr30k, for
non-commercial research, by a form of the University of Illinois. SRC has train.txt, val.txt and
test.txt, and the folders Sentences and Annotations of annotations.zip; --images has ID.jpg.

Each caption is a sample. Each of its phrases with a box is a window, whose map is all boxes of the
phrase; phrases of the same words are one window, because a text cannot tell them apart. Phrases
that are not visual, that mean the whole scene or that have no box are counted, and are no windows.
Captions are as published, with spaces around punctuation. Positions of pixels are counted from 1
in the files, and the last one is inside, as in Pascal VOC and in the authors' own reader.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ...annotations.drawn.values import parse_number, parse_side
from ...config import UserError
from ...gaze import Boxes
from ...json_text import decode_text, show
from ...xml_text import parse_xml
from ..command import run_plan
from ..options import add_shared_arguments
from ..plan import Item, Plan, Window
from .open_sets import check_boxes, read_at_most

SPLITS = ("train", "val", "test")
LARGEST = 1 << 20  # bytes of one file; that of the split train has about 320 000
MARK = re.compile(r"\[/EN#(\d+)(?:/[^\s/\[\]]+)+\s([^\[\]]*)\]")  # id, types, words
NOT_VISUAL = "0"  # id of a phrase
SIDES = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("scene", "nobndbox")  # of an object without a box
REMEDY = "Unpack annotations.zip in SRC."
Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax in pixels, max exclusive


class Phrase(NamedTuple):
    identity: str
    words: str


class Caption(NamedTuple):
    text: str  # without the marks
    phrases: list[Phrase]


class Regions(NamedTuple):
    """What the XML of one photograph says."""

    size: tuple[int, int]  # (height, width)
    boxes: dict[str, list[Box]]  # by id of the phrase
    scenes: set[str]  # ids of phrases that mean the whole photograph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the photographs of Flickr30k, ID.jpg",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """One item for each caption, in the authors' splits, as far as SRC has them.

    Raises:
        UserError: no split, no photograph, or files with errors.
    """
    plan, counts = Plan("flickr30k-entities"), Counter[str]()
    for split, identities in read_splits(plan, args.src).items():
        items: list[Item] = []
        for identity in identities:
            image = args.images / f"{identity}.jpg"
            if image.is_file():
                items += read_photograph(plan, args.src, image, counts)
            else:
                plan.leave_out("no image file", image.name)
        if items:
            plan.splits[split] = items
    if not plan.splits:
        raise UserError(
            f"{args.images}: none of {plan.left_out.total()} photographs exists, such as"
            f" {plan.examples['no image file'][0]}; expected those of Flickr30k."
        )
    plan.facts |= counts
    return plan


def read_splits(plan: Plan, src: Path) -> dict[str, list[str]]:
    """{split: ids of its photographs}.

    Raises:
        UserError: no file of a split, a line that is no id, or an id that occurs twice.
    """
    splits: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for split in SPLITS:
        path = src / f"{split}.txt"
        if not path.is_file():
            continue
        plan.tables.append(path)
        splits[split] = []
        for where, line in read_lines(path):
            if not (line.isascii() and line.isdigit()):
                raise UserError(f"{where}: {show(line)}; expected the id of a photograph.")
            if line in places:
                raise UserError(f"{where}: {line} is also in {places[line]}; expected it once.")
            places[line] = where
            splits[split].append(line)
    if not places:
        raise UserError(
            f"{src}: no ids in {', '.join(f'{split}.txt' for split in SPLITS)}; expected them in"
            " one at least. Check that SRC is a copy of flickr30k_entities."
        )
    return splits


def read_lines(path: Path) -> list[tuple[str, str]]:
    """(place, line without outer blanks) of all lines that are not blank."""
    lines = decode_text(read_at_most(path, LARGEST), str(path)).split("\n")
    return [(f"{path}, line {i}", line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def read_photograph(plan: Plan, src: Path, image: Path, counts: Counter[str]) -> list[Item]:
    """One sample for each caption of a photograph; `counts` grows.

    Raises:
        UserError: its captions or its XML are missing, or have another form.
    """
    identity = image.stem
    sentences = src / "Sentences" / f"{identity}.txt"
    annotations = src / "Annotations" / f"{identity}.xml"
    for path in (sentences, annotations):
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; expected it, because a split names {identity}. {REMEDY}"
            )
    plan.tables += [sentences, annotations]
    regions, captions = read_regions(annotations), read_captions(sentences)
    counts["photographs"] += 1
    counts["captions"] += len(captions)
    items = []
    for number, caption in enumerate(captions):
        boxes = find_boxes(caption.phrases, regions, counts)
        everything = [box for found in boxes.values() for box in found]
        windows = tuple(
            Window(words, math.nan, math.nan, Boxes(found)) for words, found in boxes.items()
        )
        items.append(
            Item(
                f"{identity}_{number}",
                image,
                caption.text,
                (Boxes(everything),) if everything else (),
                regions.size,
                {"patient": identity},
                windows,
                colour=True,
            )
        )
    return items


def read_captions(path: Path) -> list[Caption]:
    """The captions of a photograph. UserError: there is none, or a broken mark."""
    captions = []
    for where, line in read_lines(path):
        phrases = [Phrase(mark[1], " ".join(mark[2].split())) for mark in MARK.finditer(line)]
        text = " ".join(MARK.sub(r"\2", line).split())
        if "[/EN" in text or not all(phrase.words for phrase in phrases):
            raise UserError(
                f"{where}: {show(line)}; expected phrases as in [/EN#123/people Two young men]."
            )
        captions.append(Caption(text, phrases))
    if not captions:
        raise UserError(f"{path}: no caption; expected one a line. {REMEDY}")
    return captions


def read_regions(path: Path) -> Regions:
    """The boxes of a photograph, by phrase.

    Raises:
        UserError: no plain XML, another photograph, or an object without id, box and flag.
    """
    root = parse_xml(read_at_most(path, LARGEST), str(path))
    name = (root.findtext("filename") or "").strip()
    if root.tag != "annotation" or name != f"{path.stem}.jpg":
        raise UserError(
            f"{path}: element {show(root.tag)}, filename {show(name)}; expected `annotation` of"
            f" {path.stem}.jpg. {REMEDY}"
        )
    height, width = (
        parse_side(root.findtext(f"size/{side}"), f"size/{side}", str(path))
        for side in ("height", "width")
    )
    regions = Regions((height, width), {}, set())
    for i, element in enumerate(root.findall("object"), 1):
        where = f"{path}, object {i}"
        identities = [(name.text or "").strip() for name in element.findall("name")]
        if not identities or not all(name.isascii() and name.isdigit() for name in identities):
            raise UserError(f"{where}: names {show(identities)}; expected ids of phrases.")
        box = element.find("bndbox")
        if box is not None:
            left, top, right, bottom = (
                parse_number(box.findtext(side), side, where) for side in SIDES
            )
            corners = (left - 1, top - 1, right, bottom)
            check_boxes([list(corners)], regions.size, where)
            for identity in identities:
                regions.boxes.setdefault(identity, []).append(corners)
        elif all(element.find(flag) is None for flag in FLAGS):
            raise UserError(f"{where}: no bndbox and no {' or '.join(FLAGS)}; expected one.")
        elif parse_number(element.findtext("scene", "0"), "scene", where):
            regions.scenes.update(identities)
    return regions


def find_boxes(
    phrases: list[Phrase], regions: Regions, counts: Counter[str]
) -> dict[str, list[Box]]:
    """{words: boxes} of the phrases of a caption that have boxes.

    Phrases of the same words, in upper or lower case, are one. `counts` grows by all phrases.
    """
    boxes: dict[str, list[Box]] = {}
    first: dict[str, str] = {}  # {words in lower case: as they occur first}
    for phrase in phrases:
        counts["phrases"] += 1
        if phrase.identity == NOT_VISUAL:
            counts["phrases without a window, not visual"] += 1
        elif phrase.identity in regions.boxes:
            words = first.setdefault(phrase.words.lower(), phrase.words)
            if words in boxes:
                counts["phrases joined with others of the same words"] += 1
            boxes.setdefault(words, []).extend(regions.boxes[phrase.identity])
        elif phrase.identity in regions.scenes:
            counts["phrases without a window, the whole scene"] += 1
        else:
            counts["phrases without a window, no box"] += 1
    return boxes
