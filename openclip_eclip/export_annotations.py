"""Writes heatmaps and sentence windows for an annotation tool: `openclip-eclip export-annotations`.

For the loop of a model and an expert: `prepare pseudo-heatmaps` marks where a model attends, an
expert corrects these regions in an annotation tool, and `prepare annotations` reads them back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from .annotations.drawn.predicted import Predicted, Region
from .annotations.drawn.write_coco import write_coco
from .annotations.drawn.write_label_studio import write_label_studio
from .config import UserError
from .data.heatmap import read_bounded
from .data.images.options import ReadOptions, add_read_arguments, read_options
from .data.images.read import read_frame
from .data.sample import read_heatmap, read_windows
from .data.sentence_windows import file_windows
from .data.shards.stream import expand_paths
from .data.shards.tar_source import TarEntry, entry_windows, index_shard
from .data.tables.csv_source import (
    CsvTable,
    add_column_arguments,
    read_column_names,
    read_csv_table,
)
from .json_text import counted
from .subcommands import exit_code

LABEL = "expert"  # of the region of a whole image's heatmap


class Annotated(NamedTuple):
    """The files of one annotated sample, still encoded."""

    name: str  # of the image, as an annotation tool will show it
    image: bytes
    heatmap: tuple[bytes, str] | None  # and its name, which says the format
    windows: tuple[bytes, bytes] | None


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openclip-eclip export-annotations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="training data: a table, or .tar shards")
    parser.add_argument("out", type=Path, metavar="OUT", help="JSON file to write")
    add_column_arguments(parser)
    parser.add_argument(
        "--to",
        choices=("coco", "label-studio"),
        default="coco",
        help="format of OUT (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="share of a map's maximum from which a pixel is in the region (default: %(default)s)",
    )
    parser.add_argument(
        "--prefix",
        default="",
        help="label-studio: what comes before the name of an image, such as /data/local-files/?d=",
    )
    add_read_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Writes OUT; 2 and one line on stderr for a user's error."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: run(args))


def run(args: argparse.Namespace) -> str:
    """Writes OUT; returns the summary line.

    Raises:
        UserError: no annotated sample, a threshold outside (0, 1], or OUT exists.
    """
    if not 0 < args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: expected above 0, at most 1.")
    if args.out.exists():
        raise UserError(f"{args.out} exists; expected a new file, so that no correction is lost.")
    options = read_options(args)
    paths = expand_paths(args.data)
    samples = (
        _of_shards(paths)
        if paths[0].suffix == ".tar"
        else _of_table(read_csv_table(args.data, read_column_names(args)), options)
    )
    predicted = (
        _regions(sample, args.threshold, options)
        for sample in tqdm(samples, unit=" images", disable=None)
    )
    if args.to == "coco":
        counts = write_coco(args.out, predicted, f"heatmaps of {args.data}")
    else:
        counts = write_label_studio(args.out, predicted, f"heatmaps of {args.data}", args.prefix)
    if not counts["regions"]:
        args.out.unlink()
        raise UserError(f"{args.data}: no sample has a heatmap or sentence windows; expected some.")
    regions, images = counted(counts["regions"], "region"), counted(counts["images"], "image")
    return f"{args.out}: {regions} on {images} ({args.to})"


def _of_table(table: CsvTable, options: ReadOptions) -> Iterator[Annotated]:
    """The annotated rows; the name of an image is its path as the table has it."""
    for index in range(len(table)):
        heatmap = table.heatmaps[index]
        windows = table.windows[index] if table.windows else None
        if heatmap is None and windows is None:
            continue
        image = table.image(index)
        yield Annotated(
            str(image.relative_to(table.path.parent))
            if image.is_relative_to(table.path.parent)
            else str(image),
            read_bounded(image, options),
            None if heatmap is None else (read_bounded(heatmap, options), heatmap.name),
            None if windows is None else file_windows(windows, options),
        )


def _of_shards(paths: list[Path]) -> Iterator[Annotated]:
    """The annotated samples of shards; the name of an image is its key with its suffix."""
    for shard in paths:
        for entry in index_shard(shard):
            if entry.annotated or entry.with_windows:
                yield _of_entry(entry)


def _of_entry(entry: TarEntry) -> Annotated:
    return Annotated(
        f"{entry.key}.{entry.image_key}",
        entry.read_image(),
        (entry.read_heatmap(), f"{entry.key}.{entry.heatmap_key}") if entry.annotated else None,
        entry_windows(entry),
    )


def _regions(sample: Annotated, threshold: float, options: ReadOptions) -> Predicted:
    """The regions of one sample: of each sentence, and of the heatmap where there is none."""
    frame = read_frame(sample.image, sample.name, options)
    regions = []
    if sample.windows is not None:
        windows = read_windows(*sample.windows, sample.name, frame, options)
        regions = [
            Region(sentence, values >= threshold * values.max())
            for sentence, values in zip(windows.sentences, windows.heatmaps)
            if values.any()  # else a phrase without a region
        ]
    elif sample.heatmap is not None:
        values = read_heatmap(*sample.heatmap, frame, options)
        regions = [Region(LABEL, values >= threshold * values.max())]
    return Predicted(sample.name, frame.shown_size, regions)


if __name__ == "__main__":
    sys.exit(main())
