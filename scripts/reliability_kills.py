"""Kills training runs in the middle of epochs and of writing, and compares what resumes with
uninterrupted runs.

    python scripts/reliability_kills.py --kills 30 > kills.json

One JSON object: how many kills of which kind, how many runs ended bit-for-bit as without them, and
what differed elsewhere.
The settings and the kills are those of the tests (tests/workers/kill_runs.py), which this runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def kill_figures(kills: int = 30, seed: int = 0, limit: float = 1800) -> dict[str, Any]:
    """What tests/workers/kill_runs.py reports.

    RuntimeError with its last words where it fails or takes over `limit` seconds.
    """
    path = os.pathsep.join(
        filter(None, (str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")))
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "tests" / "workers" / "kill_runs.py"),
            folder,
            *("--kills", str(kills)),
            *("--seed", str(seed)),
        ]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=limit,
        )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every run ended as without its kills."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="decides at which steps (default: 0)")
    args = parser.parse_args(argv)
    figures = kill_figures(args.kills, args.seed)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0 if figures["same"] == figures["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
