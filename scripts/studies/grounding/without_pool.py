"""Which map is best for towers without an attention pool? A class token, and the mean of positions.

    python scripts/studies/grounding/without_pool.py SHARED --work WORK --out docs/results

WORK may be that of study.py. Trained are CLIP and align, from the weights of study.py without its
pool.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from page import CLIP, NSS, PHRASES, difference_cell, interval, mean_cell, only_machine
from start import POOLS, write_start
from study import ALL_TESTED, METHODS, grounding, make_ready, study_parser, train_on

from openclip_eclip.files import write_whole
from openclip_eclip.machine import this_machine

SETS = ("coco_small", "covid_cxr", "winograd_gaze")
FOLDS = (0, 1, 2)
HEADS = [name for name in POOLS if name != "attention"]
MAPS = [name for name in ALL_TESTED[0] if name != "pool"]
TRAINED = (CLIP, "align")
DEFAULT = "similarity"  # what `attend` takes for these towers
IMAGES = 24  # of a fold


def measure(work: Path, data: Path, head: str, method: str, fold: int) -> dict:
    """Train on the other folds, and measure every map on this one."""
    short = head.split()[0]
    start = work / f"start_{short}_{fold}"
    if not start.is_dir():
        write_start(start, None, fold, head)
    flags = METHODS[method]
    if method != CLIP and data.name in PHRASES:
        flags = [*flags, "--align-windows"]
    table, name = data / f"train_{fold}.csv", f"{data.name}-{short}-{method}-{fold}"
    run = train_on(work, table, name, fold, flags, start)
    values = grounding(work, run, data / f"test_{fold}.csv", fold, MAPS, IMAGES)
    shutil.rmtree(run)
    return {
        "set": data.name,
        "head": head,
        "method": method,
        "fold": fold,
        "machine": this_machine("cpu"),
        "values": values["methods"],
    }


def page(records: Sequence[dict]) -> list[str]:
    machine = only_machine(records)
    lines = [
        "# Maps of towers without an attention pool",
        "",
        "`python scripts/studies/grounding/without_pool.py SHARED --work WORK --out docs/results`."
        " The weights, sets and training are those of [the study of real images](grounding.md), but"
        " for what stands behind the positions: the class token, or their mean. Trained are the"
        " last norm and two projections.",
        f" NSS on at most {IMAGES} images of each of {len(FOLDS)} folds, mean ± sd over folds.",
        "",
        "| set | tower | training | " + " | ".join(MAPS) + " |",
        "|---" * (3 + len(MAPS)) + "|",
    ]
    gains: dict[tuple[str, str], list[float]] = {}
    for name in SETS:
        for head in HEADS:
            for method in TRAINED:
                found = [
                    record["values"]
                    for record in sorted(records, key=lambda record: record["fold"])
                    if (record["set"], record["head"], record["method"]) == (name, head, method)
                ]
                cells = []
                for one in MAPS:
                    nss = np.array([values[one][NSS]["value"] for values in found])
                    cells.append(mean_cell(nss))
                    base = np.mean([values[DEFAULT][NSS]["value"] for values in found])
                    gains.setdefault((method, one), []).append(float(nss.mean() - base))
                lines.append(f"| {name} | {head} | {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Difference in NSS to `{DEFAULT}`, the mean over {len(SETS)} sets x {len(HEADS)} towers,"
        " with its 95 % interval (Student's t over these):",
        "",
        "| training | " + " | ".join(one for one in MAPS if one != DEFAULT) + " |",
        "|---" * len(MAPS) + "|",
    ]
    for method in TRAINED:
        cells = [
            difference_cell(interval(np.array(gains[method, one])))
            for one in MAPS
            if one != DEFAULT
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, "", f"Machine: {machine['device']}, torch {machine['torch']}."]


def main(argv: Sequence[str] | None = None) -> None:
    args = study_parser(__doc__).parse_args(argv)
    work = args.work.resolve()
    folder = work / "without_pool"
    folder.mkdir(parents=True, exist_ok=True)
    make_ready(work, args.shared, SETS, ())
    for fold in FOLDS:
        for name in SETS:
            for head in HEADS:
                for method in TRAINED:
                    path = folder / f"{name}-{head.split()[0]}-{method}-{fold}.json"
                    if not path.is_file():
                        record = measure(work, work / name, head, method, fold)
                        write_whole(path, json.dumps(record, indent=1).encode())
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    (args.out / "attention_without_pool.md").write_text("\n".join(page(records)) + "\n")


if __name__ == "__main__":
    main()
