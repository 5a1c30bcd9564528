"""The methods beside eCLIP that the paper compares (Table 1), one file each over the same inputs."""
from __future__ import annotations

from .base import Objective
from .dacl import Dacl
from .gloria import Gloria
from .m3_mix import M3Mix

OBJECTIVES: dict[str, type[Objective]] = {"dacl": Dacl, "m3-mix": M3Mix, "gloria": Gloria}

__all__ = ["OBJECTIVES", "Dacl", "Gloria", "M3Mix", "Objective"]
