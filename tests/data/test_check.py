"""Tables and shards are read, and the check names every fault with its row and key."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import encode_array, write_shard, write_table
from open_clip.transform import image_transform
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from openclip_eclip.config import DataError
from openclip_eclip.data.check import check_entries, check_table, raise_faults
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.sample import Sample, collate, seeded_randomness
from openclip_eclip.data.shards.tar_source import TarSamples, index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set


def samples_of(table, **options) -> CsvSamples:
    return CsvSamples(
        table,
        JointTransform(image_transform(32, is_train=True), 0.0),
        open_clip.get_tokenizer("tiny"),
        **options,
    )


def test_seeded_randomness_repeats_and_restores_every_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPUs included: if they were reseeded with every sample, so would dropout be."""
    monkeypatch.setattr(
        torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were reseeded")
    )

    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def seeded(seed: list[int]) -> tuple[float, float, float]:
        with seeded_randomness(seed):
            return draw()

    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draw()
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
    first, other, again = seeded([3, 4]), seeded([3, 5]), seeded([3, 4])
    assert first == again
    assert len({*first, *other}) == 6
    assert draw() == expected


def test_a_table_with_blank_cells_quotes_and_relative_paths_is_read(tmp_path: Path) -> None:
    write_table(tmp_path, 3, annotated=[1])
    (tmp_path / "own.csv").write_text(
        'path,report,gaze\nimages/0.png,"no, ""nodule""",\nimages/1.png,NA,images/1.npy\n'
    )
    columns = CsvColumns("path", "report", "gaze")
    table = read_csv_table(tmp_path / "own.csv", columns)
    assert table.captions == ['no, "nodule"', "NA"]
    assert table.annotated == [1] and list(table.rows) == [1, 2]
    assert table.images[0] == tmp_path / "images" / "0.png"
    batch = collate([samples_of(table)[0], samples_of(table)[1]])
    assert batch.annotated.tolist() == [1]
    assert batch.sample_id.tolist() == [1, 2]
    assert batch.text.shape == (2, 16)
    assert batch.heatmap.shape == (1, 1, 32, 32) and batch.image.shape == (2, 3, 32, 32)
    assert not check_table(table).faults


def test_a_pinning_loader_pins_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch calls `pin_memory` of types that it does not know; here, a pinned tensor is a copy."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    image, words = torch.rand(3, 4, 4), torch.zeros(2, dtype=torch.int64)
    batch = collate([Sample(image, words, 7, torch.rand(1, 4, 4), skipped=["x.csv, row 3"])])
    pinned = pin_memory((batch, None))[0]
    assert type(pinned) is type(batch)
    assert pinned.skipped == ["x.csv, row 3"] and len(pinned) == 1
    for field in dataclasses.fields(batch):
        before, after = getattr(batch, field.name), getattr(pinned, field.name)
        if field.name != "skipped":
            assert after is not before and torch.equal(after, before), field.name


def test_a_path_that_may_mean_two_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name in the working directory does not replace that of the table."""
    for name in ("work", "data"):
        write_table(tmp_path / name, 2)
    table = tmp_path / "data" / "own.csv"
    table.write_text("filepath,title\nimages/0.png,nodule\n")
    monkeypatch.chdir(tmp_path / "data")
    image = read_csv_table("own.csv", CsvColumns()).images[0]
    assert image.samefile(tmp_path / "data" / "images" / "0.png")
    assert read_csv_table(table, CsvColumns()).images == [Path("images/0.png")]
    monkeypatch.chdir(tmp_path / "work")
    for read in (lambda: read_csv_table(table, CsvColumns()), lambda: read_eval_set(table)):
        with pytest.raises(DataError, match="work/images/0.png or .*data/images/0.png"):
            read()


def test_errors_of_a_table_name_what_is_missing(tmp_path: Path) -> None:
    path = write_table(tmp_path, 2)
    for columns, message in (
        (CsvColumns(image="imag"), "no column 'imag'; found"),
        (CsvColumns(separator="\t"), "--csv-separator"),
    ):
        with pytest.raises(DataError, match=message):
            read_csv_table(path, columns)
    with pytest.raises(DataError, match="no such file"):
        read_csv_table(tmp_path / "none.csv", CsvColumns())
    (tmp_path / "empty.csv").write_text("filepath,title\n")
    with pytest.raises(DataError, match="no rows"):
        read_csv_table(tmp_path / "empty.csv", CsvColumns())
    assert not read_csv_table(write_table(tmp_path, 2, column=False), CsvColumns()).annotated


def broken_table(folder: Path) -> Path:
    """A table in which rows 2-6 have one fault each, and rows 1 and 7 none."""
    path = write_table(folder, 7, annotated=[1, 2, 6])
    np.save(folder / "images" / "1.npy", np.full((40, 40), np.nan))
    np.save(folder / "images" / "2.npy", np.eye(40, 80))
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace("3.png", "gone.png")
    lines[5] = lines[5].rsplit(",", 2)[0] + ", ,"
    lines[6] = lines[6] + "images/none.npy"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_check_names_every_fault_with_row_and_key(tmp_path: Path) -> None:
    report = check_table(read_csv_table(broken_table(tmp_path), CsvColumns()))
    assert report.good == [0, 6] and report.samples == 7 and report.annotated == 4
    faults = [(fault.where.split(", ")[1], fault.key) for fault in report.faults]
    assert faults == [
        ("row 2", "heatmap"),
        ("row 3", "heatmap"),
        ("row 4", "filepath"),
        ("row 5", "title"),
        ("row 6", "heatmap"),
    ]
    with pytest.raises(DataError, match="5 problems in 7 samples"):
        raise_faults(report, "train.csv")


def test_the_check_command_prints_problems_and_draws_the_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, sheet = broken_table(tmp_path), tmp_path / "sheet.png"
    (tmp_path / "images" / "0.png").write_bytes((tmp_path / "images" / "0.png").read_bytes()[:200])
    assert check_main([str(path), str(tmp_path / "no.csv"), "--sheet", str(sheet)]) == 1
    out, err = capsys.readouterr()
    assert "7 samples, 4 annotated (57.1%), 6 problems" in out
    assert "row 1, filepath: image: unreadable" in out
    assert "40x40" in out
    assert out.splitlines()[-2] == "  row 1 is the first one after the header"
    assert "no such file" in err
    assert Image.open(sheet).width > 200
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[5]]) + "\n")
    assert check_main([str(path), "--sheet", str(tmp_path / "none.png")]) == 1
    out = capsys.readouterr().out
    assert "1 sample, 0 annotated (0.0%), 1 problem\n" in out
    assert "contact sheet: not written, since no sample" in out
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("name", ["a_file/sheet.png", "sheet.docx"])
def test_a_sheet_that_cannot_be_written_is_an_error_of_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a_file").touch()
    path = write_table(tmp_path, 2, annotated=[0])
    assert check_main([str(path), "--sheet", str(tmp_path / name)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: --sheet {tmp_path / name}: ") and "give another PNG" in err


def test_an_unreadable_image_is_an_error_or_is_replaced_and_named(tmp_path: Path) -> None:
    table = read_csv_table(write_table(tmp_path, 3), CsvColumns())
    (tmp_path / "images" / "1.png").write_bytes(b"not an image")
    message = r"train.csv, row 2, column 'filepath': .*1.png: unreadable"
    with pytest.raises(DataError, match=message):
        samples_of(table)[1]
    sample = samples_of(table, skip_bad=True)[1]
    assert sample.sample_id == 3
    assert len(sample.skipped) == 1 and "row 2" in sample.skipped[0]


def test_shards_are_indexed_checked_and_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image, good = (
        encode_array(np.zeros((40, 40, 3), np.uint8), ".png"),
        encode_array(np.eye(20), ".npz"),
    )
    shard = write_shard(
        tmp_path / "a.tar",
        {
            "p/1.png": image,
            "p/1.txt": b"one",
            "p/1.heatmap.npz": good,
            "2.png": image,
            "2.txt": b"two",
            "3.png": image,
            "4.png": image,
            "4.txt": b"four",
            "4.heatmap.png": encode_array(np.zeros((40, 40), np.uint8), ".png"),
        },
    )
    entries = index_shard(shard)
    assert [entry.annotated for entry in entries] == [True, False, False, True]
    report = check_entries(entries)
    assert report.good == [0, 1]
    assert [fault.key for fault in report.faults] == ["members", "heatmap.png"]
    assert "a.tar, 4" in report.faults[1].where and "all zero" in report.faults[1].message
    sample = TarSamples(
        entries,
        JointTransform(image_transform(32, is_train=True), 0.0),
        open_clip.get_tokenizer("tiny"),
        range(len(entries)),
    )[0]
    assert sample.heatmap.shape == (1, 32, 32)
    assert check_main([str(tmp_path / "{a,b}.tar"), "--sheet", str(tmp_path / "sheet.png")]) == 1
    out, err = capsys.readouterr()
    assert "a.tar: 4 samples, 2 annotated (50.0%), 2 problems" in out
    assert "b.tar: " in err
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DataError, match="a.tar"):
        index_shard(shard)
