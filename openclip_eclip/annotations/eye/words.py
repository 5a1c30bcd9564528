"""Words with times: Whisper, ELAN, Praat, EGD-CXR, REFLACX, Localized Narratives, and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...config import UserError
from ...data.tables.text import read_table_text
from ...json_text import parse_json
from ...xml_text import parse_xml
from ..record import Word
from .rows import numbers
from .table import guess_columns
from .textgrid import read_textgrid

LARGEST = 1 << 28  # bytes of a transcript
ENDINGS = (".json", ".jsonl", ".eaf", ".textgrid", ".csv", ".tsv")
TEXTS = ("word", "words", "text", "token", "phrase", "utterance", "sentence", "transcript")
STARTS = ("timestamp_start_word", "start", "start_time", "begin_time", "begin", "onset", "tmin")
ENDS = ("timestamp_end_word", "end", "end_time", "stop", "offset", "tmax", "xmax")
# files that data sets name alike; the folder names the image
ALIKE = ("transcript", "transcription", "timestamps_transcription", "words", "whisper")
TIERS = ("words", "word", "tokens", "transcription", "transcript", "utterances", "default")


class Transcript(NamedTuple):
    words: tuple[Word, ...]
    file: Path


Transcripts = dict[str, Transcript]  # by image, as the file names it


def read_words(path: Path, tier: str | None = None) -> Transcripts:
    """The words of each image, times in seconds, of a transcript or a folder of transcripts.

    The image is the one that the file names, or the stem of the file, or its folder if all files
    have one name, as transcript.json. Words without a time have NaN. `tier`: of ELAN and Praat;
    None: one with a usual name, or the one with the most annotations.

    Raises:
        UserError: no transcript, a broken one, times that end before they begin, or two transcripts
            of one image.
    """
    if path.is_dir():
        files = sorted(
            one
            for one in path.rglob("*")
            if one.is_file() and one.name.lower().endswith(ENDINGS) and one.name[0] != "."
        )
        files = [one for one in files if one.suffix.lower() != ".csv" or _has_words(one)]
    elif path.is_file():
        files = [path]
    else:
        raise UserError(f"--transcripts {path}: no such file or folder.")
    if not files:
        raise UserError(f"--transcripts {path}: no transcript; expected {', '.join(ENDINGS)}.")
    result: Transcripts = {}
    for file in files:
        for image, words in _read_file(file, tier):
            for word in words:
                if word.end < word.start:
                    raise UserError(
                        f"{file}: {word.text[:40]!r} ends at {word.end:g} before it starts at"
                        f" {word.start:g}; expected an end after the start."
                    )
            if image in result:
                raise UserError(
                    f"{file}: words of image {image!r} once more, after {result[image].file};"
                    " expected one transcript of each image. Where files of several folders have"
                    " one name, give the words as a table with a column of images."
                )
            result[image] = Transcript(tuple(words), file)
    return result


def _read_file(path: Path, tier: str | None) -> Iterator[tuple[str, list[Word]]]:
    if path.stat().st_size > LARGEST:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes; expected a transcript of at most {LARGEST}."
        )
    name = path.name.lower()
    if name.endswith(".eaf"):
        yield path.stem, _elan(path, tier)
    elif name.endswith(".textgrid"):
        yield path.stem, read_textgrid(path, tier, TIERS)
    elif name.endswith((".csv", ".tsv")):
        yield from _table(path)
    elif name.endswith(".jsonl"):
        yield from _narratives(path)
    elif name.endswith(".json"):
        yield _image_of(path), _json(path)
    else:
        raise UserError(f"{path}: no known transcript; expected {', '.join(ENDINGS)}.")


def _image_of(path: Path) -> str:
    stem = path.stem.lower()
    return path.parent.name if stem in ALIKE else path.stem


def _json(path: Path) -> list[Word]:
    value = parse_json(path.read_bytes(), str(path))
    where = str(path)
    if "time_stamped_text" in value:  # EGD-CXR
        return _entries(value["time_stamped_text"], where, "phrase", "begin_time", "end_time")
    if "timed_caption" in value:
        return _entries(value["timed_caption"], where, "utterance", "start_time", "end_time")
    if isinstance(value.get("transcription"), list):  # whisper.cpp
        return [
            _word(one, f"{where}, transcription {i + 1}", _cpp)
            for i, one in enumerate(value["transcription"])
        ]
    if "segments" not in value and "chunks" in value:  # Whisper of transformers
        return [
            _word(one, f"{where}, chunk {i + 1}", _chunk)
            for i, one in enumerate(_list(value["chunks"], where, "chunks"))
        ]
    words: list[Word] = []
    for i, segment in enumerate(_list(value.get("segments"), where, "segments")):
        place = f"{where}, segment {i + 1}"
        inner = segment.get("words") if isinstance(segment, dict) else None
        if inner:
            words += _entries(inner, place, "word", "start", "end")
        else:
            words.append(_word(segment, place, lambda one: _three(one, "text", "start", "end")))
    return words


def _list(value: Any, where: str, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(
            f"{where}: {key} is {str(value)[:40]!r}; expected a list, as Whisper writes segments"
            " (or time_stamped_text, timed_caption, transcription, chunks)."
        )
    return value


def _entries(value: Any, where: str, text: str, start: str, end: str) -> list[Word]:
    return [
        _word(one, f"{where}, {text} {i + 1}", lambda one: _three(one, text, start, end))
        for i, one in enumerate(_list(value, where, f"the list of {text}"))
    ]


def _three(one: Any, text: str, start: str, end: str) -> tuple[Any, Any, Any]:
    # WhisperX gives no times for words of digits
    if text == "word" and text not in one:
        text = "text"
    return one[text], one.get(start), one.get(end)


def _cpp(one: Any) -> tuple[Any, Any, Any]:
    return one["text"], one["offsets"]["from"] / 1000, one["offsets"]["to"] / 1000


def _chunk(one: Any) -> tuple[Any, Any, Any]:
    return one["text"], one["timestamp"][0], one["timestamp"][1]


def _word(one: Any, where: str, three: Callable[[Any], tuple[Any, Any, Any]]) -> Word:
    try:
        text, start, end = three(one)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{where}: {str(one)[:60]!r} ({error!r}); expected a text, a start and an end."
        ) from error
    times = []
    for name, value in (("start", start), ("end", end)):
        if value is None:
            times.append(math.nan)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9:
            raise UserError(f"{where}: {name} is {str(value)[:40]!r}; expected seconds.")
        else:
            times.append(float(value))
    if not isinstance(text, str):
        raise UserError(f"{where}: the text is {str(text)[:40]!r}; expected a text.")
    return Word(text.strip(), *times)


def _narratives(path: Path) -> Iterator[tuple[str, list[Word]]]:
    """Localized Narratives: one JSON object a line; only the first narrative of an image."""
    known = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            value = parse_json(line, where)
            if not {"image_id", "timed_caption"} <= value.keys():
                raise UserError(
                    f"{where}: keys {sorted(value)[:6]}; expected image_id and timed_caption, as in"
                    " Localized Narratives."
                )
            image = str(value["image_id"])
            if image not in known:
                known.add(image)
                yield (
                    image,
                    _entries(value["timed_caption"], where, "utterance", "start_time", "end_time"),
                )


def _elan(path: Path, tier: str | None) -> list[Word]:
    root = parse_xml(path.read_bytes(), str(path))
    times: dict[str, float] = {}
    for slot in root.iterfind("TIME_ORDER/TIME_SLOT"):
        value = slot.get("TIME_VALUE")
        if value is not None:  # a slot between two others may have no time
            try:
                times[slot.get("TIME_SLOT_ID", "")] = int(value) / 1000
            except ValueError as error:
                raise UserError(
                    f"{path}: TIME_VALUE {value!r} of slot {slot.get('TIME_SLOT_ID')}; expected"
                    " milliseconds."
                ) from error
    spans: dict[str, tuple[float, float]] = {}
    tiers: dict[str, list[Word]] = {}
    # an annotation that refers to another has its times; these may come later in the file
    nodes = list(root.iterfind("TIER"))
    for node in nodes:
        for one in node.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION"):
            spans[one.get("ANNOTATION_ID", "")] = (
                times.get(one.get("TIME_SLOT_REF1", ""), math.nan),
                times.get(one.get("TIME_SLOT_REF2", ""), math.nan),
            )
    referring = {
        one.get("ANNOTATION_ID", ""): one.get("ANNOTATION_REF", "")
        for one in root.iterfind("TIER/ANNOTATION/REF_ANNOTATION")
    }
    for node in nodes:
        words = []
        for one in node.iterfind("ANNOTATION/*"):
            text = (one.findtext("ANNOTATION_VALUE") or "").strip()
            at, steps = one.get("ANNOTATION_ID", ""), 0
            while at in referring and at not in spans and steps < 20:
                at, steps = referring[at], steps + 1
            if text:
                words.append(Word(text, *spans.get(at, (math.nan, math.nan))))
        tiers[node.get("TIER_ID", "")] = sorted(words, key=lambda word: word.start)
    return tiers[choose_tier({name: len(words) for name, words in tiers.items()}, tier, path)]


def choose_tier(counts: dict[str, int], tier: str | None, path: Path) -> str:
    """The tier to read. UserError: there is none with words, or not the named one."""
    if tier is not None:
        if tier not in counts:
            raise UserError(f"{path}: no tier {tier!r}; found {', '.join(counts) or 'no tier'}.")
        return tier
    usual = [name for known in TIERS for name in counts if name.lower() == known and counts[name]]
    best = usual[0] if usual else max(counts, key=lambda name: counts[name], default="")
    if not counts.get(best):
        raise UserError(f"{path}: no tier with words; found {', '.join(counts) or 'no tier'}.")
    return best


def _has_words(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = {name.strip().strip('"').lower() for name in file.readline(65536).split(",")}
    return bool(header & set(TEXTS) and header & set(STARTS) and header & set(ENDS))


def _table(path: Path) -> Iterator[tuple[str, list[Word]]]:
    where = str(path)
    frame = read_table_text(path, used=()).frame
    lower = {str(name).strip().lower(): str(name) for name in frame.columns}
    found = [
        next((lower[name] for name in names if name in lower), None)
        for names in (TEXTS, STARTS, ENDS)
    ]
    text, start, end = found
    if text is None or start is None or end is None:
        raise UserError(
            f"{where}: columns {list(frame.columns)}; expected a text ({TEXTS[0]}), its start"
            f" ({STARTS[1]}) and its end ({ENDS[1]}), in seconds."
        )
    times = numbers(frame, [start, end], where)
    image = guess_columns([name for name in frame.columns if name not in found]).get("image")
    names = list(frame[image]) if image else [_image_of(path)] * len(frame)
    groups: dict[str, list[Word]] = {}
    for name, word, (first, last) in zip(names, frame[text], times):
        groups.setdefault(str(name).strip(), []).append(
            Word(str(word).strip(), float(first), float(last))
        )
    yield from groups.items()
