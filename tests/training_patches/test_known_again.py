"""A sample of --expert-data that is also in --train-data is recognised by its image.

Its mixed pair counts as a copy of that sample's text.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_shard, write_table

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_stream import EXPERT_ID
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.config import CurriculumConfig, EClipConfig
from openclip_eclip.data.sample import SampleBatch, stable_id
from openclip_eclip.data.shards.tar_source import TarSamples, index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from training_patches.known_again import match_training_images


def table_samples(path: Path, first_id: int = 0) -> CsvSamples:
    return CsvSamples(read_csv_table(path, CsvColumns()), None, None, first_id=first_id)


def shard_of(folder: Path, numbers: list[int], name: str) -> Path:
    """A shard of the images in `write_table`'s folder, with maps."""
    members = {}
    for i in numbers:
        members |= {
            f"s{i}.png": (folder / "images" / f"{i}.png").read_bytes(),
            f"s{i}.txt": b"words",
        }
        if (folder / "images" / f"{i}.npy").exists():
            members[f"s{i}.heatmap.npy"] = (folder / "images" / f"{i}.npy").read_bytes()
    return write_shard(folder / name, members)


def shard_samples(path: Path, ids: list[int] | None = None) -> TarSamples:
    entries = index_shard(path)
    return TarSamples(entries, None, None, ids or list(range(EXPERT_ID, EXPERT_ID + len(entries))))


def known(train: Any, expert: Any) -> dict[int, int]:
    """The matches; `train`: samples of a table, or the path of shards."""
    args = argparse.Namespace(rank=0, world_size=1, train_data=str(train), on_bad_sample="stop")
    return match_training_images(
        args, argparse.Namespace(dataset=train if isinstance(train, CsvSamples) else None), expert
    )


def few(path: Path, rows: list[int], name: str, change: Any = lambda line: line) -> Path:
    """A table of some rows (1-based) of another table, in its folder."""
    header, *lines = path.read_text().splitlines()
    (path.parent / name).write_text(
        "\n".join([header, *(change(lines[row - 1]) for row in rows)]) + "\n"
    )
    return path.parent / name


def test_tables_by_file_and_by_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images match by path, link or copy.

    An image of equal length with other bytes does not match, nor one that is stored nowhere else.
    """
    train = write_table(tmp_path / "train", 6, annotated=[1])
    other = write_table(tmp_path / "other", 1, annotated=[0], seed=9)
    copies = tmp_path / "copies"
    copies.mkdir()
    images = tmp_path / "train" / "images"
    shutil.copy(images / "3.png", copies / "copied.png")
    os.symlink(images / "4.png", copies / "link.png")
    changed = bytearray((images / "5.png").read_bytes())
    changed[-1] ^= 1
    (copies / "changed.png").write_bytes(changed)
    lines = [
        "filepath,title,heatmap",
        *(
            f"{path},words,{images / '1.npy'}"
            for path in (
                images / "1.png",
                copies / "copied.png",
                copies / "link.png",
                copies / "changed.png",
                other.parent / "images" / "0.png",
            )
        ),
    ]
    (tmp_path / "expert.csv").write_text("\n".join(lines) + "\n")
    with caplog.at_level(logging.INFO):
        result = known(table_samples(train), table_samples(tmp_path / "expert.csv", EXPERT_ID))
    assert "3 of 5 samples of --expert-data have the image of a sample" in caplog.text
    assert result == {EXPERT_ID + 1: 2, EXPERT_ID + 2: 4, EXPERT_ID + 3: 5}


def test_image_with_the_same_caption_is_preferred(tmp_path: Path) -> None:
    train = write_table(tmp_path, 3, annotated=[1])
    again = few(train, [2, 2, 3], "again.csv")
    lines = again.read_text().splitlines()
    lines[1] = lines[1].replace("effusion number 1", "other words")
    again.write_text("\n".join(lines) + "\n")
    assert known(table_samples(again), table_samples(few(train, [2], "expert.csv"), EXPERT_ID)) == {
        EXPERT_ID + 1: 2
    }
    new_words = few(train, [2], "new.csv", lambda line: line.replace("effusion", "nodule"))
    # else the first
    assert known(table_samples(again), table_samples(new_words, EXPERT_ID)) == {EXPERT_ID + 1: 1}


@pytest.mark.parametrize("train_is_table", [True, False])
@pytest.mark.parametrize("expert_is_table", [True, False])
def test_tables_and_shards_in_any_combination(
    tmp_path: Path, train_is_table: bool, expert_is_table: bool
) -> None:
    table = write_table(tmp_path, 5, annotated=range(5))
    train: Any = (
        table_samples(few(table, [1, 2, 3], "train3.csv"))
        if train_is_table
        else shard_of(tmp_path, [0, 1, 2], "train.tar")
    )
    expert = (
        table_samples(few(table, [3, 4, 2], "expert.csv"), EXPERT_ID + 5)
        if expert_is_table
        else shard_samples(
            shard_of(tmp_path, [2, 3, 1], "expert.tar"),
            [EXPERT_ID + 6, EXPERT_ID + 7, EXPERT_ID + 8],
        )
    )
    ids = [2 + 1, 1 + 1] if train_is_table else [stable_id(f"{train}, s{i}") for i in (2, 1)]
    assert known(train, expert) == {EXPERT_ID + 6: ids[0], EXPERT_ID + 8: ids[1]}


def test_same_shard_in_both_sources(tmp_path: Path) -> None:
    write_table(tmp_path, 3, annotated=[0, 2])
    shard = shard_of(tmp_path, [0, 1, 2], "train.tar")
    entries = index_shard(shard)
    expert = TarSamples([entries[2]], None, None, [EXPERT_ID])
    assert known(shard, expert) == {EXPERT_ID: stable_id(f"{shard}, s2")}
    assert known(f"file:{shard}", expert) == {EXPERT_ID: stable_id(f"{shard}, s2")}


def test_damaged_shard_is_read_up_to_the_damage(tmp_path: Path) -> None:
    """As training reads it with --on-bad-sample skip."""
    write_table(tmp_path, 3, annotated=[0, 2])
    shard = shard_of(tmp_path, [0, 1, 2], "train.tar")
    expert = shard_samples(shard_of(tmp_path, [0], "expert.tar"))
    shard.write_bytes(shard.read_bytes()[:-10240])
    assert known(shard, expert) == {EXPERT_ID: stable_id(f"{shard}, s0")}


def test_samples_before_the_damage_match_where_bad_samples_are_skipped(tmp_path: Path) -> None:
    table = write_table(tmp_path, 3, annotated=[0])
    shard = shard_of(tmp_path, [0, 1, 2], "train.tar")
    start = next(iter(index_shard(shard)[2].members.values()))[0] - 512  # its first header
    content = bytearray(shard.read_bytes())
    content[start + 20 : start + 200] = b"\xff" * 180
    shard.write_bytes(content)
    args = argparse.Namespace(
        rank=0, world_size=1, train_data=f"file:{shard}", on_bad_sample="skip"
    )
    result = match_training_images(
        args, argparse.Namespace(dataset=None), table_samples(table, EXPERT_ID)
    )
    assert result == {EXPERT_ID + 1: stable_id(f"{shard}, s0")}  # whether s1 is whole is not known


def test_remote_images_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_table(tmp_path, 2, annotated=[0])
    with caplog.at_level(logging.WARNING):
        assert known("pipe:cat nothing.tar", table_samples(table, EXPERT_ID)) == {}
    assert "counts as another sample" in caplog.text


def test_pairs_have_the_training_samples_id_and_draws_the_streams() -> None:
    """Views and the gate keep the stream's own number, so nothing else of a run changes."""
    config = EClipConfig()
    samples = SampleBatch(
        image=torch.zeros(2, 3, 4, 4),
        text=torch.zeros(2, 4, dtype=torch.int64),
        sample_id=torch.tensor([7, 8]),
        group=torch.zeros(2, dtype=torch.int64),
        lam=torch.ones(2),
        annotated=torch.tensor([0]),
        heatmap=torch.ones(1, 1, 4, 4),
        delivered=torch.tensor([True, False]),
        sentence_row=torch.zeros(0, dtype=torch.int64),
        sentence_text=torch.zeros(0, 1, dtype=torch.int64),
        sentence_heatmap=torch.zeros(0, 1, 1, 1),
        skipped=[],
    )
    stream = replace(
        samples,
        sample_id=torch.tensor([EXPERT_ID + 1, EXPERT_ID + 2]),
        heatmap=torch.ones(2, 1, 4, 4),
        lam=torch.tensor([0.25, 0.5]),
    )
    plans, loaders = [], []
    for same in (None, {EXPERT_ID + 2: 8}):
        loaders.append(
            PlannedLoader(
                argparse.Namespace(num_batches=1, num_samples=2),
                config,
                Curriculum(9, CurriculumConfig(0, 0, 0, end=1)),
                seed=1,
                same_image=same,
            )
        )
        plans.append(loaders[-1].plan(samples, 3, stream))
    assert plans[0].mixed_id.tolist() == [7, EXPERT_ID + 1, EXPERT_ID + 2]
    assert plans[1].mixed_id.tolist() == [7, EXPERT_ID + 1, 8]
    assert torch.equal(plans[0].lam, plans[1].lam) and plans[1].mixed_id.dtype == torch.int64
    assert loaders[0].views == loaders[1].views == {7: 1, EXPERT_ID + 1: 1, EXPERT_ID + 2: 1}
    assert np.isclose(loaders[1].lam_sum, loaders[0].lam_sum)
