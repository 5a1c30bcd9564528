"""Retrieval, its index and search: rules, ties and bad input.

They run with the tiny model and with features made by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FINDINGS, write_table

from openclip_eclip.config import DataError, UserError
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.inputs import report_index as index_module
from openclip_eclip.evaluate.inputs.encoder import Encoder, load_encoder
from openclip_eclip.evaluate.inputs.eval_set import EvalSet
from openclip_eclip.evaluate.inputs.features import EncodeOptions, encode_texts
from openclip_eclip.evaluate.inputs.report_index import (
    build_index,
    load_index,
    measure_recall,
    save_index,
)
from openclip_eclip.evaluate.retrieval import task as retrieval
from openclip_eclip.metrics.ranking import TIES

LONG = (
    "there is a very long sentence in front of everything that a radiologist would like to say"
    " about the"
)


def eval_set(titles: list[str], **columns: list[str]) -> EvalSet:
    table = pd.DataFrame(
        {"filepath": [f"{i}.png" for i in range(len(titles))], "title": titles, **columns}
    )
    return EvalSet(Path("set.csv"), [Path(name) for name in table["filepath"]], table)


def command(data: Path, out: Path, *flags: object) -> list[str]:
    return [
        *("retrieval", "--model", "tiny", "--pretrained", "random", "--data", str(data)),
        *("--out", str(out), "--workers", "0", "--cache", "none", "--device", "cpu"),
        *map(str, flags),
    ]


def evaluate(data: Path, out: Path, *flags: object) -> tuple[dict, dict]:
    """(result.json, predictions) of a whole command."""
    assert main(command(data, out, *flags)) == 0
    with np.load(out / "predictions.npz") as predictions:
        return json.loads((out / "result.json").read_text()), dict(predictions)


def failure(capsys: pytest.CaptureFixture, argv: list[str]) -> str:
    assert main(argv) == 2
    return capsys.readouterr().err


def titled(folder: Path, titles: list[str], size: int = 40, **columns: list[str]) -> Path:
    path = write_table(folder, len(titles), column=False, size=size)
    table = pd.read_csv(path, dtype=str)
    table["title"] = titles
    for name, values in columns.items():
        table[name] = values
    table.to_csv(path, index=False)
    return path


# ---- which report is right


def test_rules_merge_equal_reports_and_groups() -> None:
    """By rule paper rows 0, 1 and 3 have one report, because case and blanks do not count.

    Rows 1 and 2 are of one study.
    """
    data = eval_set(["Normal.", " normal. ", "Mass.", "normal."], study=["a", "b", "b", "a"])
    paper = retrieval.find_reports(data, "paper", "title")
    assert paper.texts == ["normal.", "mass."]
    assert paper.report_of.tolist() == [0, 0, 1, 0]
    alone = retrieval.find_reports(data, "index", "title")
    assert alone.texts == ["Normal.", "normal.", "Mass.", "normal."]
    assert alone.report_of.tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert len(set(alone.groups)) == 4
    study = retrieval.find_reports(data, "group", "title", "study")
    assert list(zip(study.groups, study.texts)) == [
        ("a", "Normal."),
        ("b", "normal."),
        ("b", "Mass."),
        ("a", "normal."),
    ]
    assert study.image_groups == ["a", "b", "b", "a"]
    same = retrieval.find_reports(
        eval_set(["x", "x", "x"], study=["a", "a", "b"]), "group", "title", "study"
    )
    assert list(zip(same.groups, same.texts)) == [("a", "x"), ("b", "x")]
    assert same.report_of.tolist() == [
        0,
        0,
        1,
    ]


@pytest.mark.slow
def test_duplicates_are_one_report_by_rule_paper_and_tie_by_rule_index() -> None:
    """Images 0 and 1 have one report. As two rows of the gallery they tie.

    Then R@1 is expected 0.5, and 0 to 1 by convention.
    """
    axes = np.eye(3, dtype=np.float32)
    images, data = axes[[0, 0, 1, 2]], eval_set(["a", "A", "b", "c"])
    paper = retrieval.find_reports(data, "paper", "title")
    merged = retrieval.measure(images, axes, paper)["image_to_text"]
    assert merged.scores["expected"]["R@1"]["value"] == 1
    assert merged.ranks.tied == 0
    alone = retrieval.find_reports(data, "index", "title")
    apart = retrieval.measure(images, images, alone)["image_to_text"]
    assert [apart.scores[ties]["R@1"]["value"] for ties in TIES] == [1, 0.75, 0.5]
    assert [apart.scores[ties]["mean rank"]["value"] for ties in TIES] == [1, 1.25, 1.5]


def test_any_image_of_a_report_is_a_right_answer() -> None:
    """Report 'a' of images 0 and 1 is nearest to image 1.

    Report 'b' is nearest to image 1, too, then to its own image.
    """
    images = np.array([[0, 1, 0], [1, 0, 0], [0.6, 0, 0.8]], np.float32)
    texts = np.array([[1, 0, 0], [0.9, 0, 0.1]], np.float32)
    result = retrieval.measure(
        images, texts, retrieval.find_reports(eval_set(["a", "a", "b"]), "paper", "title")
    )
    assert result["text_to_image"].ranks.rank("expected").tolist() == [1, 2]
    assert result["text_to_image"].chance_scores["R@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


@pytest.mark.slow
def test_intervals_draw_whole_patients() -> None:
    """With all images of one patient every draw is the same."""
    features = np.random.default_rng(0).standard_normal((2, 20, 4)).astype(np.float32)
    reports = retrieval.find_reports(eval_set([f"report {i}" for i in range(20)]), "paper", "title")
    of_images = retrieval.measure(*features, reports)["image_to_text"].scores["expected"][
        "mean rank"
    ]
    of_patient = retrieval.measure(*features, reports, ["p"] * 20)
    assert of_images["low"] < of_images["value"] < of_images["high"]
    for result in of_patient.values():
        assert (
            result.scores["expected"]["mean rank"]["low"]
            == result.scores["expected"]["mean rank"]["high"]
        )


def test_same_labels_by_hand() -> None:
    """Image 0 (label 1) has reports 0 (1) and 1 (0) first, image 1 (label 0) has 1 (0) and 2 (0).

    Chance is (1 + 3) / 8 ...
    """
    data = eval_set(["a", "b", "c", "d", "e", "f"], x=["1", "0", "0", "0", "0", "1"])
    images = np.eye(6, dtype=np.float32)
    texts = images + 0.5 * np.eye(6, k=1, dtype=np.float32).T
    reports = retrieval.find_reports(data, "paper", "title")
    result = retrieval.label_precision(images, texts, reports, data, ["x"])
    assert result["P@1"] == 1
    assert result["mixed"] == 0
    assert result["chance"] == pytest.approx((2 * 2 + 4 * 4) / 36)
    same = retrieval.find_reports(eval_set(["a"] * 6), "paper", "title")
    assert retrieval.label_precision(images, texts[:1], same, data, ["x"])["mixed"] == 1


# ---- the command


@pytest.mark.slow
def test_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Ranks are those of float64 products of the features, and all files are written.

    A second run from the cache gives the same result.
    """
    titles = [f"{FINDINGS[i % 8]} number {i}" for i in range(23)] + ["mass number 7"]
    data = titled(tmp_path, titles, patient=[str(i // 2) for i in range(24)])
    result, predictions = evaluate(
        data, tmp_path / "out", "--patient-column", "patient", "--cache", tmp_path / "cache"
    )
    encoder = load_encoder("tiny", "random")
    output = [np.load(path) for path in sorted((tmp_path / "cache").glob("*.npz"))]
    images, texts = (
        next(part["unit"] for part in output if ("cut" in part) is text).astype(np.float64)
        for text in (False, True)
    )
    assert len(images) == 24
    assert len(texts) == 23
    scores, own = images @ texts.T, [*range(23), 7]
    by_hand = 1 + (scores > scores[range(24), own][:, None]).sum(1)
    np.testing.assert_array_equal(predictions["rank"], by_hand)
    assert str(predictions["kind"]) == "ranks"
    assert predictions["id"].tolist() == pd.read_csv(data)["filepath"].tolist()
    values = result["values"]["image_to_text"]
    assert values["expected"]["R@5"]["value"] == pytest.approx((by_hand <= 5).mean(), abs=1e-12)
    assert values["expected"]["median rank"]["value"] == np.median(by_hand)
    assert values["chance"]["R@10"] == pytest.approx(10 / 23)
    assert result["values"]["images"] == 24
    assert result["values"]["reports"] == 23
    assert result["values"]["index"] == {"kind": "exact", "count": 23, "recall_at_10": 1}
    assert result["settings"]["weights_hash"] == encoder.facts["weights_hash"]
    assert len(result["settings"]["data_hash"]) == 64
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"result.json", "result.md", "report.html", "recall.png", "predictions.npz"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "report to image" in page
    assert "own report at rank" in page
    assert "mean reciprocal rank" in page
    again, _ = evaluate(
        data, tmp_path / "out", "--patient-column", "patient", "--cache", tmp_path / "cache"
    )
    assert again["values"] == result["values"]


@pytest.mark.slow
def test_images_are_encoded_with_the_evaluation_transform(tmp_path: Path) -> None:
    """The authors' script used the training transform with a random crop.

    So its ranks changed from run to run.
    """
    data = titled(tmp_path, [f"finding {i}" for i in range(20)], size=64)
    one, ranks = evaluate(data, tmp_path / "one")
    other, again = evaluate(data, tmp_path / "other")
    np.testing.assert_array_equal(ranks["rank"], again["rank"])
    assert one["values"] == other["values"]
    assert "Random" not in one["settings"]["transform"]
    assert "CenterCrop" in one["settings"]["transform"]


@pytest.mark.slow
def test_cut_reports_tie_exactly_and_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten reports differ only after the context length.

    Batches of other shapes round differently; here this is simulated with a large difference.
    """
    titles = [f"{LONG} {word}" for word in "abcdefghij"] + [f"short {i}" for i in range(5)]
    encoder, encode = load_encoder("tiny", "random"), Encoder.encode_texts
    calls = iter(range(1000))
    monkeypatch.setattr(
        Encoder, "encode_texts", lambda self, tokens: encode(self, tokens) + 1e-6 * next(calls)
    )
    unit = encode_texts(
        encoder, [titles[i] for i in (0, 10, 11, 1, 2, 12, 13, 14, 3)], EncodeOptions(batch_size=2)
    ).unit
    assert all((unit[i] == unit[0]).all() for i in (3, 4, 8))
    assert (unit[1] != unit[0]).any()
    result, _ = evaluate(titled(tmp_path, titles), tmp_path / "out", "--batch-size", 4)
    values = result["values"]["image_to_text"]
    assert result["values"]["reports_cut"] == 10
    assert values["tied"] == 10
    mean = {ties: values[ties]["mean rank"]["value"] for ties in TIES}
    assert mean["pessimistic"] - mean["optimistic"] == pytest.approx(9 * 10 / 15)
    assert mean["expected"] == pytest.approx((mean["optimistic"] + mean["pessimistic"]) / 2)
    assert any(note.startswith("10 reports fill the context length") for note in result["notes"])
    assert any(
        "10 of 15 queries a wrong answer has exactly the score" in note for note in result["notes"]
    )
    assert "| pessimistic |" in (tmp_path / "out" / "result.md").read_text()


@pytest.mark.slow
def test_recall_that_is_1_for_any_model_is_not_reported(tmp_path: Path) -> None:
    """With five different reports R@5 would be 1 for any model."""
    result, _ = evaluate(titled(tmp_path, [f"finding {i}" for i in range(5)]), tmp_path / "out")
    assert [
        name for name in result["values"]["image_to_text"]["expected"] if name.startswith("R@")
    ] == ["R@1"]
    assert (
        "image to report: R@5, R@10 not reported: with only 5 answers it is 1 for any model."
        in result["notes"]
    )
    assert "| – | – |" in (tmp_path / "out" / "result.md").read_text()


@pytest.mark.slow
def test_advice_on_repeated_images_is_followed_once(tmp_path: Path) -> None:
    """The images are copies under names of their own, as `prepare` writes several texts of one."""
    shown = {"study": ["a", "a", "b", "b", "c", "c"], "set": ["s"] * 6}
    data = titled(tmp_path, ["one", "two", "three", "four", "five", "six"], **shown)
    for i in (1, 3, 5):
        copied = (tmp_path / "images" / f"{i - 1}.png").read_bytes()
        (tmp_path / "images" / f"{i}.png").write_bytes(copied)
    (note,) = [
        note for note in evaluate(data, tmp_path / "1")[0]["notes"] if "several rows" in note
    ]
    assert note.startswith("3 images occur in several rows (6 rows) with several reports.")
    assert note.endswith("--rule group --group-column study counts them as right.")
    followed = ["--rule", "group", "--group-column", "study"]
    notes = evaluate(data, tmp_path / "2", *followed)[0]["notes"]
    assert not [note for note in notes if "several rows" in note]


def test_rows_without_report_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = titled(
        tmp_path, ["one", "", "three", "  ", "nan", "six"], study=["a", "a", "b", "b", "c", ""]
    )
    result, predictions = evaluate(data, tmp_path / "out", "--labels", "study")
    assert result["values"]["excluded"] == {
        path: "no report" for path in pd.read_csv(data)["filepath"][[1, 3, 4]]
    }
    assert len(predictions["rank"]) == 3
    assert "Left out: 3 x no report." in result["notes"]
    by_study = command(data, tmp_path / "g", "--rule", "group", "--group-column", "study")
    assert "column 'study': blank; expected a group" in failure(capsys, by_study)


def test_wrong_arguments_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = titled(tmp_path, ["one", "two", "three"], empty=[""] * 3)
    for flags, message in (
        (("--text-column", "report"), "no column 'report'; found"),
        (("--text-column", "empty"), "holds no report"),
        (("--rule", "group"), "--rule group needs a --group-column"),
        (("--group-column", "title"), "the other rules take none"),
        (("--patient-column", "who"), "no column 'who'"),
        (("--labels", "title,mass"), "no column 'mass'"),
    ):
        assert message in failure(capsys, command(data, tmp_path / "out", *flags))


def test_nan_features_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("tiny", "random")
    with torch.no_grad():
        encoder.model.text_projection.fill_(float("nan"))
    monkeypatch.setattr(retrieval, "read_encoder", lambda args: encoder)
    parser = argparse.ArgumentParser()
    retrieval.add_arguments(parser)
    with pytest.raises(UserError, match="3 of 3 features are NaN"):
        retrieval.run(
            parser.parse_args(
                command(titled(tmp_path, ["one", "two", "three"]), tmp_path / "out")[1:]
            )
        )


# ---- index and search


def unit(count: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", index_module.KINDS)
def test_recall_of_an_index_is_measured_against_exact_search(kind: str) -> None:
    texts, queries = unit(2000, 0), unit(50, 1)
    index = build_index(texts, [str(i) for i in range(2000)], kind)
    _, indices = index.search(queries, 10)
    exact = np.argsort(-(queries @ texts.T), axis=1)[:, :10]
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices, exact)])
    assert measure_recall(index, texts, queries) == pytest.approx(by_hand, abs=1e-12)
    assert (
        by_hand == 1 if kind == "exact" else 0.2 < by_hand < 1 if kind == "ivf" else by_hand > 0.9
    )


@pytest.mark.slow
def test_search_returns_reports_that_retrieval_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = titled(tmp_path, [f"Finding {i}" for i in range(12)])
    result, predictions = evaluate(data, tmp_path / "out", "--save-index", tmp_path / "index")
    first = int(np.argmin(predictions["rank"]))
    rank = int(predictions["rank"][first])
    search = [
        *("search", str(predictions["id"][first]), "--index", str(tmp_path / "index")),
        *("--model", "tiny", "--device", "cpu"),
    ]
    capsys.readouterr()
    assert main([*search, "--pretrained", "random", "--top", "12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[rank - 1].split(maxsplit=2)[2] == f"finding {first}"
    assert [float(line.split()[1]) for line in lines] == sorted(
        (float(line.split()[1]) for line in lines), reverse=True
    )
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    assert facts["encoder"]["weights_hash"] == result["settings"]["weights_hash"]
    assert facts["count"] == 12

    changed = load_encoder("tiny", "random").model.state_dict()
    changed["text_projection"] = changed["text_projection"] + 1e-6
    torch.save(changed, tmp_path / "other.pt")
    assert "written with --model tiny --pretrained random" in failure(
        capsys, [*search, "--pretrained", str(tmp_path / "other.pt")]
    )
    search += ["--pretrained", "random"]
    assert "--top 0: expected at least 1" in failure(capsys, [*search, "--top", "0"])
    assert "nowhere.png: no such image" in failure(
        capsys, [search[0], str(tmp_path / "nowhere.png"), *search[2:]]
    )
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png: unreadable image" in failure(
        capsys, [search[0], str(tmp_path / "text.png"), *search[2:]]
    )


def test_damaged_and_foreign_index_folders_are_an_error(tmp_path: Path) -> None:
    index = build_index(unit(5, 0), ["a", "b\nc", "d\u2028e", "ü", "f"])
    index.facts["encoder"] = {"model": "tiny", "pretrained": "random", "weights_hash": "1234"}
    save_index(index, tmp_path / "index")
    save_index(index, tmp_path / "index")  # again over itself
    read = load_index(tmp_path / "index", "1234")
    assert read.texts == index.texts
    assert read.search(unit(1, 3), 99)[1].shape == (1, 5)
    np.testing.assert_array_equal(read.search(unit(3, 3), 2)[0], index.search(unit(3, 3), 2)[0])
    with pytest.raises(UserError, match="no index.json"):
        load_index(tmp_path, "1234")
    with pytest.raises(UserError, match="holds files that are not an index"):
        save_index(index, tmp_path)
    (tmp_path / "index" / "texts.jsonl").write_text('{"text": "other"}\n' * 5)
    with pytest.raises(UserError, match="texts.jsonl is missing or not the file that was written"):
        load_index(tmp_path / "index", "1234")


@pytest.mark.slow
def test_unreadable_images_can_be_left_out(tmp_path: Path) -> None:
    data = titled(tmp_path, [f"finding {i}" for i in range(6)])
    (tmp_path / "images" / "2.png").write_bytes(b"broken")
    (tmp_path / "images" / "4.png").unlink()
    with pytest.raises(DataError, match="row 5 .* no such image"):
        retrieval.read_eval_set(data)
    result, predictions = evaluate(data, tmp_path / "out", "--on-bad-sample", "skip")
    assert sorted(result["values"]["excluded"].values()) == ["no such image", "unreadable image"]
    assert len(predictions["rank"]) == 4
