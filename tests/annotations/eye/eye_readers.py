"""Shared by the tests of eye-tracking formats: read files as `prepare annotations` does."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from openclip_eclip.annotations import formats
from openclip_eclip.annotations.eye import table
from openclip_eclip.annotations.record import Recording
from openclip_eclip.gaze import Fixations

EYE = tuple(form for form in formats.FORMATS if form.module.startswith("eye."))


class Read:
    """The recordings of files, and what was left out by reason."""

    def __init__(self, source: Path, flags: str = "", name: str | None = None) -> None:
        parser = argparse.ArgumentParser()
        table.add_arguments(parser)
        args = parser.parse_args(flags.split())
        self.left_out: Counter[str] = Counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(formats, "FORMATS", EYE)
            found = formats.recognise([source], name)
            self.format = found.format.name
            root = source if source.is_dir() else source.parent
            self.recordings: list[Recording] = list(
                formats.read_records(found, root, args, self._leave_out)
            )

    def _leave_out(self, reason: str, where: str) -> None:
        assert where
        self.left_out[reason] += 1

    def placed(self, at: int, image_size: tuple[int, int]) -> Fixations:
        one = self.recordings[at]
        assert one.place is not None
        return one.place(one.fixations, image_size)


def near(values: np.ndarray | None, expected: object, tolerance: float = 1e-6) -> None:
    assert values is not None
    np.testing.assert_allclose(values, np.asarray(expected, dtype=float), atol=tolerance)
