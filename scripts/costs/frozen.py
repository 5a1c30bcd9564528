"""Measures what frozen towers with kept tokens save against the training of all weights.

    python scripts/costs/frozen.py SHARED --work WORK --out docs/results/frozen_cost.md

Same initial model, images, steps and number of learning rates; a fold of covid_cxr and of
coco_small is trained on (SHARED: see scripts/studies/grounding/README.md), another is for
validation. Each run is a process of its own with one thread for each core, and nothing is kept from
another. Then the table of all radiographs is trained to an exported model. On two cores the script
takes about an hour. Records in WORK are not made again.
"""

from __future__ import annotations

import os

# before numpy and torch are imported
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(os.cpu_count())
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
sys.path[1:1] = [str(HERE.parent / "studies" / name) for name in ("real", "grounding")]

SETS = ("covid_cxr", "coco_small")
STEPS, BATCH, FOLD = 60, 64, 0
FROZEN, FULL = "frozen, tokens kept", "all weights"
KINDS = {  # flags, learning rates
    FROZEN: (("--freeze-image", "all", "--freeze-text", "all"), (3e-4, 1e-3, 3e-3)),
    FULL: ((), (3e-5, 1e-4, 3e-4)),
}


def child(module: str, flags: Sequence[object], log: Path) -> dict[str, float]:
    """{seconds, peak: MiB} of a command in a new process. SystemExit: it failed."""
    begun = time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, __file__, "--child", module, *map(str, flags)],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise SystemExit(f"{module} failed; see {log}")
    last = log.read_text().splitlines()[-1]
    return {"seconds": time.perf_counter() - begun, "peak": json.loads(last)}


def train_flags(work: Path, data: Path, rows: int, rate: float, steps: int) -> list[object]:
    epochs = max(1, round(steps / (rows // BATCH)))
    return [
        *("--model", f"local-dir:{work / 'start'}", "--method", "align", "--align-weight", 0.2),
        *("--train-data", data, "--seed", 0, "--batch-size", BATCH, "--epochs", epochs),
        *("--warmup", steps // 10, "--lr", rate, "--wd", 0.01, "--workers", 0),
        *("--precision", "fp32", "--device", "cpu", "--save-frequency", 0),
        *("--logs", work / "runs", "--log-every-n-steps", 10),
    ]


def measure(work: Path, name: str, kind: str, rate: float) -> dict:
    """One run with its validation."""
    import pandas as pd
    from real_study import write_tables

    tables = write_tables(work / name, FOLD)
    rows = len(pd.read_csv(tables["own"]))
    shutil.rmtree(work / "tokens", ignore_errors=True)
    shutil.rmtree(work / "runs", ignore_errors=True)
    flags = train_flags(work, tables["own"], rows, rate, STEPS)
    epochs = int(str(flags[flags.index("--epochs") + 1]))
    flags += [*KINDS[kind][0], "--name", "run", "--val-data", tables["validation"]]
    flags += ["--val-frequency", max(1, epochs // 10), "--keep-best", "recall@5"]
    if kind == FROZEN:
        flags += ["--cache-tokens", work / "tokens", "--cache-crops", 2]
    facts = child("train", flags, work / "log.txt")
    best = json.loads((work / "runs" / "run" / "checkpoints" / "epoch_best.json").read_text())
    steps = epochs * (rows // BATCH)
    return {"set": name, "kind": kind, "rate": rate, "steps": steps, "best": best, **facts}


def whole(work: Path) -> dict[str, float]:
    """From the table of all radiographs to an exported model, with nothing kept before."""
    from real_study import all_rows

    table = work / SETS[0] / "all.csv"
    rows = all_rows(work / SETS[0], "train")
    rows.to_csv(table, index=False)
    for folder in ("tokens", "runs", "exported"):
        shutil.rmtree(work / folder, ignore_errors=True)
    flags = train_flags(work, table, len(rows), 1e-3, STEPS)
    flags += [*KINDS[FROZEN][0], "--name", "run"]
    flags += ["--cache-tokens", work / "tokens", "--cache-crops", 2]
    training = child("train", flags, work / "log.txt")
    export = child("export", [work / "runs" / "run", work / "exported"], work / "log.txt")
    seconds = training["seconds"] + export["seconds"]
    return {"rows": len(rows), "seconds": seconds, "peak": training["peak"]}


def page(records: Sequence[dict], total: dict[str, float] | None) -> list[str]:
    import torch

    lines = [
        "# What frozen towers save",
        "",
        f"`python scripts/costs/frozen.py`, {date.today()}: {platform.machine()},"
        f" {os.cpu_count()} cores and threads, torch {torch.__version__}. ViT-S/14 at 112 pixels"
        " with an attention pool, MiniLM; eclip-plus, whole epochs of about"
        f" {STEPS} steps of {BATCH}, three learning rates each."
        " Seconds: the whole command, with validation, and with what is computed once"
        " to be kept. R@5: the best on the validation images.",
        "",
        "| set | trained | seconds, median (range) | peak memory | R@5 by learning rate |",
        "|---|---|---|---|---|",
    ]
    medians: dict[tuple[str, str], float] = {}
    best: dict[tuple[str, str], float] = {}
    for name in SETS:
        for kind in KINDS:
            found = [one for one in records if (one["set"], one["kind"]) == (name, kind)]
            if not found:
                continue
            seconds = sorted(one["seconds"] for one in found)
            medians[name, kind] = seconds[len(seconds) // 2]
            best[name, kind] = max(one["best"]["value"] for one in found)
            recall = ", ".join(f"{one['best']['value']:.3f} ({one['rate']:g})" for one in found)
            span = f"{seconds[0]:.0f} to {seconds[-1]:.0f}"
            lines.append(
                f"| {name} | {kind} | {medians[name, kind]:.0f} ({span}) |"
                f" {max(one['peak'] for one in found):.0f} MiB | {recall} |"
            )
    lines.append("")
    for name in SETS:
        if (name, FROZEN) in medians and (name, FULL) in medians:
            ratio = medians[name, FULL] / medians[name, FROZEN]
            lines.append(
                f"- {name}: all weights take {ratio:.1f} times as long; best R@5"
                f" {best[name, FULL]:.3f}, frozen {best[name, FROZEN]:.3f}."
            )
    if total:
        lines.append(
            f"- {total['rows']} radiographs from the table to an exported model: "
            f"{total['seconds']:.0f} seconds, {total['peak']:.0f} MiB."
        )
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        from importlib import import_module

        sys.argv = sys.argv[2:]
        import_module(f"openclip_eclip.{sys.argv[0]}").main(sys.argv[1:])
        from peak_memory import peak_mib

        print(json.dumps(peak_mib()))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder of the real sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of data, runs, records")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    args = parser.parse_args()
    from start import write_start
    from study import make_ready

    from openclip_eclip.files import write_whole

    work = args.work.resolve()
    (work / "records").mkdir(parents=True, exist_ok=True)
    make_ready(work, args.shared, args.sets, (), annotated=1.0)
    if not (work / "start").is_dir():
        write_start(work / "start", None, FOLD)
    if SETS[0] in args.sets and not (work / "whole.json").is_file():
        write_whole(work / "whole.json", json.dumps(whole(work)).encode())
    for name in args.sets:
        for kind, (_, rates) in KINDS.items():
            for rate in rates:
                path = work / "records" / f"{name}-{kind.split(',')[0].split()[0]}-{rate:g}.json"
                if not path.is_file():
                    record = measure(work, name, kind, rate)
                    write_whole(path, json.dumps(record).encode())
    records = [json.loads(path.read_text()) for path in sorted((work / "records").glob("*.json"))]
    total = work / "whole.json"
    text = "\n".join(page(records, json.loads(total.read_text()) if total.is_file() else None))
    print(text)
    args.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
