"""What a join has found for one image."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from ...annotations.record import Recording
from .texts import Text


@dataclass(slots=True)
class OfImage:
    """What was found for one image.

    Drawing i is at `places[i]` of the file of the KeptDrawings, and of the group `groups[i]`.
    """

    name: str
    texts: list[Text] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("Q"))
    groups: array[int] = field(default_factory=lambda: array("I"))
    unchecked: bool = False  # a drawing is of an image whose size its file does not state
    recordings: list[Recording] = field(default_factory=list)
    # (height, width) of the pixels that positions count: what the annotations state, else what the
    # image has once it was read
    size: tuple[int, int] | None = None

    @property
    def is_annotated(self) -> bool:
        return bool(self.places or self.recordings)
