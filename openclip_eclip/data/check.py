"""Check a data set before training: `openclip-eclip check PATH ...`.

Reads tables (.csv, .tsv) and webdataset shards. Prints counts, sizes, the share of annotated
samples, and every problem with its row or key. Writes a contact sheet of images with their
heatmaps, and of sentences with theirs. Training runs the same check, but does not decode every
image, and checks sentence windows only if it uses them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import DataError, UserError
from ..json_text import counted
from .caption_words import CONTEXTS, all_the_same
from .check_report import Report, describe_report, write_repeats
from .check_sample import Checked, Fault, Rule, check_entry, check_row
from .figures import Example, WindowExample, contact_sheet
from .images.options import ReadOptions, add_read_arguments, read_options
from .shards.sizes import compare_sizes
from .shards.stream import expand_paths
from .shards.tar_source import TarEntry, open_shard, walk_shard
from .sheet_samples import SHEET, WINDOW_ROWS, SheetSamples, of_entries, of_table
from .suspicious_maps import SharedMaps
from .tables.csv_source import (
    CsvColumns,
    CsvTable,
    add_column_arguments,
    read_column_names,
    read_csv_table,
)
from .tables.missing_text import is_doubtful

# If images are not decoded, this many annotated samples of a table, or of a shard, still have their
# image compared with a heatmap of another size
COMPARED, COMPARED_OF_SHARD = 64, 8
CHUNK = 64  # samples per task of a thread


def check_table(
    table: CsvTable,
    *,
    decode_images: bool = False,
    windows: bool = False,
    options: ReadOptions = ReadOptions(),
) -> Report:
    """Check every path, caption and heatmap of a table.

    `windows` adds the sentence windows. `decode_images` adds the sentence windows, the lengths of
    captions, and the whole content of every image.
    """
    rule = Rule(decode_images, True, windows or decode_images, options)
    compared = _evenly(table.annotated, COMPARED)
    report = _check_all(
        len(table),
        len(table.annotated),
        lambda i: check_row(table, i, rule._replace(compare=i in compared)),
        str(table.path),
        decode_images,
    )
    report.warnings.extend(filter(None, [all_the_same(table.captions)]))
    return report


def check_entries(
    entries: Sequence[TarEntry],
    *,
    decode_images: bool = False,
    windows: bool | None = None,
    heatmaps: bool = True,
    options: ReadOptions = ReadOptions(),
    group: str | None = None,
) -> Report:
    """Check the samples of indexed shards, as `check_table` does the rows of a table.

    `heatmaps` False: heatmaps are not checked. `windows` None: as `decode_images`. `group`: a field
    of the json that every sample must have.
    """
    annotated = [i for i, entry in enumerate(entries) if entry.annotated] if heatmaps else []
    windows = decode_images if windows is None else windows
    rule = Rule(decode_images, heatmaps, windows, options, group=group)
    compared = _evenly(annotated, COMPARED_OF_SHARD)
    return _check_all(
        len(entries),
        len(annotated),
        lambda i: check_entry(entries[i], rule._replace(compare=i in compared)),
        "shards",
        decode_images,
    )


def _evenly(annotated: Sequence[int], most: int) -> frozenset[int]:
    """At most `most` of them, evenly spaced, to find files that are wrong throughout."""
    return frozenset(annotated[:: max(1, -(-len(annotated) // most))])


def raise_faults(report: Report, path: Any) -> None:
    """Raise a DataError that names the first ten faults, if there are any."""
    if not report.faults:
        return
    lines = "\n".join(f"  {fault}" for fault in report.faults[:10])
    rest = f"\n  ... and {len(report.faults) - 10} more" if len(report.faults) > 10 else ""
    raise DataError(
        f"{path}: {counted(len(report.faults), 'problem')} in {counted(report.samples, 'sample')};"
        f" nothing was trained:\n{lines}{rest}\nCorrect them, or leave these samples out with"
        " --on-bad-sample skip. To list all problems: openclip-eclip check"
    )


def _check_all(
    samples: int, annotated: int, check: Callable[[int], Checked], name: str, lengths: bool
) -> Report:
    report, shared = Report(samples, annotated), SharedMaps()
    doubtful: Counter[str] = Counter()
    chunks = [range(start, min(start + CHUNK, samples)) for start in range(0, samples, CHUNK)]
    with (
        ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool,
        tqdm(total=samples, desc=f"check {name}", unit="sample", disable=None, leave=False) as bar,
    ):
        for chunk, results in zip(
            chunks, pool.map(lambda chunk: [check(i) for i in chunk], chunks)
        ):
            for i, checked in zip(chunk, results):
                report.add(i, checked, lengths)
                if checked.prints:
                    shared.add(*checked.prints)
                if is_doubtful(checked.caption):
                    doubtful[checked.caption.strip()] += 1
            bar.update(len(chunk))
    report.warnings.extend(
        f"{counted(count, 'caption is', 'captions are')} {text!r}, which may mean that there is no"
        " text"
        for text, count in doubtful.items()
    )
    report.warnings.extend(filter(None, [shared.warning(), shared.swapped()]))
    return report


def _check_path(
    path: Path, columns: CsvColumns, options: ReadOptions
) -> tuple[Report, SheetSamples]:
    """Check one table or shard in full; the report, and the good samples for the sheet."""
    if path.suffix == ".tar":
        with open_shard(path) as file:
            entries, damage = walk_shard(path, file)
        report = check_entries(entries, decode_images=True, options=options)
        if damage:
            report.faults.append(Fault(str(path), "archive", damage))
        return report, of_entries([entries[i] for i in report.good], options)
    table = read_csv_table(path, columns)
    report = check_table(table, decode_images=True, options=options)
    report.near_heatmap = table.near_heatmap
    return report, of_table(table, report.good, options)


def _draw_sheet(
    examples: Sequence[Example], windows: Sequence[WindowExample], args: argparse.Namespace
) -> str:
    """The line on the contact sheet, which is drawn if there is anything to show."""
    if examples or windows:
        contact_sheet(examples, args.sheet, windows, read_options(args))
        return f"contact sheet: {args.sheet}\n"
    return (
        "contact sheet: not written, since no sample without problems has a heatmap or sentence"
        " windows\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: no problems, 1: problems, or a path that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="openclip-eclip check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="tables (.csv, .tsv) or shards (.tar), with braces or :: as in --train-data",
    )
    add_column_arguments(parser)
    add_read_arguments(parser)
    parser.add_argument(
        "--context-length",
        type=int,
        nargs="+",
        default=list(CONTEXTS),
        metavar="N",
        help=(
            "context lengths of text towers in tokens; captions that exceed them are counted"
            " (default: 77, most models, and 256, the recipes)"
        ),
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        default=Path("contact_sheet.png"),
        metavar="FILE",
        help="PNG file for the contact sheet (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    total, status = Report(), 0
    examples: list[Example] = []
    window_examples: list[WindowExample] = []
    shards: dict[Path, int] = {}  # samples of each
    shard_texts: list[int] = []
    try:
        paths = [path for paths in args.paths for path in expand_paths(paths)]
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for left, path in zip(range(len(paths), 0, -1), paths):
        try:
            report, samples = _check_path(path, read_column_names(args), read_options(args))
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            status = 1
            continue
        sys.stdout.write(describe_report(path, report, args))
        if path.suffix == ".tar":
            shards[path] = report.samples
            shard_texts += report.texts
        else:
            write_repeats(report.texts)
        # each path has its share of the sheet
        examples += samples.examples(-(-(SHEET - len(examples)) // left))
        window_examples += samples.with_windows(-(-(WINDOW_ROWS - len(window_examples)) // left))
        total.faults.extend(report.faults)
    write_repeats(shard_texts)
    for message in compare_sizes(list(shards), list(shards.values())):
        sys.stdout.write(f"problem: {message}\n")
        status = 1
    try:
        sys.stdout.write(_draw_sheet(examples, window_examples, args))
    except (OSError, ValueError) as error:  # no folder; a suffix that is of no picture
        sys.stderr.write(f"error: --sheet {args.sheet}: {error}; give another PNG file.\n")
        status = 1
    return 1 if status or total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
