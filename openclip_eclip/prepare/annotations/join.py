"""Joins annotations, images and texts to the samples of a plan, and says what did not fit."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...annotations.drawn.values import check_on_image
from ...annotations.eye.words import Transcripts
from ...annotations.record import Drawing, NamedMask, Record, Recording
from ...config import UserError
from ...data.images.options import ReadOptions
from ...data.images.read import read_frame
from ...gaze import Annotation, Boxes, Ellipses, MaskFile, Points, Polygons, RenderConfig, Union
from ...gaze.stored import StoredMask
from ..plan import Item, Plan, Window
from ..sentence_windows import make_windows
from .annotators import listed, name_annotators
from .found import OfImage
from .gaze import add_words, check_quality, placed
from .match import Images, stem
from .texts import Text

READERS = 8  # threads that read headers of images


@dataclass(frozen=True)
class How:
    """Settings of a join.

    `phrase`: the text of a window for a class, or None for no windows of classes; `lead`: seconds
    before a sentence; `split`: column of the texts that names the split, or None; `reader`: column
    of the texts that names who wrote a text and looked at the image; `transcripts`: words of
    images; `left_of`: whose left the texts mean.
    """

    config: RenderConfig = RenderConfig()
    merge: str = "mean"
    phrase: Callable[[str], str] | None = None
    lead: float = 1.5
    split: str | None = None
    reader: str | None = None
    transcripts: Transcripts = field(default_factory=dict)
    left_of: str = "image"
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
    counts = Counter[str]()
    for text in texts or ():
        counts["texts"] += 1
        if place := _place(plan, text.image, text.where, "text", images.find):
            found[place].texts.append(text)
    for record in records:
        counts["annotations"] += 1
        if isinstance(record, Recording):
            if place := _place(plan, record.image, record.where, "gaze", images.find):
                found[place].recordings.append(record)
        else:
            find = partial(images.find, file=record.file)
            if place := _place(plan, record.image, record.where, "annotation", find):
                found[place].drawings.append(record)
    add_words(plan, images, found, how.transcripts)
    _refuse_nothing(plan, counts, found)
    name_annotators(plan, found.values())
    annotated = [one for one in found.values() if one.drawings or one.recordings]
    _read_sizes(images, annotated, how.reading)
    check_quality(plan, annotated, how.left_of)
    used = list(_items(plan, images, found.values(), texts is None, how))
    for item, split in used:
        plan.splits.setdefault(split, []).append(item)
    plan.facts |= {
        "images": len(found),
        "texts": counts["texts"],
        "annotations": counts["annotations"],
        "images with annotations": len(annotated),
    }
    labels = {drawing.label for one in annotated for drawing in one.drawings}
    if labels - {""}:
        plan.facts["classes"] = listed(labels - {""})


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
        "annotations": any(one.drawings or one.recordings for one in found.values()),
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
        raise UserError("no annotation in these files; expected at least one.")


def _read_sizes(images: Images, annotated: Sequence[OfImage], options: ReadOptions) -> None:
    """Read the size of annotated images, and compare it with what the annotations state.

    Positions count the pixels of the upright image if both have the same aspect, as annotation
    tools show it; a stated size that is neither is an error of the writer.
    """

    def read(one: OfImage) -> None:
        path = images.files[one.name]
        frame = read_frame(path, str(path), options)
        records: list[Record] = [*one.drawings, *one.recordings]
        stated = {record.size for record in records if record.size is not None}
        if len(stated) > 1:
            raise UserError(
                f"{one.name}: annotations state different sizes of this image (height x width):"
                f" {', '.join(f'{h} x {w}' for h, w in sorted(stated))}; expected one."
            )
        one.size = next(iter(stated), None) or frame.shown_size
        for drawing in one.drawings:  # of a file with sizes the reader has checked them
            if drawing.size is None and not drawing.fractions:
                _check_on_image(drawing, one.size)

    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(read, annotated):
            pass


def _check_on_image(drawing: Drawing, size: tuple[int, int]) -> None:
    """UserError, with file and record: a shape off its image of (height, width)."""
    if isinstance(drawing.shape, Boxes | Ellipses | Polygons | Points):
        check_on_image(drawing.shape, size, drawing.where)


def _items(
    plan: Plan, images: Images, found: Iterable[OfImage], from_labels: bool, how: How
) -> Iterator[tuple[Item, str]]:
    """(sample, its split) of every image that has a text."""
    keys: set[str] = set()
    for one in found:
        texts = _label_texts(one) if from_labels else one.texts
        if not texts:
            if one.drawings or one.recordings:
                plan.leave_out("annotated image without a text", one.name)
            else:
                plan.leave_out("image without text and annotation", one.name)
            continue
        base = Item(
            key=_key(one.name, keys),
            image=images.files[one.name],
            text="",
            annotations=_annotations(one),
            size=one.size,
            windows=_windows(plan, one, how),
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


def _label_texts(one: OfImage) -> list[Text]:
    """One text from the classes drawn on an image: "nodule, mass"; none without classes."""
    labels = dict.fromkeys(drawing.label for drawing in one.drawings if drawing.label)
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


def _annotations(one: OfImage) -> tuple[Annotation, ...]:
    """One annotation for each annotator."""
    by_annotator: dict[str, list[Annotation]] = defaultdict(list)
    for drawing in one.drawings:
        by_annotator[drawing.annotator].append(in_pixels(drawing, one.size))
    readings = [placed(recording, one.size) for recording in one.recordings]
    return (*(together(shapes) for shapes in by_annotator.values()), *readings)


def _reader_windows(text: Text, one: OfImage, how: How) -> list[Window]:
    """A window of a text with the gaze of the reader who wrote it, if --reader-column names one."""
    reader = text.columns.get(how.reader, "") if how.reader else ""
    return [
        Window(text.text, math.nan, math.nan, placed(recording, one.size))
        for recording in one.recordings
        if reader and recording.annotator == reader
    ]


def _windows(plan: Plan, one: OfImage, how: How) -> tuple[Window, ...]:
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
        by_label: dict[str, list[Annotation]] = defaultdict(list)
        for drawing in one.drawings:
            if drawing.label:
                by_label[drawing.label].append(in_pixels(drawing, one.size))
        windows += [
            Window(how.phrase(label), math.nan, math.nan, together(shapes))
            for label, shapes in by_label.items()
        ]
    return tuple(windows)


def together(shapes: Sequence[Annotation]) -> Annotation:
    """Several shapes as one; boxes are joined to one array, because many are common."""
    if len(shapes) == 1:
        return shapes[0]
    if all(isinstance(shape, Boxes) for shape in shapes):
        return Boxes(
            np.concatenate([shape.xyxy for shape in shapes]),  # type: ignore[union-attr]
            np.concatenate([shape.weight for shape in shapes]),  # type: ignore[union-attr]
        )
    return Union(tuple(shapes))  # type: ignore[arg-type]  # no Union is drawn


def in_pixels(drawing: Drawing, size: tuple[int, int] | None) -> Annotation:
    """The shape of a drawing in pixels of its image of (height, width).

    Raises:
        UserError: a mask or gaze in fractions.
    """
    shape = drawing.shape
    if not drawing.fractions:
        if isinstance(shape, StoredMask) and not isinstance(shape, MaskFile):
            return NamedMask(shape, drawing.where)
        return shape
    assert size is not None  # the sizes of annotated images have been read
    height, width = size
    if isinstance(shape, Boxes):
        return Boxes(shape.xyxy * [width, height, width, height], shape.weight)
    if isinstance(shape, Ellipses):
        return Ellipses(shape.xyxy * [width, height, width, height], shape.certainty)
    if isinstance(shape, Points):
        return Points(shape.x * width, shape.y * height, shape.weight)
    if isinstance(shape, Polygons):
        return Polygons([line * [width, height] for line in shape.outlines], shape.weight)
    raise UserError(
        f"{drawing.where}: {type(shape).__name__} in fractions of the image; expected boxes, points"
        " or outlines."
    )


def files_of(sources: Sequence[Path]) -> Path:
    """The folder that relative names of the sources start from."""
    return sources[0] if sources[0].is_dir() else sources[0].parent
