"""Sentence windows: the sentences of a reader, each with the reader's gaze in the meantime.

`prepare ... --windows sentence` writes them, `--align-windows` trains on them, and `data.check`
checks and draws them. A sample has two files:

* `key.windows.json`, [{"sentence", "start", "end"}], times in seconds on the recording's clock, or
  null for both: a phrase with a region, such as a class and its boxes, has no times,
* `key.windows.npz`, one array `heatmaps`, uint8 (N, h, w). A map of zeros is that of a phrase
  without a region: it names what the image does not show.

In shards they are members. Beside tables they are files; a column names the JSON.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from ..config import DataError
from .heatmap import UNREADABLE, check_aspect, check_pixels, is_flat, read_bounded, read_npz
from .images.options import ReadOptions
from .tables.missing_text import is_missing

TEXT_MEMBER, MAPS_MEMBER = "windows.json", "windows.npz"
LARGEST_TEXT = 1 << 24  # bytes of JSON, 16 MiB; a long dictation has a few thousand
MOST_SENTENCES = 10_000


class Windows(NamedTuple):
    """N sentences of one sample and their maps."""

    sentences: list[str]
    times: list[tuple[float, float]]  # start and end in seconds; NaN: a phrase without times
    # uint8 (N, h, w); all zero for a phrase without a region, else none the same everywhere
    heatmaps: np.ndarray


def has_windows(members: Iterable[str], key: str) -> bool:
    """Whether the sample `key` has both members; DataError for one without the other."""
    found = [name for name in (TEXT_MEMBER, MAPS_MEMBER) if name in members]
    if len(found) == 1:
        raise DataError(
            f"windows of {key!r}: {found[0]} alone; expected {TEXT_MEMBER} and {MAPS_MEMBER}."
        )
    return bool(found)


def file_windows(path: Path, options: ReadOptions = ReadOptions()) -> tuple[bytes, bytes]:
    """Read (JSON, npz) of a row that names the JSON.

    Raises a DataError if the JSON, or the .npz beside it, is missing or too large.
    """
    if path.suffix != ".json":
        raise DataError(
            f"windows {str(path)!r}: expected the name of a .windows.json with its .npz beside it."
        )
    for file in (path, path.with_suffix(".npz")):
        if not file.is_file():
            raise DataError(
                f"windows: no such file: {file}; expected the .json with its .npz beside it."
            )
    return read_bounded(path, options), read_bounded(path.with_suffix(".npz"), options)


def decode_windows(
    text: bytes,
    maps: bytes,
    name: str,
    image_size: tuple[int, int] | None = None,
    options: ReadOptions = ReadOptions(),
) -> Windows:
    """Decode both files and check them against each other.

    `image_size` (height, width): the maps must have its aspect ratio.

    Raises:
        DataError: with `name`: not JSON or npz, pickled objects, other fields or types, a sentence
            without words, counts that differ, a map that is the same everywhere and not zero,
            another aspect ratio than that of the image, or more than `options` allow.
    """
    sentences, times = decode_sentences(text, name)
    heatmaps = _decode_maps(maps, name, options)
    if len(heatmaps) != len(sentences):
        raise DataError(
            f"windows {name!r}: {len(heatmaps)} heatmaps for {len(sentences)} sentences; expected"
            " one per sentence."
        )
    if image_size is not None:
        check_aspect(heatmaps.shape[1:], image_size, name)
    for i, values in enumerate(heatmaps):
        if values.any() and is_flat(values / values.max()):
            raise DataError(
                f"windows {name!r}: the heatmap of sentence {i + 1} ({sentences[i][:40]!r}) is the"
                " same everywhere; leave out sentences without gaze, or give zeros for a phrase"
                " without a region."
            )
    return Windows(sentences, times, heatmaps)


def decode_sentences(text: bytes, name: str) -> tuple[list[str], list[tuple[float, float]]]:
    """Decode the JSON alone: (sentences, their (start, end) in seconds).

    Raises DataError as `decode_windows` does.
    """
    if len(text) > LARGEST_TEXT:
        raise DataError(
            f"windows {name!r}: {len(text)} bytes of JSON; expected at most {LARGEST_TEXT}."
        )
    try:
        entries = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"windows {name!r}: not JSON in UTF-8 ({error}).") from error
    # numbers of thousands of digits, deeply nested lists
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"windows {name!r}: JSON of another form than that of sentence windows ({error})."
        ) from error
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f"windows {name!r}: {str(entries)[:60]}; expected a list of at least one sentence."
        )
    if len(entries) > MOST_SENTENCES:
        raise DataError(
            f"windows {name!r}: {len(entries)} sentences; expected at most {MOST_SENTENCES}."
        )
    for i, entry in enumerate(entries):
        if not _is_entry(entry):
            raise DataError(
                f"windows {name!r}: entry {i + 1} is {str(entry)[:80]!a}; expected sentence, start"
                " and end, seconds with start before end, or null for both."
            )
        if is_missing(entry["sentence"]):
            raise DataError(
                f"windows {name!r}: sentence {i + 1} is {entry['sentence'][:40]!r}, no text; leave"
                " out such sentences."
            )
    return [entry["sentence"] for entry in entries], [
        (_seconds(entry["start"]), _seconds(entry["end"])) for entry in entries
    ]


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    start, end = value.get("start"), value.get("end")
    if not _is_text(value.get("sentence")) or not {"start", "end"} <= value.keys():
        return False
    if start is None and end is None:
        return True
    return _is_time(start) and _is_time(end) and start < end


def _seconds(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _is_time(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e12
        and math.isfinite(value)
    )


def _is_text(value: object) -> bool:
    """Whether it is a string without single surrogates, which no tokenizer can encode."""
    return isinstance(value, str) and not any(
        "\ud800" <= character <= "\udfff" for character in value
    )


def _decode_maps(maps: bytes, name: str, options: ReadOptions) -> np.ndarray:
    try:
        arrays = read_npz(maps, f"windows {name!r}", options)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(
            f"windows {name!r}: not a readable npz of plain numbers ({error}). Pickles are not"
            " read."
        ) from error
    if list(arrays) != ["heatmaps"]:
        raise DataError(f"windows {name!r}: arrays {list(arrays)}; expected one, heatmaps.")
    heatmaps = arrays["heatmaps"]
    if heatmaps.dtype != np.uint8 or heatmaps.ndim != 3 or 0 in heatmaps.shape:
        raise DataError(
            f"windows {name!r}: heatmaps of {heatmaps.dtype} {heatmaps.shape}; expected uint8"
            " (sentences, height, width)."
        )
    check_pixels(heatmaps.shape[1:], f"windows {name!r}", options)
    return heatmaps


def encode_windows(
    spoken: Sequence[tuple[str, float, float]], heatmaps: Sequence[np.ndarray]
) -> tuple[bytes, bytes]:
    """Encode sentences (text, start, end; seconds) and their maps, each (h, w) in [0, 1].

    Times are NaN for a phrase without times. Returns (JSON, npz).
    """
    text = [
        {
            "sentence": sentence,
            "start": None if math.isnan(start) else start,
            "end": None if math.isnan(end) else end,
        }
        for sentence, start, end in spoken
    ]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, heatmaps=np.stack([np.rint(values * 255).astype(np.uint8) for values in heatmaps])
    )
    return json.dumps(text).encode(), buffer.getvalue()
