"""Files of annotation tools and eye trackers, with your images and texts, as training data.

openclip-eclip prepare annotations boxes.json OUT --images images --texts reports.csv
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ...annotations.formats import add_format_arguments, read_records, recognise
from ...config import UserError
from ...gaze import GazeError
from ...gaze.render import MERGES
from ...json_text import counted, read_json
from ..command import run_plan
from ..gaze_options import add_gaze_arguments, gaze_config
from ..options import add_shard_size_argument, add_writing_arguments, read_options
from ..plan import Plan
from .agreement import agreement
from .gallery import write_gallery
from .gaze import PICTURE, add_gaze_join_arguments, gaze_parameters, read_transcripts
from .gaze_picture import picture_of
from .join import How, files_of, join
from .match import read_images
from .texts import add_text_arguments, read_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "src", type=Path, nargs="+", metavar="SRC", help="annotation files, or folders of them"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="FOLDER|TABLE",
        help="folder of the images (with its folders), or a table with a column of image files",
    )
    add_text_arguments(parser)
    parser.add_argument(
        "--split-column",
        metavar="NAME",
        help="column of --texts with the split of an image (default: all are in train)",
    )
    parser.add_argument(
        "--reader-column",
        metavar="NAME",
        help="column of --texts with the reader: each text gets a window with that reader's gaze",
    )
    parser.add_argument(
        "--phrases",
        metavar="TEMPLATE|FILE",
        help=(
            "writes one window for each class of an image: a phrase such as 'a {c}', or a JSON file"
            " {class: phrase} (default: no windows of classes)"
        ),
    )
    parser.add_argument(
        "--merge",
        choices=MERGES,
        default="mean",
        help="how the maps of several annotators become one (default: %(default)s)",
    )
    add_gaze_join_arguments(parser)
    add_gaze_arguments(parser, "150 pixels for gaze and points, hard edges for areas", "reflect")
    add_format_arguments(parser)
    add_writing_arguments(parser)
    add_shard_size_argument(parser)


def run(args: argparse.Namespace) -> str:
    """Writes the data and pictures of them; returns the summary."""
    options = read_options(args)
    plan = Plan("annotations")
    try:
        fill_plan(plan, args)
        summary = run_plan(args, lambda _: plan)
    except GazeError as error:
        if PICTURE not in plan.facts:
            raise
        raise GazeError(f"{error} {plan.facts[PICTURE]} shows all gaze.") from error
    if args.dry_run:
        return summary
    lines = [summary, *plan.summary().splitlines()[1:]]
    lines += write_gallery(plan, options)
    return "\n".join(lines)


def fill_plan(plan: Plan, args: argparse.Namespace) -> None:
    """Recognise, read and join. UserError: see `recognise`, `read_images`, `join`."""
    found = recognise(args.src, args.annotation_format)
    plan.tables = list(found.files)
    plan.facts["format"] = f"{found.format.name} ({counted(len(found.files), 'file')})"
    options = read_options(args)
    how = How(
        config=gaze_config(args, None, "pixels"),
        merge=args.merge,
        phrase=read_phrases(args.phrases),
        lead=args.lead,
        split=args.split_column,
        reader=args.reader_column,
        transcripts=read_transcripts(args),
        left_of=args.left_of,
        picture=picture_of(options.out),
        reading=options.reading,
    )
    join(
        plan,
        read_images(args.images),
        read_records(found, files_of(args.src), args, plan.leave_out),
        None if args.texts == "labels" else read_texts(args),
        how,
    )
    plan.facts |= gaze_parameters(plan, args)
    plan.facts |= agreement([item for items in plan.splits.values() for item in items])


def read_phrases(text: str | None) -> Callable[[str], str] | None:
    """The phrase of a class, from a template with {c}, or from a JSON file {class: phrase}.

    UserError: a template without {c}; a class that the file lacks is an error when it is asked for.
    """
    if text is None:
        return None
    if text.endswith(".json"):
        phrases = read_json(Path(text))

        def of_file(label: str) -> str:
            if not isinstance(phrases.get(label), str):
                raise UserError(
                    f"--phrases {text}: no phrase for the class {label!r}; expected one for each"
                    f" class, found {json.dumps(list(phrases))[:100]}."
                )
            return phrases[label]

        return of_file
    if "{c}" not in text:
        raise UserError(f"--phrases {text!r}: no {{c}}; expected a template such as 'a {{c}}'.")
    return cache(lambda label: text.replace("{c}", label))  # one string for all images
