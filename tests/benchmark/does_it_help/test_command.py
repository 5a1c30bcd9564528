"""Budgets, forecasts, settings of a folder, the live table; a tiny benchmark from end to end."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import open_clip
import pytest
from safetensors.torch import save_file

from openclip_eclip.benchmark.__main__ import main
from openclip_eclip.benchmark.does_it_help.command import (
    FILE,
    cache_flags,
    check_settings,
    start_flags,
)
from openclip_eclip.benchmark.does_it_help.data import Data
from openclip_eclip.benchmark.does_it_help.forecast import (
    Budget,
    Costs,
    read_budget,
    steps_of_budget,
)
from openclip_eclip.benchmark.does_it_help.live import LiveTable, duration
from openclip_eclip.benchmark.does_it_help.methods import CHOICES, DEFAULT, choose
from openclip_eclip.config import UserError
from openclip_eclip.params import eclip_parser, method_names
from openclip_eclip.prepare.__main__ import main as prepare

FINE = Path(__file__).parents[3] / "openclip_eclip" / "benchmark" / "phantom_model_fine"
COSTS = Costs(start=2.0, step={"clip": 0.5, "plus": 1.0}, measure=4.0, elapsed=30.0)
DATA = Data("train.csv", Path("v.csv"), Path("t.csv"), 320, 60, {}, None, {})


def test_methods_are_flags_of_the_trainer() -> None:
    for choice in CHOICES.values():
        args, rest = eclip_parser().parse_known_args([str(flag) for flag in choice.flags])
        assert not rest and method_names(args)
        assert set(choice.control_of) <= set(CHOICES)
    assert len(DEFAULT) == 6


def test_choose_keeps_one_order_and_refuses_what_answers_nothing() -> None:
    assert [one.name for one in choose(["placebo", "eclip-plus", "CLIP"])] == [
        "CLIP",
        "eclip-plus",
        "placebo",
    ]
    with pytest.raises(UserError, match="--methods eclipse: not a method"):
        choose(["CLIP", "eclipse"])
    with pytest.raises(UserError, match="expected CLIP and at least one of"):
        choose(["CLIP", "placebo"])


@pytest.mark.parametrize(
    "text, budget",
    [
        ("30m", Budget(30, None)),
        ("1.5 h", Budget(90, None)),
        ("500 steps", Budget(None, 500)),
        ("1 step", Budget(None, 1)),
    ],
)
def test_budget(text: str, budget: Budget) -> None:
    assert read_budget(text) == budget


@pytest.mark.parametrize("text", ["", "30", "-3m", "0 steps", "soon"])
def test_budget_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        read_budget(text)


def test_steps_fill_the_budget_and_not_more() -> None:
    choices = choose(["CLIP", "eclip-plus"])
    where = (choices, 3, 2)
    steps = steps_of_budget(Budget(10, None), COSTS, *where, DATA, 32, 2)
    assert steps % 10 == 0  # whole epochs of 320 / 32
    assert COSTS.total(*where, steps, 2) <= 570 < COSTS.total(*where, steps + 10, 2)
    assert steps_of_budget(Budget(None, 77), COSTS, *where, DATA, 32, 2) == 77
    with pytest.raises(UserError, match=r"at least \d+ minutes with one epoch each"):
        steps_of_budget(Budget(1, None), COSTS, *where, DATA, 32, 2)


def test_changed_settings_are_an_error_that_names_them(tmp_path: Path) -> None:
    record = {"methods": ["CLIP"], "seeds": 3, "wd": 0.1, "data": {"test.csv": "a"}}
    assert check_settings(tmp_path, record) == {}
    (tmp_path / FILE).write_text(json.dumps({**record, "steps": 40}))
    assert check_settings(tmp_path, record)["steps"] == 40
    assert check_settings(tmp_path, {**record, "seeds": 5, "methods": ["CLIP", "eclip"]})
    with pytest.raises(UserError, match=r"made with --wd 0\.1, now it is 0\.2"):
        check_settings(tmp_path, {**record, "wd": 0.2})
    with pytest.raises(UserError, match=r"made with other data \(test\.csv\)"):
        check_settings(tmp_path, {**record, "data": {"test.csv": "b"}})


@pytest.mark.parametrize("flag", [["--minutes", "3"], ["--minutes=3"]])
def test_runs_end_by_steps(flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = [f"--{name}-data=none.csv" for name in ("train", "val", "test")]
    assert main([*data, "--model", "x", "--out", str(tmp_path / "out"), *flag]) == 2
    assert "--budget 30m" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_live_table_counts_runs_and_forecasts_the_rest() -> None:
    stream = io.StringIO()
    table = LiveTable(choose(["CLIP", "eclip-plus"]), 2, {"CLIP": 10, "eclip-plus": 20}, 2, stream)
    assert table.left() == 30
    table.update("CLIP", 1e-3, 14.0, 9.5)
    assert table.left() == 27  # one run of 14 s and two of 20 s, two at a time
    table.update("CLIP", 3e-3, None, None, "diverged")
    text = stream.getvalue() + table.text()
    assert "9.5 at lr 0.001, 1 failed" in text and "0/2" in text
    assert [duration(s) for s in (40, 720, 12600)] == ["40 seconds", "12 minutes", "3.5 hours"]


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "either --start"),
        ({"start": "a", "model": "b"}, "either --start"),
        ({"model": "b", "pretrained": "c"}, "trained from scratch"),
        ({"start": "ViT-B-32"}, "no --pretrained"),
        ({"start": f"local-dir:{FINE}"}, "no weights"),
        ({"start": "FOLDER"}, "no weights"),
    ],
)
def test_start_must_be_clear(flags: dict, message: str, tmp_path: Path) -> None:
    from argparse import Namespace

    if flags.get("start") == "FOLDER":
        shutil.copytree(FINE, tmp_path / "model")
        flags = {"start": str(tmp_path / "model")}
    none = {"start": None, "model": None, "pretrained": None, "out": tmp_path}
    with pytest.raises(UserError, match=message):
        start_flags(Namespace(**{**none, **flags}))


def tables(folder: Path) -> list[str]:
    """Phantom tables for training, validation and test, as flags."""
    prepare(["phantom", str(folder), "--train", "72", "--test", "24", "--annotated", "0.3"])
    with open(folder / "train.csv", newline="") as file:
        train = list(csv.DictReader(file))
    with open(folder / "test_gaze.csv", newline="") as file:
        gaze = {row["filepath"]: row["gaze"] for row in csv.DictReader(file)}
    with open(folder / "test.csv", newline="") as file:
        test = [{**row, "heatmap": gaze[row["filepath"]]} for row in csv.DictReader(file)]
    flags = []
    for name, rows in (("train", train[:48]), ("val", train[48:]), ("test", test)):
        path = folder / f"{name}_rows.csv"
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(
                file, ["filepath", "title", "heatmap", "label"], extrasaction="ignore"
            )
            writer.writeheader()
            writer.writerows(rows)
        flags += [f"--{name}-data", str(path)]
    return flags


def test_shared_images_and_missing_columns_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = tables(tmp_path / "data")
    base = [*flags, "--model", f"local-dir:{FINE}", "--out", str(tmp_path / "out")]
    assert main([*base, "--label-column", "finding"]) == 2
    assert "--label-column finding: not in" in capsys.readouterr().err
    assert main([*base, "--test-data", flags[1]]) == 2
    assert "expected different images" in capsys.readouterr().err
    assert main([*base, "--csv-heatmap-key", "gaze"]) == 2
    assert "no column 'gaze'" in capsys.readouterr().err
    table = Path(flags[flags.index("--test-data") + 1])
    lines = table.read_text().splitlines()
    patients = ["patient", "", *range(len(lines) - 2)]
    table.write_text("\n".join(f"{line},{cell}" for line, cell in zip(lines, patients)))
    assert main([*base, "--patient-column", "patient"]) == 2
    assert "test_000000.png: --patient-column patient is blank" in capsys.readouterr().err


@pytest.mark.slow
def test_small_benchmark_resumes_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = [
        *tables(tmp_path / "data"),
        *("--model", f"local-dir:{FINE}", "--force-context-length", "32", "--batch-size", "24"),
        *("--methods", "CLIP", "eclip-plus", "placebo", "--lr", "1e-3", "3e-3"),
        *("--budget", "4 steps", "--label-column", "label", "--out", str(tmp_path / "out")),
    ]
    assert main([*command, "--seeds", "1"]) == 0
    out = tmp_path / "out"
    first = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/table.json")}
    assert len(first) == 6  # two rates of three methods; the better one is the run of seed 0
    values = json.loads((out / "result.json").read_text())["values"]
    assert values["outcomes"].keys() == {"attention", "retrieval", "zero-shot"}
    assert values["scores"]["attention"]["differences"].keys() >= {"eclip-plus minus placebo"}
    answer = capsys.readouterr().err
    report = (out / "report.html").read_text(encoding="utf-8")
    for line in ("On your 24 test images with a marked region", "This is one seed"):
        assert line in answer and line in report and line in (out / "result.md").read_text()
    assert report.count("data:image/") == 2 + 20  # differences, curves, examples
    assert len(report) < 10e6
    attention = values["scores"]["attention"]
    assert attention["methods"]["CLIP"].keys() == {"pointing game", "NSS", "mIoU"}
    assert attention["priors"].keys() >= {"center", "mean map of the data"}
    assert values["regions"]["positions"] == [8, 8]
    at_a_glance = report.partition("At a glance")[2].partition("</table>")[0]
    assert at_a_glance.count("no model: ") == 2 and at_a_glance.count("<tr>") == 1 + 3 + 2
    # the run that is missing is made again, and a second seed is added; nothing else is trained
    victim = min(out.glob("results/test/retrieval/eclip-plus-*"))
    (victim / "result.json").unlink()
    assert main([*command, "--seeds", "2"]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert len(list(out.glob("runs/*/table.json"))) == 9
    assert (victim / "result.json").is_file()
    assert main([*command, "--seeds", "2", "--wd", "0.3"]) == 2
    assert "made with --wd 0.1, now it is 0.3" in capsys.readouterr().err


@pytest.mark.slow
def test_shards_and_a_trained_model_to_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One shard has one reader; the tuned model is any open_clip folder; no map is needed."""
    model = open_clip.create_model(f"local-dir:{FINE}")
    start = tmp_path / "start"
    shutil.copytree(FINE, start)
    save_file(model.state_dict(), start / "open_clip_model.safetensors")
    prepare(
        ["phantom", str(tmp_path / "shards"), "--train", "48", "--test", "4", "--annotated", "0.3"]
        + ["--format", "webdataset", "--seed", "1"]
    )
    (shard,) = (tmp_path / "shards").glob("train*.tar")
    flags = tables(tmp_path / "data")
    test = Path(flags[-1])
    with open(test, newline="") as file:
        rows = [{**row, "heatmap": ""} for row in csv.DictReader(file)]
    with open(test, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    command = [
        *("--train-data", str(shard), *flags[2:], "--start", str(start)),
        *("--methods", "CLIP", "eclip-plus", "--seeds", "1", "--lr", "1e-4"),
        *("--budget", "2 steps", "--force-context-length", "32", "--batch-size", "24"),
        *("--out", str(tmp_path / "out")),
    ]
    assert main(command) == 2
    assert "--train-num-samples" in capsys.readouterr().err
    assert main([*command, "--train-num-samples", "48"]) == 0, capsys.readouterr().err
    assert "This is one seed" in capsys.readouterr().err
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Where the methods attend was not measured, and no examples are shown" in report
    assert report.count("data:image/") == 2 and "pointing game" not in report
    assert "no model: " not in report


def test_cache_flags_need_a_frozen_tower(capsys: pytest.CaptureFixture) -> None:
    from argparse import Namespace

    choices = choose(["CLIP", "eclip-plus", "eclip"])
    none = {"cache_tokens": None, "cache_crops": None, "cache_tokens_dtype": None}
    assert cache_flags(Namespace(**none), True, choices) == []
    with pytest.raises(UserError, match="belong to --cache-tokens"):
        cache_flags(Namespace(**{**none, "cache_crops": 2}), True, choices)
    given = Namespace(**{**none, "cache_tokens": "tokens", "cache_crops": 2})
    with pytest.raises(UserError, match="without --freeze-image"):
        cache_flags(given, False, choices)
    where = str(Path("tokens").absolute())
    assert cache_flags(given, True, choices) == ["--cache-tokens", where, "--cache-crops", 2]
    assert "eclip: without --cache-tokens" in capsys.readouterr().err


@pytest.mark.slow
def test_frozen_tower_is_computed_once_for_all_methods_that_allow_it(tmp_path: Path) -> None:
    model = open_clip.create_model(f"local-dir:{FINE}")
    start = tmp_path / "start"
    shutil.copytree(FINE, start)
    save_file(model.state_dict(), start / "open_clip_model.safetensors")
    command = [
        *tables(tmp_path / "data"),
        *("--start", str(start), "--freeze-image", "all", "--cache-crops", "2"),
        *("--cache-tokens", str(tmp_path / "tokens"), "--methods", "CLIP", "eclip-plus", "eclip"),
        *("--seeds", "1", "--lr", "1e-3", "--budget", "4 steps", "--force-context-length", "32"),
        *("--batch-size", "24", "--jobs", "1", "--out", str(tmp_path / "out")),
    ]
    assert main(command) == 0
    texts = [path.read_text() for path in sorted((tmp_path / "out").glob("runs/*/out.log"))]
    kept = ["--cache-tokens, image" in text for text in texts]
    assert kept == [True, False, True]  # clip, eclip, eclip-plus
    # eclip-plus finds what CLIP computed: each view of 48 images, and 24 of validation
    assert "--cache-tokens, image: 0 computed" in texts[2]
    record = json.loads((tmp_path / "out" / FILE).read_text())
    assert record["costs"]["fill"] > 0
