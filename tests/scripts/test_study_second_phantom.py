"""scripts/studies/second_phantom.py: intervals, claims, the page; then all of it on few images."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import second_phantom as study
from conftest import ROOT, fast_python
from scipy import stats

from openclip_eclip.prepare.__main__ import main as prepare

ALIGN = json.loads((ROOT / "docs" / "results" / "align.json").read_text())


def test_intervals_are_those_of_scipy() -> None:
    values, base = [0.5, 0.6, 0.8, 0.7, 0.65], [0.4, 0.45, 0.5, 0.62, 0.3]
    interval = stats.ttest_rel(values, base).confidence_interval()
    assert study.paired(values, base) == pytest.approx(
        {"value": np.mean(values) - np.mean(base), "low": interval.low, "high": interval.high}
    )
    scores = [{"value": np.mean(x), "sd": np.std(x, ddof=1)} for x in (values, base)]
    interval = stats.ttest_ind(values, base, equal_var=False).confidence_interval()
    assert study.unpaired(*scores, 5) == pytest.approx(
        {"value": np.mean(values) - np.mean(base), "low": interval.low, "high": interval.high}
    )


def test_a_gain_needs_an_interval_above_0_and_no_change_a_narrow_one_around_it() -> None:
    gain, same = study.CLAIMS[0], study.CLAIMS[2]
    wide = [{"low": low, "high": low + 0.2} for low in (0.1, -0.1, -0.3)]
    found = [*wide, {"low": -0.02, "high": 0.03}, {"low": 0.01, "high": 0.02}]
    assert [gain.verdict(one) for one in found] == ["yes", "cannot tell", "no", "no", "yes"]
    assert [same.verdict(one) for one in found] == ["no", "cannot tell", "no", "yes", "yes"]


def test_differences_of_the_chest_are_those_of_the_committed_page() -> None:
    (better, attends, _, maps) = study.CLAIMS
    difference, is_paired = study.chest_difference(better, ALIGN)
    assert is_paired and round(difference["value"], 3) == 0.138
    for claim, value in ((attends, 0.426), (maps, 0.225)):
        difference, is_paired = study.chest_difference(claim, ALIGN)
        assert not is_paired and round(difference["value"], 3) == value


@pytest.mark.slow
def test_all_methods_are_trained_and_the_page_is_written_and_resumed(tmp_path: Path) -> None:
    for name, *counts in (  # fewer than the 600 and 300 that it would make
        ("test-7-anatomy-head", "--train", 1, "--test", 60, "--seed", 7),
        *(
            (f"96-anatomy-head-validation-seed{s}", "--train", 40, "--test", 1, "--seed", s)
            for s in (30, 31)
        ),
    ):
        folder = tmp_path / "out" / "data" / name
        words = map(str, [*counts, "--annotated", 0, "--anatomy", "head"])
        assert prepare(["phantom", str(folder), *words]) == 0
        (folder / "annotated.csv").write_text("filepath,title,heatmap\n")
    words = f"--out {tmp_path / 'out'} --images 96 --annotated 0.5 --steps 2 --seeds 2"
    command = [fast_python(), str(ROOT / "scripts/studies/second_phantom.py"), *words.split()]
    pages = []
    for _ in range(2):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        pages.append(done.stdout)
    assert pages[0] == pages[1]  # nothing was trained again
    assert pages[0] == (tmp_path / "out" / "second_phantom.md").read_text()
    record = json.loads((tmp_path / "out" / "second_phantom.json").read_text())
    assert {run["anatomy"] for run in record["runs"]} == {"head"}
    assert [(run["method"], run["seed"]) for run in record["runs"]] == [
        (name, seed) for seed in (30, 31) for name in study.METHODS
    ]
    assert all(f"| {name} | " in pages[0] for name in study.METHODS)
    logs = tmp_path / "out" / "runs" / "96-anatomy-head-0.5" / "logs"
    maps = (logs / "eclip-plus-maps-of-other-images-30.txt").read_text()
    assert "shuffled" in maps
