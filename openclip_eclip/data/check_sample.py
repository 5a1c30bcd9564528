"""What is wrong with one sample: the row of a table, or the members of a shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import DataError
from ..json_text import beginning
from .heatmap import decode_heatmap, read_bounded
from .images.options import ReadOptions
from .images.picture import Frame, Picture, orient_maps
from .images.read import read_frame, read_picture
from .sample import read_windows
from .sentence_windows import file_windows
from .shards.tar_source import TarEntry, entry_windows
from .suspicious_maps import fingerprint, is_the_image
from .tables.csv_source import CsvTable
from .tables.missing_text import is_missing
from .tables.paths import PathColumn

LONGEST = 300  # characters of a path in a message; the cell may hold a caption by mistake


class Fault(NamedTuple):
    """`where`: file and row or key; `key`: column or member."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}, {self.key}: {self.message}"


class Rule(NamedTuple):
    """What is checked (images decoded to their end, heatmaps, windows), and the reading limits.

    `compare`: images are compared with heatmaps of any size, otherwise, to save time, with those
    of their own size.
    """

    decode_images: bool
    heatmaps: bool
    windows: bool
    options: ReadOptions
    compare: bool = False


class Checked(NamedTuple):
    """What one sample gave.

    Without `decode_images` the frame of an image is known only where a map needs it.
    """

    faults: list[Fault]
    frame: Frame | None = None
    heatmap_size: tuple[int, int] | None = None
    windows: bool = False
    deep: bool = False  # an image of more than 8 bits
    caption: str = ""
    sentences: Sequence[str] = ()
    prints: tuple[bytes, bytes] | None = None  # fingerprints of heatmap and image


class _Maps(NamedTuple):
    """Where the heatmap and the image of a sample come from."""

    where: str
    image_key: str
    image: Callable[[], bytes]
    heatmap_key: str  # "": none
    heatmap: Callable[[], bytes] | None
    heatmap_name: str


def check_row(table: CsvTable, index: int, rule: Rule) -> Checked:
    """One row; its files are looked for before any is read."""
    columns, where = table.columns, table.name(index)
    image, heatmap = table.images[index], table.heatmaps[index] if rule.heatmaps else None
    faults = _no_caption(where, columns.caption, table.captions[index])
    if image is None or not _is_there(table.images, index):
        found = _no_such_file(image) if image else "blank; expected an image file"
        faults.append(Fault(where, columns.image, found))
    if heatmap is not None and not _is_there(table.heatmaps, index):
        faults.append(Fault(where, columns.heatmap, _no_such_file(heatmap)))
    if faults or image is None:  # which is one of the faults
        return Checked(faults)
    maps = _Maps(
        where,
        columns.image,
        lambda: read_bounded(image, rule.options),
        columns.heatmap,
        (lambda: read_bounded(heatmap, rule.options)) if heatmap else None,
        heatmap.name if heatmap else "",
    )
    checked = _check_maps(maps, rule)._replace(caption=table.captions[index])
    path = table.windows[index] if table.windows and rule.windows else None
    if path is None:
        return checked
    return _check_windows(
        checked,
        where,
        columns.windows,
        path.name,
        lambda: file_windows(path, rule.options),
        maps.image,
        rule,
    )


def _no_such_file(path: Path) -> str:
    return f"no such file: {beginning(str(path), LONGEST)}"


def _is_there(column: Sequence[Path | None], index: int) -> bool:
    """Whether the file of a row is there, as seen when the table was read."""
    if isinstance(column, PathColumn):
        return column.exists(index)
    path = column[index]
    return path is not None and path.is_file()


def check_entry(entry: TarEntry, rule: Rule) -> Checked:
    """One sample of a shard."""
    found = entry.all_faults(rule.heatmaps, rule.windows)
    if found:
        return Checked([Fault(entry.where, member, message) for member, message in found])
    try:
        caption = entry.read("txt")["txt"].decode("utf-8")
    except (DataError, UnicodeDecodeError) as error:
        said = f"not UTF-8 ({error})" if isinstance(error, UnicodeDecodeError) else str(error)
        return Checked([Fault(entry.where, "txt", said)])
    if faults := _no_caption(entry.where, "txt", caption):
        return Checked(faults)
    image_key, heatmap_key = entry.image_key, entry.heatmap_key if rule.heatmaps else None
    assert image_key is not None  # all_faults names a sample without one
    if not entry.members[image_key][1]:
        return Checked([Fault(entry.where, image_key, "an empty file; expected an image")])
    maps = _Maps(
        entry.where,
        image_key,
        entry.read_image,
        heatmap_key or "",
        entry.read_heatmap if heatmap_key else None,
        f"{entry.key}.{heatmap_key}",
    )
    checked = _check_maps(maps, rule)._replace(caption=caption)
    if not rule.windows:
        return checked
    return _check_windows(
        checked,
        entry.where,
        "windows",
        f"{entry.key}.windows",
        lambda: entry_windows(entry),
        entry.read_image,
        rule,
    )


def _no_caption(where: str, key: str, caption: str) -> list[Fault]:
    """At most one fault."""
    if not is_missing(caption):
        return []
    found = f"{caption.strip()[:40]!r} stands for no text" if caption.strip() else "blank"
    return [Fault(where, key, f"no caption: {found}")]


def _check_maps(maps: _Maps, rule: Rule) -> Checked:
    """The image, as far as `rule` asks for it, and the heatmap over it."""
    if not rule.decode_images and maps.heatmap is None:
        return Checked([])
    frame, picture, size, prints = None, None, None, None
    key = maps.image_key
    try:
        content = maps.image()
        if rule.decode_images:
            picture = read_picture(content, "image", rule.options)
            frame = picture.frame
        if maps.heatmap is not None:
            key = maps.heatmap_key
            data = maps.heatmap()
            prints = fingerprint(data), fingerprint(content)
            if prints[0] == prints[1]:
                raise DataError(
                    f"heatmap {maps.heatmap_name!r}: the image itself; expected a map of where an "
                    "expert looked, or a blank."
                )
            values = decode_heatmap(data, maps.heatmap_name, rule.options)
            size, key = values.shape, maps.image_key
            frame = frame or read_frame(content, "image", rule.options)
            if picture is None and (rule.compare or size in (frame.stored_size, frame.shown_size)):
                # a copy of the image that was only saved anew has its size
                picture = read_picture(content, "image", rule.options)
            key = maps.heatmap_key
            _refuse_the_image(
                orient_maps(values, frame, maps.heatmap_name), picture, maps.heatmap_name
            )
    except (DataError, OSError) as error:
        return Checked(
            [Fault(maps.where, key, str(error))],
            frame,
            size,
            deep=picture is not None and picture.deep,
        )
    return Checked([], frame, size, deep=picture is not None and picture.deep, prints=prints)


def _refuse_the_image(values: np.ndarray, picture: Picture | None, name: str) -> None:
    if picture is not None and is_the_image(values, picture.image):
        raise DataError(
            f"heatmap {name!r}: the pixels of the image itself; expected a map of where an expert "
            "looked, or a blank."
        )


def _check_windows(
    checked: Checked,
    where: str,
    key: str,
    name: str,
    read: Callable[[], tuple[bytes, bytes] | None],
    image: Callable[[], bytes],
    rule: Rule,
) -> Checked:
    """Add what is wrong with the windows; without a readable image that fault stands alone."""
    if checked.frame is None and checked.faults:
        return checked
    try:
        found = read()
        if found is None:
            return checked
        frame = checked.frame or read_frame(image(), "image", rule.options)
        windows = read_windows(*found, name, frame, rule.options)
    except (DataError, OSError) as error:
        return checked._replace(
            faults=[*checked.faults, Fault(where, key, str(error))], windows=True
        )
    return checked._replace(windows=True, sentences=windows.sentences)
