"""`evaluate compare`: alignment by id, notes on what is unknown, files, bad input."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from openclip_eclip.evaluate.__main__ import main

CLASSES = ["normal", "nodule", "mass"]


def write(
    folder: Path,
    kind: str = "classes",
    gain: float = 1.0,
    seed: int = 0,
    count: int = 60,
    order: np.ndarray | None = None,
    **changes: np.ndarray,
) -> str:
    """Write a result folder; all seeds share the images, but not the predictions."""
    images, own = np.random.default_rng(99), np.random.default_rng([seed, int(gain * 10)])
    label = images.integers(0, 3, count)
    arrays = {"id": np.array([f"images/{i}.png" for i in range(count)]), "kind": np.array(kind)}
    if kind == "classes":
        arrays |= {
            "label": label,
            "score": np.eye(3)[label] * gain + own.normal(size=(count, 3)),
            "classes": np.array(CLASSES),
        }
    elif kind == "binary":
        labels = np.eye(3)[label]
        labels[0] = np.nan
        arrays |= {
            "label": labels,
            "score": np.eye(3)[label] * gain + own.normal(size=(count, 3)),
            "classes": np.array(CLASSES),
        }
    else:
        arrays["rank"] = np.ceil(own.exponential(10 / gain, count))
    arrays |= changes
    if order is not None:
        arrays = {
            key: value[order] if value.ndim and key != "classes" else value
            for key, value in arrays.items()
        }
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", **arrays)
    return str(folder)


def methods(tmp_path: Path, kind: str = "classes", seeds: int = 3) -> list[str]:
    return [
        f"{name}=" + ",".join(write(tmp_path / f"{name}{s}", kind, gain, s) for s in range(seeds))
        for name, gain in (("clip", 1.0), ("eclip", 1.5))
    ]


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize(
    "kind, metric", [("classes", "macro-F1"), ("binary", "macro AUROC"), ("ranks", "R@5")]
)
def test_every_kind_of_predictions_gives_means_with_intervals_and_a_report(
    tmp_path: Path, kind: str, metric: str
) -> None:
    assert main(["compare", *methods(tmp_path, kind), "--out", str(tmp_path / "out")]) == 0
    values = result(tmp_path / "out")["values"]
    own = values["methods"]["eclip"][metric]
    assert own["low"] < own["value"] < own["high"]
    assert own["sd"] > 0
    output = values["differences"]["eclip"][metric]
    assert output["value"] == pytest.approx(
        own["value"] - values["methods"]["clip"][metric]["value"]
    )
    assert output["low"] < output["value"] < output["high"]
    assert 0 < output["p"] <= 1
    entries = [*values["differences"]["eclip"].values(), *values["classes"]["eclip"].values()]
    assert all((entry["p"] < 0.05) == (entry["low"] > 0 or entry["high"] < 0) for entry in entries)
    assert values["needed"]["eclip"][metric]["smallest_difference"] > 0
    assert values["seeds"] == {"clip": 3, "eclip": 3}
    assert values["images"] == 60
    if kind != "ranks":
        assert set(values["classes"]["eclip"]) == set(CLASSES)
        assert all(entry["p_holm"] >= entry["p"] for entry in values["classes"]["eclip"].values())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png" in page
    assert (tmp_path / "out" / "differences.png").stat().st_size > 5000
    assert "intervals are wide" in page  # three seeds


def test_value_is_the_mean_of_scikit_learns_scores_over_seeds(tmp_path: Path) -> None:
    words = methods(tmp_path)
    main(["compare", *words, "--out", str(tmp_path / "out"), "--draws", "100"])
    scores = []
    for folder in words[1].removeprefix("eclip=").split(","):
        with np.load(Path(folder) / "predictions.npz") as arrays:
            scores.append(f1_score(arrays["label"], arrays["score"].argmax(1), average="macro"))
    values = result(tmp_path / "out")["values"]["methods"]["eclip"]["macro-F1"]
    assert (values["value"], values["sd"]) == pytest.approx(
        (np.mean(scores), np.std(scores, ddof=1)), abs=1e-12
    )


def test_order_of_samples_does_not_matter(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a"), write(tmp_path / "b", gain=2.0)
    mixed = write(tmp_path / "c", gain=2.0, order=np.random.default_rng(0).permutation(60))
    main(["compare", f"a={one}", f"b={two}", "--out", str(tmp_path / "plain")])
    main(["compare", f"a={one}", f"b={mixed}", "--out", str(tmp_path / "mixed")])
    assert result(tmp_path / "plain")["values"] == result(tmp_path / "mixed")["values"]


def test_one_seed_has_a_warning_and_no_needed_number_of_seeds(tmp_path: Path) -> None:
    main(
        [
            *("compare", write(tmp_path / "a"), write(tmp_path / "b", gain=2.0)),
            *("--out", str(tmp_path / "out")),
        ]
    )
    record = result(tmp_path / "out")
    (loud,) = [note for note in record["notes"] if "ONE SEED" in note]
    assert "covers test images only" in loud
    assert str(tmp_path / "a") in loud
    assert str(tmp_path / "b") in loud
    needed = record["values"]["needed"][str(tmp_path / "b")]["macro-F1"]
    assert needed["seeds"] is None
    assert needed["images"] > 60


def test_bootstrap_draws_whole_patients(tmp_path: Path) -> None:
    """Each patient has four equal images: an interval over images would be half as wide."""
    label = np.repeat(np.random.default_rng(0).integers(0, 3, 30), 4)
    widths = {}
    for name, extra in (
        ("image", {}),
        ("patient", {"patient": np.repeat([f"p{i}" for i in range(30)], 4)}),
    ):
        folders = [
            write(
                tmp_path / f"{name}{g}",
                gain=g,
                count=120,
                label=label,
                **extra,
                score=np.repeat(np.random.default_rng(g).normal(size=(30, 3)), 4, axis=0)
                + g * np.eye(3)[label],
            )
            for g in (1, 2)
        ]
        main(["compare", *folders, "--out", str(tmp_path / f"out{name}")])
        values = result(tmp_path / f"out{name}")["values"]
        output = values["differences"][folders[1]]["accuracy"]
        widths[name] = output["high"] - output["low"]
    assert values["patients"] == 30
    assert widths["patient"] > 1.6 * widths["image"]


def test_different_numbers_of_seeds_are_not_paired_and_noted(tmp_path: Path) -> None:
    first = ",".join(write(tmp_path / f"a{s}", seed=s) for s in range(3))
    second = ",".join(write(tmp_path / f"b{s}", seed=s, gain=2.0) for s in range(2))
    assert main(["compare", f"a={first}", f"b={second}", "--out", str(tmp_path / "out")]) == 0
    record = result(tmp_path / "out")
    assert any("not paired" in note for note in record["notes"])
    assert record["values"]["needed"]["b"]["accuracy"] is None


def test_class_without_samples_is_named(tmp_path: Path) -> None:
    label = np.arange(60) % 2
    folders = [write(tmp_path / str(g), gain=g, label=label) for g in (1, 2)]
    main(["compare", *folders, "--out", str(tmp_path / "out")])
    assert any("mass" in note for note in result(tmp_path / "out")["notes"])
    assert result(tmp_path / "out")["values"]["classes"][folders[1]]["mass"]["p_holm"] is None


def test_results_of_two_protocols_are_noted(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, gain=g) for name, g in (("a", 1), ("b", 2))]
    for folder, protocol in zip(folders, ("gloria", "eclip-paper"), strict=True):
        (Path(folder) / "result.json").write_text(
            json.dumps({"task": "zero-shot", "settings": {"protocol": protocol}})
        )
    main(["compare", *folders, "--out", str(tmp_path / "out")])
    assert any("protocols" in note for note in result(tmp_path / "out")["notes"])


def recorded(
    folder: Path,
    gain: float = 1.0,
    seed: int = 0,
    trained: object = "H100",
    measured: object = "AMD EPYC (CPU)",
    torch: object = "2.14.1",
    kind: object = "x86_64",
) -> str:
    """Write a result with a record of its machines; None: not recorded."""
    name = write(folder, gain=gain, seed=seed)
    machine = {
        "device": measured,
        "trained": None if trained is None else [{"device": trained, "torch": torch}],
    }
    record = {
        "task": "zero-shot",
        "settings": {} if measured is None else {"machine": machine},
        "versions": {"torch": torch, "machine": kind},
    }
    (folder / "result.json").write_text(json.dumps(record))
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"trained": "AMD EPYC (CPU)"},
            ["trained on: H100 (2 of 3 results", "AMD EPYC (CPU) (1 of 3"],
        ),
        ({"measured": "Intel Xeon (CPU)"}, ["measured on: ", "Intel Xeon"]),
        (
            {"torch": "2.11.0"},
            ["trained with torch", "measured with torch: 2.14.1 (2 of 3", "2.11.0"],
        ),
        ({"kind": "aarch64"}, ["aarch64"]),
    ],
)
def test_results_of_different_machines_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture, other: dict, message: list[str]
) -> None:
    """This holds within one method, too. With --mixed-machines they are compared.

    The first line of the report says so.
    """
    words = [
        f"a={recorded(tmp_path / 'a')},{recorded(tmp_path / 'b', seed=1)}",
        f"c={recorded(tmp_path / 'c', 2.0, **other)}",
    ]
    assert main(["compare", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert all(
        part in error
        for part in [
            "error: the results come from different machines",
            "--mixed-machines",
            *message,
        ]
    ), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main(["compare", *words, "--mixed-machines", "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "result.md").read_text()
    assert page.splitlines()[2].startswith("**MIXED MACHINES")
    assert all(part in page for part in message)
    assert result(tmp_path / "out")["settings"]["mixed_machines"] is True


def test_one_machine_and_unknown_machines_are_noted(tmp_path: Path) -> None:
    same = [recorded(tmp_path / name, gain) for name, gain in (("a", 1.0), ("b", 2.0))]
    assert main(["compare", *same, "--out", str(tmp_path / "same")]) == 0
    notes = result(tmp_path / "same")["notes"]
    assert any(
        "trained on: H100" in note and "measured on: AMD EPYC (CPU)" in note for note in notes
    )
    assert not any("not recorded" in note for note in notes)
    old = recorded(tmp_path / "old", 3.0, trained=None, measured=None)
    assert main(["compare", same[0], old, "--out", str(tmp_path / "old-too")]) == 0
    (note,) = [note for note in result(tmp_path / "old-too")["notes"] if "not recorded" in note]
    assert "trained on of 1 of 2" in note
    assert "measured on of 1 of 2" in note
    assert "torch of 1" not in note.replace("trained with torch of 1 of 2", "")


def test_a_run_on_two_machines_is_a_kind_of_its_own(tmp_path: Path) -> None:
    words = [recorded(tmp_path / name, gain) for name, gain in (("a", 1.0), ("b", 2.0))]
    record = result(tmp_path / "b")
    record["settings"]["machine"]["trained"].append({"device": "H200", "torch": "2.14.1"})
    (tmp_path / "b" / "result.json").write_text(json.dumps(record))
    assert main(["compare", *words, "--out", str(tmp_path / "out")]) == 2


@pytest.mark.slow
def test_intervals_of_means_stay_in_the_range_of_the_score(tmp_path: Path) -> None:
    """Two seeds are far apart: Student's t reaches below 0 and above 1, but a share cannot."""
    label = np.random.default_rng(0).integers(0, 3, 60)
    folders = [
        ",".join(
            write(
                tmp_path / f"{name}{s}",
                label=label,
                score=np.eye(3)[(label + s * (np.arange(60) % 2)) % 3],
            )
            for s in range(2)
        )
        for name in "ab"
    ]
    main(
        [
            "compare",
            *(f"{name}={folder}" for name, folder in zip("ab", folders, strict=True)),
            *("--out", str(tmp_path / "out")),
        ]
    )
    values = result(tmp_path / "out")["values"]["methods"]["a"]["accuracy"]
    assert (values["low"], values["high"]) == (0, 1)
    assert values["value"] == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    "second, message",
    [
        ({"count": 58}, ["2 only in", "images/58.png"]),
        ({"kind": "ranks"}, ["holds ranks", "holds classes"]),
        ({"classes": np.array(["normal", "nodule", "cyst"])}, ["cyst", "expected the same"]),
        ({"label": np.zeros(60, dtype=int)}, ["other labels", "images/"]),
        (
            {"id": np.array(["images/0.png"] * 2 + [f"images/{i}.png" for i in range(2, 60)])},
            ["1 only in"],
        ),
        ({"score": np.full((60, 3), np.nan)}, ["180 predictions are NaN"]),
    ],
)
def test_bad_results_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, second: dict, message: list[str]
) -> None:
    folders = [write(tmp_path / "a"), write(tmp_path / "b", **second)]
    assert main(["compare", *folders, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in message), error


@pytest.mark.parametrize(
    "words, message",
    [
        (["a"], "two or more"),
        (["x=a", "x=b"], "two or more"),
        (["a", "nowhere"], "no such folder"),
        (["x=a,a", "b"], "twice"),
        (["x=a,empty", "b"], "no predictions.npz"),
        (["a", "b", "--draws", "5"], "at least 100 draws"),
        (["a", "b", "--difference", "0"], "above 0"),
    ],
)
def test_wrong_method_arguments_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a")
    write(tmp_path / "b", gain=2.0)
    (tmp_path / "empty").mkdir()
    assert main(["compare", *words, "--out", "out"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_comparison_of_5000_images_and_ten_seeds_takes_seconds(tmp_path: Path) -> None:
    words = [
        f"{name}="
        + ",".join(write(tmp_path / f"{name}{s}", "classes", gain, s, 5000) for s in range(10))
        for name, gain in (("clip", 1.0), ("eclip", 1.1))
    ]
    began = time.process_time()
    main(["compare", *words, "--out", str(tmp_path / "out")])
    assert time.process_time() - began < 10
