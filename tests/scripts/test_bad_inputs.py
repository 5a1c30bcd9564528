"""Bad inputs of every kind are answered with one sentence that names file, row or key.

The exit code is not 0, there is no traceback, and the limits of time and memory hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs.harness import MIB, Case, Outcome, fault_of
from conftest import ROOT

KINDS = (
    "tables",
    "shards",
    "grounding",
    "heatmaps",
    "windows",
    "images",
    "model configs",
    "flags",
    "checkpoints",
    "evaluation files",
    "raw data sets",
    "gaze tables",
    "HTTP answers",
)
EVERY = 3  # of each kind's table; scripts/reliability.py tries all


@pytest.mark.slow
def test_every_third_bad_input_is_answered_by_one_sentence(tmp_path: Path) -> None:
    """Runs in a process of its own, which forks once for each case.

    A fork of the process of the tests could hang, because other tests may have started threads.
    """
    records = tmp_path / "records.json"
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "scripts" / "reliability.py"),
        *("--only", "bad-inputs"),
        *("--every", str(EVERY)),
        *("--out", str(tmp_path)),
        *("--records", str(records)),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert records.is_file(), done.stderr[-3000:]
    results = json.loads(records.read_text(encoding="utf-8"))
    assert len(results) >= 200 and {record["kind"] for record in results} == set(KINDS)
    wrong = [
        f"{record['kind']}: {record['name']}: {record['fault']}"
        for record in results
        if not record["right"]
    ]
    assert not wrong, f"{len(wrong)} of {len(results)}:\n" + "\n".join(wrong)


CASE = Case("a case", "tables", lambda folder: [], ("t.csv", "row 3|line 4"))


@pytest.mark.parametrize(
    ("code", "output", "mib", "fault"),
    [
        (2, "error: t.csv, row 3: no image.\n", 5, ""),
        (1, "t.csv: 8 samples\n  problem: t.csv, row 3, filepath: gone\n", 5, ""),
        (2, "usage: x\nprog: error: t.csv, line 4\n", 5, ""),
        (0, "error: t.csv, row 3\n", 5, "exit code 0"),
        (2, "t.csv, row 3 is bad\n", 5, "without a line"),
        (2, "error: t.csv is bad\n", 5, "row 3"),
        (
            1,
            "Traceback (most recent call last):\n  File t.csv, row 3\nValueError: error: x\n",
            5,
            "traceback",
        ),
        (2, "error: t.csv, row 3\nerror: t.csv, row 3\n", 5, "2 lines"),
        (None, "error: t.csv, row 3\n", 5, "no end"),
        (-11, "error: t.csv, row 3\n", 5, "signal 11"),
        (2, "error: t.csv, row 3\n", MIB + 1, "MiB"),
        (2, f"error: t.csv, row 3: {'x' * 5000}\n", 5, "characters"),
    ],
)
def test_answer_without_error_line_or_words_is_wrong(
    code: int | None, output: str, mib: float, fault: str
) -> None:
    message = fault_of(CASE, Outcome(code, output, 1.0, mib, 1.0))
    assert fault in message if fault else message == ""


def test_warning_may_exit_with_0_but_must_be_printed() -> None:
    case = Case("a case", "tables", lambda folder: [], ("Heatmap",), warns=True)
    assert (
        fault_of(case, Outcome(0, "eclip: no column 'heatmap'; is it 'Heatmap'?\n", 1.0, 5, 1.0))
        == ""
    )
    assert "Heatmap" in fault_of(case, Outcome(0, "8 samples\n", 1.0, 5, 1.0))
