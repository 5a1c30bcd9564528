"""Reads the texts of images: tables, JSON lines, or captions in COCO's form."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...config import UserError
from ...data.tables.csv_source import read_columns
from ...json_text import parse_json, read_json
from .match import find_column

OURS = ("filepath", "title", "heatmap", "windows", "scanpath")  # columns of the written table
LARGEST = 1 << 30  # bytes of a JSON file of captions


class Text(NamedTuple):
    image: str  # as the file names it
    text: str
    columns: dict[str, str]  # all other columns; those named as OURS begin with "source_"
    where: str


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        required=True,
        metavar="TABLE",
        help=(
            "reports or captions: a table (.csv, .tsv) or .jsonl with a column of images and one of"
            " texts, or COCO captions (.json); 'labels' makes texts from the class names"
        ),
    )
    parser.add_argument(
        "--image-column", metavar="NAME", help="column of the images in --texts (default: guessed)"
    )
    parser.add_argument(
        "--text-column", metavar="NAME", help="column of the texts in --texts (default: guessed)"
    )


def read_texts(args: argparse.Namespace) -> Iterator[Text]:
    """All texts of --texts in the order of the file. UserError: not readable, no such column."""
    path = Path(args.texts)
    if not path.is_file():
        raise UserError(f"--texts {path}: no such file.")
    if path.suffix == ".json":
        return _coco_captions(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, args)
    return _table(path, args)


def kept_name(name: str) -> str:
    """The name of a column of the user's in the written table, whose own columns stay."""
    return f"source_{name}" if name in OURS else name


def _table(path: Path, args: argparse.Namespace) -> Iterator[Text]:
    frame = read_columns(path)
    for name in (args.image_column, args.text_column):
        if name and name not in frame:
            raise UserError(f"{path}: no column {name!r}; found {list(frame.columns)}.")
    image = args.image_column or find_column(path, frame.columns, "filepath", "--image-column")
    text = args.text_column or find_column(path, frame.columns, "title", "--text-column")
    others = [name for name in frame.columns if name not in (image, text)]
    for i, row in enumerate(frame.to_dict("records"), 1):
        yield Text(
            row[image],
            row[text],
            {kept_name(name): row[name] for name in others},
            f"{path}, row {i}",
        )


def _json_lines(path: Path, args: argparse.Namespace) -> Iterator[Text]:
    names: tuple[str, str] | None = None
    with path.open("rb") as file:
        for i, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {i}"
            entry = parse_json(line, where)
            if names is None:
                names = (
                    args.image_column or find_column(path, entry, "filepath", "--image-column"),
                    args.text_column or find_column(path, entry, "title", "--text-column"),
                )
            values = [entry.get(name) for name in names]
            if not all(isinstance(value, str) for value in values):
                raise UserError(
                    f"{where}: {names[0]}={values[0]!r}, {names[1]}={str(values[1])[:40]!r};"
                    " expected two strings."
                )
            others = {
                kept_name(name): str(value)
                for name, value in entry.items()
                if name not in names and isinstance(value, (str, int, float))
            }
            yield Text(values[0], values[1], others, where)


def _coco_captions(path: Path) -> Iterator[Text]:
    if path.stat().st_size > LARGEST:
        raise UserError(f"--texts {path}: {path.stat().st_size} bytes; expected at most {LARGEST}.")
    content = read_json(path)
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for i, entry in enumerate(content["annotations"], 1):
            where = f"{path}, annotation {i}"
            image, caption = names[entry["image_id"]], entry["caption"]
            if not (isinstance(image, str) and isinstance(caption, str)):
                raise UserError(f"{where}: {image!r}, {caption!r}; expected two strings.")
            yield Text(image, caption, {}, where)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: {error!r} is missing; expected COCO captions: images with id and file_name,"
            " annotations with image_id and caption."
        ) from error
