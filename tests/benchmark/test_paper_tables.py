"""The benchmark: methods are valid training flags; small tables are made and resumed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, fast_python
from recompute_intervals import on_cpu, renew_all

from openclip_eclip.benchmark.align import METHOD_OF, measure, views_of
from openclip_eclip.benchmark.align_cells import ALIGN_METHODS, ALIGN_SETTINGS, DEVELOPMENT, NAMES
from openclip_eclip.benchmark.align_page import page as align_page
from openclip_eclip.benchmark.page import OTHER_MACHINE, machine_kinds
from openclip_eclip.benchmark.paper_page import draw, markdown
from openclip_eclip.benchmark.paper_tables import compare, summary
from openclip_eclip.benchmark.rows import NAIVE_PLAIN, TABLES, UNTIL, Method
from openclip_eclip.benchmark.runner import Worker
from openclip_eclip.config import AUTHORS_PROCESSOR
from openclip_eclip.params import eclip_config, eclip_parser, method_names
from openclip_eclip.prepare.__main__ import main as prepare


def test_methods_are_those_of_the_papers_tables() -> None:
    """Table 1 has a family over CLIP and one over GLoRIA, each with "longer".

    Table 4 has eight methods, and those with a learned processor once more with the authors' form
    of it. Both tables have methods that see the annotated images without their heatmaps.
    """
    one, four = ([row.name for row in TABLES[name]] for name in ("table1", "table4"))
    added = ["naive", "DACL", "m3-mix", "eCLIP", "eCLIP^P"]
    assert one == [
        "CLIP",
        *added,
        "CLIP, longer",
        "naive, no heatmaps",
        "eCLIP, no heatmaps",
        "CLIP, until validation stops it",
        "GLoRIA",
        *(f"GLoRIA + {name}" for name in added),
        "GLoRIA, longer",
    ]
    learned = [
        "MHA",
        "MHA + mixup",
        "MHA + mixup + curriculum",
        "eCLIP, random heatmaps",
        "eCLIP",
    ]
    authors = [f"{name}, authors' processor" for name in learned]
    assert four == ["CLIP", "mask", "CNN", *learned, *authors, "eCLIP, no heatmaps"]
    assert all(
        (processor_of(row) == AUTHORS_PROCESSOR) == (row.name in authors)
        for row in TABLES["table4"]
    )
    shared = [row for row in TABLES["table1"] if row.name in four]
    assert len(shared) == 3
    assert all(row.base == "CLIP" and not row.start for row in shared)


def processor_of(row: Method) -> str | None:
    return eclip_config(eclip_parser().parse_args(list(map(str, row.flags))), {}).processor


@pytest.mark.parametrize(
    "row",
    {row.name: row for table in (*TABLES.values(), ALIGN_METHODS) for row in table}.values(),
    ids=lambda row: row.name,
)
def test_flags_of_every_method_are_valid_training_flags(row: Method) -> None:
    """Methods that read heatmaps are `annotated`; fine-tuned methods have a `start`."""
    args = eclip_parser().parse_args([str(flag) for flag in row.flags])
    names = method_names(args)
    if row in ALIGN_METHODS:
        own_maps = "--csv-heatmap-key" in row.flags  # of a model alone, in a column of their own
        assert row.annotated == (bool({"eclip", "naive", "align"} & set(names)) and not own_maps)
        assert not row.start or row.start == "CLIP"
        assert not row.teacher or any(
            row.teacher in cell.methods for cell in ALIGN_SETTINGS if row.name in cell.methods
        )
        return
    assert row.annotated == bool({"eclip", "naive"} & set(names))
    assert (eclip_config(args, {}).processor is not None) == row.annotated
    assert ("gloria" in names) == (row.base == "GLoRIA")
    assert bool(row.start) == (row.recipe in ("eclip-p", "m3-mix"))


def test_settings_of_the_alignment_benchmark() -> None:
    """Settings with other images have their own runs, all others share them.

    Reporting seeds are not development seeds.
    """
    assert all(
        set(cell.methods) <= set(NAMES) and cell.methods[0] == "CLIP" for cell in ALIGN_SETTINGS
    )
    assert len({cell.name for cell in ALIGN_SETTINGS}) == len(ALIGN_SETTINGS)
    assert {(cell.count, cell.annotated) for cell in ALIGN_SETTINGS} == set(
        product((300, 600, 2000), (0.0025, 0.01, 0.05, 0.15))
    )
    assert len(ALIGN_SETTINGS) == 12 + 4
    homes = {cell.name: cell.home for cell in ALIGN_SETTINGS}
    assert (
        homes["600 images, 1 %"]
        == homes["600 images, 15 %, gaze shifted by 8 %"]
        != homes["600 images, 15 %, gaze independent of the class"]
    )
    assert DEVELOPMENT > 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    assert (
        prepare(
            [
                *("phantom", str(folder / "phantoms"), "--train", "48", "--test", "24"),
                *("--annotated", "0.3", "--seed", "1"),
            ]
        )
        == 0
    )
    return folder / "phantoms"


def run(*flags: object, steps: int = 2) -> subprocess.CompletedProcess:
    command = [
        *(fast_python(), "-m", "openclip_eclip.benchmark"),
        *flags,
        *("--seeds", 1, "--steps", steps, "--tune-steps", steps, "--warmup", 1, "--batch-size", 16),
    ]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_a_table_is_made_and_resumed(data: Path, tmp_path: Path) -> None:
    """One method of Table 4, then one method of Table 1.

    The second reuses the trained CLIP, trains what a fine-tuned method starts from, and trains an
    interrupted run again.
    """
    line = "table4 --data phantoms --steps 500 --tune-steps 150 --seeds 5 --out tables"
    done = run(
        *line.replace("phantoms", str(data)).replace("tables", str(tmp_path)).split(),
        "--rows",
        "CNN",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "table4.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows] == [
        "| method",
        "| CLIP",
        "| CNN",
    ]
    assert done.stdout == page
    trained = (tmp_path / "runs" / "clip-30" / "table.json").stat().st_mtime_ns
    for leftover in ("runs", "models"):
        (tmp_path / leftover / "eclip-p-30").mkdir()
        (tmp_path / leftover / "eclip-p-30" / "README.md").write_text("half a run")
    done = run("table1", "--data", data, "--out", tmp_path, "--rows", "eCLIP^P", steps=3)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "table1.json").read_text())
    scores = result["scores"]["test"]
    assert scores["CLIP"]["difference"] is None
    assert scores["eCLIP^P"]["base"] == "CLIP"
    assert list(scores) == ["CLIP", "eCLIP^P"]
    assert scores["eCLIP^P"]["difference"]["value"] == pytest.approx(
        scores["eCLIP^P"]["value"] - scores["CLIP"]["value"]
    )
    assert result["facts"]["CLIP"]["views"] is None
    assert result["facts"]["eCLIP^P"]["views"] > 0
    assert (tmp_path / "table1.png").stat().st_size > 5000
    assert (tmp_path / "runs" / "clip-30" / "table.json").stat().st_mtime_ns == trained
    log = (tmp_path / "runs" / "eclip-p-30" / "out.log").read_text()
    assert f"local-dir:{tmp_path / 'models' / 'clip-30'}" in log
    assert "starting with a fresh heatmap processor" in log


@pytest.mark.slow
def test_a_half_batch_beside_each_batch(data: Path, tmp_path: Path) -> None:
    """An epoch of 48 images has three batches, with 8 candidates each of the 14 annotated images.

    naive takes every candidate. Its views are the same without heatmaps. Validation ends a run of
    at most 4 x 2 epochs.
    """
    table = pd.read_csv(data / "train.csv")
    annotated, plain = data / "annotated.csv", data / "plain.csv"
    table[table["heatmap"].notna()].to_csv(annotated, index=False)
    table.drop(columns="heatmap").to_csv(plain, index=False)
    done = run(
        *("table1", "--data", data, "--train-data", plain, "--expert-data", annotated),
        *("--validation", plain, "--out", tmp_path, "--jobs", 1),
        *("--rows", "naive", NAIVE_PLAIN, UNTIL.name),
        steps=6,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "table1.json").read_text())
    scores, facts = result["scores"]["test"], result["facts"]
    assert list(scores) == ["CLIP", "naive", NAIVE_PLAIN, UNTIL.name]
    assert facts["naive"]["views"] == facts[NAIVE_PLAIN]["views"] == pytest.approx(6 * 8 / 14)
    assert scores["naive"]["plain"] == NAIVE_PLAIN
    assert scores["naive"]["to_plain"]["value"] == pytest.approx(
        scores["naive"]["value"] - scores[NAIVE_PLAIN]["value"]
    )
    ((best, last),) = facts[UNTIL.name]["epochs"]
    assert 1 <= best <= last <= 8
    page = (tmp_path / "table1.md").read_text()
    assert f"{best} to {best}, and trained for {last} to {last} epochs" in page
    assert "half a batch beside each batch" in page
    assert "in the paper's eCLIP about 527 times" in page


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_the_end_of_its_log(data: Path, tmp_path: Path) -> None:
    done = run("table4", "--data", data, "--out", tmp_path, "--rows", "mask", "--lr", "much")
    assert done.returncode == 1
    assert "clip-30.txt: exit code 2" in done.stderr
    assert "'much'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("table1", "--rows", "eKLIP"), "eKLIP: expected some of"),
        (("align", "--cells", "600 image"), "--cells 600 image: expected some of"),
        (("align", "--rows", "MHA"), "--rows MHA: expected some of"),
        (("table5",), "invalid choice: 'table5'"),
        (("table1", "--rows", UNTIL.name), "give the pairs that stop it with --validation"),
        (("align", "--validation", "val.csv"), "--validation with align: expected only with a"),
    ],
)
def test_bad_flags(data: Path, tmp_path: Path, flags: tuple, named: str) -> None:
    done = run(*flags, "--data", data, "--out", tmp_path)
    assert done.returncode == 2
    assert named in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_alignment_benchmark_is_made(tmp_path: Path) -> None:
    """Two settings share the run of CLIP; every run keeps the epoch that validation chose.

    A student has a teacher and its pseudo-heatmaps; all figures are written. Then the page is
    written again without training.
    """
    cells = ["300 images, 15 %", "300 images, 5 %"]
    fewer = (
        ("test-7", "--train", 1, "--test", 90, "--seed", 7),
        ("300-validation-seed30", "--train", 60, "--test", 1, "--seed", 5030, "--annotated", 0),
    )
    for name, *counts in fewer:  # than the 600 and 300 that it would make
        folder = tmp_path / "phantoms" / name
        assert prepare(["phantom", str(folder), *map(str, counts)]) == 0
        (folder / "annotated.csv").write_text("filepath,title,heatmap\n")
    out = tmp_path / "out"
    flags = ("align", "--data", tmp_path / "phantoms", "--out", out, "--batch-size", 128)
    done = run(*flags, "--cells", *cells, "--rows", "align, weight 1", steps=4)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((out / "align.json").read_text())["settings"]
    assert list(result) == cells
    one, other = result.values()
    assert list(one) == list(other) == ["CLIP", "align, weight 1"]
    assert one["CLIP"] == other["CLIP"]
    assert one["align, weight 1"]["NSS"] != other["align, weight 1"]["NSS"]
    change = one["align, weight 1"]["macro-F1"]["value"] - one["CLIP"]["macro-F1"]["value"]
    assert one["align, weight 1"]["macro-F1"]["difference"]["value"] == pytest.approx(change)
    outputs = sorted(path.name for path in out.glob("*/runs/*"))
    assert outputs == ["align-weight-1-30", "align-weight-1-30", "clip-30"]
    page = (out / "align.md").read_text()
    assert page.count("| align, weight 1 |") == 2 and "(align_map.png)" in page

    flags = (*flags, "--cells", cells[0], "--rows", "align, weight 1", "eclip-plus, self-trained")
    done = run(*flags, steps=4)
    assert done.returncode == 0, done.stderr[-3000:]
    (rows,) = json.loads((out / "align.json").read_text())["settings"].values()
    assert list(rows) == ["CLIP", "align, weight 1", "eclip-plus", "eclip-plus, self-trained"]
    assert rows["align, weight 1"] == one["align, weight 1"]
    cell, student = out / "300-0.15", "eclip-plus-self-trained-30"
    message = (cell / "logs" / f"{student}-pseudo-heatmaps.txt").read_text()
    assert "255 written, 45 expert heatmaps kept" in message
    assert pd.read_csv(cell / "pseudo-heatmaps" / student / "train.csv")["heatmap"].notna().all()
    assert "eclip: 300 annotated samples" in (cell / "runs" / student / "out.log").read_text()
    page = (out / "align.md").read_text()
    assert "## Self-training" in page and "(align_map.png)" not in page  # one setting
    for name in ("align.png", "align_map.png"):
        assert (out / name).stat().st_size > 5000

    script, figure = ROOT / "scripts" / "studies" / "draw_attention.py", tmp_path / "attention.png"
    models = (
        f"CLIP={out / '300' / 'models' / 'clip-30'}",
        f"align={cell / 'models' / 'align-weight-1-30'}",
    )
    phantoms = tmp_path / "phantoms" / "test-7"
    words = [fast_python(), script, *models, "--data", phantoms, "--count", 3, "--out", figure]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(list(map(str, words)), env=environment, check=True)
    assert figure.stat().st_size > 20000
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/runs/*/table.json")}
    assert run(*flags, "--measured", steps=4).returncode == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}


class Measured:
    """A stub of finished runs: those of `on_cpu` ran on a CPU, all others on a GPU.

    Scores are invented, and the requested comparisons are recorded.
    """

    def __init__(self, folder: Path, on_cpu: set[str], mixed_machines: bool = False) -> None:
        self.args, self.folder, self.on_cpu = (
            argparse.Namespace(mixed_machines=mixed_machines, table="table4"),
            folder,
            on_cpu,
        )
        self.asked: dict[str, tuple[list[str], bool]] = {}

    def facts(self, row: Method, seed: int) -> dict:
        machine = (
            "2 runs at a time on AMD EPYC"
            if row.name in self.on_cpu
            else f"{seed} runs at a time on 1 x NVIDIA H200"
        )
        return {
            "machine": machine,
            "torch": "2.11.0",
            "seconds": 1.0,
            "views": 3.8 if row.annotated else None,
            "epoch": 8,
        }

    def kinds(self, row: Method, seeds: list[int]) -> list[str]:
        return machine_kinds(self.facts(row, seed) for seed in seeds)

    def result(self, row: Method, seed: int, test: str, task: str = "zero-shot") -> Path:
        folder = self.folder / f"{row.name} {seed} {task}"
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_text(
            json.dumps(
                {
                    "values": {
                        "look": "look",
                        "pointing": {
                            "look": {key: {"value": 0.5} for key in ("pointing game", "NSS")}
                        },
                    }
                }
            )
        )
        return folder

    def compare(self, name: str, groups: dict[str, list[Path]], mixed: bool = False) -> dict:
        self.asked[name] = list(groups), mixed
        score = {"value": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6}
        scores = {metric: score for metric in ("macro-F1", "R@5")}
        return {
            "methods": dict.fromkeys(groups, scores),
            "differences": dict.fromkeys(list(groups)[1:], scores),
        }


def test_methods_of_another_machine_are_not_compared(tmp_path: Path) -> None:
    """Their scores are in the table, but not their differences.

    With --mixed-machines differences are there, too, and the page says so.
    """
    assert machine_kinds(
        [
            {"machine": "16 runs at a time on 1 x NVIDIA H200"},
            {"machine": "2 runs at a time on 2 x NVIDIA H200"},
        ]
    ) == ["NVIDIA H200"]
    assert machine_kinds(
        [
            {"machine": "1 run at a time on AMD EPYC", "torch": "2.4"},
            {"machine": "1 run at a time on AMD EPYC"},
        ]
    ) == ["AMD EPYC", "AMD EPYC, torch 2.4"]
    rows, pages = TABLES["table4"][:3], {}
    for slow, mixed in (((), False), (("mask",), False), (("mask",), True)):
        bench = Measured(tmp_path, set(slow), mixed)
        scores = compare(bench, rows, [1, 2], "test")
        assert bench.asked == {"table4-CLIP-test": (["CLIP", "mask", "CNN"], bool(slow))}
        assert (scores["mask"]["difference"] is None) == (bool(slow) and not mixed)
        assert scores["CNN"]["difference"]
        assert scores["mask"]["value"] == 0.5
        facts = {row.name: summary([bench.facts(row, seed) for seed in (1, 2)]) for row in rows}
        pages[slow, mixed] = markdown(
            "table4",
            {
                "scores": {"test": scores},
                "facts": facts,
                "seeds": [1, 2],
                "note": "phantoms",
                "mixed_machines": mixed,
            },
        )
    assert [OTHER_MACHINE in page for page in pages.values()] == [False, True, False]
    assert ["--mixed-machines" in page for page in pages.values()] == [False, False, True]
    assert all("enters 3.8 times" in page for page in pages.values())


def test_methods_are_compared_with_the_same_images_without_heatmaps(tmp_path: Path) -> None:
    bench = Measured(tmp_path, set())
    rows = [row for row in TABLES["table1"] if row.name in ("CLIP", "naive", "eCLIP", NAIVE_PLAIN)]
    scores = compare(bench, rows, [1, 2], "test")
    assert [groups for groups, _ in bench.asked.values()] == [
        ["CLIP", "naive", "eCLIP", NAIVE_PLAIN],
        [NAIVE_PLAIN, "naive"],
    ]
    assert {name for name, score in scores.items() if "to_plain" in score} == {"naive"}
    assert len(draw({"test": scores}).axes[0].get_yticks()) == 4


def test_settings_compare_methods_of_one_machine(tmp_path: Path) -> None:
    cell = next(cell for cell in ALIGN_SETTINGS if cell.name == "600 images, 5 %")
    rows = [METHOD_OF[name] for name in ("CLIP", "m3-mix", "mask view", "eclip-plus")]
    for slow, mixed in (((), False), (("eclip-plus",), False), (("eclip-plus",), True)):
        bench = Measured(tmp_path, set(slow), mixed)
        result = measure(
            {(cell.name, seed, annotated): bench for seed in (1, 2) for annotated in (False, True)},
            cell,
            rows,
            [1, 2],
        )
        apart = bool(slow) and not mixed
        assert all(
            (result["eclip-plus"][score]["difference"] is None) == apart
            and ("best_other" in result["eclip-plus"][score]) != apart
            for score in ("macro-F1", "R@5")
        )
        assert result["mask view"]["macro-F1"]["difference"]
        assert bench.asked["zero-shot-clip"][1] == bool(slow)
        assert ("zero-shot-best-eclip-plus" in bench.asked) != apart
        assert (result["eclip-plus"]["machine"] == result["CLIP"]["machine"]) == (not slow)
        assert result["CLIP"]["views"] is None
        text = align_page(
            {
                "seeds": [1, 2],
                "machine": "",
                "note": "",
                "mixed_machines": mixed,
                "settings": {cell.name: result},
            }
        )
        assert (OTHER_MACHINE in text) == apart
        assert ("(--mixed-machines)" in text) == mixed
        assert ("one kind of machine" in text) == (not slow)


def test_views_count_full_batches_once_in_an_epoch() -> None:
    cell = next(cell for cell in ALIGN_SETTINGS if cell.name == "300 images, 15 %")
    assert (
        views_of(METHOD_OF["eclip-plus"], cell, [10, 20])
        == pytest.approx(15 * 256 / 300)
        == views_of(METHOD_OF["mask view"], cell, [15])
    )
    assert all(
        views_of(METHOD_OF[name], cell, [10]) is None
        for name in (
            "CLIP",
            "annotated images twice",
            "eCLIP",
            "eclip-plus, oversampled",
            "CLIP, self-trained",
        )
    )


def test_intervals_of_committed_results_are_recomputed() -> None:
    """t of four degrees of freedom for sd / sqrt(5); the images get the rest of the variance.

    The interval of a mean ends at 0.
    """
    half = 1.959964 * (0.03**2 / 5 + 0.0001) ** 0.5
    result = {
        "cell": {
            "row": {
                "value": 0.005,
                "sd": 0.03,
                "low": -half,
                "high": half,
                "difference": {
                    "value": 0.1,
                    "sd": 0.03,
                    "low": 0.1 - half,
                    "high": 0.1 + half,
                    "p": 0.5,
                },
            }
        }
    }
    renew_all(result, 5)
    row, wide = result["cell"]["row"], (2.776445**2 * 0.03**2 / 5 + 1.959964**2 * 0.0001) ** 0.5
    assert row["difference"]["low"] == pytest.approx(0.1 - wide, abs=1e-6)
    assert row["difference"]["high"] == pytest.approx(0.1 + wide, abs=1e-6)
    assert row["difference"]["p"] < 0.05
    assert row["low"] == 0
    assert row["high"] == pytest.approx(0.005 + wide, abs=1e-6)
    assert "p" not in row
    assert on_cpu("600 images, 1 %", "eclip-plus")
    assert not on_cpu("600 images, 5 %", "eclip-plus")
    assert not on_cpu("600 images, 1 %", "align, weight 0.2")
    assert on_cpu("600 images, 15 %", "eclip-plus, self-trained")
    assert on_cpu("600 images, 1 %", "eclip-plus, oversampled, maps of other images")


@pytest.mark.slow
def test_a_worker_restarts_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fast_python())
    worker = Worker("", cache=False)
    with pytest.raises(
        RuntimeError, match="(?s)crash.txt: exit code 1.*No module named openclip_eclip.nosuch"
    ):
        worker.run("openclip_eclip.nosuch", [], tmp_path / "crash.txt")
    for i in range(2):
        assert worker.run("platform", [], tmp_path / f"{i}.txt") > 0
        assert (tmp_path / f"{i}.txt").read_text().strip()
