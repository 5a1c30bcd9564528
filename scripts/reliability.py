"""What a user's mistakes, odd data and kills lead to, measured: docs/results/reliability.md and
.json.

    python scripts/reliability.py       # or --only bad-inputs, hangs, kills or page for a part
    python scripts/reliability.py --only bad-inputs --kinds tables shards --records records.json

Bad inputs (scripts/bad_inputs): each must be answered by one sentence with file, row or key, exit
code not 0, no traceback, within 20 s and 1 GiB. Hangs (scripts/reliability_hangs.py): every
combination of data and processes ends. Kills: scripts/reliability_kills.py.
Load: docs/results/load.json, made by scripts/costs/load.py. A part that was not run keeps its
figures of the last time.
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
# before torch: forks and threads do not go together
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
    "results",
    "mimic",
    "raw_sets",
    "authors",
    "gaze",
    "answers",
)
LISTED = 40  # names of what is wrong, on the page


def main(argv: Sequence[str] | None = None) -> int:
    """0 if everything that was tried went right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)"
    )
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="of bad inputs (default: all)")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="every Nth bad input of each kind alone (default: %(default)s)",
    )
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="what every bad input led to, as JSON"
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=30,
        metavar="N",
        help="runs that are killed (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "results",
        metavar="FOLDER",
        help="of reliability.json and .md (default: docs/results)",
    )
    args = parser.parse_args(argv)
    path = args.out / "reliability.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if {"bad-inputs", "hangs"} & set(args.only):
        found |= forked_parts(args)
    if "kills" in args.only:
        found |= kills(args.kills)
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if "page" in args.only:
        load = args.out / "load.json"
        (args.out / "reliability.md").write_text(
            page(found, json.loads(load.read_text(encoding="utf-8")) if load.is_file() else None),
            encoding="utf-8",
        )
    ran = [
        found.get(name)
        for name in ("bad_inputs", "hangs", "kills")
        if name.replace("_", "-") in args.only
    ]
    return int(any(part and part["right"] < part["tried"] for part in ran))


def circumstances() -> dict[str, str]:
    """Where and when a part was measured."""
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
    """Bad inputs and hangs: forks of this process."""
    from bad_inputs import harness, world

    harness.import_everything()
    found: dict[str, Any] = {}
    with TemporaryDirectory(prefix="reliability-") as place:
        folder = Path(place)
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
                for case in [one for one in cases if one.kind == kind][:: args.every]
            ]
            records = harness.run_all(chosen, folder / "cases", sys.stdout.write)
            if args.records:
                args.records.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
            found["bad_inputs"] = {
                **tried_and_right(records),
                **circumstances(),
                "every": args.every,
                "kinds": {
                    kind: tried_and_right([one for one in records if one["kind"] == kind])
                    for kind in dict.fromkeys(one["kind"] for one in records)
                },
            }
        if "hangs" in args.only:
            hangs = import_module("reliability_hangs")
            records = hangs.run_all(folder / "hangs", sys.stdout.write)
            found["hangs"] = {
                **tried_and_right(records),
                **circumstances(),
                "limit_seconds": hangs.LIMIT,
                "trained": sum(one["verdict"] == "trained" for one in records),
                "sentences": sum(one["verdict"] == "a sentence" for one in records),
            }
    return found


def tried_and_right(records: list[dict]) -> dict[str, Any]:
    """Counts, extremes and the names of what is wrong."""
    slowest = max(records, key=lambda one: one["seconds"])
    found = {
        "tried": len(records),
        "right": sum(one["right"] for one in records),
        "slowest_seconds": slowest["seconds"],
        "slowest": slowest["name"],
        "wrong": [
            f"{one['name']}: {one.get('fault') or one.get('verdict')}"[:200]
            for one in records
            if not one["right"]
        ],
    }
    if "mib" in slowest:
        largest = max(records, key=lambda one: one["mib"])
        found |= {"largest_mib": largest["mib"], "largest": largest["name"]}
    return found


def kills(count: int) -> dict[str, Any]:
    """What scripts/reliability_kills.py found; nothing where it is not there."""
    script = ROOT / "scripts" / "reliability_kills.py"
    if not script.is_file():
        sys.stdout.write(f"{script.name} is not there: no kills\n")
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
    found = json.loads(done.stdout)
    return {"kills": {**found, "tried": found["runs"], "right": found["same"], **circumstances()}}


def page(found: dict[str, Any], load: Any) -> str:
    """reliability.md from the figures."""
    lines = [
        "# Reliability",
        "",
        (
            "What bad input, odd data and kills lead to. Made by `python scripts/reliability.py`,"
            " which anyone can run; figures: reliability.json."
        ),
        "",
    ]
    lines += _bad_inputs(found["bad_inputs"]) if "bad_inputs" in found else []
    lines += _hangs(found["hangs"]) if "hangs" in found else []
    if "kills" in found:
        part = found["kills"]
        lines += [
            "## Kills",
            "",
            (
                f"**{part['same']} of {part['runs']}** runs, killed {part['kills']} times and"
                " resumed each time, end bit-for-bit identical to the run that was not killed."
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
        [kind, one["tried"], one["right"], f"{one['slowest_seconds']:.1f}", one["largest_mib"]]
        for kind, one in part["kinds"].items()
    ]
    return [
        "## Bad inputs",
        "",
        (
            f"**{part['right']} of {part['tried']}** are answered right: exit code not 0 (or the"
            " named warning), one sentence that names file, row or key, no traceback, within 20 s,"
            " and within 1 GiB beside what the idle process has."
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
    """One row per start."""
    machine, starts = load["machine"], {key: one for key, one in load.items() if key != "machine"}
    rows = [
        [data, start, one["cpu_s"], one["wall_s"], one["annotated"], one["peak_gib"]]
        for data, by_start in starts.items()
        for start, one in by_start.items()
    ]
    return [
        "## Load",
        "",
        "From the start of a run to its first batch, by the data alone (scripts/costs/load.py).",
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
