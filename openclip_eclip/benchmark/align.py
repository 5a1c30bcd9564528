"""`benchmark align`: the effect of gaze alignment, on synthetic images (phantoms).

Settings vary the number of training images, the share of annotated images and the quality of the
gaze. Each seed has its own training images; all seeds share the test images. 300 further images
without labels choose the checkpoint of a run, by the mean rank of their reports. Test images choose
nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from .align_cells import (
    CELLS,
    DEVELOPMENT,
    LOOKED_AT,
    MODEL,
    NAMES,
    OURS,
    RECIPE_ROWS,
    ROWS,
    STEPS,
    TEST_FILMS,
    TUNE_STEPS,
    VALIDATION_FILMS,
    Cell,
)
from .page import machine_kinds
from .rows import Row
from .runner import Bench, Workers, make_all

ROW = {row.name: row for row in ROWS}
BATCH = 64  # batch size in rows.SETTINGS
TASKS = {
    "zero-shot": [],
    "retrieval": [],
    "sensitivity": ["--heatmaps", "{test}_gaze.csv", "--heatmap-column", "gaze"],
}
SCORES = {"macro-F1": "zero-shot", "R@5": "retrieval"}


def build(
    args: argparse.Namespace, more: list[str], workers: Workers, seeds: list[int], cells: list[Cell]
) -> dict[tuple[str, int, bool], Bench]:
    """{(setting, seed, whether annotated): bench of these runs}.

    Settings with the same images share the runs without annotations. Missing images are generated.
    """
    benches, homes, films = {}, {}, {}
    # hyperparameters were not chosen on the test images that are reported
    test_seed = 7 if max(seeds) < DEVELOPMENT else 8
    for cell, seed in product(cells, seeds):
        leak = cell.films if "--gaze-leak" in cell.films else ()
        name = "-".join(map(str, (cell.home, cell.annotated, *cell.gaze))).replace("--", "")
        test = args.data / "-".join(map(str, ("test", test_seed, *leak))).replace("--", "")
        data, validation = (
            args.data / f"{name}-seed{seed}",
            args.data / f"{cell.home}-validation-seed{seed}",
        )
        films[test] = ("--train", 1, "--test", TEST_FILMS, "--seed", test_seed, *leak)
        films[data] = (
            *("--train", cell.count, "--test", 1, "--seed", 1000 + seed),
            *("--annotated", cell.annotated),
            *cell.films,
            *cell.gaze,
        )
        films[validation] = (
            *("--train", VALIDATION_FILMS, "--test", 1, "--seed", 5000 + seed, "--annotated", 0),
            *cell.films,
        )
        own = argparse.Namespace(
            **{
                **vars(args),
                "data": data,
                "out": args.out / name,
                "model": MODEL,
                "train_data": None,
                "expert_data": None,
                "steps": args.steps or STEPS[cell.count],
                "tune_steps": args.tune_steps or TUNE_STEPS,
                "settings": "phantoms",
            }
        )
        tasks = {
            task: [str(flag).replace("{test}", str(test / "test")) for flag in flags]
            for task, flags in TASKS.items()
        }
        shared = ({"test": str(test / "test.csv")}, tasks, validation / "train.csv")
        if (cell.home, seed) not in homes:
            homes[cell.home, seed] = Bench(
                argparse.Namespace(**{**vars(own), "out": args.out / cell.home}),
                more,
                workers,
                *shared,
            )
        benches[cell.name, seed, False] = homes[cell.home, seed]
        benches[cell.name, seed, True] = Bench(
            own, more, workers, *shared, home=homes[cell.home, seed]
        )
    if not args.measured:
        with ThreadPoolExecutor(workers.jobs) as pool:
            list(pool.map(lambda folder: make_films(workers, folder, films[folder]), films))
    return benches


def make_films(workers: Workers, folder: Path, flags: tuple) -> None:
    """Generate a phantom data set, and annotated.csv with the rows that have a heatmap."""
    if (folder / "annotated.csv").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with workers.one() as worker:
        worker.run(
            "openclip_eclip.prepare",
            ["phantom", folder, *flags],
            folder.parent / "logs" / f"{folder.name}.txt",
        )
    table, gaze = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "test_gaze.csv")
    gaze[:LOOKED_AT].to_csv(folder / "test_gaze.csv", index=False)
    table[table["heatmap"].notna()].to_csv(folder / "annotated.csv", index=False)


def run_align(args: argparse.Namespace, more: list[str], seeds: list[int]) -> None:
    """Make all missing runs (none with --measured), then align.json, align.md and the figures."""
    from .align_page import draw_cells, draw_map, page

    workers = Workers(args.jobs, cache=True)
    cells = [cell for cell in CELLS if not args.cells or cell.name in args.cells]
    benches = build(args, more, workers, seeds, cells)
    asked = {"CLIP", *(args.rows or NAMES)}
    asked |= {ROW[name].teacher for name in asked}
    chosen = {cell.name: [ROW[name] for name in cell.rows if name in asked] for cell in cells}
    if args.measured:
        chosen = {
            cell.name: [row for row in chosen[cell.name] if is_measured(benches, cell, row, seeds)]
            for cell in cells
        }
        # CLIP's runs belong to several settings
        cells = [cell for cell in cells if any(row.annotated for row in chosen[cell.name])]
    tasks = {}  # keyed by run, because settings share runs without annotations
    for cell in cells:
        for row, seed in product(chosen[cell.name], seeds):
            bench = benches[cell.name, seed, row.annotated]
            tasks[bench, row.name, seed] = bench, row, seed
    if not args.measured:
        make_all(list(tasks.values()), workers.jobs, "align")
    found = {cell.name: measure(benches, cell, chosen[cell.name], seeds) for cell in cells}
    machines = {bench.facts(row, seed)["machine"] for bench, row, seed in tasks.values()}
    facts = {
        "seeds": seeds,
        "machine": ", ".join(sorted(machines)),
        "note": args.note,
        "mixed_machines": args.mixed_machines,
        "cells": found,
    }
    (args.out / "align.json").write_text(json.dumps(facts, indent=2))
    (args.out / "align.md").write_text(page(facts), encoding="utf-8")
    draw_cells(found).savefig(args.out / "align.png", dpi=110)
    draw_map(found).savefig(args.out / "align_map.png", dpi=110)


def is_measured(benches: dict, cell: Cell, row: Row, seeds: list[int]) -> bool:
    return all(
        (
            benches[cell.name, seed, row.annotated].result(row, seed, "test", task) / "result.json"
        ).is_file()
        for seed in seeds
        for task in TASKS
    )


def measure(benches: dict, cell: Cell, rows: list[Row], seeds: list[int]) -> dict[str, dict]:
    """{method: {score: {value, sd, low, high, difference}, pointing, NSS, epochs, machine, views}}.

    RECIPE_ROWS are also compared with the best other method by mean, as "best_other". Methods of
    different kinds of machines have no difference, unless --mixed-machines is given.
    """

    def results(row: Row, task: str) -> list[Path]:
        return [
            benches[cell.name, seed, row.annotated].result(row, seed, "test", task)
            for seed in seeds
        ]

    found: dict[str, dict] = {row.name: {} for row in rows}

    def comparable(row: Row, base: Row) -> bool:
        return bench.args.mixed_machines or len({*kinds[row.name], *kinds[base.name]}) == 1

    bench = benches[cell.name, seeds[0], True]
    kinds = {
        row.name: machine_kinds(
            benches[cell.name, seed, row.annotated].facts(row, seed) for seed in seeds
        )
        for row in rows
    }
    for score, task in SCORES.items():
        mixed = bench.args.mixed_machines or not all(comparable(row, rows[0]) for row in rows)
        against_clip = bench.compare(
            f"{task}-clip", {row.name: results(row, task) for row in rows}, mixed
        )
        for row in rows:
            difference = (
                against_clip["differences"].get(row.name, {}).get(score)
                if comparable(row, rows[0])
                else None
            )
            found[row.name][score] = against_clip["methods"][row.name][score] | {
                "difference": difference
            }
        others = [row for row in rows if not row.name.startswith(OURS)]
        if len(others) < 2:
            continue
        best = max(others, key=lambda row: found[row.name][score]["value"])
        for name in [name for name in found if name in RECIPE_ROWS and comparable(ROW[name], best)]:
            pair = bench.compare(
                f"{task}-best-{name}",
                {row.name: results(row, task) for row in (best, ROW[name])},
                bench.args.mixed_machines,
            )
            found[name][score]["best_other"] = {
                "row": best.name,
                **pair["differences"][name][score],
            }
    for row in rows:
        for name, key in (("pointing", "pointing game"), ("NSS", "NSS")):
            found[row.name][name] = pointing_of(results(row, "sensitivity"), key)
        if row.teacher:
            found[row.name]["teacher"] = against_teacher(benches, cell, row, seeds, results)
        found[row.name]["epochs"] = [
            benches[cell.name, seed, row.annotated].facts(row, seed)["epoch"] for seed in seeds
        ]
        found[row.name] |= {
            "machine": " and ".join(kinds[row.name]),
            "views": views_of(row, cell, found[row.name]["epochs"]),
        }
    return found


def views_of(row: Row, cell: Cell, epochs: list[int]) -> float | None:
    """Mean number of times that an annotated image was used with its heatmap, up to the checkpoint.

    It is known for methods that use each heatmap once in an epoch: alignment without oversampling,
    naive and mask. Only full batches count, so a few images of an epoch are left out. None: not
    known, or a method without heatmaps.
    """
    flags = list(map(str, row.flags))
    once = "align" in flags or ("naive" in flags and "--expert-data" not in flags)
    if not (row.annotated and once) or "--align-replay" in flags:
        return None
    return float(np.mean(epochs)) * (cell.count // BATCH * BATCH) / cell.count


def against_teacher(
    benches: dict, cell: Cell, row: Row, seeds: list[int], pupils: Callable[[Row, str], list[Path]]
) -> dict[str, dict]:
    """{score: {value, sd, change}, pointing: {value, sd}} of the teachers of `row`.

    change: the student's score minus the teacher's, seeds paired. `pupils`: results of the
    students.
    """
    bench, found = benches[cell.name, seeds[0], True], {}
    folders = {
        task: [
            benches[cell.name, seed, row.annotated].taught(row, seed) / f"test-{task}"
            for seed in seeds
        ]
        for task in TASKS
    }
    for score, task in SCORES.items():
        pair = bench.compare(
            f"{task}-taught-{row.name}",
            {"teacher": folders[task], row.name: pupils(row, task)},
            bench.args.mixed_machines,
        )
        found[score] = pair["methods"]["teacher"][score] | {
            "change": pair["differences"][row.name][score]
        }
    return found | {"pointing": pointing_of(folders["sensitivity"], "pointing game")}


def pointing_of(folders: list[Path], key: str) -> dict[str, float | None]:
    """{value, sd} of pointing score `key` of the model's map, over results of `sensitivity`."""
    looks = [json.loads((folder / "result.json").read_text())["values"] for folder in folders]
    values = [look["pointing"][look["look"]][key]["value"] for look in looks]
    return {
        "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
