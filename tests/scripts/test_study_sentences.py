"""scripts/studies/sentences.py on a few images: every method trains, and the page is written.

The placebo swaps the maps of the sentences.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, fast_python

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "scripts" / "studies" / "sentences.py"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    flags = ("--out", folder, "--train", 96, "--test", 60, "--epochs", 1, "--seeds", 1, "--jobs", 1)
    done = subprocess.run(
        [fast_python(), SCRIPT, *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_page_has_a_line_for_every_row_and_a_figure(out: Path) -> None:
    lines = [
        line.split(" | ")
        for line in (out / "sentences.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    assert [line[0] for line in lines[1:]] == [
        "| CLIP",
        "| align, whole reports",
        "| align, sentences",
        "| align, sentences, windows swapped",
    ]
    assert len({tuple(line[1:]) for line in lines[1:]}) > 1
    assert (out / "sentences.png").stat().st_size > 20000
    logs = {row: (out / "runs" / f"{row}-10" / "out.log").read_text() for row in range(4)}
    assert ["Align_loss" in log for log in logs.values()] == [False, True, True, True]
    assert ["--align-windows" in log or "sentence windows" in log for log in logs.values()] == [
        False,
        False,
        True,
        True,
    ]


def test_placebo_gives_each_sentence_the_map_of_the_other(out: Path) -> None:
    own, swapped = (
        pd.read_csv(out / "data" / name, keep_default_na=False)["windows"]
        for name in ("train.csv", "swapped.csv")
    )
    assert list(own != "") == list(swapped != "") and any(own != "")
    for mine, other in zip(own[own != ""], swapped[own != ""]):
        assert json.loads((out / "data" / mine).read_text()) == json.loads(
            (out / "data" / other).read_text()
        )
        maps, exchanged = (
            np.load((out / "data" / path).with_suffix(".npz"), allow_pickle=False)["heatmaps"]
            for path in (mine, other)
        )
        assert np.array_equal(exchanged, maps[::-1])
        assert len(maps) == 1 or not np.array_equal(exchanged, maps)
