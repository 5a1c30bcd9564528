"""Sentence windows: what a reader said and where they looked meanwhile, as `prepare ... --windows sentence` writes them.

In shards members `key.windows.json`, [{"sentence", "start", "end"}] with times in seconds on the recording's clock, and
`key.windows.npz`, one array `heatmaps` of uint8 (N, h, w); beside tables files of these names, the JSON named by a column.
`--align-windows` trains on them; `data.check` checks them and draws them.
"""
from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, NamedTuple

import numpy as np

from .heatmap import DataError, check_aspect

if TYPE_CHECKING:  # tar_source.py imports this file
    from .tar_source import TarEntry

TEXT_MEMBER, MAPS_MEMBER = "windows.json", "windows.npz"


class Windows(NamedTuple):
    """N sentences of one sample and their maps."""

    sentences: list[str]
    times: list[tuple[float, float]]  # start and end in seconds
    heatmaps: np.ndarray  # uint8 (N, h, w), none all zero


def entry_windows(entry: TarEntry) -> tuple[bytes, bytes] | None:
    """(JSON, npz) of a sample in a shard, None if it has neither; DataError for one without the other."""
    return tuple(entry.read(TEXT_MEMBER, MAPS_MEMBER).values()) if has_windows(entry.members, entry.key) else None


def has_windows(members: Iterable[str], key: str) -> bool:
    """Whether the sample `key` has both members; DataError for one without the other."""
    found = [name for name in (TEXT_MEMBER, MAPS_MEMBER) if name in members]
    if len(found) == 1:
        raise DataError(f"windows of {key!r}: {found[0]} alone; expected {TEXT_MEMBER} and {MAPS_MEMBER}.")
    return bool(found)


def file_windows(path: Path) -> tuple[bytes, bytes]:
    """(JSON, npz) of a table's row that names the JSON; DataError if it or the .npz beside it is missing."""
    if path.suffix != ".json":
        raise DataError(f"windows {str(path)!r}: expected the name of a .windows.json with its .npz beside it.")
    for file in (path, path.with_suffix(".npz")):
        if not file.is_file():
            raise DataError(f"windows: no such file: {file}; expected the .json with its .npz beside it.")
    return path.read_bytes(), path.with_suffix(".npz").read_bytes()


def decode_windows(text: bytes, maps: bytes, name: str, image_size: tuple[int, int] | None = None) -> Windows:
    """Both members, checked against each other and, where given, the image's (height, width).

    `name` is named in every DataError: not JSON or npz, pickled objects, other fields or types, counts that differ, an empty
    map, another aspect ratio than the image's.
    """
    sentences, times = _decode_text(text, name)
    heatmaps = _decode_maps(maps, name)
    if len(heatmaps) != len(sentences):
        raise DataError(f"windows {name!r}: {len(heatmaps)} heatmaps for {len(sentences)} sentences; expected one each.")
    if image_size is not None:
        check_aspect(heatmaps.shape[1:], image_size, name)
    empty = [i for i, values in enumerate(heatmaps) if not values.any()]
    if empty:
        raise DataError(f"windows {name!r}: the heatmap of sentence {empty[0] + 1} ({sentences[empty[0]][:40]!r}) is all zero; "
                        "leave out sentences without gaze.")
    return Windows(sentences, times, heatmaps)


def _decode_text(text: bytes, name: str) -> tuple[list[str], list[tuple[float, float]]]:
    try:
        entries = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"windows {name!r}: not JSON in UTF-8 ({error}).") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"windows {name!r}: {str(entries)[:60]}; expected a list of at least one sentence.")
    for i, entry in enumerate(entries):
        times = [entry.get(key) for key in ("start", "end")] if isinstance(entry, dict) else [None]
        right = all(isinstance(time, (int, float)) and math.isfinite(time) for time in times)
        if not right or not isinstance(entry.get("sentence"), str) or times[0] >= times[1]:
            raise DataError(f"windows {name!r}: entry {i + 1} is {str(entry)[:80]}; expected sentence, start and end, "
                            "seconds with start before end.")
    return [entry["sentence"] for entry in entries], [(float(entry["start"]), float(entry["end"])) for entry in entries]


def _decode_maps(maps: bytes, name: str) -> np.ndarray:
    try:
        with np.load(io.BytesIO(maps), allow_pickle=False) as archive:
            if archive.files != ["heatmaps"]:
                raise DataError(f"windows {name!r}: arrays {archive.files}; expected one, heatmaps.")
            heatmaps = archive["heatmaps"]
    except DataError:
        raise
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"windows {name!r}: not a readable npz of plain numbers ({error}). Pickles are refused.") from error
    if heatmaps.dtype != np.uint8 or heatmaps.ndim != 3 or 0 in heatmaps.shape:
        raise DataError(f"windows {name!r}: heatmaps of {heatmaps.dtype} {heatmaps.shape}; expected uint8 (sentences, height, "
                        "width).")
    return heatmaps
