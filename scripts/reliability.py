"""Measures how the package handles bad inputs, odd data and interrupted runs.

    python scripts/reliability.py       # or --only bad-inputs, hangs, kills or page for a part
    python scripts/reliability.py --only bad-inputs --kinds tables shards --records records.json

Writes docs/results/reliability.md and .json. A part that is not run keeps its earlier figures.

Bad inputs (scripts/bad_inputs): each must be answered with one sentence that names file, row or
key, with an exit code that is not 0, without a traceback, within 20 s and 1 GiB. Hangs
(scripts/reliability_hangs.py): every combination of data and processes must end. Kills:
scripts/reliability_kills.py. Load: docs/results/load.json, written by scripts/costs/load.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
# set before torch is imported: a process with threads must not fork
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
PARTS = ("bad-inputs", "hangs", "kills", "page")
# modules of bad_inputs
TABLES = (
    "tables",
    "shards",
    "maps",
    "pictures",
    "configs",
    "flags",
    "checkpoints",
    "zero_shots",
    "tasks",
    "grounding",
    "results",
    "mimic",
    "raw_sets",
    "authors",
    "gaze",
    "answers",
)
LISTED = 40  # wrong cases that the page names


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the chosen parts; the exit code is 0 if every case is right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)"
    )
    parser.add_argument(
        "--kinds", nargs="+", metavar="KIND", help="kinds of bad inputs to run (default: all)"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="runs only every Nth bad input of each kind (default: %(default)s)",
    )
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="JSON file for the outcome of every bad input"
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=30,
        metavar="N",
        help="number of runs to kill (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "results",
        metavar="FOLDER",
        help="folder of reliability.json and .md (default: docs/results)",
    )
    args = parser.parse_args(argv)
    path = args.out / "reliability.json"
    figures: dict[str, Any] = {}
    if path.is_file():
        figures = json.loads(path.read_text(encoding="utf-8"))
    if {"bad-inputs", "hangs"} & set(args.only):
        figures |= forked_parts(args)
    if "kills" in args.only:
        figures |= kills(args.kills)
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if "page" in args.only:
        load = args.out / "load.json"
        load_figures = json.loads(load.read_text(encoding="utf-8")) if load.is_file() else None
        text = page(figures, load_figures)
        (args.out / "reliability.md").write_text(text, encoding="utf-8")
    ran = [
        figures.get(name)
        for name in ("bad_inputs", "hangs", "kills")
        if name.replace("_", "-") in args.only
    ]
    return int(any(part and part["right"] < part["tried"] for part in ran))


def circumstances() -> dict[str, str]:
    """Date, commit, machine and versions of a measurement."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "open_clip_torch", "numpy", "pillow")},
    }


def forked_parts(args: argparse.Namespace) -> dict[str, Any]:
    """Runs bad inputs and hangs, which are forks of this process; returns their figures."""
    from bad_inputs import harness, world

    harness.import_everything()
    figures: dict[str, Any] = {}
    with TemporaryDirectory(prefix="reliability-") as name:
        folder = Path(name)
        world.build(folder / "world")
        if "bad-inputs" in args.only:
            cases = [
                case for name in TABLES for case in import_module(f"bad_inputs.{name}").cases()
            ]
            kinds = list(dict.fromkeys(case.kind for case in cases))
            unknown = sorted(set(args.kinds or kinds) - set(kinds))
            if unknown:
                sys.exit(f"error: --kinds {unknown[0]}: expected some of {', '.join(kinds)}.")
            chosen = [
                case
                for kind in args.kinds or kinds
                for case in [case for case in cases if case.kind == kind][:: args.every]
            ]
            records = harness.run_all(chosen, folder / "cases", sys.stdout.write)
            if args.records:
                args.records.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
            figures["bad_inputs"] = {
                **tried_and_right(records),
                **circumstances(),
                "every": args.every,
                "kinds": {
                    kind: tried_and_right([record for record in records if record["kind"] == kind])
                    for kind in dict.fromkeys(record["kind"] for record in records)
                },
            }
        if "hangs" in args.only:
            hangs = import_module("reliability_hangs")
            records = hangs.run_all(folder / "hangs", sys.stdout.write)
            figures["hangs"] = {
                **tried_and_right(records),
                **circumstances(),
                "limit_seconds": hangs.LIMIT,
                "trained": sum(record["verdict"] == "trained" for record in records),
                "sentences": sum(record["verdict"] == "a sentence" for record in records),
            }
    return figures


def tried_and_right(records: list[dict]) -> dict[str, Any]:
    """The counts, the extremes, and the names of the wrong cases."""
    slowest = max(records, key=lambda record: record["seconds"])
    figures = {
        "tried": len(records),
        "right": sum(record["right"] for record in records),
        "slowest_seconds": slowest["seconds"],
        "slowest": slowest["name"],
        "wrong": [
            f"{record['name']}: {record.get('fault') or record.get('verdict')}"[:200]
            for record in records
            if not record["right"]
        ],
    }
    if "mib" in slowest:
        largest = max(records, key=lambda record: record["mib"])
        figures |= {"largest_mib": largest["mib"], "largest": largest["name"]}
    return figures


def kills(count: int) -> dict[str, Any]:
    """The figures of scripts/reliability_kills.py; none if the script does not exist."""
    script = ROOT / "scripts" / "reliability_kills.py"
    if not script.is_file():
        sys.stdout.write(f"{script.name} does not exist: no kills\n")
        return {}
    done = subprocess.run(
        [sys.executable, str(script), "--kills", str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.strip():
        sys.exit(f"error: {script.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    figures = json.loads(done.stdout)
    counts = {"tried": figures["runs"], "right": figures["same"]}
    return {"kills": {**figures, **counts, **circumstances()}}


def page(figures: dict[str, Any], load: Any) -> str:
    """The text of reliability.md."""
    lines = [
        "# Reliability",
        "",
        (
            "How the package handles bad inputs, odd data and interrupted runs. Measured by"
            " `python scripts/reliability.py`; figures: reliability.json."
        ),
        "",
    ]
    lines += _bad_inputs(figures["bad_inputs"]) if "bad_inputs" in figures else []
    lines += _hangs(figures["hangs"]) if "hangs" in figures else []
    if "kills" in figures:
        part = figures["kills"]
        lines += [
            "## Kills",
            "",
            (
                f"**{part['same']} of {part['runs']}** runs, killed {part['kills']} times and"
                " resumed each time, end bit-for-bit identical to an uninterrupted run."
                f" Settings: {', '.join(part['settings'])}."
            ),
            "",
            "| kill | times |",
            "|---|---|",
            *(f"| {name} | {times} |" for name, times in part["by_kind"].items()),
            "",
            _measured(part),
            "",
        ]
    if load is not None:
        lines += _load(load)
    return "\n".join(lines)


def _bad_inputs(part: dict[str, Any]) -> list[str]:
    rows = [
        [
            kind,
            counts["tried"],
            counts["right"],
            f"{counts['slowest_seconds']:.1f}",
            counts["largest_mib"],
        ]
        for kind, counts in part["kinds"].items()
    ]
    return [
        "## Bad inputs",
        "",
        (
            f"**{part['right']} of {part['tried']}** are handled correctly: exit code not 0 (or the"
            " expected warning), one sentence that names file, row or key, no traceback, within"
            " 20 s, and within 1 GiB in addition to the idle process."
        ),
        "",
        "| kind | tried | right | slowest, s | most memory, MiB |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
        "",
        _measured(part),
        "",
        *_wrong(part),
    ]


def _hangs(part: dict[str, Any]) -> list[str]:
    return [
        "## Hangs",
        "",
        (
            f"**{part['right']} of {part['tried']}** combinations of shards, samples, workers,"
            f" ranks, batch size and damaged samples end within {part['limit_seconds']:.0f} s:"
            f" {part['trained']} train, {part['sentences']} stop with a sentence. The slowest took"
            f" {part['slowest_seconds']:.1f} s ({part['slowest']})."
        ),
        "",
        _measured(part),
        "",
        *_wrong(part),
    ]


def _wrong(part: dict[str, Any]) -> list[str]:
    names = part["wrong"]
    return (
        [
            f"Wrong, {len(names)}:",
            "",
            *(f"- {name}" for name in names[:LISTED]),
            *([f"- and {len(names) - LISTED} more"] if len(names) > LISTED else []),
            "",
        ]
        if names
        else []
    )


def _measured(part: dict[str, Any]) -> str:
    return (
        f"{part['date']}, commit {part['commit']}; {part['machine']}, Python {part['python']},"
        f" torch {part['torch']}, open_clip {part['open_clip_torch']}, numpy {part['numpy']},"
        f" Pillow {part['pillow']}."
    )


def _load(load: dict[str, Any]) -> list[str]:
    """The section on load, with one row for each start."""
    machine = load["machine"]
    starts = {key: by_start for key, by_start in load.items() if key != "machine"}
    columns = ("cpu_s", "wall_s", "annotated", "peak_gib")
    rows = [
        [data, start, *(figures[column] for column in columns)]
        for data, by_start in starts.items()
        for start, figures in by_start.items()
    ]
    return [
        "## Load",
        "",
        "Time that the data take from the start of a run to its first batch"
        " (scripts/costs/load.py).",
        "",
        "| data | start | CPU, s | wall clock, s | annotated | most memory, GiB |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
        "",
        f"{machine}.",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
