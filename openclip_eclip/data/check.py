"""Check a data set before training: `python -m openclip_eclip.data.check PATH ...`.

Reads tables (.csv, .tsv) and webdataset shards, reports counts, sizes, the share annotated and every fault by row, and
writes a contact sheet of images with their heatmaps, and of sentences with theirs. Training runs the same check, without
decoding every image, and the sentences where it reads them.
"""
from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from PIL import Image
from tqdm import tqdm
from webdataset.shardlists import expand_urls

from .caption_words import CONTEXTS, describe_lengths, fewest_tokens
from .csv_source import CsvColumns, CsvTable, add_column_arguments, read_column_names, read_csv_table
from .figures import Example, WindowExample, contact_sheet
from .heatmap import DataError, check_aspect, decode_heatmap, read_bounded
from .missing_text import is_doubtful, is_missing
from .read_options import ReadOptions
from .sample import read_image
from .suspicious_maps import SharedMaps, fingerprint, is_the_image
from .tar_source import TarEntry, index_shard
from .windows import decode_windows, entry_windows, file_windows


class Fault(NamedTuple):
    """`where`: file and row or key; `key`: column or member."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}, {self.key}: {self.message}"


@dataclass
class Report:
    """What a check found; `good` indexes the samples without a fault, `warnings` are of the data as a whole."""

    samples: int = 0
    annotated: int = 0
    faults: list[Fault] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    with_windows: int = 0
    image_sizes: Counter = field(default_factory=Counter)  # (height, width) of the images opened
    heatmap_sizes: Counter = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    near_heatmap: str = ""  # where a table has no column of heatmaps, but one of nearly that name
    caption_tokens: list[int] = field(default_factory=list)  # at least, of the captions that are none missing
    sentence_tokens: list[int] = field(default_factory=list)


class Rule(NamedTuple):
    """What is looked at: every image to its end, sentence windows; and what files may unpack to."""

    decode_images: bool
    windows: bool
    options: ReadOptions


class Checked(NamedTuple):
    faults: list[Fault]
    image_size: tuple[int, int] | None
    heatmap_size: tuple[int, int] | None
    windows: bool = False
    caption: str = ""
    sentences: Sequence[str] = ()
    prints: tuple[bytes, bytes] | None = None  # fingerprints of heatmap and image


def check_table(table: CsvTable, *, decode_images: bool = False, windows: bool = False, options: ReadOptions = ReadOptions()) -> Report:
    """Check every path, caption and heatmap of a table, with `windows` also those of sentences; with `decode_images` windows and
    every image to its end."""
    rule = Rule(decode_images, windows or decode_images, options)
    return _check_all(len(table), len(table.annotated), lambda i: _check_row(table, i, rule), str(table.path), decode_images)


def check_entries(entries: Sequence[TarEntry], *, decode_images: bool = False, windows: bool = False,
                  options: ReadOptions = ReadOptions()) -> Report:
    """The same for the samples of indexed shards."""
    annotated, rule = sum(entry.annotated for entry in entries), Rule(decode_images, windows or decode_images, options)
    return _check_all(len(entries), annotated, lambda i: _check_entry(entries[i], rule), "shards", decode_images)


def raise_faults(report: Report, path: Any) -> None:
    """DataError naming the first ten faults, if there are any."""
    if not report.faults:
        return
    lines = "\n".join(f"  {fault}" for fault in report.faults[:10])
    more = f"\n  ... and {len(report.faults) - 10} more" if len(report.faults) > 10 else ""
    raise DataError(f"{path}: {len(report.faults)} faults in {report.samples} samples; nothing was trained:\n{lines}{more}\n"
                    f"Mend them, or leave the samples out with --on-bad-sample skip. All of them: python -m openclip_eclip.data.check")


def _check_all(samples: int, annotated: int, check: Callable[[int], Checked], name: str, lengths: bool) -> Report:
    report, shared, doubtful = Report(samples, annotated), SharedMaps(), Counter()
    with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
        results = tqdm(pool.map(check, range(samples)), total=samples, desc=f"check {name}", unit="sample", disable=None,
                       leave=False)
        for i, checked in enumerate(results):
            report.faults.extend(checked.faults)
            report.with_windows += checked.windows
            if not checked.faults:
                report.good.append(i)
            if checked.image_size:
                report.image_sizes[checked.image_size] += 1
            if checked.heatmap_size:
                report.heatmap_sizes[checked.heatmap_size] += 1
            if checked.prints:
                shared.add(*checked.prints)
            if is_doubtful(checked.caption):
                doubtful[checked.caption.strip()] += 1
            if lengths and checked.caption:
                report.caption_tokens.append(fewest_tokens(checked.caption))
                report.sentence_tokens.extend(map(fewest_tokens, checked.sentences))
    report.warnings.extend(f"{count} captions are {text!r}, which may stand for no text" for text, count in doubtful.items())
    report.warnings.extend(filter(None, [shared.warning()]))
    return report


def _check_row(table: CsvTable, index: int, rule: Rule) -> Checked:
    columns, image, heatmap, where = table.columns, table.images[index], table.heatmaps[index], table.name(index)
    faults = _no_caption(where, columns.caption, table.captions[index])
    if not image.is_file():
        faults.append(Fault(where, columns.image, f"no such file: {image}"))
    if heatmap is not None and not heatmap.is_file():
        faults.append(Fault(where, columns.heatmap, f"no such file: {heatmap}"))
    if faults:
        return Checked(faults, None, None)
    checked = _check_pixels(where, (columns.image, columns.heatmap), image.read_bytes,
                            heatmap and (lambda: read_bounded(heatmap, rule.options)), heatmap.name if heatmap else "", rule)
    checked = checked._replace(caption=table.captions[index])
    path = table.windows[index] if table.windows and rule.windows else None
    if path is None:
        return checked
    return _check_windows(checked, where, columns.windows, path.name, lambda: file_windows(path, rule.options), image.read_bytes, rule)


def _no_caption(where: str, key: str, caption: str) -> list[Fault]:
    """At most one fault."""
    if not is_missing(caption):
        return []
    found = f"{caption.strip()[:40]!r} stands for no text" if caption.strip() else "blank"
    return [Fault(where, key, f"no caption: {found}")]


def _check_entry(entry: TarEntry, rule: Rule) -> Checked:
    image_key, heatmap_key = entry.image_key, entry.heatmap_key
    if image_key is None or "txt" not in entry.members:
        found = ", ".join(sorted(entry.members))
        return Checked([Fault(entry.where, "members", f"found {found}; expected an image and a txt")], None, None)
    try:
        caption = entry.read("txt")["txt"].decode("utf-8")
    except UnicodeDecodeError as error:
        return Checked([Fault(entry.where, "txt", f"not UTF-8 ({error})")], None, None)
    if faults := _no_caption(entry.where, "txt", caption):
        return Checked(faults, None, None)
    checked = _check_pixels(entry.where, (image_key, heatmap_key), lambda: entry.read(image_key)[image_key],
                            heatmap_key and (lambda: entry.read(heatmap_key)[heatmap_key]), f"{entry.key}.{heatmap_key}", rule)
    checked = checked._replace(caption=caption)
    if not rule.windows:
        return checked
    return _check_windows(checked, entry.where, "windows", f"{entry.key}.windows", lambda: entry_windows(entry),
                          lambda: entry.read(image_key)[image_key], rule)


def _check_pixels(where: str, keys: tuple[str, str | None], image: Callable[[], bytes],
                  heatmap: Callable[[], bytes] | None, heatmap_name: str, rule: Rule) -> Checked:
    image_size = heatmap_size = picture = prints = None
    key = keys[0]
    try:
        if not rule.decode_images and not heatmap:
            return Checked([], None, None)
        content = image()
        if rule.decode_images:
            picture = read_image(content, "image")
            image_size = (picture.height, picture.width)
        if heatmap:
            key = keys[1]
            data = heatmap()
            prints = fingerprint(data), fingerprint(content)
            if prints[0] == prints[1]:
                raise DataError(f"heatmap {heatmap_name!r}: the image itself; expected a map of where an expert looked, or a blank.")
            values = decode_heatmap(data, heatmap_name, rule.options)
            heatmap_size, key = values.shape, keys[0]
            image_size = image_size or _header_size(content)
            key = keys[1]
            check_aspect(heatmap_size, image_size, heatmap_name)
            if picture is None and heatmap_size == image_size:  # a copy that was only saved anew has the image's size
                key = keys[0]
                picture = read_image(content, "image")
                key = keys[1]
            if picture is not None and is_the_image(values, picture):
                raise DataError(f"heatmap {heatmap_name!r}: the pixels of the image itself; expected a map of where an expert looked, or a "
                                "blank.")
    except (DataError, OSError) as error:
        return Checked([Fault(where, key, str(error))], image_size, heatmap_size)
    return Checked([], image_size, heatmap_size, prints=prints)


def _check_windows(checked: Checked, where: str, key: str, name: str, read: Callable[[], tuple[bytes, bytes] | None],
                   image: Callable[[], bytes], rule: Rule) -> Checked:
    """Add what is wrong with the sentence windows; a sample without a readable image keeps its fault alone."""
    if checked.image_size is None and checked.faults:
        return checked
    try:
        found = read()
        if found is None:
            return checked
        windows = decode_windows(*found, name, checked.image_size or _header_size(image()), rule.options)
    except (DataError, OSError) as error:
        return checked._replace(faults=[*checked.faults, Fault(where, key, str(error))], windows=True)
    return checked._replace(windows=True, sentences=windows.sentences)


def _header_size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"unreadable image ({error}).") from error


def _open(path: Path, columns: CsvColumns) -> tuple[Report, Iterator[Example], Iterator[WindowExample]]:
    """The full report of one path, its good annotated samples, and those with sentence windows."""
    if path.suffix == ".tar":
        entries = index_shard(path)
        report = check_entries(entries, decode_images=True)
        good = (entries[i] for i in report.good if entries[i].annotated)
        examples = ((*entry.read(entry.image_key, entry.heatmap_key).values(), f"{entry.key}.{entry.heatmap_key}")
                    for entry in good)
        told = (_window_example(entry.read(entry.image_key)[entry.image_key], found, entry.key)
                for entry in (entries[i] for i in report.good) if (found := entry_windows(entry)))
        return report, examples, told
    table = read_csv_table(path, columns)
    report = check_table(table, decode_images=True)
    report.near_heatmap = table.near_heatmap
    good_rows = (i for i in report.good if table.heatmaps[i])
    examples = ((table.images[i].read_bytes(), table.heatmaps[i].read_bytes(), table.heatmaps[i].name) for i in good_rows)
    told = (_window_example(table.images[i].read_bytes(), file_windows(table.windows[i]), table.windows[i].name)
            for i in report.good if table.windows and table.windows[i])
    return report, examples, told


def _window_example(image: bytes, windows: tuple[bytes, bytes], name: str) -> WindowExample:
    return image, decode_windows(*windows, name, _header_size(image)), name


def _near(report: Report, args: argparse.Namespace) -> str:
    """For the line of counts, where nothing is annotated because of a name."""
    column = read_column_names(args).heatmap
    return report.near_heatmap and f"; no column {column!r}.{report.near_heatmap} Name it with --csv-heatmap-key"


def _describe(sizes: Counter) -> str:
    if not sizes:
        return "none"
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    most, count = sizes.most_common(1)[0]
    return (f"{ordered[0][0]}x{ordered[0][1]} to {ordered[-1][0]}x{ordered[-1][1]} (height x width), "
            f"most often {most[0]}x{most[1]} ({count})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m openclip_eclip.data.check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help=".csv, .tsv or .tar, with braces or :: as in --train-data")
    add_column_arguments(parser)
    parser.add_argument("--context-length", type=int, nargs="+", default=list(CONTEXTS), metavar="N",
                        help="tokens that the text tower reads; longer captions are counted (default: 77, most models, and 256, the recipes)")
    parser.add_argument("--sheet", type=Path, default=Path("contact_sheet.png"), help="the contact sheet, a PNG")
    args = parser.parse_args(argv)
    total, examples, told, status = Report(), [], [], 0
    for path in (Path(url) for paths in args.paths for url in expand_urls(paths)):
        try:
            report, annotated, with_windows = _open(path, read_column_names(args))
        except DataError as error:
            sys.stderr.write(f"error: {error}\n")
            status = 1
            continue
        sys.stdout.write(f"{path}: {report.samples} samples, {report.annotated} annotated "
                         f"({report.annotated / max(report.samples, 1):.1%}), {len(report.faults)} faults{_near(report, args)}\n"
                         f"  images: {_describe(report.image_sizes)}\n  heatmaps: {_describe(report.heatmap_sizes)}\n")
        if report.with_windows:
            sys.stdout.write(f"  sentence windows: {report.with_windows} samples\n")
        for what, lengths in (("captions", report.caption_tokens), ("sentences", report.sentence_tokens)):
            if lengths:
                line, warnings = describe_lengths(what, lengths, args.context_length)
                sys.stdout.write(f"  {line}\n")
                report.warnings.extend(warnings)
        for warning in report.warnings:
            sys.stdout.write(f"  warning: {warning}\n")
        for fault in report.faults:
            sys.stdout.write(f"  fault: {fault}\n")
        examples.extend(islice(annotated, 12 - len(examples)))
        told.extend(islice(with_windows, 4 - len(told)))
        total.faults.extend(report.faults)
    if examples or told:
        contact_sheet(examples, args.sheet, told)
        sys.stdout.write(f"contact sheet: {args.sheet}\n")
    return 1 if status or total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
