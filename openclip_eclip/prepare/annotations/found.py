"""What a join has found for one image."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...annotations.record import Drawing, Recording
from .texts import Text


@dataclass
class OfImage:
    """What was found for one image."""

    name: str
    texts: list[Text] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)
    size: tuple[int, int] | None = None  # (height, width) of the pixels that positions count
