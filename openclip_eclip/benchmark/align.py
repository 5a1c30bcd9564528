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
    ALIGN_METHODS,
    ALIGN_SETTINGS,
    DEVELOPMENT,
    GAZE_IMAGES,
    MODEL,
    NAMES,
    OURS,
    RECIPE_METHODS,
    STEPS,
    TEST_IMAGES,
    TUNE_STEPS,
    VALIDATION_IMAGES,
    Setting,
    in_anatomy,
)
from .page import machine_kinds
from .rows import Method
from .runner import Bench, Workers, make_all

METHOD_OF = {method.name: method for method in ALIGN_METHODS}
BATCH = 64  # batch size in rows.SETTINGS
TASKS = {
    "zero-shot": [],
    "retrieval": [],
    "sensitivity": ["--heatmaps", "{test}_gaze.csv", "--heatmap-column", "gaze"],
}
SCORES = {"macro-F1": "zero-shot", "R@5": "retrieval"}


def build(
    args: argparse.Namespace,
    train_flags: list[str],
    workers: Workers,
    seeds: list[int],
    settings: list[Setting],
) -> dict[tuple[str, int, bool], Bench]:
    """{(setting, seed, whether annotated): bench of these runs}.

    Settings with the same images share the runs without annotations. Missing images are generated.
    """
    benches, homes, flags_of = {}, {}, {}
    # hyperparameters were not chosen on the test images that are reported
    test_seed = 7 if max(seeds) < DEVELOPMENT else 8
    for setting, seed in product(settings, seeds):
        pairs = zip(setting.images[::2], setting.images[1::2])
        # the devices of test images never follow from the class
        kept = [word for pair in pairs if pair[0] != "--shortcut" for word in pair]
        name = "-".join(map(str, (setting.home, setting.annotated, *setting.gaze))).replace(
            "--", ""
        )
        test = args.data / "-".join(map(str, ("test", test_seed, *kept))).replace("--", "")
        data, validation = (
            args.data / f"{name}-seed{seed}",
            args.data / f"{setting.home}-validation-seed{seed}",
        )
        flags_of[test] = ("--train", 1, "--test", TEST_IMAGES, "--seed", test_seed, *kept)
        flags_of[data] = (
            *("--train", setting.count, "--test", 1, "--seed", 1000 + seed),
            *("--annotated", setting.annotated),
            *setting.images,
            *setting.gaze,
        )
        flags_of[validation] = (
            *("--train", VALIDATION_IMAGES, "--test", 1, "--seed", 5000 + seed, "--annotated", 0),
            *setting.images,
        )
        own_args = argparse.Namespace(
            **{
                **vars(args),
                "data": data,
                "out": args.out / name,
                "model": MODEL,
                "train_data": None,
                "expert_data": None,
                "steps": args.steps or STEPS[setting.count],
                "tune_steps": args.tune_steps or TUNE_STEPS,
                "settings": "phantoms",
            }
        )
        tasks = {
            task: [str(flag).replace("{test}", str(test / "test")) for flag in flags]
            for task, flags in TASKS.items()
        }
        shared = ({"test": str(test / "test.csv")}, tasks, validation / "train.csv")
        if (setting.home, seed) not in homes:
            homes[setting.home, seed] = Bench(
                argparse.Namespace(**{**vars(own_args), "out": args.out / setting.home}),
                train_flags,
                workers,
                *shared,
            )
        benches[setting.name, seed, False] = homes[setting.home, seed]
        benches[setting.name, seed, True] = Bench(
            own_args, train_flags, workers, *shared, home=homes[setting.home, seed]
        )
    if not args.measured:
        with ThreadPoolExecutor(workers.jobs) as pool:
            list(pool.map(lambda folder: make_images(workers, folder, flags_of[folder]), flags_of))
    return benches


def make_images(workers: Workers, folder: Path, flags: tuple) -> None:
    """Generate a phantom data set, and annotated.csv with the rows that have a heatmap."""
    if (folder / "annotated.csv").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with workers.borrow() as worker:
        worker.run(
            "openclip_eclip.prepare",
            ["phantom", folder, *flags],
            folder.parent / "logs" / f"{folder.name}.txt",
        )
    table, gaze = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "test_gaze.csv")
    gaze[:GAZE_IMAGES].to_csv(folder / "test_gaze.csv", index=False)
    table[table["heatmap"].notna()].to_csv(folder / "annotated.csv", index=False)


def run_align(args: argparse.Namespace, train_flags: list[str], seeds: list[int]) -> None:
    """Make all missing runs (none with --measured), then align.json, align.md and the figures."""
    from .align_figures import draw_map, draw_settings
    from .align_page import page

    workers = Workers(args.jobs, cache=True)
    settings = [
        in_anatomy(setting, args.anatomy)
        for setting in ALIGN_SETTINGS
        if not args.cells or setting.name in args.cells
    ]
    benches = build(args, train_flags, workers, seeds, settings)
    wanted = {"CLIP", *(args.rows or NAMES)}
    wanted |= {METHOD_OF[name].teacher for name in wanted}
    chosen = {
        setting.name: [METHOD_OF[name] for name in setting.methods if name in wanted]
        for setting in settings
    }
    if args.measured:
        chosen = {
            setting.name: [
                method
                for method in chosen[setting.name]
                if is_measured(benches, setting, method, seeds)
            ]
            for setting in settings
        }
        # CLIP's runs belong to several settings
        settings = [
            setting
            for setting in settings
            if any(method.annotated for method in chosen[setting.name])
        ]
    runs = {}  # keyed by run, because settings share runs without annotations
    for setting in settings:
        for method, seed in product(chosen[setting.name], seeds):
            bench = benches[setting.name, seed, method.annotated]
            runs[bench, method.name, seed] = bench, method, seed
    if not args.measured:
        make_all(list(runs.values()), workers.jobs, "align")
    results = {
        setting.name: measure(benches, setting, chosen[setting.name], seeds) for setting in settings
    }
    machines = {bench.facts(method, seed)["machine"] for bench, method, seed in runs.values()}
    facts = {
        "seeds": seeds,
        "anatomy": args.anatomy,
        "machine": ", ".join(sorted(machines)),
        "note": args.note,
        "mixed_machines": args.mixed_machines,
        "settings": results,
    }
    (args.out / "align.json").write_text(json.dumps(facts, indent=2))
    (args.out / "align.md").write_text(page(facts), encoding="utf-8")
    draw_settings(results).savefig(args.out / "align.png", dpi=110)
    if len(results) > 1:
        draw_map(results).savefig(args.out / "align_map.png", dpi=110)


def is_measured(benches: dict, setting: Setting, method: Method, seeds: list[int]) -> bool:
    return all(
        (
            benches[setting.name, seed, method.annotated].result(method, seed, "test", task)
            / "result.json"
        ).is_file()
        for seed in seeds
        for task in TASKS
    )


def measure(
    benches: dict, setting: Setting, methods: list[Method], seeds: list[int]
) -> dict[str, dict]:
    """{method: {score: {value, sd, low, high, difference}, pointing, NSS, epochs, machine, views}}.

    RECIPE_METHODS are also compared with the best other method by mean, as "best_other". Methods of
    different kinds of machines have no difference, unless --mixed-machines is given.
    """

    def results(method: Method, task: str) -> list[Path]:
        return [
            benches[setting.name, seed, method.annotated].result(method, seed, "test", task)
            for seed in seeds
        ]

    scores: dict[str, dict] = {method.name: {} for method in methods}

    def comparable(method: Method, base: Method) -> bool:
        return bench.args.mixed_machines or len({*kinds[method.name], *kinds[base.name]}) == 1

    bench = benches[setting.name, seeds[0], True]
    kinds = {
        method.name: machine_kinds(
            benches[setting.name, seed, method.annotated].facts(method, seed) for seed in seeds
        )
        for method in methods
    }
    for metric, task in SCORES.items():
        mixed = bench.args.mixed_machines or not all(
            comparable(method, methods[0]) for method in methods
        )
        against_clip = bench.compare(
            f"{task}-clip", {method.name: results(method, task) for method in methods}, mixed
        )
        for method in methods:
            difference = (
                against_clip["differences"].get(method.name, {}).get(metric)
                if comparable(method, methods[0])
                else None
            )
            scores[method.name][metric] = against_clip["methods"][method.name][metric] | {
                "difference": difference
            }
        others = [method for method in methods if not method.name.startswith(OURS)]
        if len(others) < 2:
            continue
        best = max(others, key=lambda method: scores[method.name][metric]["value"])
        for name in [
            name for name in scores if name in RECIPE_METHODS and comparable(METHOD_OF[name], best)
        ]:
            pair = bench.compare(
                f"{task}-best-{name}",
                {method.name: results(method, task) for method in (best, METHOD_OF[name])},
                bench.args.mixed_machines,
            )
            scores[name][metric]["best_other"] = {
                "method": best.name,
                **pair["differences"][name][metric],
            }
    for method in methods:
        for name, key in (("pointing", "pointing game"), ("NSS", "NSS")):
            scores[method.name][name] = pointing_of(results(method, "sensitivity"), key)
        if method.teacher:
            scores[method.name]["teacher"] = against_teacher(
                benches, setting, method, seeds, results
            )
        scores[method.name]["epochs"] = [
            benches[setting.name, seed, method.annotated].facts(method, seed)["epoch"]
            for seed in seeds
        ]
        scores[method.name] |= {
            "machine": " and ".join(kinds[method.name]),
            "views": views_of(method, setting, scores[method.name]["epochs"]),
        }
    return scores


def views_of(method: Method, setting: Setting, epochs: list[int]) -> float | None:
    """Mean number of times that an annotated image was used with its heatmap, up to the checkpoint.

    It is known for methods that use each heatmap once in an epoch: alignment without oversampling,
    naive and mask. Only full batches count, so a few images of an epoch are left out. None: not
    known, or a method without heatmaps.
    """
    flags = list(map(str, method.flags))
    once = "align" in flags or ("naive" in flags and "--expert-data" not in flags)
    if not (method.annotated and once) or "--align-oversample" in flags:
        return None
    return float(np.mean(epochs)) * (setting.count // BATCH * BATCH) / setting.count


def against_teacher(
    benches: dict,
    setting: Setting,
    method: Method,
    seeds: list[int],
    students: Callable[[Method, str], list[Path]],
) -> dict[str, dict]:
    """{score: {value, sd, change}, pointing: {value, sd}} of the teachers of `method`.

    change: the student's score minus the teacher's, seeds paired. `students`: function that gives
    the results of the students.
    """
    bench, scores = benches[setting.name, seeds[0], True], {}
    folders = {
        task: [
            benches[setting.name, seed, method.annotated].student_data(method, seed)
            / f"test-{task}"
            for seed in seeds
        ]
        for task in TASKS
    }
    for metric, task in SCORES.items():
        pair = bench.compare(
            f"{task}-teacher-{method.name}",
            {"teacher": folders[task], method.name: students(method, task)},
            bench.args.mixed_machines,
        )
        scores[metric] = pair["methods"]["teacher"][metric] | {
            "change": pair["differences"][method.name][metric]
        }
    return scores | {"pointing": pointing_of(folders["sensitivity"], "pointing game")}


def pointing_of(folders: list[Path], key: str) -> dict[str, float | None]:
    """{value, sd} of pointing score `key` of the model's map, over results of `sensitivity`."""
    results = [json.loads((folder / "result.json").read_text())["values"] for folder in folders]
    values = [record["pointing"][record["look"]][key]["value"] for record in results]
    return {
        "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
