"""The methods beside eCLIP, one file each: those of the paper's Table 1, and alignment."""

from __future__ import annotations

from .align import Align
from .base import Objective
from .dacl import Dacl
from .gloria import Gloria
from .m3_mix import M3Mix

OBJECTIVES: dict[str, type[Objective]] = {
    "dacl": Dacl,
    "m3-mix": M3Mix,
    "gloria": Gloria,
    "align": Align,
}

__all__ = ["OBJECTIVES", "Align", "Dacl", "Gloria", "M3Mix", "Objective"]
