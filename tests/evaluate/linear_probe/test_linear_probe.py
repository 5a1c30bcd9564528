"""linear-probe: sets and splits, leaks, the choice of C, shares of the labels, and the result."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from openclip_eclip.config import UserError
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.inputs.eval_set import EvalSet
from openclip_eclip.evaluate.inputs.features import ImageFeatures
from openclip_eclip.evaluate.linear_probe import task as linear_probe
from openclip_eclip.evaluate.output.html_page import render_report
from openclip_eclip.evaluate.output.result import Result, markdown, plain, read_predictions
from openclip_eclip.metrics import probe as probe_metrics
from openclip_eclip.prepare.__main__ import main as prepare

WIDTH = 6


def table(
    path: Path,
    count: int = 90,
    start: int = 0,
    classes: tuple[str, ...] = ("Mass", "Nodule"),
    **columns: object,
) -> Path:
    """Write rows with two images for each patient, features in columns f0, f1 ..., and 0/1 columns.

    The 0/1 columns depend on the first features.
    """
    rng = np.random.default_rng(start)
    features = rng.normal(size=(count, WIDTH))
    rows = {
        "filepath": [f"{start + i}.png" for i in range(count)],
        "patient": [f"p{start + i // 2}" for i in range(count)],
    }
    rows |= {f"f{k}": features[:, k] for k in range(WIDTH)}
    rows |= {
        name: (features[:, k] + 0.5 * rng.normal(size=count) > 0.3).astype(int)
        for k, name in enumerate(classes)
    }
    frame = pd.DataFrame({**rows, **columns})
    frame.to_csv(path, index=False)
    for name in rows["filepath"]:
        (path.parent / name).touch()
    return path


def encode(encoder: object, data: EvalSet, options: object) -> tuple[ImageFeatures, EvalSet]:
    """Replaces the model by the columns f0, f1 ...: all are features before the projection.

    Half of them are features after it.
    """
    values = np.array(
        [[float(cell) for cell in data.column(f"f{k}")] for k in range(WIDTH)], dtype=np.float32
    ).T
    return ImageFeatures(values[:, : WIDTH // 2], values), data


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs the task with flags, without a model and with few values of C."""
    for module in (linear_probe, probe_metrics):
        monkeypatch.setattr(module, "STRENGTHS", (1e-4, 1e-2, 1.0))
    monkeypatch.setattr(linear_probe, "encode_images", encode)
    monkeypatch.setattr(
        linear_probe, "read_encoder", lambda args: SimpleNamespace(facts={"model": "columns"})
    )

    def run(*flags: object) -> Result:
        parser = ArgumentParser()
        linear_probe.add_arguments(parser)
        fixed = ("--model", "columns", "--out", "unused", "--fractions", 10, 50, "--resamples", 2)
        args: Namespace = parser.parse_args([str(flag) for flag in (*fixed, *flags)])
        return linear_probe.run(args)

    return run


def sets(folder: Path, **columns: object) -> list[object]:
    train, test = table(folder / "train.csv"), table(folder / "test.csv", 60, 1000, **columns)
    return ["--train-data", train, "--test-data", test, "--classes", "Mass", "Nodule"]


@pytest.mark.slow
def test_three_tables(probe, tmp_path: Path) -> None:
    result = probe(*sets(tmp_path), "--val-data", table(tmp_path / "valid.csv", 40, 500))
    assert result.values["images"] == {"train": 90, "valid": 40, "test": 60}
    cells = result.values["features"]["before projection"]["cells"]
    assert [cell["percent"] for cell in cells] == [10, 50, 100]
    assert [len(cell["C"]) for cell in cells] == [2, 2, 1]
    # 45 patients; 100 % is one set
    assert cells[0]["images"] == [8, 8]
    assert cells[2]["images"] == [90]
    macro = cells[2]["macro_auroc"][0]
    assert macro == pytest.approx(
        np.mean([cells[2]["auroc"][name][0] for name in ("Mass", "Nodule")])
    )
    assert macro > 0.8
    low, high = result.values["features"]["before projection"]["interval at 100 %"]["macro"]
    assert low < macro < high
    values = result.predictions
    assert values["kind"] == "binary"
    assert values["label"].shape == values["score"].shape == (60, 2)
    assert values["classes"].tolist() == ["Mass", "Nodule"]
    assert values["id"][0] == "1000.png"
    assert values["patient"][:3].tolist() == ["p1000", "p1000", "p1001"]
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(values["label"][:, 0], values["score"][:, 0]) == pytest.approx(
        cells[2]["auroc"]["Mass"][0], abs=1e-12
    )
    json.dumps(plain(result.values), allow_nan=False)
    assert "Macro AUROC by share" in markdown(result)
    assert "linear probe" in render_report(result, {"settings": {}, "versions": {}}, {})


@pytest.mark.slow
def test_c_does_not_depend_on_test_labels(probe, tmp_path: Path) -> None:
    first = probe(*sets(tmp_path))
    rng = np.random.default_rng(5)
    second = probe(*sets(tmp_path, Mass=rng.integers(0, 2, 60), Nodule=rng.integers(0, 2, 60)))
    for kind in ("before projection", "after projection"):
        one, other = (result.values["features"][kind]["cells"] for result in (first, second))
        assert [(cell["C"], cell["validation"]) for cell in one] == [
            (cell["C"], cell["validation"]) for cell in other
        ]
        assert [cell["macro_auroc"].tolist() for cell in one] != [
            cell["macro_auroc"].tolist() for cell in other
        ]
    np.testing.assert_array_equal(first.predictions["score"], second.predictions["score"])


@pytest.mark.slow
def test_validation_patients_come_from_the_training_set(probe, tmp_path: Path) -> None:
    result = probe(*sets(tmp_path))
    assert result.values["images"] == {"train": 72, "valid": 18, "test": 60}
    assert probe(*sets(tmp_path)).settings == result.settings
    other = probe(*sets(tmp_path), "--seed", 1).settings["ids_and_labels_sha256"]
    assert other["valid"] != result.settings["ids_and_labels_sha256"]["valid"]


@pytest.mark.slow
def test_one_table_is_split_by_patient_or_by_its_column(probe, tmp_path: Path) -> None:
    data = table(tmp_path / "data.csv", 100)
    assert probe("--data", data, "--classes", "Mass").values["images"] == {
        "train": 60,
        "valid": 20,
        "test": 20,
    }
    folds = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    result = probe(
        "--data",
        table(tmp_path / "folds.csv", 100, fold=folds),
        "--classes",
        "Mass",
        "--split-column",
        "fold",
    )
    assert result.values["images"] == {"train": 60, "valid": 20, "test": 20}
    assert result.predictions["id"][0] == "80.png"
    open_i = table(tmp_path / "openi.csv", 100, fold=["train"] * 80 + ["test"] * 20)
    result = probe("--data", open_i, "--classes", "Mass", "--split-column", "fold")
    assert result.values["images"] == {"train": 64, "valid": 16, "test": 20}
    with pytest.raises(UserError, match=r"row 3 \(2.png\), column 'fold': 'dev'; expected one of"):
        probe(
            "--data",
            table(tmp_path / "bad.csv", 4, fold=["train", "test", "dev", "test"]),
            "--classes",
            "Mass",
            "--split-column",
            "fold",
        )
    with pytest.raises(UserError, match="no row is 'test'"):
        probe(
            "--data",
            table(tmp_path / "bad.csv", 4, fold=["train"] * 4),
            "--classes",
            "Mass",
            "--split-column",
            "fold",
        )


def test_a_patient_or_image_in_two_parts_is_an_error(probe, tmp_path: Path) -> None:
    flags = sets(tmp_path, patient=["p3"] * 30 + ["p1000"] * 30)
    with pytest.raises(UserError, match="1 patient is both in train and in test, such as p3"):
        probe(*flags)
    train = table(tmp_path / "train.csv")
    with pytest.raises(UserError, match="patients are both in valid and in test"):
        probe(*sets(tmp_path), "--val-data", tmp_path / "test.csv")
    # the same images under another patient, or in tables without patients
    for name in (
        "again.csv",
        "train.csv",
    ):
        frame = pd.read_csv(train)
        frame["filepath"] = [str(tmp_path / "sub" / ".." / name) for name in frame["filepath"]]
        (tmp_path / "sub").mkdir(exist_ok=True)
        frame.assign(patient="new").to_csv(tmp_path / "again.csv", index=False)
        with pytest.raises(UserError, match=r"90 images are both in .*[0-9]\.png"):
            probe(
                "--train-data",
                train,
                "--val-data",
                table(tmp_path / "v.csv", 40, 500),
                "--test-data",
                tmp_path / "again.csv",
                "--classes",
                "Mass",
            )
        frame = pd.read_csv(train).drop(columns="patient", errors="ignore")
        frame.to_csv(train, index=False)


@pytest.mark.slow
def test_an_image_listed_twice_stays_in_one_part(probe, tmp_path: Path) -> None:
    data = table(tmp_path / "data.csv", 80)
    frame = pd.read_csv(data).drop(columns="patient")
    pd.concat([frame, frame]).to_csv(data, index=False)
    result = probe("--data", data, "--classes", "Mass")
    assert result.values["images"] == {"train": 96, "valid": 32, "test": 32}
    assert "every image counts as a patient" in result.notes[0]
    assert "patient" not in result.predictions


@pytest.mark.slow
def test_label_column_with_three_and_with_two_classes(probe, tmp_path: Path) -> None:
    names = [("normal", "mass", "edema")[i % 3] for i in range(90)]
    data = table(tmp_path / "three.csv", 90, label=names)
    result = probe("--data", data, "--classes", "normal", "mass", "edema")
    assert result.predictions["label"].shape[1] == 3
    assert (result.predictions["label"].sum(axis=1) == 1).all()
    two = table(tmp_path / "two.csv", 90, label=[i % 2 for i in range(90)])
    (tmp_path / "two.recipe.json").write_text(
        json.dumps({"classes": ["No pneumonia", "Pneumonia"]})
    )
    result = probe("--data", two)
    assert result.predictions["classes"].tolist() == ["Pneumonia"]
    assert result.predictions["label"][:, 0].tolist() == [
        int(name[:-4]) % 2 for name in result.predictions["id"]
    ]


@pytest.mark.slow
def test_blank_and_missing_labels_by_class(probe, tmp_path: Path) -> None:
    flags = sets(tmp_path, Mass=[""] * 30 + ["1", "0"] * 15, Nodule=[0] * 60)
    result = probe(*flags)
    rows = {row[0]: row for row in result.tables[1].rows}
    assert rows["Mass"][2] == "15 of 30"
    assert rows["Nodule"][2] == "0 of 60"
    assert rows["Nodule"][3] is None
    assert any(
        "the test set has no positive or no negative: Nodule." in note for note in result.notes
    )
    cell = result.values["features"]["before projection"]["cells"][-1]
    assert cell["macro_auroc"][0] == cell["auroc"]["Mass"][0]
    assert np.isnan(result.predictions["label"][:30, 0]).all()


def test_a_class_too_rare_for_a_share_is_left_out_and_named(probe, tmp_path: Path) -> None:
    rare = [1 if i in (0, 40, 41, 60, 80) else 0 for i in range(90)]
    data = table(
        tmp_path / "rare.csv", 90, Nodule=rare, fold=["train"] * 50 + ["val"] * 20 + ["test"] * 20
    )
    result = probe(
        "--data",
        data,
        "--classes",
        "Mass",
        "Nodule",
        "--split-column",
        "fold",
        "--fractions",
        1,
        10,
    )
    cells = result.values["features"]["before projection"]["cells"]
    assert cells[0]["left_out"]["Nodule"] == 2
    assert cells[0]["images"] == [2, 2]
    assert cells[2]["left_out"] == {}
    one = cells[1]
    assert one["left_out"]["Nodule"] in (1, 2)
    for mass, nodule, macro in zip(
        one["auroc"]["Mass"], one["auroc"]["Nodule"], one["macro_auroc"]
    ):
        assert macro == pytest.approx(mass if np.isnan(nodule) else (mass + nodule) / 2)
    assert f"Nodule ({one['left_out']['Nodule']})" in result.tables[0].rows[1][-1]


def test_bad_input(probe, tmp_path: Path) -> None:
    flags, data = sets(tmp_path), table(tmp_path / "data.csv", 40)
    for wrong, message in (
        (["--data", data], "no recipe with classes beside it"),
        (["--data", data, "--classes", "Edema"], "no 0/1 column 'Edema'"),
        ([*flags, "--fractions", 0], "above 0 and up to 100"),
        ([*flags, "--resamples", 0], "at least 1"),
        ([*flags, "--data", data], "give --data alone"),
        ([*flags, "--split-column", "fold"], "expected --train-data and --test-data"),
        (["--train-data", data], "expected --train-data and --test-data"),
        (
            ["--data", table(tmp_path / "two.csv", 4, Mass=1), "--classes", "Mass"],
            "2 patients or images",
        ),
        (
            ["--data", table(tmp_path / "one.csv", 40, Mass=1), "--classes", "Mass"],
            "no class of .'Mass'. has",
        ),
        (
            ["--data", table(tmp_path / "odd.csv", 40, Mass=-1), "--classes", "Mass"],
            "'-1'; expected 1, 0 or blank",
        ),
    ):
        with pytest.raises(UserError, match=message):
            probe(*wrong)
    labels = table(tmp_path / "label.csv", 40, 2000, classes=(), label="Mass")
    with pytest.raises(UserError, match="some have the 0/1 columns"):
        probe("--train-data", data, "--test-data", labels, "--classes", "Mass", "Nodule")


@pytest.mark.parametrize("task", ["linear-probe", "embedding-quality"])
def test_help(task: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([task, "--help"])
    assert "--seed" in capsys.readouterr().out


@pytest.mark.slow
def test_phantoms_with_a_model(tiny_model: str, tmp_path: Path) -> None:
    assert (
        prepare(["phantom", str(tmp_path / "ph"), "--train", "2", "--test", "48", "--size", "64"])
        == 0
    )
    out = tmp_path / "out"
    flags = [
        *("--model", tiny_model, "--pretrained", "random", "--device", "cpu", "--workers", "0"),
        *("--cache", "none"),
    ]
    assert (
        main(
            [
                "linear-probe",
                *flags,
                *("--data", str(tmp_path / "ph" / "test.csv"), "--fractions", "25"),
                *("--resamples", "1", "--out", str(out)),
            ]
        )
        == 0
    )
    record = json.loads((out / "result.json").read_text())
    assert set(record["values"]["features"]) == {"before projection", "after projection"}
    assert record["settings"]["predictions_of"] == "before projection"
    assert record["settings"]["C_tried"][0] == 1e-6
    assert read_predictions(out)["score"].shape[0] == 10
    assert (out / "curve.png").is_file()
    assert (out / "classes.png").is_file()


def test_a_tower_without_features_before_its_projection(
    probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unit_alone(*args: object) -> tuple[ImageFeatures, EvalSet]:
        features, data = encode(*args)
        return ImageFeatures(features.unit, None), data

    monkeypatch.setattr(linear_probe, "encode_images", unit_alone)
    result = probe(*sets(tmp_path))
    assert (
        list(result.values["features"])
        == ["after projection"]
        == [result.settings["predictions_of"]]
    )
    assert "This image tower does not give features before its projection." in result.notes
