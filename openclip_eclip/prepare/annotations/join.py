"""Joins annotations, images and texts to the samples of a plan, and says what did not fit."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ...annotations.drawn.values import check_on_image
from ...annotations.eye.words import Transcripts
from ...annotations.record import Absent, Drawing, Record, Recording
from ...config import UserError
from ...data.images.options import ReadOptions
from ...data.images.read import read_frame
from ...gaze import Annotation, Boxes, Ellipses, Points, Polygons, RenderConfig
from ..plan import Item, Plan, Window
from ..sentence_windows import make_windows
from .annotators import listed, name_annotators
from .found import OfImage
from .gaze import add_words, check_quality, placed
from .kept import Kept, KeptDrawings, KeptShape, read_kept
from .match import Images, stem
from .texts import Text

READERS = 8  # threads that read headers of images


@dataclass(frozen=True)
class How:
    """Settings of a join.

    `phrase`: the text of a window for a class, or None for no windows of classes; `lead`: seconds
    before a sentence; `split`: column of the texts that names the split, or None; `reader`: column
    of the texts that names who wrote a text and looked at the image; `transcripts`: words of
    images; `left_of`: whose left the texts mean; `picture`: where a picture of all gaze is written.
    """

    config: RenderConfig = RenderConfig()
    merge: str = "mean"
    phrase: Callable[[str], str] | None = None
    lead: float = 1.5
    split: str | None = None
    reader: str | None = None
    transcripts: Transcripts = field(default_factory=dict)
    left_of: str = "image"
    picture: Path | None = None
    reading: ReadOptions = ReadOptions()


def join(
    plan: Plan, images: Images, records: Iterable[Record], texts: Iterable[Text] | None, how: How
) -> None:
    """Add the samples to the plan: every image with a text, annotated or not.

    An image with several texts is as many samples. Without `texts`, the class names of its
    annotations are the text of an image. What fits no image is counted by reason and named.

    Raises:
        UserError: nothing fits, an ambiguous name, or an image that cannot be read.
    """
    found = {name: OfImage(name) for name in images.files}
    plan.kept = kept = KeptDrawings()
    counts = Counter[str]()
    for text in texts or ():
        counts["texts"] += 1
        if how.split is None and "split" in text.columns:
            plan.facts["column split"] = "not used; --split-column split makes one table a split"
        if place := _place(plan, text.image, text.where, "text", images.find):
            found[place].texts.append(text)
    for record in records:
        if isinstance(record, Absent):
            plan.leave_out("phrase without a region", record.where)
            continue
        counts["annotations"] += 1
        kind, file = "gaze", None
        if not isinstance(record, Recording):
            kind, file = "annotation", record.file
        find = partial(images.find, file=file)
        if place := _place(plan, record.image, record.where, kind, find):
            _add_record(found[place], record, kept)
    kept.close()
    add_words(plan, images, found, how.transcripts)
    _refuse_nothing(plan, counts, found)
    name_annotators(plan, found.values(), kept)
    annotated = [one for one in found.values() if one.is_annotated]
    _read_sizes(images, annotated, kept, how.reading)
    check_quality(plan, annotated, how.left_of, how.picture, how.reader)
    used = list(_items(plan, images, found.values(), texts is None, how, kept))
    for item, split in used:
        plan.splits.setdefault(split, []).append(item)
    plan.facts |= {
        "images": len(found),
        "texts": counts["texts"] if texts is not None else "from the classes",
        "annotations": counts["annotations"],
        "images with annotations": len(annotated),
    }
    if labels := {group.label for group in kept.groups} - {""}:
        plan.facts["classes"] = listed(labels)


def _place(
    plan: Plan, wanted: str, where: str, kind: str, find: Callable[[str], str | None]
) -> str | None:
    """The image that a text or an annotation names; what fits none is counted."""
    try:
        name = find(wanted)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if name is None:
        plan.leave_out(f"{kind} without its image", f"{wanted} ({where})")
    return name


def _refuse_nothing(plan: Plan, counts: Counter[str], found: Mapping[str, OfImage]) -> None:
    """UserError: not a single annotation, or not a single text, fits an image."""
    fitting = {
        "annotations": any(one.is_annotated for one in found.values()),
        "texts": any(one.texts for one in found.values()),
    }
    for kind, is_any in fitting.items():
        if counts[kind] and not is_any:
            examples = [name for names in plan.examples.values() for name in names][:2]
            raise UserError(
                f"none of the {counts[kind]} {kind} fits an image, such as"
                f" {' and '.join(examples)}; the images are called {', '.join(list(found)[:2])}."
                " Check --images, and which column names the image."
            )
    if not counts["annotations"]:
        reasons = "; ".join(f"{name}: {count}" for name, count in plan.left_out.items())
        found_instead = f" Left out: {reasons}." if reasons else ""
        raise UserError(f"no annotation in these files; expected at least one.{found_instead}")


def _add_record(one: OfImage, record: Drawing | Recording, kept: KeptDrawings) -> None:
    """Add an annotation to its image. UserError: it states another size than an earlier one."""
    if record.size is not None:
        if one.size is not None and record.size != one.size:
            (h, w), (height, width) = one.size, record.size
            raise UserError(
                f"{record.where}: an image of {height} x {width}; an earlier annotation of"
                f" {one.name} says {h} x {w} (height x width). Expected one size."
            )
        one.size = record.size
    if isinstance(record, Recording):
        one.recordings.append(record)
    else:
        place, group = kept.add(record)
        one.places.append(place)
        one.groups.append(group)
        one.unchecked |= record.size is None  # else the reader of the file has checked it


def _read_sizes(
    images: Images, annotated: Sequence[OfImage], kept: KeptDrawings, options: ReadOptions
) -> None:
    """Find the size of annotated images, and check what their readers could not: see `unchecked`.

    Positions count the pixels of the upright image if both have the same aspect, as annotation
    tools show it; a stated size that is neither is an error of the writer, which opens the images.
    """

    def read(one: OfImage) -> None:
        if one.size is None:
            path = images.files[one.name]
            one.size = read_frame(path, str(path), options).shown_size
        for drawing in read_kept(kept.path, one.places) if one.unchecked else ():
            if not drawing.is_checked and not drawing.fractions:
                _check_on_image(drawing, one.size)

    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(read, [one for one in annotated if one.size is None or one.unchecked]):
            pass


def _check_on_image(drawing: Kept, size: tuple[int, int]) -> None:
    """UserError, with file and record: a shape off its image of (height, width)."""
    if isinstance(drawing.shape, Boxes | Ellipses | Polygons | Points):
        check_on_image(drawing.shape, size, drawing.where)


def _items(
    plan: Plan,
    images: Images,
    found: Iterable[OfImage],
    from_labels: bool,
    how: How,
    kept: KeptDrawings,
) -> Iterator[tuple[Item, str]]:
    """(sample, its split) of every image that has a text."""
    keys: set[str] = set()
    for one in found:
        texts = _label_texts(one, kept) if from_labels else one.texts
        if not texts:
            if one.is_annotated:
                plan.leave_out("annotated image without a text", one.name)
            else:
                plan.leave_out("image without text and annotation", one.name)
            continue
        base = Item(
            key=_key(one.name, keys),
            image=images.files[one.name],
            text="",
            annotations=_annotations(one, kept),
            size=one.size,
            windows=_windows(plan, one, how, kept),
            config=how.config,
            merge=how.merge,
            colour=True,
            upright=True,
            scanpath=bool(one.recordings),
        )
        for i, text in enumerate(texts):
            columns = {name: value for name, value in text.columns.items() if value != ""}
            split = columns.get(how.split, "") if how.split else "train"
            if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
                given = repr(split) if split else "blank"
                raise UserError(
                    f"{text.where}, column {how.split!r}: {given}; expected the name of a split,"
                    " such as train."
                )
            key = base.key if len(texts) == 1 else _unique(f"{base.key}-{i}", keys)
            windows = (*base.windows, *_reader_windows(text, one, how))
            yield (
                replace(base, key=key, text=text.text, columns=columns, windows=windows),
                split,
            )


def _label_texts(one: OfImage, kept: KeptDrawings) -> list[Text]:
    """One text from the classes drawn on an image: "nodule, mass"; none without classes."""
    labels = [label for label in _shapes(one, kept, "label") if label]
    return [Text(one.name, ", ".join(labels), {}, one.name)] if labels else []


def _key(name: str, taken: set[str]) -> str:
    """A key of letters, digits, - and _ for an image, unique in `taken`, to which it is added."""
    *folders, file = name.split("/")
    key = re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join([*folders, stem(file)])).strip("_") or "image"
    return _unique(key, taken)


def _unique(key: str, taken: set[str]) -> str:
    """`key`, or with a number behind it if it is in `taken`; it is added there."""
    unique, number = key, 2
    while unique in taken:
        unique, number = f"{key}_{number}", number + 1
    taken.add(unique)
    return unique


def _annotations(one: OfImage, kept: KeptDrawings) -> tuple[Annotation, ...]:
    """One annotation for each annotator."""
    readings = [placed(recording, one.size) for recording in one.recordings]
    return (*_shapes(one, kept, "annotator").values(), *readings)


def _shapes(one: OfImage, kept: KeptDrawings, by: str) -> dict[str, KeptShape]:
    """What was drawn on an image, by "annotator" or by "label", in the order of the file."""
    places: dict[str, array[int]] = defaultdict(lambda: array("Q"))
    for place, group in zip(one.places, one.groups):
        places[getattr(kept.groups[group], by)].append(place)
    shapes = {}
    for name, of_name in places.items():
        assert one.size is not None  # the sizes of annotated images have been read
        shapes[name] = KeptShape(kept.path, of_name, one.size)
    return shapes


def _reader_windows(text: Text, one: OfImage, how: How) -> list[Window]:
    """A window of a text with the gaze of the reader who wrote it, if --reader-column names one."""
    reader = text.columns.get(how.reader, "") if how.reader else ""
    return [
        Window(text.text, math.nan, math.nan, placed(recording, one.size))
        for recording in one.recordings
        if reader and recording.annotator == reader
    ]


def _windows(plan: Plan, one: OfImage, how: How, kept: KeptDrawings) -> tuple[Window, ...]:
    """A window for each sentence of each reader, and for each class if phrases are wanted."""
    windows = [
        window
        for recording in one.recordings
        if recording.words
        for window in make_windows(
            plan, placed(recording, one.size), recording.words, how.lead, recording.where
        )
    ]
    if how.phrase is not None:
        windows += [
            Window(how.phrase(label), math.nan, math.nan, shape)
            for label, shape in _shapes(one, kept, "label").items()
            if label
        ]
    return tuple(windows)


def files_of(sources: Sequence[Path]) -> Path:
    """The folder that relative names of the sources start from."""
    return sources[0] if sources[0].is_dir() else sources[0].parent
