"""Captions: one list of words for missing text everywhere, and none loses its end in silence."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from conftest import write_shard, write_table

from openclip_eclip.config import DataError, UserError
from openclip_eclip.data.caption_words import describe_lengths, fewest_tokens
from openclip_eclip.data.check import check_entries, check_table
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.overlap_read import Contents
from openclip_eclip.data.sentence_windows import decode_sentences
from openclip_eclip.data.shards.tar_source import index_shard, read_members
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from openclip_eclip.data.tables.missing_text import is_missing
from openclip_eclip.evaluate.inputs.eval_set import EvalSet, read_eval_set, with_reports
from openclip_eclip.evaluate.retrieval.ranks import find_reports, repeated_images
from openclip_eclip.prepare.command import leave_out_missing_texts
from openclip_eclip.prepare.plan import Item, Plan
from training_patches import caption_length
from training_patches.caption_length import announce_lengths, count_cut

MISSING = [
    "",
    "  ",
    "\u00a0",
    "\u200b",
    "nan",
    "NaN",
    "None",
    "none ",
    "<NA>",
    "null",
    "NULL",
    "N/A",
    "n/a",
    "#N/A",
    "NaT",
    "nan nan",
    "nan. nan.",
    "None; None",
    "-",
    "---",
    ".",
    "?",
    "...",
    "undefined",
    "-nan",
    "n.a.",
    "N.A.",
]
TEXTS = [
    "no finding",
    "none seen",
    "nodule",
    "NAD",
    "a",
    "0",
    "normal",
    "nan in the table",
    "null hypothesis",
    "正常",
    "Nonetheless normal",
]


@pytest.mark.parametrize("text", MISSING, ids=ascii)
def test_words_for_nothing(text: str) -> None:
    assert is_missing(text)


@pytest.mark.parametrize("text", [*TEXTS, "NA"], ids=ascii)
def test_texts_are_no_words_for_nothing(text: str) -> None:
    assert not is_missing(text)


def captions_table(folder: Path, captions: list[str]) -> Path:
    path = write_table(folder, len(captions))
    lines = path.read_text().splitlines()
    cells = [line.split(",")[0] for line in lines[1:]]
    path.write_text(
        "\n".join([lines[0], *(f'{cell},"{text}",' for cell, text in zip(cells, captions))]) + "\n"
    )
    return path


def test_tables_and_shards_name_missing_captions(tmp_path: Path) -> None:
    captions = ["nodule", "nan", "<NA>", "none", " ", "NA", "NA"]
    table = read_csv_table(captions_table(tmp_path, captions), CsvColumns())
    report = check_table(table)
    assert [(fault.where.split(", ")[1], fault.key) for fault in report.faults] == [
        (f"row {i}", "title") for i in range(2, 6)
    ]
    assert all("no caption" in fault.message for fault in report.faults) and report.good == [
        0,
        5,
        6,
    ]
    assert report.warnings == ["2 captions are 'NA', which may stand for no text"]
    image = (tmp_path / "images" / "0.png").read_bytes()
    members = {
        f"{i}.{name}": data
        for i, text in enumerate(captions)
        for name, data in (("png", image), ("txt", text.encode()))
    }
    members |= {"bad.png": image, "bad.txt": b"opacit\xe9"}
    entries = index_shard(write_shard(tmp_path / "a.tar", members))
    report = check_entries(entries)
    assert [fault.where.split(", ")[1] for fault in report.faults] == [
        "1",
        "2",
        "3",
        "4",
        "bad",
    ] and report.good == [0, 5, 6]
    assert "not UTF-8" in report.faults[-1].message
    # remote shards are read without a check before
    with pytest.raises(DataError, match="a.tar, 1.txt: no caption, found 'nan'"):
        read_members(entries[1].read(), "a.tar, 1", None, None, 1)


def test_captions_that_may_be_missing_or_are_all_the_same_are_named(tmp_path: Path) -> None:
    path = captions_table(tmp_path, ["No report", "unknown", "unknown", "a nodule"])
    report = check_table(read_csv_table(path, CsvColumns()))
    assert not report.faults and report.warnings == [
        "1 captions are 'No report', which may stand for no text",
        "2 captions are 'unknown', which may stand for no text",
    ]
    report = check_table(
        read_csv_table(captions_table(tmp_path, ["chest x-ray"] * 3), CsvColumns())
    )
    assert [warning.split(":")[0] for warning in report.warnings] == [
        "all 3 captions are 'chest x-ray'"
    ]


@pytest.mark.parametrize("sentence", ["nan", "", " ", "<NA>", "...", None, 3, "\ud800"], ids=ascii)
def test_sentences_without_words_are_faults(sentence: object) -> None:
    entries = [
        {"sentence": "a nodule", "start": 0, "end": 1},
        {"sentence": sentence, "start": 1, "end": 2},
    ]
    with pytest.raises(DataError, match="(sentence|entry) 2"):
        decode_sentences(json.dumps(entries).encode(), "k.windows")


def evaluation_set(folder: Path, rows: list[tuple[str, str, str]]) -> EvalSet:
    for i, name in enumerate(dict.fromkeys(Path(name).name for name, _, _ in rows)):
        (folder / name).write_bytes(bytes([i]))
    path = folder / "t.csv"
    path.write_text(
        "filepath,title,study\n" + "".join(f"{name},{text},{study}\n" for name, text, study in rows)
    )
    return read_eval_set(path)


def test_evaluation_leaves_out_what_training_refuses(tmp_path: Path) -> None:
    data = evaluation_set(
        tmp_path,
        [
            (f"{i}.png", text, "s")
            for i, text in enumerate(["nodule", "None", "<NA>", "null", "nan", "N/A", "-", "NA"])
        ],
    )
    kept = with_reports(data, "title")
    assert kept.ids == ["0.png", "7.png"] and set(kept.excluded.values()) == {"no report"}
    with pytest.raises(UserError, match="holds no report"):
        with_reports(data.keep(np.array([False, *[True] * 6, False]), "x"), "title")


def test_an_image_in_several_rows_is_counted(tmp_path: Path) -> None:
    rows = [
        ("a.png", "first", "s1"),
        ("./a.png", "second", "s1"),
        ("b.png", "third", "s2"),
        ("c.png", "same", "s3"),
        ("c.png", "same", "s3"),
    ]
    data = evaluation_set(tmp_path, rows)
    found = {
        rule: repeated_images(data, find_reports(data, rule, "title", column))
        for rule, column in (
            ("paper", None),
            ("index", None),
            ("group", "study"),
            ("group ", "filepath"),
        )
        for rule in (rule,)
    }
    assert found == {"paper": (1, 2), "index": (2, 4), "group": (0, 0), "group ": (0, 0)}
    # the same image under another name
    (tmp_path / "copy.png").write_bytes((tmp_path / "b.png").read_bytes())
    data = evaluation_set(tmp_path, rows[:3])
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text() + "copy.png,fourth,s9\n")
    data = read_eval_set(tmp_path / "t.csv")
    assert repeated_images(data, find_reports(data, "group", "title", "study")) == (1, 2)


def test_overlap_takes_no_missing_report_for_a_shared_one() -> None:
    contents = Contents("a")
    for text in ("nan", "None", "a nodule on the left"):
        contents.add("row", {}, text, None)
    assert list(contents.reports) == ["a nodule on the left"]


def test_prepare_leaves_out_missing_texts_and_counts_them() -> None:
    plan = Plan(
        "x",
        {
            "train": [
                Item("a", Path("a"), "nodule"),
                Item("b", Path("b"), "nan"),
                Item("c", Path("c"), " "),
            ]
        },
    )
    leave_out_missing_texts(plan)
    assert [item.key for item in plan.splits["train"]] == ["a"] and sum(plan.left_out.values()) == 2
    assert plan.examples == {"no text, or a word that stands for none": ["b", "c"]}


# ---- captions that are longer than the text tower reads

LONG = "the lungs are clear and the heart is normal in size " * 5  # 55 words


def test_check_counts_captions_that_are_certainly_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = captions_table(tmp_path, ["short", LONG * 2, LONG * 6])
    check_main([str(path), "--sheet", str(tmp_path / "s.png")])
    out = capsys.readouterr().out
    assert (
        "captions: 3, the longest of at least 332 tokens; at least 2 exceed a context length of 77;"
        " at least 1 exceed a context length of 256" in out
    )
    assert out.count("  warning: at least") == 2 and "--force-context-length" in out
    check_main([str(path), "--context-length", "400", "--sheet", str(tmp_path / "s.png")])
    out = capsys.readouterr().out
    assert "exceed a context length" not in out and "warning" not in out


def test_few_cut_captions_are_no_warning() -> None:
    assert describe_lengths("captions", [10] * 98 + [80] * 2, [77])[1] == []
    assert len(describe_lengths("captions", [10] * 97 + [80] * 3, [77])[1]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "5 mm nodule, left (upper) lobe.",
        LONG,
        "3.5x4.2cm; no effusion!!",
        "pneumothorax",
        "œdème à gauche",
        "__",
        "x" * 90,
    ],
)
def test_fewest_tokens_is_a_lower_bound(text: str) -> None:
    tokens = open_clip.SimpleTokenizer(context_length=400)(text)[0]
    assert 3 <= fewest_tokens(text) <= int((tokens != 0).sum())


class Padded:
    """As tokenizers of Hugging Face: padded with 1; where `keeps_end`, cut ones end as whole ones
    do.
    """

    def __init__(self, context: int, keeps_end: bool) -> None:
        self.context, self.keeps_end = context, keeps_end

    def __call__(self, texts: list[str], context_length: int | None = None) -> torch.Tensor:
        length = context_length or self.context
        rows = [[2 + len(word) for word in text.split()] for text in texts]
        rows = [(row[: length - 1] + [1] if self.keeps_end else row[:length]) for row in rows]
        return torch.tensor([row + [1] * (length - len(row)) for row in rows])


@pytest.mark.parametrize(
    "tokenizer,words",
    [
        (open_clip.SimpleTokenizer(context_length=16), 14),
        (Padded(16, False), 16),
        (Padded(16, True), 15),
    ],
    ids=["clip", "padded", "with-an-end"],
)
def test_cut_captions_are_counted_for_any_padding(tokenizer: object, words: int) -> None:
    texts = ["dog " * count for count in range(1, 20)]
    assert count_cut(tokenizer, texts) == sum(count > words for count in range(1, 20))
    assert count_cut(tokenizer, ["short"] * 5) == 0


def training_arguments(**more: object) -> argparse.Namespace:
    return argparse.Namespace(
        rank=0,
        local_rank=0,
        world_size=1,
        seed=0,
        log_local=False,
        dataset_type="auto",
        on_bad_sample="stop",
        **more,
    )


def test_training_says_how_many_captions_are_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    caplog.set_level(logging.INFO)
    table = read_csv_table(captions_table(tmp_path, ["short"] * 6 + [LONG, LONG]), CsvColumns())
    samples = CsvSamples(table, SimpleNamespace(), tokenizer)
    before = torch.get_rng_state()
    announce_lengths(training_arguments(), "--train-data", samples, tokenizer, False)
    assert torch.equal(torch.get_rng_state(), before)
    (record,) = caplog.records
    assert (
        record.levelname == "WARNING"
        and "--train-data: 2 of 8 captions (25 %) are longer than the context length of 16 tokens"
        in record.message
    )
    assert "--force-context-length" in record.message
    monkeypatch.setattr(caption_length, "SAMPLE", 4)
    announce_lengths(training_arguments(), "--train-data", samples, tokenizer, False)
    assert "1 of 4 looked at, out of 8 captions" in caplog.records[-1].message
    announce_lengths(
        training_arguments(),
        "--train-data",
        CsvSamples(table.keep([0, 1]), SimpleNamespace(), tokenizer),
        tokenizer,
        False,
    )
    assert (
        caplog.records[-1].levelname == "INFO"
        and "0 of 2 captions (0 %)" in caplog.records[-1].message
    )


def test_shards_and_their_sentences_are_counted_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    caplog.set_level(logging.INFO)
    spoken = json.dumps(
        [{"sentence": text, "start": 0, "end": 1} for text in ("clear lungs", LONG)]
    ).encode()
    members = {
        "a.png": b"x",
        "a.txt": LONG.encode(),
        "a.windows.json": spoken,
        "a.windows.npz": b"x",
        "b.png": b"x",
        "b.txt": b"short",
    }
    path = write_shard(tmp_path / "a.tar", members)
    announce_lengths(
        training_arguments(train_data=str(path)), "--train-data", None, tokenizer, True
    )
    assert [
        "1 of 2 captions (50 %)" in caplog.records[0].message,
        "1 of 2 sentences (50 %)" in caplog.records[1].message,
    ] == [True, True]
    caplog.clear()
    # no end marker: the check has named it, and --on-bad-sample skip goes on without b
    path.write_bytes(path.read_bytes()[: 6 * 1024])
    announce_lengths(
        training_arguments(train_data=f"file:{path}"), "--train-data", None, tokenizer, False
    )
    assert "1 of 1 captions (100 %)" in caplog.records[0].message
    caplog.clear()
    announce_lengths(
        training_arguments(train_data="pipe:cat x.tar"), "--train-data", None, tokenizer, True
    )
    assert "not counted" in caplog.records[0].message
    announce_lengths(
        SimpleNamespace(rank=1, log_local=False), "--train-data", None, tokenizer, True
    )
    assert len(caplog.records) == 1


def test_captions_before_the_damage_of_a_shard_are_counted_where_it_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The check has named the damage; here it stopped the first rank, and the others waited."""
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    caplog.set_level(logging.INFO)
    path = write_shard(
        tmp_path / "a.tar", {"a.png": b"x", "a.txt": LONG.encode(), "b.png": b"x", "c.png": b"x"}
    )
    content = bytearray(path.read_bytes())
    content[3072 + 20 : 3072 + 200] = b"\xff" * 180  # the header of c.png
    path.write_bytes(content)
    damaged = training_arguments(train_data=f"file:{path}")
    damaged.on_bad_sample = "skip"
    announce_lengths(damaged, "--train-data", None, tokenizer, False)
    assert "1 of 1 captions" in caplog.records[0].message
    synthetic = training_arguments(train_data=None)
    synthetic.dataset_type = "synthetic"
    announce_lengths(synthetic, "--train-data", None, tokenizer, False)
    assert len(caplog.records) == 1


def test_one_caption_for_all_images_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be learned, and the loss is ln(batch) to the end."""
    assert (
        "all 3 captions are 'a chest x-ray'"
        in check_table(
            read_csv_table(captions_table(tmp_path, ["a chest x-ray"] * 3), CsvColumns())
        ).warnings[-1]
    )
    assert not check_table(
        read_csv_table(captions_table(tmp_path, ["a chest x-ray", "effusion"]), CsvColumns())
    ).warnings
    assert not check_table(
        read_csv_table(captions_table(tmp_path, ["a chest x-ray"]), CsvColumns())
    ).warnings
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    for texts, told in ((("a scan", "a scan"), True), (("a scan", "another"), False)):
        caplog.clear()
        path = write_shard(
            tmp_path / "a.tar",
            {"a.png": b"x", "a.txt": texts[0].encode(), "b.png": b"x", "b.txt": texts[1].encode()},
        )
        announce_lengths(
            training_arguments(train_data=str(path)), "--train-data", None, tokenizer, False
        )
        assert ("all 2 captions are 'a scan'" in caplog.text) == told
