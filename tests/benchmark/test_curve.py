"""`evaluate curve`: nested training sets, numbers of steps, resume, failures, the report.

All trainings but one are stubs.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import yaml
from conftest import TINY, write_table
from open_clip_train.main import random_seed

from openclip_eclip.benchmark import curve
from openclip_eclip.benchmark.curve_plan import Point, read_plan, training
from openclip_eclip.evaluate.__main__ import main

PLAN: dict[str, Any] = {
    "vary": "batches",
    "values": [1, 2, 4, 8],
    "seeds": [0, 1, 2],
    "methods": {"clip": {"recipe": "clip"}, "eclip": {}},
    "train": {"model": "tiny", "train-data": "train.csv", "batch-size": 4, "warmup": 0.25},
    "evaluate": {"task": "zero-shot", "data": "test.csv"},
    "metric": "headline.macro_f1",
}
Stub = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """22 rows, 10 of them annotated, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path, 22, annotated=range(0, 20, 2))
    return tmp_path


def write_plan(folder: Path, **changes: Any) -> Path:
    path = folder / "curve.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return path


class Runs:
    """Replaces `launch`: writes the result of an evaluation, and counts the calls."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stop_at: int | None = None
        self.fail: str | None = None

    def __call__(self, point: Point, command: list[str], log: Path, lock: int) -> None:
        if len(self.commands) == self.stop_at:
            raise KeyboardInterrupt
        self.commands.append(command)
        if self.fail and self.fail in " ".join(command):
            raise curve.PointError(
                f"{point.name}: exit code 1, the end of {log}:\n    CUDA out of memory"
            )
        if "openclip_eclip.evaluate" in command:
            out = Path(command[-1].removeprefix("--out="))
            out.mkdir(parents=True)
            amount = max(1.0, point.asked)
            score = 0.8 - 0.4 * amount**-0.7 + 0.01 * point.seed + 0.05 * (point.method == "eclip")
            values = {
                "headline": {"macro_f1": score},
                "fractions": {str(point.asked): {"macro.auroc": score}},
            }
            (out / "result.json").write_text(json.dumps({"task": "zero-shot", "values": values}))

    def count(self, what: str) -> int:
        return sum(f"openclip_eclip.{what}" in command for command in self.commands)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    stub = Runs()
    monkeypatch.setattr(curve, "launch", stub)
    return stub


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def flag(command: list[str], name: str) -> str:
    return next(word for word in command if word.startswith(f"--{name}=")).split("=", 1)[1]


@pytest.mark.slow
def test_curve_has_points_fit_figure_and_report(folder: Path, runs: Runs) -> None:
    assert main(["curve", "--config", str(write_plan(folder)), "--out", "out"]) == 0
    assert (runs.count("train"), runs.count("evaluate")) == (24, 24)
    record = json.loads((folder / "out" / "result.json").read_text())
    assert len(record["values"]["points"]) == 24
    # 8 of 5 an epoch: two epochs
    assert {point["x"] for point in record["values"]["points"]} == {
        1,
        2,
        4,
        10,
    }
    fit = record["values"]["fits"]["clip"]
    assert fit["c"]["low"] <= fit["c"]["value"] <= fit["c"]["high"]
    assert fit["a"]["value"] == pytest.approx(0.2, abs=0.05)
    page = (folder / "out" / "report.html").read_text()
    assert "power law" in page
    assert "data:image/png" in page
    assert "sd over seeds" in page
    assert "intervals are wide" in page


def test_batches_are_a_prefix_of_the_same_order_in_all_methods(folder: Path, runs: Runs) -> None:
    plan = read_plan(write_plan(folder))
    rows = {}
    for method in plan.methods:
        for x in plan.values:
            command, true = training(plan, Point(method, 1, x), folder / method / str(x))
            rows[method, x] = [row["filepath"] for row in read(Path(flag(command, "train-data")))]
            assert len(rows[method, x]) == min(x, 5) * 4
            assert int(flag(command, "epochs")) * (len(rows[method, x]) // 4) == true
            assert int(flag(command, "warmup")) == round(0.25 * true)
            assert "--resume=latest" in command
    for x in plan.values:
        assert rows["clip", x] == rows["eclip", x]
    assert rows["clip", 2] == rows["clip", 4][:8]
    assert set(rows["clip", 4]) < set(rows["clip", 8])
    other = training(plan, Point("clip", 2, 2), folder / "other")[0]
    assert [row["filepath"] for row in read(Path(flag(other, "train-data")))] != rows["clip", 2]


def test_annotations_are_nested_and_nothing_else_changes(folder: Path) -> None:
    expert = write_table(folder / "more", 4, annotated=range(4), name="expert.csv")
    # images/ is there twice
    expert.write_text(expert.read_text().replace(",images/", f",{folder / 'more' / 'images'}/"))
    plan = read_plan(
        write_plan(
            folder,
            vary="annotations",
            values=[0.05, 0.3, 1],
            train={**PLAN["train"], "epochs": 2, "expert-data": "more/expert.csv"},
        )
    )
    annotated = {}
    for share, count in ((0.05, 1), (0.3, 3), (1, 10)):
        command, true = training(plan, Point("eclip", 0, share), folder / str(share))
        table = read(Path(flag(command, "train-data")))
        assert true == share
        assert len(table) == 22
        assert flag(command, "warmup") == str(round(0.25 * 2 * 5))
        annotated[share] = {row["filepath"] for row in table if row["heatmap"]}
        assert len(annotated[share]) == count
        assert all(Path(row["heatmap"]).is_file() for row in table if row["heatmap"])
        assert sum(bool(row["heatmap"]) for row in read(Path(flag(command, "expert-data")))) == max(
            1, round(share * 4)
        )
    assert annotated[0.05] < annotated[0.3] < annotated[1]


@pytest.mark.slow
def test_label_shares_of_a_seed_share_one_training(folder: Path, runs: Runs) -> None:
    config = write_plan(
        folder,
        vary="labels",
        values=[0.1, 1, 10, 100],
        train={**PLAN["train"], "warmup": 3, "epochs": 2},
        evaluate={"task": "linear-probe", "data": "test.csv", "fractions": "{x}"},
        metric="fractions.{x}.macro.auroc",
    )
    assert main(["curve", "--config", str(config), "--out", "out"]) == 0
    assert (runs.count("train"), runs.count("evaluate")) == (6, 24)
    probe = next(command for command in runs.commands if "linear-probe" in command)
    assert flag(probe, "fractions") == "0.1"
    assert flag(probe, "model").endswith("clip/seed-0/training/run")


@pytest.mark.slow
def test_interrupted_curve_resumes(folder: Path, runs: Runs) -> None:
    config = str(write_plan(folder))
    runs.stop_at = 7  # three points, and the training of the fourth
    with pytest.raises(KeyboardInterrupt):
        main(["curve", "--config", config, "--out", "out"])
    assert "Not finished" in (folder / "out" / "result.md").read_text()
    # a cut-off evaluation
    half = folder / "out" / "points" / "eclip" / "seed-1" / "x-1" / "evaluation"
    half.mkdir(parents=True)
    (half / "features").write_text("half")
    runs.stop_at = None
    assert main(["curve", "--config", config, "--out", "out"]) == 0
    assert (runs.count("train"), runs.count("evaluate")) == (24, 24)
    assert not (half / "features").exists()
    before = (folder / "out" / "result.json").read_text()
    assert main(["curve", "--config", config, "--out", "out"]) == 0
    assert len(runs.commands) == 48
    assert (folder / "out" / "result.json").read_text() == before


@pytest.mark.slow
def test_failed_points_are_named_and_the_others_are_made(
    folder: Path, runs: Runs, capsys: pytest.CaptureFixture
) -> None:
    runs.fail = "eclip/seed-1/x-2/"
    config = str(write_plan(folder))
    assert main(["curve", "--config", config, "--out", "out"]) == 2
    message = capsys.readouterr().err
    assert "1 of 24 points failed" in message
    assert "eclip, seed 1, 2" in message
    assert "CUDA out of memory" in message
    values = json.loads((folder / "out" / "result.json").read_text())["values"]
    assert len(values["points"]) == 23
    assert set(values["fits"]) == {"clip", "eclip"}
    runs.fail = None
    assert main(["curve", "--config", config, "--out", "out"]) == 0
    assert runs.count("train") == 25


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_an_error(
    folder: Path, runs: Runs, capsys: pytest.CaptureFixture
) -> None:
    main(["curve", "--config", str(write_plan(folder)), "--out", "out"])
    config = write_plan(folder, train={**PLAN["train"], "lr": 0.1})
    assert main(["curve", "--config", str(config), "--out", "out"]) == 2
    assert "made by other commands" in capsys.readouterr().err


def test_old_names_of_flags_are_the_same_commands() -> None:
    """A folder begun with release 0.1 is continued."""
    old = json.dumps({"train": ["-m", "x", "--align-least=0.1"], "evaluate": []}, indent=2)
    new = json.dumps({"train": ["-m", "x", "--align-min-share=0.1"], "evaluate": []}, indent=2)
    assert curve._same_commands(old, new)
    assert not curve._same_commands(old.replace("0.1", "0.2"), new)
    assert not curve._same_commands("[]", new)


def test_two_curves_do_not_work_in_one_folder(
    folder: Path, runs: Runs, capsys: pytest.CaptureFixture
) -> None:
    """Nor a curve beside a training of a killed curve: the child process holds the lock."""
    points = folder / "out" / "points"
    with curve._alone(points) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )
    try:
        with pytest.raises(curve.UserError, match="still works in this"), curve._alone(points):
            pass
    finally:
        child.communicate(b"\n")
    with curve._alone(points):
        pass


def test_three_values_give_points_and_no_fit(folder: Path, runs: Runs) -> None:
    assert (
        main(
            [
                *("curve", "--config", str(write_plan(folder, values=[1, 2, 4], seeds=[0]))),
                *("--out", "out"),
            ]
        )
        == 0
    )
    record = json.loads((folder / "out" / "result.json").read_text())
    assert record["values"]["fits"] == {}
    assert any("3 distinct values" in note for note in record["notes"])
    assert any("ONE SEED" in note for note in record["notes"])


def test_launch_quotes_the_log(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "print('reading', flush=True); raise SystemExit('no such table; $HOME')",
    ]
    message = r"exit code 1(.|\n)*reading(.|\n)*no such table; \$HOME"
    with (tmp_path / "lock").open("w") as lock, pytest.raises(curve.PointError, match=message):
        curve.launch(Point("clip", 0, 1), command, tmp_path / "log", lock.fileno())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vary": "epochs"}, "vary: epochs; expected one of"),
        ({"values": [0, 1]}, "values"),
        ({"values": [1, 1]}, "distinct numbers"),
        ({"values": ["1e3"]}, "values"),
        ({"vary": "labels", "values": [0.5, 200]}, "at most 100"),
        ({"vary": "annotations", "values": [2]}, "at most 1"),
        ({"seeds": [0.5]}, "whole numbers"),
        ({"seeds": []}, "seeds"),
        ({"methods": []}, "methods"),
        ({"methods": {"a/b": {}}}, "names of letters"),
        ({"train": {**PLAN["train"], "seed": 1}}, "sets itself"),
        ({"train": {**PLAN["train"], "epochs": 1}}, "sets itself"),
        ({"train": {"model": "tiny"}}, "train-data and batch-size"),
        ({"evaluate": {"data": "x"}}, "task"),
        ({"speed": 1}, "expected the entries"),
        ({"train": {**PLAN["train"], "train-data": "a.tar"}}, "expected a .csv or .tsv"),
        ({"train": {**PLAN["train"], "batch-size": 64}}, "do not fill"),
        ({"train": {**PLAN["train"], "train-data": "none.csv"}}, "no such file"),
        ({"metric": "headline.f1"}, "metric headline.f1: None in"),
        ({"values": [1, 2, 8, 10]}, "as for an earlier value"),
    ],
)
def test_bad_plans_are_named(
    folder: Path, runs: Runs, capsys: pytest.CaptureFixture, changes: dict, message: str
) -> None:
    assert main(["curve", "--config", str(write_plan(folder, **changes)), "--out", "out"]) == 2
    assert message in capsys.readouterr().err


def test_plan_that_is_not_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bad.yaml").write_text("values: [1,\nvary: {")
    for name in ("bad.yaml", "none.yaml"):
        assert (
            main(["curve", "--config", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        )
        assert "not a readable YAML file" in capsys.readouterr().err


def test_score_outside_0_to_1_is_an_error() -> None:
    with pytest.raises(curve.UserError, match="expected a number from 0 to 1"):
        curve._score({"ranks": {"median": 12.0}}, "ranks.median", Path("x"))
    assert (
        curve._score({"shares": {"0.1": {"macro.auroc": 0.5}}}, "shares.0.1.macro.auroc", Path("x"))
        == 0.5
    )


def test_methods_start_from_the_same_weights() -> None:
    """As open_clip_train.main does it: first the seed is set, then the model is built."""
    states = []
    for name in ("tiny", "eclip-tiny"):
        random_seed(3, 0)
        states.append(open_clip.create_model(name).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.slow
def test_training_of_a_point_takes_its_number_of_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x = 8 becomes two epochs of five steps; the evaluation is a stub."""
    (folder / "model").mkdir()
    (folder / "model" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY, "preprocess_cfg": {}})
    )
    stub, real = Runs(), curve.launch
    monkeypatch.setattr(
        curve,
        "launch",
        lambda point, command, log, lock: (real if "openclip_eclip.train" in command else stub)(
            point, command, log, lock
        ),
    )
    train = {
        **PLAN["train"],
        "model": "local-dir:model",
        "precision": "fp32",
        "workers": 0,
        "device": "cpu",
        "lr": 1e-3,
        "log-every-n-steps": 1,
    }
    config = write_plan(
        folder, values=[8], seeds=[0], methods={"clip": {"recipe": "clip"}}, train=train
    )
    assert main(["curve", "--config", str(config), "--out", "out"]) == 0
    own = folder / "out" / "points" / "clip" / "seed-0" / "x-8" / "training" / "run"
    assert len(re.findall(r" Loss: ", (own / "out.log").read_text())) == 10
    state = torch.load(own / "checkpoints" / "epoch_2.pt", weights_only=True)
    assert all(float(entry["step"]) == 10 for entry in state["optimizer"]["state"].values())
    # warm-up of 2, then cosine
    assert np.isclose(
        state["optimizer"]["param_groups"][0]["lr"], 1e-3 * 0.5 * (1 + np.cos(np.pi * 7 / 8))
    )
