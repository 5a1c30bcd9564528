"""Drawings wait in a temporary file until they are drawn: a data set may have millions of them."""

from __future__ import annotations

import pickle
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, NamedTuple
from weakref import finalize

import numpy as np

from ...annotations.record import Drawing, NamedMask
from ...config import UserError
from ...gaze import Annotation, Boxes, Ellipses, MaskFile, Points, Polygons, Union
from ...gaze.stored import Stored

SCALED = Boxes | Ellipses | Points | Polygons  # shapes that may be in fractions of the image


class Group(NamedTuple):
    """Drawings of one group are the same annotator's, for the same label, and of one file."""

    annotator: str
    label: str
    file: Path | None


class KeptDrawings:
    """A temporary file of drawings, in the order in which they came.

    Memory holds where a drawing is and its group. The file is removed with this object. It is
    pickled, which is safe here: only this process writes to the folder, which nobody else may open.
    """

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="openclip_eclip_")) / "drawings"
        self._file = self.path.open("wb")
        finalize(self, _remove, self._file, self.path.parent)
        self._end = 0
        self._groups: dict[Group, int] = {}
        self.groups: list[Group] = []

    def add(self, drawing: Drawing) -> tuple[int, int]:
        """Keep a drawing; returns its place in the file and the number of its group.

        Raises:
            UserError: a mask in fractions of the image, or no room for the file.
        """
        if drawing.fractions and not isinstance(drawing.shape, SCALED):
            raise UserError(
                f"{drawing.where}: {type(drawing.shape).__name__} in fractions of the image;"
                " expected boxes, points or outlines."
            )
        group = Group(drawing.annotator, drawing.label, drawing.file)
        if group not in self._groups:
            self._groups[group] = len(self.groups)
            self.groups.append(group)
        content = pickle.dumps(
            (_packed(drawing.shape), drawing.where, drawing.fractions, drawing.size is not None)
        )
        try:
            self._file.write(content)
        except OSError as error:
            raise self._no_room(error) from error
        place, self._end = self._end, self._end + len(content)
        return place, self._groups[group]

    def close(self) -> None:
        """End writing; from now on the drawings can be read. UserError: no room for the file."""
        try:
            self._file.close()
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}: {error.strerror}; annotations are kept there until they are drawn, about"
            " as many bytes as their files have. Set TMPDIR to a folder with more room."
        )


def _remove(file: BinaryIO, folder: Path) -> None:
    with suppress(OSError):  # of a full disk
        file.close()
    shutil.rmtree(folder, ignore_errors=True)


class Kept(NamedTuple):
    """What is needed of a Drawing after its image, label and annotator are known."""

    shape: Annotation
    where: str
    fractions: bool
    is_checked: bool  # the file states the size of the image: its reader has checked the shape


def read_kept(path: Path, places: Iterable[int]) -> Iterator[Kept]:
    """The drawings at these places of the file of a KeptDrawings."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            packed, *rest = pickle.load(file)
            yield Kept(_unpacked(packed), *rest)


def _packed(shape: Annotation) -> Annotation | tuple[type, bytes | list[bytes], bytes]:
    """Boxes and outlines as bytes, which are pickled in a fifth of the time; others as they are."""
    if isinstance(shape, Boxes):
        return Boxes, shape.xyxy.tobytes(), shape.weight.tobytes()
    if isinstance(shape, Polygons):
        return Polygons, [line.tobytes() for line in shape.outlines], shape.weight.tobytes()
    return shape


def _unpacked(packed: Annotation | tuple[type, bytes | list[bytes], bytes]) -> Annotation:
    if not isinstance(packed, tuple):
        return packed
    kind, content, weight = packed
    if isinstance(content, bytes):
        return kind(np.frombuffer(content).reshape(-1, 4), np.frombuffer(weight))
    outlines = [np.frombuffer(line).reshape(-1, 2) for line in content]
    return kind(outlines, np.frombuffer(weight))


@dataclass(frozen=True, eq=False, slots=True)
class KeptShape:
    """All that one annotator drew on an image, or all of one label; read when it is drawn."""

    path: Path
    places: array[int]
    size: tuple[int, int]  # (height, width) of the image

    def load(self) -> Annotation:
        return together([in_pixels(kept, self.size) for kept in read_kept(self.path, self.places)])


def together(shapes: Sequence[Annotation]) -> Annotation:
    """Several shapes as one; boxes are joined to one array, because many are common."""
    if len(shapes) == 1:
        return shapes[0]
    if all(isinstance(shape, Boxes) for shape in shapes):
        return Boxes(
            np.concatenate([shape.xyxy for shape in shapes]),  # type: ignore[union-attr]
            np.concatenate([shape.weight for shape in shapes]),  # type: ignore[union-attr]
        )
    return Union(tuple(shapes))


def in_pixels(drawing: Kept | Drawing, size: tuple[int, int]) -> Annotation:
    """The shape of a drawing in pixels of its image of (height, width)."""
    shape = drawing.shape
    if not drawing.fractions:
        if isinstance(shape, Stored) and not isinstance(shape, MaskFile):
            return NamedMask(shape, drawing.where)
        return shape
    height, width = size
    if isinstance(shape, Boxes):
        return Boxes(shape.xyxy * [width, height, width, height], shape.weight)
    if isinstance(shape, Ellipses):
        return Ellipses(shape.xyxy * [width, height, width, height], shape.certainty)
    if isinstance(shape, Points):
        return Points(shape.x * width, shape.y * height, shape.weight)
    assert isinstance(shape, Polygons)  # `KeptDrawings.add` has refused the others
    return Polygons([line * [width, height] for line in shape.outlines], shape.weight)
