"""What the files of annotation tools and eye trackers say, in one form for all formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..gaze import Annotation, Fixations, GazeError
from ..gaze.stored import Stored

# the reason for an image that an annotator left empty
NOTHING_DRAWN = "nothing is drawn on the image (it stays, without a heatmap)"
# called with a reason and the place in the file: counts what is not read, and keeps some names
LeaveOut = Callable[[str, str], None]


class Word(NamedTuple):
    """A spoken text and its times, in seconds on the clock of the fixations."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, eq=False, slots=True)
class Drawing:
    """What one annotator drew on one image for one label. Several may have the same label."""

    image: str  # the image as the file names it: a path, a file name or an id
    shape: Annotation  # in pixels of the image, or in fractions of it
    where: str  # the place in the file, for messages: "boxes.csv, row 7"
    label: str = ""  # class or phrase; "": none
    annotator: str = ""
    size: tuple[int, int] | None = None  # (height, width) of the image, if the file states it
    fractions: bool = False  # whether positions are fractions of width and height
    file: Path | None = None  # tells annotators apart, and images of the same name; None: it cannot


@dataclass(frozen=True, eq=False)
class NamedMask:
    """A mask whose errors, found when it is drawn, begin with its place in the file."""

    mask: Stored
    where: str

    def load(self) -> Annotation:
        try:
            return self.mask.load()
        except GazeError as error:
            raise GazeError(f"{self.where}: {error}") from error


@dataclass(frozen=True, eq=False)
class Recording:
    """Gaze of one reader on one image, and what the reader said in the meantime."""

    image: str
    fixations: Fixations  # what its positions mean: see `place`
    where: str
    annotator: str = ""
    words: tuple[Word, ...] = ()
    size: tuple[int, int] | None = None  # (height, width) of the image, if the file states it
    # turns the fixations of the file into pixels of the image of (height, width); None: they are
    place: Callable[[Fixations, tuple[int, int]], Fixations] | None = None
    # facts on the quality of the recording, such as {"data loss": 0.03}; shares and degrees
    quality: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Absent:
    """A phrase that a file names for an image without a region."""

    image: str
    label: str
    where: str


Record = Drawing | Recording | Absent
