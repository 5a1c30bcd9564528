"""What a check of a data set has counted, as the lines that it prints."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..json_text import counted
from .caption_words import describe_lengths, fewest_tokens
from .check_sample import Checked, Fault
from .repeated_texts import describe_repeats
from .sample import stable_id
from .tables.csv_source import read_column_names

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
            "  warning:"
            f" {counted(report.turned, 'annotated image is', 'annotated images are')} turned by an"
            " orientation tag of its own; heatmaps are assumed to lie over the pixels as stored,"
            " and are turned with them. Check the contact sheet"
        )
    return lines


def describe_report(path: Path, report: Report, args: argparse.Namespace) -> str:
    """The printed lines on one path, one fact per line."""
    lines = [
        (
            f"{path}: {counted(report.samples, 'sample')}, {report.annotated} annotated"
            f" ({report.annotated / max(report.samples, 1):.1%}),"
            f" {counted(len(report.faults), 'problem')}{_near_column(report, args)}"
        ),
        f"  images: {_describe(report.image_sizes)}",
        f"  heatmaps: {_describe(report.heatmap_sizes)}",
        *_describe_reading(report, args.image_range),
    ]
    if report.with_windows:
        lines.append(f"  sentence windows: {counted(report.with_windows, 'sample')}")
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
    if report.faults and path.suffix != ".tar":
        lines.append("  row 1 is the first one after the header")
    return "\n".join(lines) + "\n"


def write_repeats(texts: Sequence[int]) -> None:
    if line := describe_repeats(texts, TYPICAL_BATCH):
        sys.stdout.write(f"  texts that repeat: {line}\n")
