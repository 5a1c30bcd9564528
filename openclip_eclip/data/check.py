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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import DataError, UserError
from .caption_words import CONTEXTS, all_the_same, describe_lengths, fewest_tokens
from .check_sample import Checked, Fault, Rule, check_entry, check_row
from .figures import Example, WindowExample, contact_sheet
from .images.options import ReadOptions, add_read_arguments, read_options
from .repeated_texts import describe_repeats
from .sample import stable_id
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
TYPICAL_BATCH = 256  # for the line on repeated texts, before a batch size is chosen


@dataclass
class Report:
    """The result of a check."""

    samples: int = 0
    annotated: int = 0
    faults: list[Fault] = field(default_factory=list)
    good: list[int] = field(default_factory=list)  # indices of the samples without a fault
    with_windows: int = 0
    empty_windows: int = 0  # phrases without a region
    deep: int = 0  # decoded images of more than 8 bits
    turned: int = 0  # annotated images with an orientation tag other than upright
    # (height, width) of the images opened, as shown
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    heatmap_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)  # on the data as a whole
    near_heatmap: str = ""  # a hint, if a table has no heatmap column, but one of a similar name
    # lower bounds of the lengths in tokens, of captions that are not missing
    caption_tokens: list[int] = field(default_factory=list)
    sentence_tokens: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)  # a number for each of these captions

    def add(self, index: int, checked: Checked, lengths: bool) -> None:
        """Count one sample; with `lengths` also the tokens of its caption and sentences."""
        self.faults.extend(checked.faults)
        self.with_windows += checked.windows
        self.empty_windows += checked.empty
        if not checked.faults:
            self.good.append(index)
        self.deep += checked.deep
        if checked.frame:
            self.image_sizes[checked.frame.shown_size] += 1
            self.turned += checked.frame.orientation != 1 and checked.heatmap_size is not None
        if checked.heatmap_size:
            self.heatmap_sizes[checked.heatmap_size] += 1
        if lengths and checked.caption:
            self.caption_tokens.append(fewest_tokens(checked.caption))
            self.texts.append(stable_id(checked.caption.strip()))
            self.sentence_tokens.extend(map(fewest_tokens, checked.sentences))


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
        f"{path}: {len(report.faults)} problems in {report.samples} samples; nothing was"
        f" trained:\n{lines}{rest}\nCorrect them, or leave these samples out with --on-bad-sample"
        " skip. To list all problems: openclip-eclip check"
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
        f"{count} captions are {text!r}, which may mean that there is no text"
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


def _near_column(report: Report, args: argparse.Namespace) -> str:
    """A hint for the line of counts, if the heatmap column has another name than expected."""
    column = read_column_names(args).heatmap
    return (
        report.near_heatmap
        and f"; no column {column!r}.{report.near_heatmap} Name it with --csv-heatmap-key"
    )


def _describe(sizes: Counter[tuple[int, int]]) -> str:
    """The smallest, the largest and the most frequent size, by area."""
    if not sizes:
        return "none"
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    most, count = sizes.most_common(1)[0]
    return (
        f"{ordered[0][0]}x{ordered[0][1]} to {ordered[-1][0]}x{ordered[-1][1]} (height x width), "
        f"most often {most[0]}x{most[1]} ({count})"
    )


def _describe_reading(report: Report, grey_range: Sequence[float] | None) -> list[str]:
    """Lines on images of more than 8 bits and on images with an orientation tag (decision 0039)."""
    lines = []
    if report.deep:
        how = (
            "by its own window, or from its darkest to its brightest value; --image-range LOW HIGH"
            " sets one range for all"
        )
        if grey_range:
            how = f"from {grey_range[0]:g} to {grey_range[1]:g} (--image-range)"
        lines.append(f"  images of more than 8 bits: {report.deep}, each converted to 8 bits {how}")
    if report.turned:
        lines.append(
            f"  warning: {report.turned} annotated images are turned by their own orientation tag;"
            " their heatmaps are assumed to lie over the pixels as stored, and are turned with"
            " them. Check the contact sheet"
        )
    return lines


def _describe_report(path: Path, report: Report, args: argparse.Namespace) -> str:
    """The printed lines on one path, one fact per line."""
    lines = [
        (
            f"{path}: {report.samples} samples, {report.annotated} annotated"
            f" ({report.annotated / max(report.samples, 1):.1%}), {len(report.faults)}"
            f" problems{_near_column(report, args)}"
        ),
        f"  images: {_describe(report.image_sizes)}",
        f"  heatmaps: {_describe(report.heatmap_sizes)}",
        *_describe_reading(report, args.image_range),
    ]
    if report.with_windows:
        lines.append(f"  sentence windows: {report.with_windows} samples")
    if report.empty_windows:
        lines.append(f"  phrases without a region (maps of zeros): {report.empty_windows}")
    warnings = list(report.warnings)
    for what, lengths in (
        ("captions", report.caption_tokens),
        ("sentences", report.sentence_tokens),
    ):
        if lengths:
            line, cut = describe_lengths(what, lengths, args.context_length)
            lines.append(f"  {line}")
            warnings.extend(cut)
    lines += [f"  warning: {warning}" for warning in warnings]
    lines += [f"  problem: {fault}" for fault in report.faults]
    return "\n".join(lines) + "\n"


def _advise(texts: Sequence[int]) -> None:
    if line := describe_repeats(texts, TYPICAL_BATCH):
        sys.stdout.write(f"  texts that repeat: {line}\n")


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
        sys.stdout.write(_describe_report(path, report, args))
        if path.suffix == ".tar":
            shards[path] = report.samples
            shard_texts += report.texts
        else:
            _advise(report.texts)
        # each path has its share of the sheet
        examples += samples.examples(-(-(SHEET - len(examples)) // left))
        window_examples += samples.with_windows(-(-(WINDOW_ROWS - len(window_examples)) // left))
        total.faults.extend(report.faults)
    _advise(shard_texts)
    for message in compare_sizes(list(shards), list(shards.values())):
        sys.stdout.write(f"problem: {message}\n")
        status = 1
    if examples or window_examples:
        contact_sheet(examples, args.sheet, window_examples, read_options(args))
        sys.stdout.write(f"contact sheet: {args.sheet}\n")
    return 1 if status or total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
