"""Which texts are the same in a batch, the expected number of their pairs, and the advice."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import write_shard, write_table
from open_clip.transform import image_transform

from openclip_eclip.config import DataError
from openclip_eclip.data.check import check_entries
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.repeated_texts import MUCH, describe_repeats, expected_repeats
from openclip_eclip.data.sample import Sample, collate
from openclip_eclip.data.shards.stream import read_shards
from openclip_eclip.data.shards.tar_source import (
    TarSamples,
    decode_stream,
    index_shard,
    members_to_read,
)
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table


@pytest.mark.parametrize("batch", [2, 3, 4, 7, 9])
def test_expectation_is_the_mean_over_all_batches(batch: int) -> None:
    texts = "aaabbcd"
    pairs, images, batches = 0, 0, 0
    for drawn in itertools.combinations(texts, min(batch, len(texts))):
        counts = Counter(drawn)
        pairs += sum(n * (n - 1) // 2 for n in counts.values())
        images += sum(n for n in counts.values() if n > 1)
        batches += len(drawn)
    found = expected_repeats(texts, batch)
    assert found.share == pytest.approx(images / batches)
    assert found.pairs == pytest.approx(pairs / (batches / min(batch, len(texts))))


def test_single_images_and_unique_texts_have_no_pair() -> None:
    assert expected_repeats("aab", 1) == expected_repeats([], 8) == (0, 0)
    assert expected_repeats(range(5000), 256).pairs == 0
    assert expected_repeats(range(5000), 256).share == pytest.approx(0, abs=1e-9)


def test_many_texts_are_counted_in_little_memory() -> None:
    texts = [f"report {i % 180_000}" for i in range(200_000)]
    tracemalloc.start()
    try:
        line = describe_repeats(texts, 100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line and line.startswith("40000 of 200000 rows have a text that another row has too")
    assert peak < 60 * len(texts)  # a Counter takes about 100 bytes a text


def test_advice_begins_where_texts_repeat_much() -> None:
    line = describe_repeats([*"aabb", *range(6)], 4)
    assert line and line.startswith("4 of 10 rows have a text that another row has too; a batch of")
    assert "about 0.267 pairs" in line and "--same-text" in line
    # 2 of 1000 rows: the share of a batch of 4 is far below MUCH
    assert expected_repeats([0, *range(999)], 4).share < MUCH
    assert describe_repeats([0, *range(999)], 4) is None


def test_keys_of_texts_are_equal_for_equal_tokens_or_groups() -> None:
    image, tokens = torch.zeros(3, 4, 4), open_clip.get_tokenizer("tiny")
    texts = tokens(["no finding", "no  finding", "a mass", "no finding"])
    samples = [Sample(image, text, i) for i, text in enumerate(texts)]
    keys = collate(samples).text_key.tolist()
    assert keys[0] == keys[1] == keys[3] != keys[2]
    for sample, group in zip(samples, ["p1", "", "p1", ""]):
        sample.group = group
    grouped = collate(samples).text_key.tolist()
    assert grouped[0] == grouped[2] and len(set(grouped)) == 2
    assert grouped[1] == grouped[3] == keys[1]
    assert collate([]).text_key.tolist() == []


def transform() -> JointTransform:
    return JointTransform(image_transform(32, is_train=True), 0.0)


def test_a_column_of_a_table_is_the_group(tmp_path: Path) -> None:
    path = write_table(tmp_path, 3, column=False)
    lines = path.read_text().splitlines()
    groups = ["patient", " 7 ", "", "7"]
    path.write_text("\n".join(f"{line},{group}" for line, group in zip(lines, groups)))
    table = read_csv_table(path, CsvColumns(group="patient"))
    samples = CsvSamples(table, transform(), open_clip.get_tokenizer("tiny"))
    assert [samples[i].group for i in range(3)] == ["7", "", "7"]
    kept = CsvSamples(table.keep([1, 2]), transform(), open_clip.get_tokenizer("tiny"))
    assert [kept[i].group for i in range(2)] == ["", "7"]
    assert read_csv_table(path, CsvColumns()).groups == []
    with pytest.raises(DataError, match=r"no column 'patients'.*--same-text-by"):
        read_csv_table(path, CsvColumns(group="patients"))


def shard_with(folder: Path, *fields: object, titles: str = "abcdefgh") -> Path:
    """Samples with a json of these contents; None: without one."""
    table = write_table(folder, len(fields), size=8)
    members: dict[str, bytes] = {}
    for i, content in enumerate(fields):
        members[f"{i}.png"] = (table.parent / "images" / f"{i}.png").read_bytes()
        members[f"{i}.txt"] = titles[i].encode()
        if content is not None:
            members[f"{i}.json"] = json.dumps(content).encode()
    return write_shard(folder / "s.tar", members)


def test_a_field_of_a_shard_is_the_group(tmp_path: Path) -> None:
    shard = shard_with(tmp_path, {"patient": 7}, {"patient": None, "x": 1}, {"patient": "7"})
    entries, tokens = index_shard(shard), open_clip.get_tokenizer("tiny")
    samples = TarSamples(entries, transform(), tokens, range(3), group="patient")
    assert [samples[i].group for i in range(3)] == ["7", "", "7"]
    stream = read_shards([{"url": str(shard)}], False, wanted=members_to_read("patient"))
    streamed = decode_stream(stream, transform(), tokens, False, group="patient")
    assert [sample.group for sample in streamed] == ["7", "", "7"]
    plain = decode_stream(read_shards([{"url": str(shard)}], False), transform(), tokens, False)
    assert [sample.group for sample in plain] == ["", "", ""]
    assert not check_entries(entries, group="patient").faults


@pytest.mark.parametrize(
    "fields,message", [({"x": 1}, "no field"), (None, "no field"), ([1], "expected an object")]
)
def test_a_shard_without_the_field_is_a_fault_before_training(
    tmp_path: Path, fields: object, message: str
) -> None:
    shard = shard_with(tmp_path, {"patient": 7}, fields)
    assert not check_entries(index_shard(shard)).faults
    (fault,) = check_entries(index_shard(shard), group="patient").faults
    assert fault.where == f"{shard}, 1" and fault.key == "json" and message in fault.message


def test_check_says_how_often_texts_repeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables one by one, all shards together."""
    monkeypatch.chdir(tmp_path)
    plain = write_table(tmp_path / "plain", 3, size=8)
    assert check_main([str(plain)]) == 0
    assert "texts that repeat" not in capsys.readouterr().out
    plain.write_text(plain.read_text().replace("effusion number 1", "nodule number 0"))
    for name in ("one", "two"):
        shard_with(tmp_path / name, {}, {}, titles="ab")
    assert check_main([f"{tmp_path}/{{one,two}}/s.tar", str(plain)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "texts that repeat" in line]
    assert [line.split(" rows")[0].strip() for line in lines] == [
        "texts that repeat: 2 of 3",
        "texts that repeat: 4 of 4",
    ]
    assert "a batch of 4 holds about 2 pairs" in lines[1]
    assert np.isclose(expected_repeats("abab", 256).pairs, 2)
