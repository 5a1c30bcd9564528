"""Recompute the intervals of committed results as decision 0043 defines them.

    python scripts/studies/recompute_intervals.py docs/results

It uses what the files contain: means, sd over seeds, and the earlier bootstrap intervals. It was
run once, on 2026-11-28. For a file with the new intervals, only the page and figures are written
again. The files have no predictions of single images, so the part of the images in the variance is
known by its upper bound only: the variance of the earlier interval, minus that between seeds. The
earlier interval contained both parts, and twice the part of one seed on one image. So the new
intervals are rather too wide. Methods of align.json that ran on a CPU (its note says which) lose
their differences from methods on the GPU.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from openclip_eclip.benchmark.align import METHOD_OF, views_of
from openclip_eclip.benchmark.align_cells import (
    ALIGN_SETTINGS,
    OVERSAMPLING,
    PLACEBO_KINDS,
    STUDENT,
    STUDENT_BASELINES,
    STUDENT_OVERSAMPLED,
)
from openclip_eclip.benchmark.align_figures import draw_map, draw_settings
from openclip_eclip.benchmark.align_page import page
from openclip_eclip.metrics.compare import half_width, p_value

Z = 1.959964
INTERVALS = (
    " They were recomputed on 2026-11-28 from means, sd and the earlier intervals. The images' part"
    " is an upper bound, so the intervals are rather too wide"
    " (`scripts/studies/recompute_intervals.py`)."
)
GPU, CPU = "NVIDIA H100 80GB HBM3", "AMD EPYC"
ON_CPU = {
    OVERSAMPLING,
    STUDENT,
    STUDENT_OVERSAMPLED,
    STUDENT_BASELINES[0],
    *(f"{OVERSAMPLING}, {name}" for name in PLACEBO_KINDS.values()),
}


def renew(entry: dict[str, Any], seeds: int, difference: bool) -> None:
    """Recompute low, high and p of {value, sd, low, high, p}, and add the parts of the variance."""
    between = entry["sd"] ** 2 / seeds
    images = max(((entry["high"] - entry["low"]) / (2 * Z)) ** 2 - between, 0.0)
    parts = np.array([between]), np.array([images]), np.array([seeds - 1.0])
    half = float(half_width(*parts, math.inf, 0.05)[0])
    entry |= {
        "low": entry["value"] - half,
        "high": entry["value"] + half,
        "variance_seeds": between,
        "variance_images_at_most": images,
    }
    if difference:
        entry["p"] = float(p_value(np.array([entry["value"]]), *parts, math.inf)[0])
    else:
        entry |= {"low": max(entry["low"], 0.0), "high": min(entry["high"], 1.0)}


def renew_all(record: Any, seeds: int) -> None:
    """Recompute every entry with an interval in a nested record."""
    if isinstance(record, dict):
        if {"value", "sd", "low", "high"} <= record.keys():
            renew(record, seeds, "p" in record)
        for entry in record.values():
            renew_all(entry, seeds)


def on_cpu(setting: str, method: str) -> bool:
    """Whether a method ran on a CPU, by the note of align.json."""
    few = {known.name for known in ALIGN_SETTINGS if known.annotated <= 0.01}
    return method in ON_CPU or (method == "eclip-plus" and setting in few)


def separate(settings: dict[str, dict], one_machine: bool) -> None:
    """Add `machine` and `views` to each method, and remove differences between machines.

    The difference of a student from its teacher stays: both ran on one machine.
    """
    named = {setting.name: setting for setting in ALIGN_SETTINGS}
    for setting, methods in settings.items():
        for name, method in methods.items():
            cpu = not one_machine and on_cpu(setting, name)
            method |= {
                "machine": CPU if cpu else GPU,
                "views": views_of(METHOD_OF[name], named[setting], method["epochs"]),
            }
            if cpu:
                for score in ("macro-F1", "R@5"):
                    method[score]["difference"] = None
                    method[score].pop("best_other", None)


def main() -> None:
    results = Path(sys.argv[1])
    for folder in (results, results / "align_scarce"):
        record = json.loads((folder / "align.json").read_text(encoding="utf-8"))
        if "intervals" not in record:
            renew_all(record["settings"], len(record["seeds"]))
            separate(record["settings"], one_machine="CPU" not in record["note"])
            record["intervals"] = INTERVALS
            (folder / "align.json").write_text(json.dumps(record, indent=2))
        (folder / "align.md").write_text(page(record), encoding="utf-8")
        draw_settings(record["settings"]).savefig(folder / "align.png", dpi=110)
        draw_map(record["settings"]).savefig(folder / "align_map.png", dpi=110)


if __name__ == "__main__":
    main()
