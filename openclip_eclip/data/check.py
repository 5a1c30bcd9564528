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

from .csv_source import CsvColumns, CsvTable, add_column_arguments, read_column_names, read_csv_table
from .figures import Example, WindowExample, contact_sheet
from .heatmap import DataError, check_aspect, decode_heatmap
from .sample import read_image
from .shard_sizes import compare_sizes
from .table_paths import PathColumn
from .tar_source import TarEntry, open_shard, walk_shard
from .windows import decode_windows, entry_windows, file_windows


CHUNK = 64  # samples checked by one thread in one go


class Fault(NamedTuple):
    """`where`: file and row or key; `key`: column or member."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}, {self.key}: {self.message}"


@dataclass
class Report:
    """What a check found; `good` indexes the samples without a fault."""

    samples: int = 0
    annotated: int = 0
    faults: list[Fault] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    with_windows: int = 0
    image_sizes: Counter = field(default_factory=Counter)  # (height, width) of the images opened
    heatmap_sizes: Counter = field(default_factory=Counter)


class Checked(NamedTuple):
    faults: list[Fault]
    image_size: tuple[int, int] | None
    heatmap_size: tuple[int, int] | None
    windows: bool = False


def check_table(table: CsvTable, *, decode_images: bool = False, windows: bool = False) -> Report:
    """Check every path, caption and heatmap of a table, with `windows` also those of sentences; with `decode_images` windows and
    every image to its end."""
    return _check_all(len(table), len(table.annotated), lambda i: _check_row(table, i, decode_images, windows or decode_images), str(table.path))


def check_entries(entries: Sequence[TarEntry], *, decode_images: bool = False, windows: bool | None = None,
                  heatmaps: bool = True) -> Report:
    """The same for the samples of indexed shards; without `heatmaps` these are not looked at. `windows` None: as `decode_images`."""
    annotated = sum(entry.annotated for entry in entries) if heatmaps else 0
    windows = decode_images if windows is None else windows
    return _check_all(len(entries), annotated, lambda i: _check_entry(entries[i], decode_images, windows, heatmaps), "shards")


def raise_faults(report: Report, path: Any) -> None:
    """DataError naming the first ten faults, if there are any."""
    if not report.faults:
        return
    lines = "\n".join(f"  {fault}" for fault in report.faults[:10])
    more = f"\n  ... and {len(report.faults) - 10} more" if len(report.faults) > 10 else ""
    raise DataError(f"{path}: {len(report.faults)} faults in {report.samples} samples; nothing was trained:\n{lines}{more}\n"
                    f"Mend them, or leave the samples out with --on-bad-sample skip. All of them: python -m openclip_eclip.data.check")


def _check_all(samples: int, annotated: int, check: Callable[[int], Checked], name: str) -> Report:
    report = Report(samples, annotated)
    chunks = [range(start, min(start + CHUNK, samples)) for start in range(0, samples, CHUNK)]
    with (ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool,
          tqdm(total=samples, desc=f"check {name}", unit="sample", disable=None, leave=False) as bar):
        for chunk, results in zip(chunks, pool.map(lambda chunk: [check(i) for i in chunk], chunks)):
            for i, checked in zip(chunk, results):
                _add(report, i, checked)
            bar.update(len(chunk))
    return report


def _add(report: Report, index: int, checked: Checked) -> None:
    report.faults.extend(checked.faults)
    report.with_windows += checked.windows
    if not checked.faults:
        report.good.append(index)
    if checked.image_size:
        report.image_sizes[checked.image_size] += 1
    if checked.heatmap_size:
        report.heatmap_sizes[checked.heatmap_size] += 1


def _check_row(table: CsvTable, index: int, decode_images: bool, windows: bool) -> Checked:
    columns, image, heatmap = table.columns, table.images[index], table.heatmaps[index]
    faults = []
    if not table.captions[index].strip():
        faults.append(Fault(table.name(index), columns.caption, "empty caption"))
    if image is None or not _is_there(table.images, index):
        faults.append(Fault(table.name(index), columns.image, f"no such file: {image}" if image else "blank; expected an image file"))
    if heatmap is not None and not _is_there(table.heatmaps, index):
        faults.append(Fault(table.name(index), columns.heatmap, f"no such file: {heatmap}"))
    if faults:
        return Checked(faults, None, None)
    checked = _check_pixels(table.name(index), (columns.image, columns.heatmap), lambda: image.read_bytes(),
                            heatmap and heatmap.read_bytes, heatmap.name if heatmap else "", decode_images)
    path = table.windows[index] if table.windows and windows else None
    if path is None:
        return checked
    return _check_windows(checked, table.name(index), columns.windows, path.name, lambda: file_windows(path), image.read_bytes)


def _is_there(column: Sequence[Path | None], index: int) -> bool:
    """Whether the file of a row is there, as seen when the table was read."""
    return column.exists(index) if isinstance(column, PathColumn) else column[index].is_file()


def _check_entry(entry: TarEntry, decode_images: bool, windows: bool, heatmaps: bool = True) -> Checked:
    image_key, heatmap_key = entry.image_key, entry.heatmap_key if heatmaps else None
    found = entry.all_faults(heatmaps, windows)
    if found:
        return Checked([Fault(entry.where, member, message) for member, message in found], None, None)
    try:
        if not entry.read("txt")["txt"].strip():
            return Checked([Fault(entry.where, "txt", "empty caption")], None, None)
    except DataError as error:
        return Checked([Fault(entry.where, "txt", str(error))], None, None)
    if not entry.members[image_key][1]:
        return Checked([Fault(entry.where, image_key, "an empty file; expected an image")], None, None)
    checked = _check_pixels(entry.where, (image_key, heatmap_key), lambda: entry.read(image_key)[image_key],
                            heatmap_key and (lambda: entry.read(heatmap_key)[heatmap_key]), f"{entry.key}.{heatmap_key}",
                            decode_images)
    if not windows:
        return checked
    return _check_windows(checked, entry.where, "windows", f"{entry.key}.windows", lambda: entry_windows(entry),
                          lambda: entry.read(image_key)[image_key])


def _check_pixels(where: str, keys: tuple[str, str | None], image: Callable[[], bytes],
                  heatmap: Callable[[], bytes] | None, heatmap_name: str, decode_image: bool) -> Checked:
    image_size = heatmap_size = None
    key = keys[0]
    try:
        if decode_image:
            picture = read_image(image(), "image")
            image_size = (picture.height, picture.width)
        if heatmap:
            key = keys[1]
            heatmap_size = decode_heatmap(heatmap(), heatmap_name).shape
            if image_size is None:
                key = keys[0]
                image_size = _header_size(image())
            key = keys[1]
            check_aspect(heatmap_size, image_size, heatmap_name)
    except (DataError, OSError) as error:
        return Checked([Fault(where, key, str(error))], image_size, heatmap_size)
    return Checked([], image_size, heatmap_size)


def _check_windows(checked: Checked, where: str, key: str, name: str, read: Callable[[], tuple[bytes, bytes] | None],
                   image: Callable[[], bytes]) -> Checked:
    """Add what is wrong with the sentence windows; a sample without a readable image keeps its fault alone."""
    if checked.image_size is None and checked.faults:
        return checked
    try:
        found = read()
        if found is None:
            return checked
        decode_windows(*found, name, checked.image_size or _header_size(image()))
    except (DataError, OSError) as error:
        return checked._replace(faults=[*checked.faults, Fault(where, key, str(error))], windows=True)
    return checked._replace(windows=True)


def _header_size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.height, picture.width


def _open(path: Path, columns: CsvColumns) -> tuple[Report, Iterator[Example], Iterator[WindowExample]]:
    """The full report of one path, its good annotated samples, and those with sentence windows."""
    if path.suffix == ".tar":
        with open_shard(path) as file:
            entries, damage = walk_shard(path, file)
        report = check_entries(entries, decode_images=True)
        if damage:
            report.faults.append(Fault(str(path), "archive", damage))
        good = (entries[i] for i in report.good if entries[i].annotated)
        examples = ((*entry.read(entry.image_key, entry.heatmap_key).values(), f"{entry.key}.{entry.heatmap_key}")
                    for entry in good)
        told = (_window_example(entry.read(entry.image_key)[entry.image_key], found, entry.key)
                for entry in (entries[i] for i in report.good) if (found := entry_windows(entry)))
        return report, examples, told
    table = read_csv_table(path, columns)
    report = check_table(table, decode_images=True)
    good_rows = (i for i in report.good if table.heatmaps[i])
    examples = ((table.images[i].read_bytes(), table.heatmaps[i].read_bytes(), table.heatmaps[i].name) for i in good_rows)
    told = (_window_example(table.images[i].read_bytes(), file_windows(table.windows[i]), table.windows[i].name)
            for i in report.good if table.windows and table.windows[i])
    return report, examples, told


def _window_example(image: bytes, windows: tuple[bytes, bytes], name: str) -> WindowExample:
    return image, decode_windows(*windows, name, _header_size(image)), name


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
    parser.add_argument("--sheet", type=Path, default=Path("contact_sheet.png"), help="the contact sheet, a PNG")
    args = parser.parse_args(argv)
    total, examples, told, status = Report(), [], [], 0
    shards: dict[Path, int] = {}  # samples of each
    for path in (Path(url) for paths in args.paths for url in expand_urls(paths)):
        try:
            report, annotated, with_windows = _open(path, read_column_names(args))
        except DataError as error:
            sys.stderr.write(f"error: {error}\n")
            status = 1
            continue
        sys.stdout.write(f"{path}: {report.samples} samples, {report.annotated} annotated "
                         f"({report.annotated / max(report.samples, 1):.1%}), {len(report.faults)} faults\n"
                         f"  images: {_describe(report.image_sizes)}\n  heatmaps: {_describe(report.heatmap_sizes)}\n")
        if path.suffix == ".tar":
            shards[path] = report.samples
        if report.with_windows:
            sys.stdout.write(f"  sentence windows: {report.with_windows} samples\n")
        for fault in report.faults:
            sys.stdout.write(f"  fault: {fault}\n")
        examples.extend(islice(annotated, 12 - len(examples)))
        told.extend(islice(with_windows, 4 - len(told)))
        total.faults.extend(report.faults)
    for message in compare_sizes(list(shards), list(shards.values())):
        sys.stdout.write(f"fault: {message}\n")
        status = 1
    if examples or told:
        contact_sheet(examples, args.sheet, told)
        sys.stdout.write(f"contact sheet: {args.sheet}\n")
    return 1 if status or total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
