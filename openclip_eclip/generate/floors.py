"""Baseline writers without a model: without them, gains cannot be attributed (peers.md §2.5)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import UserError
from .base import Generation, Query


class CopyWriter:
    """Writes the nearest retrieved report, unchanged."""

    batch_size = 64

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {
            "writer": "copy",
            "model": "none: the nearest report, unchanged",
        }

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        for query in queries:
            if not query.nearest:
                raise UserError(f"{query.key}: no retrieved report; copy needs at least one.")
        return [Generation(query.nearest[0], "stop") for query in queries]


class RandomWriter:
    """Writes a training report, drawn with replacement by the seed and the key of the query."""

    batch_size = 64

    def __init__(self, reports: Sequence[str], seed: int) -> None:
        if not reports:
            raise UserError("random: no reports to draw from; expected the training reports.")
        self.reports, self.seed = reports, seed
        self.facts: dict[str, Any] = {
            "writer": "random",
            "model": "none: a report of the training side at random",
            "reports": len(reports),
            "sampling": {"seed": seed},
        }

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        # by key, not in turn: a resumed run then draws the same reports
        draws = [
            np.random.default_rng([self.seed, zlib.crc32(query.key.encode())]).integers(
                len(self.reports)
            )
            for query in queries
        ]
        return [Generation(self.reports[int(draw)], "stop") for draw in draws]
