"""Shards before the first step: counts, the record beside the shards, and file checks.

No loader waits for ever.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import open_clip_train.data as upstream
import pytest
import torch
from conftest import BASIC, Launcher, write_shard, write_table
from test_tar_source import JPG, arguments, members, source

from openclip_eclip.config import DataError, UserError
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.sample import Sample, SampleBatch, collate
from openclip_eclip.data.shards import index as shard_index
from openclip_eclip.data.shards.index import FOLDER, CheckOptions, check_shards
from openclip_eclip.data.shards.sizes import compare_sizes
from openclip_eclip.data.tables import paths as table_paths
from openclip_eclip.data.tables.csv_source import CsvColumns, read_csv_table
from training_patches import pass_guard
from training_patches.announced import Announced
from training_patches.pass_guard import (
    IN_FLIGHT,
    PassGuard,
    check_number,
    check_shares,
    shares,
    smallest_share,
)
from training_patches.shard_flags import check_factors, local_shards, train_samples


def shards(folder: Path, *counts: int) -> str:
    """Shards with the given numbers of samples, as one argument."""
    for i, count in enumerate(counts):
        write_shard(folder / f"s-{i}.tar", members(count))
    return f"{folder}/s-{{0..{len(counts) - 1}}}.tar"


# ---- the record beside the shards


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that the check has read."""
    result: list[str] = []
    walk = shard_index.walk_shard

    def counted(shard: Path, file: object) -> object:
        result.append(shard.name)
        return walk(shard, file)

    monkeypatch.setattr(shard_index, "walk_shard", counted)
    return result


def test_second_check_reads_no_shard_and_reports_the_same(
    tmp_path: Path, walked: list[str]
) -> None:
    shards(tmp_path, 4, 3)
    bad = write_shard(tmp_path / "bad.tar", {**members(3), "0009.jpg": JPG})
    bad.write_bytes(bad.read_bytes()[:-10240])  # no end marker as well
    paths = [tmp_path / "s-0.tar", tmp_path / "s-1.tar", bad]
    first = check_shards(paths, CheckOptions())
    assert sorted(walked) == ["bad.tar", "s-0.tar", "s-1.tar"]
    assert len(first[2].faults) == 1
    assert first[2].good == 2
    second = check_shards(paths, CheckOptions())
    assert second == first and len(walked) == 3
    assert second[0].annotated[0].read("txt") == {"txt": b"finding 0"}
    assert [path.suffix for path in (tmp_path / FOLDER).iterdir()] == [
        ".json"
    ] * 3  # and no temporary file


@pytest.mark.parametrize(
    "change",
    [
        "content",
        "touched",
        "flipped",
        "cut",
        "foreign",
        "json",
        "other-shard",
        "options",
        "library",
    ],
)
def test_outdated_record_of_the_check_is_replaced(
    change: str, tmp_path: Path, walked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(tmp_path, 4, 2)
    path, options = tmp_path / "s-0.tar", CheckOptions()
    before = check_shards([path], options)
    (record,) = (tmp_path / FOLDER).iterdir()
    raw = record.read_bytes()
    if change == "content":
        write_shard(path, members(5))
    elif change == "touched":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif change == "library":
        shard_index._fingerprint.cache_clear()
        monkeypatch.setattr(
            shard_index, "_version", lambda library: "9" if library == "webdataset" else "1"
        )
    elif change == "options":
        options = CheckOptions(heatmaps=False)
    elif change == "other-shard":
        os.replace(tmp_path / "s-1.tar", path)
    else:
        record.write_bytes(
            {
                "flipped": raw.replace(b'"samples": 4', b'"samples": 5'),
                "cut": raw[:-9],
                "foreign": b"\x80\x04K\x01.",
                "json": b"{}",
            }[change]
        )
    after = check_shards([path], options)
    assert walked == ["s-0.tar"] * 2
    assert after[0].samples == {"content": 5, "other-shard": 2}.get(change, 4)
    assert (after == before) == (change not in ("content", "options", "other-shard"))
    assert check_shards([path], options) == after and len(walked) == 2
    shard_index._fingerprint.cache_clear()


def test_record_of_a_read_only_folder_is_in_the_cache(
    tmp_path: Path, walked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(tmp_path, 3)
    (tmp_path / FOLDER).write_text("a file, so that no folder can be made")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = check_shards([tmp_path / "s-0.tar"], CheckOptions())
    assert check_shards([tmp_path / "s-0.tar"], CheckOptions()) == first and len(walked) == 1
    assert len(list((tmp_path / "cache").rglob("s-0.tar.*.json"))) == 1
    # neither location can be written: checked again, no error
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / FOLDER))
    assert check_shards([tmp_path / "s-0.tar"], CheckOptions()) == first and len(walked) == 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert check_shards([tmp_path / "s-0.tar"], CheckOptions()) == first and len(walked) == 3


def test_wrong_counts_beside_the_shards_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shards(tmp_path, 4, 3)
    paths = [tmp_path / "s-0.tar", tmp_path / "s-1.tar"]
    assert compare_sizes(paths, [4, 3]) == []
    for sizes, message in (
        (b'{"s-0.tar": 4, "s-1.tar": 9}', "s-1.tar 9 (it holds 3)"),
        (b'{"s-0.tar": 4}', "s-1.tar nothing (it holds 3)"),
        (b"[1]", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
    ):
        (tmp_path / "sizes.json").write_bytes(sizes)
        (result,) = compare_sizes(paths, [4, 3])
        assert message in result and "not used" in result
    (tmp_path / "sizes.json").unlink()
    (tmp_path / "__len__").write_text("70")
    assert "says 70, the shards hold 7" in compare_sizes(paths, [4, 3])[0]
    assert check_main([str(tmp_path / "s-{0..1}.tar"), "--sheet", str(tmp_path / "sheet.png")]) == 1
    assert "problem: " in (out := capsys.readouterr().out) and "says 70" in out


# ---- counts and flags


def test_counts_are_filled_in_from_the_shards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = shards(tmp_path, 4, 3)
    (tmp_path / "sizes.json").write_text('{"s-0.tar": 100, "s-1.tar": 3}')
    result = source(path)
    assert (result.total, result.info.dataloader.num_samples) == (7, 8)  # rounded up to batches
    assert "--train-num-samples is not given: 7" in caplog.text
    assert "s-0.tar 100 (it holds 4)" in caplog.text
    source(path, "--train-num-samples", 70)
    source(path, "--train-num-samples", 2)
    assert "70, but the shards hold 7: an epoch takes samples 10 times" in caplog.text
    assert "an epoch takes that many of 7" in caplog.text


@pytest.mark.parametrize(
    "data,flags,message",
    [
        (
            "a.tar",
            ["--train-data-upsampling-factors", "2"],
            "without --dataset-resampled has no effect",
        ),
        (
            "a.tar",
            ["--train-data-upsampling-factors", "1::2", "--dataset-resampled"],
            "2 factors for the 1 parts",
        ),
        (
            "a.tar::b.tar",
            ["--train-data-upsampling-factors", "1::x", "--dataset-resampled"],
            "expected numbers from 0 up",
        ),
        (
            "a.tar::b.tar",
            ["--train-data-upsampling-factors", "0::0", "--dataset-resampled"],
            "not all of them 0",
        ),
        (
            "a.tar::b.tar",
            ["--train-data-upsampling-factors", "1::nan", "--dataset-resampled"],
            "expected numbers",
        ),
        ("a.tar", ["--train-num-samples", "0"], "expected 1 or more"),
        ("a.tar", ["--train-num-samples", "-4"], "expected 1 or more"),
    ],
)
def test_flags_that_open_clip_asserts_are_errors_of_one_sentence(
    data: str, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_factors(arguments("--train-data", data, *flags))


@pytest.mark.parametrize(
    "path,message",
    [
        ("s-{0..3.tar", "not a list of shards"),
        ("${NOWHERE}/a.tar", "not a list of shards"),
        ("s-*.tar", "Wildcards are not expanded"),
        ("gone.tar", "no such shard"),
    ],
)
def test_missing_shards_are_named(path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        local_shards(path)


def test_remote_shards_need_a_count() -> None:
    with pytest.raises(DataError, match="give --train-num-samples"):
        train_samples(arguments("--train-data", "pipe:cat a.tar"), None)
    assert (
        train_samples(arguments("--train-data", "pipe:cat a.tar", "--train-num-samples", 9), None)
        == 9
    )
    assert local_shards("pipe:cat a.tar") is None
    assert local_shards(f"file:{__file__}") == [Path(__file__)]


# ---- who reads what


@pytest.mark.parametrize(
    "ranks,workers,number", [(1, 0, 5), (1, 3, 7), (2, 2, 9), (3, 1, 4), (2, 0, 2)]
)
def test_shares_match_open_clips_pipeline(
    ranks: int, workers: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against open_clip's own stages, with webdataset's rank and worker set."""
    counts = [random.Random(number).randint(1, 50) + i for i in range(number)]
    for epoch in (0, 1, 5):
        for rank in range(ranks):
            for worker in range(max(1, workers)):
                monkeypatch.setattr(
                    "webdataset.utils.pytorch_worker_info",
                    lambda group=None, here=(rank, ranks, worker, max(1, workers)): here,
                )
                stages = [
                    upstream.detshuffle2(2000, 500, seed=3, epoch=upstream.SharedEpoch(epoch)).run,
                    upstream.wds.split_by_node,
                    upstream.wds.split_by_worker,
                ]
                stream = iter([{"count": count} for count in counts])
                for stage in stages:
                    stream = iter(stage(stream))
                mine = [shard["count"] for shard in stream]
                args = arguments(
                    "--train-data", "x.tar", "--seed", 3, "--workers", workers, "--batch-size", 4
                )
                args.world_size = ranks
                (share,) = [
                    share
                    for share in shares(args, counts, epoch)
                    if (share.rank, share.worker) == (rank, worker)
                ]
                assert (share.shards, share.samples) == (len(mine), sum(mine))


@pytest.mark.parametrize(
    "counts,ranks,workers,batch,message",
    [
        ([6], 1, 0, 8, "6 samples do not fill one batch of 8; lower --batch-size"),
        (
            [6, 6],
            1,
            2,
            8,
            (
                r"worker . of rank 0 has 6 samples in 1 shard .*2 shards, 12 samples, 1 rank x 2"
                r" workers"
            ),
        ),
        ([9, 2, 9], 1, 3, 4, "has 2 samples in 1 shard"),
        ([9, 2], 2, 0, 4, r"of rank . has 2 samples"),
        ([100] * 7 + [1, 1], 1, 4, 50, "has 2 samples in 2 shards"),
        ([0, 9], 2, 1, 4, "has 0 samples in 1 shard"),
        ([5] * 3, 1, 4, 1, r"3 shards for 1 rank x 4 workers.*give --workers 3"),
        ([5], 2, 0, 1, "1 shard for 2 ranks x 1 worker.*start at most 1 rank,"),
        ([5] * 5, 3, 2, 1, "5 shards for 3 ranks x 2 workers.*give --workers 1"),
    ],
)
def test_worker_that_can_never_fill_a_batch_is_an_error_before_training(
    counts: list[int], ranks: int, workers: int, batch: int, message: str
) -> None:
    args = arguments(
        "--train-data", "x.tar", "--workers", workers, "--batch-size", batch, "--epochs", 400
    )
    args.world_size = ranks
    with pytest.raises(DataError, match=message) as error:
        check_number(args, len(counts))
        check_shares(args, counts, 0)
    assert (
        "\n" not in str(error.value) and "--dataset-resampled" in str(error.value) or workers == 0
    )
    args.dataset_resampled = True
    check_number(args, len(counts))
    check_shares(args, counts, 0)


def test_only_epochs_that_the_run_reaches_count() -> None:
    """Two small shards of 12 are read by the same worker only in some epochs."""
    args = arguments("--train-data", "x.tar", "--workers", 6, "--batch-size", 8, "--epochs", 500)
    counts, result = [10] * 10 + [1, 1], []
    for args.seed in range(5):
        args.epochs = 500
        args.epochs = smallest_share(args, counts, 0).epoch  # the first in which they meet
        assert args.epochs < 500 and (args.epochs == 0 or smallest_share(args, counts, 0) is None)
        result.append(args.epochs)
    assert max(result) > 0
    check_shares(arguments("--train-data", "x.tar", "--workers", 2, "--batch-size", 4), [4, 4], 0)


# ---- the guard at run time


def drained(path: str, *flags: object) -> int:
    return sum(len(samples) for samples in source(path, *flags).info.dataloader)


@pytest.mark.slow
def test_pass_without_a_batch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check does not decode images, so with skip only the loader can find it."""
    # more than the shuffle's first 1000 in all: fewer shards to draw here
    monkeypatch.setattr(pass_guard, "IN_FLIGHT", 600)
    bad = {
        name: b"no image" if name.endswith("jpg") else content
        for name, content in members(4, lambda i: False).items()
    }
    write_shard(tmp_path / "a.tar", bad)
    write_shard(tmp_path / "b.tar", {**bad, **members(1, first=8)})
    for name, result in (
        ("a", "gave 0 good samples of 4, and no batch of 2"),
        ("b", "gave 1 good samples of 5"),
    ):
        with pytest.raises(
            DataError, match=f"worker 0 of rank 0: a whole pass over 1 shard {result}"
        ):
            drained(tmp_path / f"{name}.tar", "--on-bad-sample", "skip")
        with pytest.raises(DataError, match=result):
            drained(
                f"pipe:cat {tmp_path}/{name}.tar",
                "--on-bad-sample",
                "skip",
                "--train-num-samples",
                8,
            )
    with pytest.raises(DataError, match="shards drawn in a row gave no good sample"):
        drained(
            tmp_path / "a.tar",
            "--on-bad-sample",
            "skip",
            "--dataset-resampled",
            "--train-num-samples",
            8,
        )
    assert (
        drained(
            tmp_path / "b.tar",
            "--on-bad-sample",
            "skip",
            "--dataset-resampled",
            "--train-num-samples",
            4,
        )
        == 4
    )


@pytest.mark.slow
def test_pass_without_a_batch_is_an_error_in_a_worker_process_too(tmp_path: Path) -> None:
    bad = {
        name: b"no image" if name.endswith("jpg") else content
        for name, content in members(4, lambda i: False).items()
    }
    write_shard(tmp_path / "s-0.tar", bad)
    write_shard(tmp_path / "s-1.tar", members(4))
    with pytest.raises(
        DataError, match="rank 0: a whole pass over 1 shard gave 0 good samples of 4"
    ):
        drained(f"{tmp_path}/s-{{0..1}}.tar", "--on-bad-sample", "skip", "--workers", 2)


@pytest.mark.slow
def test_patience_with_random_draws_is_longer_than_the_shuffle() -> None:
    """Samples that the shuffle holds back do not stop a run.

    Shards without good samples, drawn without end, do.
    """

    def draw(raw: int, good: bool, limit: int) -> int:
        guard, drawn, held = PassGuard("x.tar", 2, 0, True, None, draws=3), 0, []
        for _ in guard.shards({"url": "x.tar"} for _ in range(limit)):
            drawn += 1
            held += list(guard.read({} for _ in range(raw)))
            if good and len(held) > IN_FLIGHT:
                next(guard.good(iter([Sample(torch.zeros(1), torch.zeros(1), 0)])))
                held = []
        return drawn

    assert draw(raw=100, good=True, limit=300) == 300
    for raw in (0, 100):
        with pytest.raises(DataError, match="drawn in a row"):
            draw(raw, good=False, limit=300)


# ---- what was announced arrives


@pytest.mark.slow
def test_shard_that_changes_after_the_check_stops_training(tmp_path: Path) -> None:
    for name, content, now in (
        ("fewer", members(4), "4 and 2"),
        ("unannotated", members(6, lambda i: False), "6 and 0"),
        ("more", members(8), "8 and 4"),
    ):
        for flags in ((), ("--dataset-resampled", "--train-num-samples", 99)):
            path = write_shard(tmp_path / f"{name}.tar", members(6))
            result = source(path, *flags)
            write_shard(path, content)
            with pytest.raises(
                DataError,
                match=(
                    f"{name}.tar: the check announced 6 samples, 3 with a heatmap; training read"
                    f" {now}"
                ),
            ):
                list(result.info.dataloader)


@pytest.mark.parametrize("lost", ["all", "one"])
def test_reader_that_loses_heatmaps_stops_training(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For shards a whole pass of a worker is counted.

    For all data every sample must be as announced.
    """
    from openclip_eclip.data.shards import tar_source

    result = source(write_shard(tmp_path / "a.tar", members(6)))
    find = tar_source.find_member
    monkeypatch.setattr(
        tar_source,
        "find_member",
        lambda names, wanted: (
            None
            if wanted == tar_source.HEATMAP_MEMBERS
            and (lost == "all" or names["txt"] == b"finding 2")
            else find(names, wanted)
        ),
    )
    batches = []
    with pytest.raises(
        DataError,
        match=(
            "announced 6 good samples, 3 of them annotated, and a whole pass brought 6 and"
            f" {0 if lost == 'all' else 2}"
        ),
    ):
        for samples in iter(result.info.dataloader.pipeline[0].dataset.iterator1()):
            batches.append(samples)
    with pytest.raises(
        DataError, match=r"a.tar, 000\d: the check found a heatmap, and training read none"
    ):
        for samples in batches:
            result.announced.see(samples)


def batch(ids: list[int], delivered: list[bool]) -> SampleBatch:
    samples = [
        Sample(torch.zeros(3, 4, 4), torch.zeros(5, dtype=torch.int64), i, delivered=has)
        for i, has in zip(ids, delivered)
    ]
    return collate(samples)  # the crop lost every map: that is not an error of the reader


def test_announced_heatmaps_are_compared_in_each_batch_and_at_the_end() -> None:
    args = arguments("--train-data", "x.csv")
    announced = Announced({2: "x.csv, row 2", 5: "x.csv, row 5"}, 6, "x.csv")
    announced.see(batch([1, 2], [False, True]))
    with pytest.raises(
        DataError, match="x.csv, row 5: the check found a heatmap, and training read none"
    ):
        announced.see(batch([4, 5], [False, False]))
    with pytest.raises(DataError, match="a heatmap of a sample for which the check found none"):
        announced.see(batch([3], [True]))
    announced.end_pass(args)
    # 6 rows: the last batch may hold both
    for shown, right in (
        ([1, 3, 4], True),
        ([1, 3, 4, 6], True),
        ([1, 3, 4, 6, 1], False),
    ):
        announced = Announced({2: "x.csv, row 2", 5: "x.csv, row 5"}, 6, "x.csv")
        announced.see(batch(shown, [False] * len(shown)))
        if right:
            announced.end_pass(args)
        else:
            with pytest.raises(
                DataError, match="announced 2 annotated samples, and none of the 5 samples"
            ):
                announced.end_pass(args)
    announced = Announced({2: "x.csv, row 2", 5: "x.csv, row 5"}, 6, "x.csv")
    # what is left of an epoch that is continued, then a whole one
    for part in (
        [1, 3],
        [1, 3, 4, 6],
    ):
        announced.begin_pass()
        announced.see(batch(part, [False] * len(part)))
    announced.end_pass(args)


# ---- file checks of a table


def test_table_costs_one_stat_for_each_path_on_rank_0_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # images absolute, maps relative to the table
    table = write_table(tmp_path, 12, annotated=range(0, 12, 3))
    looked: list[str] = []
    isfile = os.path.isfile
    monkeypatch.setattr(
        table_paths.os.path, "isfile", lambda path: looked.append(str(path)) or isfile(path)
    )
    read = read_csv_table(table, CsvColumns())
    assert len(looked) == len(set(looked)) == 12 + 4
    assert [path and path.is_file() for path in read.heatmaps][:4] == [True, None, None, True]
    monkeypatch.setattr(
        Path, "is_file", lambda path: str(path) == str(table) or pytest.fail(f"looked for {path}")
    )
    monkeypatch.setattr(table_paths, "locate_cells", lambda *_: pytest.fail("looked for files"))
    other = read_csv_table(table, CsvColumns(), read.locations)
    assert list(other.images) == list(read.images)
    assert list(other.heatmaps) == list(read.heatmaps)
    assert other.annotated == read.annotated
    assert sum(packed.nbytes for packed in read.locations.values()) <= 6


def test_path_that_could_be_two_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "images").mkdir(parents=True)
    (here / "images" / "a.png").write_bytes(b"1")
    (there / "images" / "b.png").write_bytes(b"2")
    monkeypatch.chdir(here)
    cells = [
        "images/a.png",
        "images/b.png",
        "images/c.png",
        "",
        str(here / "images" / "a.png"),
        "a.png",
    ]
    column = table_paths.PathColumn.locate(cells, there)
    assert list(column) == [
        Path("images/a.png"),
        there / "images/b.png",
        there / "images/c.png",
        None,
        here / "images/a.png",
        there / "a.png",
    ]
    assert column.on_disk.tolist() == [True, True, False, False, True, False]
    assert column.filled() == [
        0,
        1,
        2,
        4,
        5,
    ]
    assert list(column.keep([1, 3])) == [there / "images/b.png", None]
    (there / "images" / "a.png").write_bytes(b"3")
    with pytest.raises(DataError, match="expected one file"):
        table_paths.PathColumn.locate(cells, there)
    os.replace(here / "images" / "a.png", there / "images" / "a.png")
    # one file by two names is no doubt
    os.link(there / "images" / "a.png", here / "images" / "a.png")
    assert table_paths.PathColumn.locate(cells, there)[0] == Path("images/a.png")


# ---- two processes


@pytest.mark.slow
def test_ranks_share_the_check_and_train_on_its_samples(launcher: Launcher) -> None:
    path = shards(launcher.folder, 8, 8, 8, 8)
    table = write_table(launcher.folder, 16, annotated=range(0, 16, 4))
    flags = [*BASIC, "--batch-size", 4, "--epochs", 1]
    launcher.train(
        [*flags, "--name", "shards", "--train-data", path, "--val-data", path],
        [*flags, "--name", "table", "--train-data", table],
        processes=2,
    )
    assert "--train-num-samples is not given: 32" in launcher.log("shards")
    assert "16 annotated samples" in launcher.log("shards")
    assert "4 annotated samples" in launcher.log("table")
    assert len(launcher.losses("shards")) >= 4
    assert len(list((launcher.folder / FOLDER).iterdir())) == 4 * 2
    write_shard(launcher.folder / "s-3.tar", members(2))
    stopped = launcher.train(
        [*flags, "--name", "small", "--train-data", path, "--workers", 2],
        processes=2,
        check=False,
        timeout=200,
    )
    assert stopped.returncode
    assert "error: " in stopped.stderr
    assert "has 2 samples in 1 shard" in stopped.stderr
