"""Captions: one list of words for missing text, and captions that are cut are reported."""

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
from open_clip.transform import image_transform

from openclip_eclip.config import DataError, UserError
from openclip_eclip.data.caption_words import describe_lengths, fewest_tokens
from openclip_eclip.data.check import check_entries, check_table
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.overlap_read import Contents
from openclip_eclip.data.sentence_windows import decode_sentences
from openclip_eclip.data.shards.tar_source import index_shard, read_members
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from openclip_eclip.data.tables.missing_text import is_missing
from openclip_eclip.evaluate.inputs.eval_set import EvalSet, read_eval_set, with_reports
from openclip_eclip.evaluate.retrieval.ranks import find_reports, image_column, repeated_images
from openclip_eclip.prepare.command import leave_out_missing_texts
from openclip_eclip.prepare.plan import Item, Plan
from training_patches import caption_length
from training_patches.caption_length import announce_lengths, count_cut

MISSING = [
    *("", "  ", "\u00a0", "\u200b"),
    *("nan", "NaN", "None", "none ", "<NA>", "null", "NULL", "N/A", "n/a", "#N/A", "NaT"),
    *("nan nan", "nan. nan.", "None; None", "undefined", "-nan", "n.a.", "N.A."),
    *("-", "---", ".", "?", "..."),
]
TEXTS = [
    *("no finding", "none seen", "nodule", "NAD", "a", "0", "normal", "正常"),
    *("nan in the table", "null hypothesis", "Nonetheless normal"),
]


@pytest.mark.parametrize("text", MISSING, ids=ascii)
def test_words_for_missing_text_are_recognised(text: str) -> None:
    assert is_missing(text)


@pytest.mark.parametrize("text", [*TEXTS, "NA"], ids=ascii)
def test_other_texts_are_not_missing(text: str) -> None:
    assert not is_missing(text)


def captions_table(folder: Path, captions: list[str]) -> Path:
    path = write_table(folder, len(captions))
    lines = path.read_text().splitlines()
    cells = [line.split(",")[0] for line in lines[1:]]
    path.write_text(
        "\n".join([lines[0], *(f'{cell},"{text}",' for cell, text in zip(cells, captions))]) + "\n"
    )
    return path


def test_missing_captions_of_tables_and_shards_are_named(tmp_path: Path) -> None:
    captions = ["nodule", "nan", "<NA>", "none", " ", "NA", "NA"]
    table = read_csv_table(captions_table(tmp_path, captions), CsvColumns())
    report = check_table(table)
    assert [(fault.where.split(", ")[1], fault.key) for fault in report.faults] == [
        (f"row {i}", "title") for i in range(2, 6)
    ]
    assert all("no caption" in fault.message for fault in report.faults)
    assert report.good == [0, 5, 6]
    assert report.warnings == ["2 captions are 'NA', which may mean that there is no text"]
    image = (tmp_path / "images" / "0.png").read_bytes()
    members = {
        f"{i}.{name}": data
        for i, text in enumerate(captions)
        for name, data in (("png", image), ("txt", text.encode()))
    }
    members |= {"bad.png": image, "bad.txt": b"opacit\xe9"}
    entries = index_shard(write_shard(tmp_path / "a.tar", members))
    report = check_entries(entries)
    keys = [fault.where.split(", ")[1] for fault in report.faults]
    assert keys == ["1", "2", "3", "4", "bad"]
    assert report.good == [0, 5, 6]
    assert "not UTF-8" in report.faults[-1].message
    # remote shards are read without an earlier check
    transform = JointTransform(image_transform(8, is_train=True), 0.1)
    with pytest.raises(DataError, match="a.tar, 1.txt: no caption, found 'nan'"):
        read_members(entries[1].read(), "a.tar, 1", transform, None, 1)


def test_doubtful_captions_and_equal_captions_cause_a_warning(tmp_path: Path) -> None:
    path = captions_table(tmp_path, ["No report", "unknown", "unknown", "a nodule"])
    report = check_table(read_csv_table(path, CsvColumns()))
    assert not report.faults
    assert report.warnings == [
        "1 caption is 'No report', which may mean that there is no text",
        "2 captions are 'unknown', which may mean that there is no text",
    ]
    path = captions_table(tmp_path, ["chest x-ray"] * 3)
    (warning,) = check_table(read_csv_table(path, CsvColumns())).warnings
    assert warning.split(":")[0] == "all 3 captions are 'chest x-ray'"


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


def test_evaluation_leaves_out_missing_captions(tmp_path: Path) -> None:
    texts = ["nodule", "None", "<NA>", "null", "nan", "N/A", "-", "NA"]
    data = evaluation_set(tmp_path, [(f"{i}.png", text, "s") for i, text in enumerate(texts)])
    with_text = with_reports(data, "title")
    assert with_text.ids == ["0.png", "7.png"]
    assert set(with_text.excluded.values()) == {"no report"}
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
    for rule, column, expected in (
        ("paper", None, (1, 2)),
        ("index", None, (2, 4)),
        ("group", "study", (0, 0)),
        ("group ", "filepath", (0, 0)),
    ):
        assert repeated_images(data, find_reports(data, rule, "title", column)) == expected, rule
    # the same image under another name
    (tmp_path / "copy.png").write_bytes((tmp_path / "b.png").read_bytes())
    data = evaluation_set(tmp_path, rows[:3])
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text() + "copy.png,fourth,s9\n")
    data = read_eval_set(tmp_path / "t.csv")
    assert repeated_images(data, find_reports(data, "group", "title", "study")) == (1, 2)


def test_the_column_that_names_the_images_is_found(tmp_path: Path) -> None:
    """As `prepare` writes several texts of an image: a copy of its file for each."""
    rows = [("a.png", "1", "x"), ("b.png", "2", "y"), ("a.png", "3", "x"), ("./a.png", "4", "x")]
    data = evaluation_set(tmp_path, rows)
    assert image_column(data) == "filepath"
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())

    def table(*columns: str) -> EvalSet:
        lines = [f"filepath,title,{','.join(f'c{i}' for i in range(len(columns)))}"]
        for i, name in enumerate(("a", "copy", "b")):
            lines.append(f"{name}.png,{i},{','.join(cells[i] for cells in columns)}")
        (tmp_path / "t.csv").write_text("\n".join(lines))
        return read_eval_set(tmp_path / "t.csv")

    # one value for all, one for each row, one that joins other rows; at last the right one
    data = table("sss", "123", "xyy", "vvw")
    assert image_column(data) == "c3"
    assert repeated_images(data, find_reports(data, "group", "title", "c3")) == (0, 0)
    assert image_column(table("sss", "123")) is None


def test_missing_reports_do_not_count_as_shared_in_overlap() -> None:
    contents = Contents("a")
    for text in ("nan", "None", "a nodule on the left"):
        contents.add("row", {}, text, None)
    assert list(contents.reports) == ["a nodule on the left"]


def test_prepare_leaves_out_missing_texts_and_counts_them() -> None:
    texts = {"a": "nodule", "b": "nan", "c": " "}
    plan = Plan("x", {"train": [Item(key, Path(key), text) for key, text in texts.items()]})
    leave_out_missing_texts(plan)
    assert [item.key for item in plan.splits["train"]] == ["a"]
    assert sum(plan.left_out.values()) == 2
    assert plan.examples == {"no text, or a word that stands for none": ["b", "c"]}


# ---- captions longer than the context length

LONG = "the lungs are clear and the heart is normal in size " * 5  # 55 words


def test_check_counts_captions_that_are_certainly_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = captions_table(tmp_path, ["short", LONG * 2, LONG * 6])
    check_main([str(path), "--sheet", str(tmp_path / "s.png")])
    out = capsys.readouterr().out
    line = (
        "captions: 3, the longest has at least 332 tokens; at least 2 exceed a context length of"
        " 77; at least 1 exceed a context length of 256"
    )
    assert line in out
    assert out.count("  warning: at least") == 2
    assert "--force-context-length" in out
    check_main([str(path), "--context-length", "400", "--sheet", str(tmp_path / "s.png")])
    out = capsys.readouterr().out
    assert "exceed a context length" not in out and "warning" not in out


def test_a_small_share_of_cut_captions_causes_no_warning() -> None:
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
    """Pads with 1, as tokenizers of Hugging Face; `keeps_end`: cut texts end as whole ones do."""

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
def test_cut_captions_are_counted_with_any_padding(tokenizer: object, words: int) -> None:
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


def test_training_logs_the_number_of_cut_captions(
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
    message = "--train-data: 2 of 8 captions (25 %) are longer than the context length of 16 tokens"
    assert record.levelname == "WARNING"
    assert message in record.message
    assert "--force-context-length" in record.message
    monkeypatch.setattr(caption_length, "SAMPLE", 4)
    announce_lengths(training_arguments(), "--train-data", samples, tokenizer, False)
    assert "1 of 4 checked, out of 8 captions" in caplog.records[-1].message
    short = CsvSamples(table.keep([0, 1]), SimpleNamespace(), tokenizer)
    announce_lengths(training_arguments(), "--train-data", short, tokenizer, False)
    assert caplog.records[-1].levelname == "INFO"
    assert "0 of 2 captions (0 %)" in caplog.records[-1].message


def test_cut_captions_and_sentences_of_shards_are_counted(
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
    assert "1 of 2 captions (50 %)" in caplog.records[0].message
    assert "1 of 2 sentences (50 %)" in caplog.records[1].message
    caplog.clear()
    # no end marker: the check has named it, and --on-bad-sample skip continues without b
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


def test_captions_before_the_damage_of_a_shard_are_counted_if_it_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The check has named the damage; here it must not stop the first rank while others wait."""
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


def test_one_caption_for_all_images_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be learned from it: the loss stays at ln(batch size)."""

    def warnings_of(captions: list[str]) -> list[str]:
        table = read_csv_table(captions_table(tmp_path, captions), CsvColumns())
        return check_table(table).warnings

    assert "all 3 captions are 'a chest x-ray'" in warnings_of(["a chest x-ray"] * 3)[-1]
    assert not warnings_of(["a chest x-ray", "effusion"])
    assert not warnings_of(["a chest x-ray"])
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    for texts, warned in ((("a scan", "a scan"), True), (("a scan", "another"), False)):
        caplog.clear()
        path = write_shard(
            tmp_path / "a.tar",
            {"a.png": b"x", "a.txt": texts[0].encode(), "b.png": b"x", "b.txt": texts[1].encode()},
        )
        announce_lengths(
            training_arguments(train_data=str(path)), "--train-data", None, tokenizer, False
        )
        assert ("all 2 captions are 'a scan'" in caplog.text) == warned
