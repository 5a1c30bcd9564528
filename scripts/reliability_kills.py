"""Kills training runs within epochs and while they write, and compares resumed with whole runs.

    python scripts/reliability_kills.py --kills 30 > kills.json

Prints one JSON object: the number of kills of each kind, the number of runs that end bit-for-bit
identical to an uninterrupted run, and the differences of the others. The settings and the kills are
those of tests/workers/kill_runs.py, which runs in its own process.
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
    """The figures of tests/workers/kill_runs.py.

    Raises:
        RuntimeError: the script failed; the message ends with its output.
        subprocess.TimeoutExpired: it took more than `limit` seconds.
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
    """Prints the figures; the exit code is 0 if every run ends like an uninterrupted one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default: 30)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the steps to kill at (default: 0)"
    )
    args = parser.parse_args(argv)
    figures = kill_figures(args.kills, args.seed)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0 if figures["same"] == figures["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
