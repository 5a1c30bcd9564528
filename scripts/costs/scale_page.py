"""The page of `scale.py`."""

from __future__ import annotations

import os
import platform
from datetime import date
from typing import Any

from scale import (
    BATCH,
    CHECKED_ROWS,
    GPUS,
    NODES,
    PLAIN_SAMPLES,
    PLAIN_SHARDS,
    RANKS,
    ROWS,
    SAMPLES,
    SCALE,
    SHARDS,
    SHARE,
    SOME,
    WORKERS,
)


def page(figures: dict[str, Any]) -> list[str]:
    import torch

    return [
        "# The data plan of 64 ranks, without the ranks",
        "",
        f"`python scripts/costs/scale.py`, {date.today()}: {platform.machine()},"
        f" {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}."
        f" {RANKS} ranks ({NODES} x {GPUS}), {WORKERS} workers each, {BATCH} pairs a batch;"
        f" one sample in {SHARE} has a heatmap. Each rank's plan is the object that training"
        " builds; no image is read. Seconds are CPU seconds on a busy machine.",
        "",
        *_start(figures),
        *_order(figures),
        *_annotated(figures["epoch, even"], figures["epoch, some ranks"]),
        *_stream(figures["experts"]),
    ]


def _start(figures: dict[str, Any]) -> list[str]:
    files, start = figures["files"], figures["start, shards"]
    table, first = figures["start, table"], figures["start, table, first rank"]
    check = first["cpu_s"] * ROWS / CHECKED_ROWS
    count, per_rank = SHARDS * SAMPLES, SHARDS / RANKS
    return [
        "## Start and memory of a rank",
        "",
        "Memory is that of the data alone, above Python and torch.",
        "",
        "| data | step | CPU | memory, at most | memory, kept |",
        "|---|---|---|---|---|",
        f"| {SHARDS} shards of {SAMPLES} | first start: check of its {per_rank:.0f} shards,"
        f" extrapolated from 16 | {files['first_s'] * per_rank:.0f} s | | |",
        f"| | all that follows, and later starts; {start['received_mib']:.0f} MiB come from the"
        f" other ranks | {start['cpu_s']:.0f} s | {start['peak_mib']:.0f} MiB |"
        f" {start['kept_mib']:.0f} MiB |",
        f"| table of {ROWS} rows | the first rank: files and check, extrapolated from"
        f" {CHECKED_ROWS} rows; memory as measured there | {check:.0f} s |"
        f" {first['peak_mib']:.0f} MiB | {first['kept_mib']:.0f} MiB |",
        f"| | the other ranks: reading | {table['cpu_s']:.0f} s | {table['peak_mib']:.0f} MiB |"
        f" {table['kept_mib']:.0f} MiB |",
        f"| | the order of an epoch, on each rank | {figures['epoch, table']['cpu_s']:.0f} s |"
        f" {figures['epoch, table']['peak_mib']:.0f} MiB | |",
        "",
        f"The shards hold {count} samples, {count // SHARE} of them annotated; the rank keeps about"
        f" {start['kept_mib'] * 2**20 / (count // SHARE):.0f} bytes for each of these. Records of"
        f" the check take {files['record_kb']:.1f} kB a shard. The table has captions of about 15"
        " characters; longer ones add their length to the memory of every rank.",
        "",
    ]


def _order(figures: dict[str, Any]) -> list[str]:
    return [
        "## How often a sample comes in an epoch",
        "",
        "All ranks of the first and the last line are counted at a scale of"
        f" 1 / {SCALE}: that part of the samples of a shard, of a batch and of the shuffle's"
        " buffer, and as many shards, workers and steps."
        f" The second is of ranks {', '.join(map(str, SOME))} in full. With"
        " --dataset-resampled, the shards that all workers draw are counted.",
        "",
        "| data | never | once | more often | most | steps |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {part['never']:.2%} | {part['once']:.2%} | {part['more']:.2%} |"
            f" {part['most']} | {part['batches']} |"
            for name, part in _epochs(figures)
        ),
        "",
    ]


def _annotated(scaled: dict[str, Any], full: dict[str, Any]) -> list[str]:
    return [
        "## Annotated samples of a rank",
        "",
        "Even: one in 20 of every shard. Behind: as many, all in the last shards, as when an"
        f" annotated set is appended. {SHARDS} shards of {SAMPLES}.",
        "",
        "| ranks | annotated | share of a rank's epoch, smallest | mean | largest |"
        f" batches without any | most of {BATCH} |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {ranks} | {where} | {part[key]['smallest']:.2%} | {part[key]['mean']:.2%} |"
            f" {part[key]['largest']:.2%} | {rest} |"
            for where, key in (("even", "spread"), ("behind", "behind"))
            for ranks, part, rest in (
                (f"all, 1 / {SCALE}", scaled, "– | –"),
                (
                    f"{', '.join(map(str, SOME))} in full",
                    full,
                    f"{full[key]['empty']:.1%} | {full[key]['most']}",
                ),
            )
        ),
        "",
        "The correlation between a shard's number and the step at which it is read is"
        f" {full['order']:.2f}: open_clip shuffles shards in a buffer of 2 000.",
        "",
    ]


def _stream(experts: dict[str, Any]) -> list[str]:
    return [
        "## Samples of the separate stream",
        "",
        "`--expert-data` and oversampled annotated images. All ranks together, 50 steps: each slot"
        " is filled once.",
        "",
        "| samples x slots of a rank | ms a batch, main process | most copies in a step |",
        "|---|---|---|",
        *(f"| {name} | {part['ms']:.2f} | {part['most']} |" for name, part in experts.items()),
    ]


def _epochs(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    names = {
        "epoch, even": f"{SHARDS} shards of {SAMPLES}",
        "epoch, plain": f"{PLAIN_SHARDS} shards of {PLAIN_SAMPLES}",
        "epoch, resampled": f"{SHARDS} shards, --dataset-resampled",
        "epoch, table": f"table of {ROWS} rows",
    }
    return [(name, figures[part]) for part, name in names.items()]
