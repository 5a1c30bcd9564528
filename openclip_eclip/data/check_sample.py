"""Check one sample: the row of a table, or the members of one key in a shard."""

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
from .shards.members import FIELDS_MEMBER
from .shards.tar_source import TarEntry, entry_windows, read_group
from .suspicious_maps import fingerprint, is_the_image
from .tables.csv_source import CsvTable
from .tables.missing_text import is_missing
from .tables.paths import PathColumn

LONGEST = 300  # characters of a path in a message; the cell may hold a caption by mistake


class Fault(NamedTuple):
    """A problem with one sample; `where`: file and row or key; `key`: column or member."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}, {self.key}: {self.message}"


class Rule(NamedTuple):
    """What is checked, and the reading limits."""

    decode_images: bool  # decode every image to its end
    heatmaps: bool
    windows: bool
    options: ReadOptions
    # compare an image with a heatmap of any size; otherwise, to save time, only of its own size
    compare: bool = False
    group: str | None = None  # a field that the json of a shard's sample must have


class Checked(NamedTuple):
    """The result for one sample.

    Without `decode_images`, the frame of an image is read only if a map needs it.
    """

    faults: list[Fault]
    frame: Frame | None = None
    heatmap_size: tuple[int, int] | None = None
    windows: bool = False
    empty: int = 0  # phrases of the windows that have no region
    deep: bool = False  # an image of more than 8 bits
    caption: str = ""
    sentences: Sequence[str] = ()
    prints: tuple[bytes, bytes] | None = None  # fingerprints of heatmap and image


class _Maps(NamedTuple):
    """How to read the heatmap and the image of a sample."""

    where: str
    image_key: str
    image: Callable[[], bytes]
    heatmap_key: str  # "": none
    heatmap: Callable[[], bytes] | None
    heatmap_name: str


def check_row(table: CsvTable, index: int, rule: Rule) -> Checked:
    """Check one row; its files must exist before any is read."""
    columns, where = table.columns, table.name(index)
    image, heatmap = table.images[index], table.heatmaps[index] if rule.heatmaps else None
    faults = _no_caption(where, columns.caption, table.captions[index])
    if image is None or not _is_there(table.images, index):
        found = _no_such_file(image) if image else "blank; expected an image file"
        faults.append(Fault(where, columns.image, found))
    if heatmap is not None and not _is_there(table.heatmaps, index):
        faults.append(Fault(where, columns.heatmap, _no_such_file(heatmap)))
    if faults or image is None:  # a missing image is among the faults
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
    """Whether the file of a row existed when the table was read."""
    if isinstance(column, PathColumn):
        return column.exists(index)
    path = column[index]
    return path is not None and path.is_file()


def check_entry(entry: TarEntry, rule: Rule) -> Checked:
    """Check one sample of a shard."""
    member_faults = entry.all_faults(rule.heatmaps, rule.windows)
    if member_faults:
        return Checked([Fault(entry.where, member, message) for member, message in member_faults])
    try:
        caption = entry.read("txt")["txt"].decode("utf-8")
    except UnicodeDecodeError as error:
        return Checked([Fault(entry.where, "txt", f"not UTF-8 ({error})")])
    except DataError as error:
        return Checked([Fault(entry.where, "txt", str(error))])
    if faults := _no_caption(entry.where, "txt", caption):
        return Checked(faults)
    if rule.group:
        try:
            read_group(
                entry.read(FIELDS_MEMBER) if FIELDS_MEMBER in entry.members else {},
                entry.where,
                rule.group,
            )
        except DataError as error:
            message = str(error).removeprefix(f"{entry.where}: ")
            return Checked([Fault(entry.where, FIELDS_MEMBER, message)])
    image_key, heatmap_key = entry.image_key, entry.heatmap_key if rule.heatmaps else None
    assert image_key is not None  # a sample without an image has a fault
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
    """A fault if the caption is missing, in a list that is otherwise empty."""
    if not is_missing(caption):
        return []
    text = caption.strip()
    reason = f"{text[:40]!r} means that there is no text" if text else "blank"
    return [Fault(where, key, f"no caption: {reason}")]


def _check_maps(maps: _Maps, rule: Rule) -> Checked:
    """Check the image, as far as `rule` asks for it, and the heatmap over it."""
    if not rule.decode_images and maps.heatmap is None:
        return Checked([])
    frame, picture, size, prints = None, None, None, None
    key = maps.image_key  # of the file that an error is reported for
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
                # a copy of the image, saved once more, has the size of the image
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
    """Add the faults of the windows; if the image is unreadable, its fault stands alone."""
    if checked.frame is None and checked.faults:
        return checked
    try:
        content = read()
        if content is None:
            return checked
        frame = checked.frame or read_frame(image(), "image", rule.options)
        windows = read_windows(*content, name, frame, rule.options)
    except (DataError, OSError) as error:
        return checked._replace(
            faults=[*checked.faults, Fault(where, key, str(error))], windows=True
        )
    empty = sum(not values.any() for values in windows.heatmaps)
    return checked._replace(windows=True, sentences=windows.sentences, empty=empty)
