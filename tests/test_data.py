"""Heatmap files, the joint transform (invariant 6), tables and shards, the check, and the plan of a
batch.
"""

from __future__ import annotations

import dataclasses
import io
import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import scipy.sparse
import torch
from conftest import write_shard, write_table
from open_clip.transform import image_transform
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.expert_stream import ALWAYS, ExpertSlots, expert_loader
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.config import CurriculumConfig, DataError, EClipConfig
from openclip_eclip.data.check import check_entries, check_table, raise_faults
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.heatmap import check_aspect, decode_heatmap
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.sample import Sample, collate, seeded_randomness
from openclip_eclip.data.shards.tar_source import TarSamples, index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set


def encode(values: np.ndarray, suffix: str, **options) -> bytes:
    stream = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(values).save(stream, "PNG")
    elif suffix == ".npy":
        np.save(stream, values, **options)
    else:
        np.savez(stream, heatmap=values)
    return stream.getvalue()


# ---- files


@pytest.mark.parametrize(
    "values,suffix",
    [
        (np.array([[0, 51], [102, 255]], np.uint8), ".png"),
        (np.array([[0, 13107], [26214, 65535]], np.uint16), ".png"),
        (np.array([[0, 0.2], [0.4, 1]], np.float32) * 7, ".npy"),
        (np.array([[[0, 1], [2, 5]]], np.int64), ".npy"),
        (np.array([[0, 0.2], [0.4, 1]]), ".npz"),
        (np.array([[False, True], [True, True]]), ".npy"),
    ],
    ids=str,
)
def test_heatmap_files_are_divided_by_their_own_maximum(values: np.ndarray, suffix: str) -> None:
    found = decode_heatmap(encode(values, suffix), f"map{suffix}")
    assert found.dtype == np.float32 and found.shape == (2, 2)
    assert np.allclose(found, np.squeeze(values) / values.max(), atol=1e-4)


def test_scipy_csr_is_the_dense_map(tmp_path: Path) -> None:
    dense = np.array([[0, 0, 3.0], [6, 0, 0]])
    scipy.sparse.save_npz(tmp_path / "map.npz", scipy.sparse.csr_matrix(dense))
    assert np.allclose(decode_heatmap((tmp_path / "map.npz").read_bytes(), "map.npz"), dense / 6)
    arrays = dict(np.load(tmp_path / "map.npz"))
    for key, bad, message in (
        ("indices", np.array([2, 9], np.int32), "map.npz"),
        ("indptr", np.array([0, 2], np.int32), "map.npz"),
    ):
        stream = io.BytesIO()
        np.savez(stream, **{**arrays, key: bad})
        with pytest.raises(DataError, match=message):
            decode_heatmap(stream.getvalue(), "map.npz")


GOOD = np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    "data,name,message",
    [
        (encode(np.where(np.eye(4), np.nan, 1), ".npy"), "a.npy", "NaN or infinite"),
        (encode(GOOD * -1, ".npy"), "a.npy", "no negative"),
        (encode(GOOD * 0, ".npy"), "a.npy", "all zero"),
        (encode(np.ones((3, 4, 4)), ".npy"), "a.npy", r"shape \(3, 4, 4\)"),
        (encode(np.ones(4), ".npy"), "a.npy", "shape"),
        (encode(np.zeros((4, 4, 3), np.uint8), ".png"), "a.png", "mode RGB"),
        (b"\x89PNG not", "a.png", "unreadable"),
        (
            encode(np.array([[{"a": 1}]], dtype=object), ".npy", allow_pickle=True),
            "a.npy",
            "pickle",
        ),
        (encode(GOOD, ".npy")[:60], "a.npy", "a.npy"),
        (encode(GOOD * 1j, ".npy"), "a.npy", "complex64"),
        (encode(GOOD, ".npz")[:90], "a.npz", "unreadable"),
        (b"", "a.jpg", "unknown format"),
    ],
    ids=[
        "nan",
        "negative",
        "zero",
        "channels",
        "flat",
        "colour",
        "not-png",
        "pickle",
        "truncated",
        "complex",
        "zip",
        "jpg",
    ],
)
def test_bad_heatmaps_are_named(data: bytes, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        decode_heatmap(data, name)
    assert name in str(error.value)


def test_aspect_ratio_not_resolution_must_match() -> None:
    check_aspect((100, 50), (2000, 1000), "map")
    # 14 x 18 would be exact: rounding of a coarse grid is fine
    check_aspect((7, 9), (2544, 3056), "map")
    with pytest.raises(DataError, match="fits transposed"):
        check_aspect((50, 100), (2000, 1000), "map")
    with pytest.raises(DataError, match="100 x 100"):
        check_aspect((100, 100), (2000, 1000), "map")


# ---- the joint transform


def marked(size: tuple[int, int], spot: tuple[float, float], width: float = 0.12) -> np.ndarray:
    """A bright square at relative position `spot` (y, x) on black."""
    values = np.zeros(size, np.float32)
    y, x = int(spot[0] * size[0]), int(spot[1] * size[1])
    r = max(1, int(width * size[0] / 2)), max(1, int(width * size[1] / 2))
    values[max(0, y - r[0]) : y + r[0], max(0, x - r[1]) : x + r[1]] = 1
    return values


def centre(values: torch.Tensor) -> torch.Tensor:
    weight = values.clamp(min=0)
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(side) + 0.5 for side in values.shape), indexing="ij")
    )
    return (grid * weight).sum((1, 2)) / weight.sum()


@pytest.mark.parametrize(
    "image_size,map_size,spot",
    [
        ((300, 200), (300, 200), (0.4, 0.6)),
        ((200, 300), (100, 150), (0.5, 0.5)),
        ((97, 131), (970, 1310), (0.6, 0.4)),
        ((256, 256), (32, 32), (0.5, 0.5)),
    ],
)
@pytest.mark.parametrize(
    "aug",
    [{"scale": (0.3, 1.0)}, {"use_timm": True, "scale": (0.3, 1.0)}],
    ids=["torchvision", "timm"],
)
def test_a_mark_stays_under_its_mark(
    image_size: tuple, map_size: tuple, spot: tuple, aug: dict
) -> None:
    transform = JointTransform(
        image_transform(112, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3, aug_cfg=aug), 0.5
    )
    image = Image.fromarray((marked(image_size, spot) * 255).astype(np.uint8)).convert("RGB")
    heatmap = marked(map_size, spot)
    torch.manual_seed(0)
    compared = 0
    for _ in range(20):
        pixels, cropped = transform(image, heatmap)
        if cropped is None:
            continue
        assert (
            pixels.shape == (3, 112, 112)
            and cropped.shape == (1, 112, 112)
            and cropped.dtype == torch.float32
        )
        assert cropped.max() == 1 and cropped.min() >= 0
        distance = (centre(pixels[0]) - centre(cropped[0])).abs().max()
        # the marks are whole pixels of either grid
        assert distance < 112 / min(*map_size) + 112 / min(*image_size), distance
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize(
    "image_size,map_size,spot",
    [
        ((300, 150), (64, 64), (0.5, 0.4)),
        ((120, 310), (200, 40), (0.45, 0.6)),
        ((200, 200), (30, 90), (0.6, 0.5)),
    ],
)
def test_a_placebo_of_another_shape_lies_over_the_whole_image(
    image_size: tuple, map_size: tuple, spot: tuple
) -> None:
    """Its height is the image's height, its width the image's width: a mark of it stays where the
    image has one.
    """
    transform = JointTransform(
        image_transform(
            112, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3, aug_cfg={"scale": (0.3, 1.0)}
        ),
        0.5,
    )
    image = Image.fromarray((marked(image_size, spot, 0.2) * 255).astype(np.uint8)).convert("RGB")
    torch.manual_seed(0)
    compared = 0
    for _ in range(30):
        pixels, placebo = transform(
            image, marked(image_size, spot, 0.2), marked(map_size, spot, 0.2)
        )
        if (
            placebo is None
            or min(
                pixels[0][0].max(),
                pixels[0][-1].max(),
                pixels[0][:, 0].max(),
                pixels[0][:, -1].max(),
            )
            > 0
        ):
            continue
        distance = (centre(pixels[0]) - centre(placebo[0])).abs().max()
        assert distance < 2 * 112 / min(*map_size) + 112 / min(*image_size), distance
        compared += 1
    assert compared >= 5


def test_full_crop_of_an_equal_map_is_the_map() -> None:
    transform = JointTransform(
        image_transform(8, is_train=True, aug_cfg={"scale": (1.0, 1.0)}), 0.1
    )
    values = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    transform.crop.crop.ratio = (1.0, 1.0)
    _, cropped = transform(Image.new("RGB", (8, 8)), values)
    assert np.allclose(cropped[0].numpy(), values / values.max(), atol=1e-6)


@pytest.mark.parametrize(
    "aug",
    [
        None,
        {
            "scale": (0.2, 1.0),
            "color_jitter": (0.3, 0.3, 0.2, 0.05),
            "color_jitter_prob": 0.8,
            "gray_scale_prob": 0.4,
        },
        {"use_timm": True, "scale": (0.2, 1.0), "re_prob": 0.5, "color_jitter": 0.3},
    ],
)
def test_without_and_with_a_heatmap_the_image_is_open_clips(aug: dict | None) -> None:
    import random

    stock = image_transform(48, is_train=True, aug_cfg=aug)
    transform = JointTransform(stock, 0.1)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    for seed in range(4):
        results = []
        for heatmap in ("stock", None, np.ones((90, 70), np.float32)):
            torch.manual_seed(seed), random.seed(seed)
            results.append(
                stock(image) if isinstance(heatmap, str) else transform(image, heatmap)[0]
            )
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_a_crop_without_the_region_is_not_annotated() -> None:
    heatmap = np.zeros((100, 100), np.float32)
    heatmap[:30, :30] = 1
    image = Image.new("RGB", (100, 100))
    torch.manual_seed(0)
    kept = {
        threshold: sum(
            JointTransform(
                image_transform(16, is_train=True, aug_cfg={"scale": (0.3, 0.3)}), threshold
            )(image, heatmap)[1]
            is not None
            for _ in range(40)
        )
        for threshold in (0.0, 0.3, 1.0)
    }
    assert 40 > kept[0.0] >= kept[0.3] > kept[1.0] == 0


def test_a_step_that_moves_pixels_is_refused() -> None:
    stock = image_transform(32, is_train=True)
    stock.transforms.append(torch.nn.Identity())
    with pytest.raises(ValueError, match="step Identity"):
        JointTransform(stock, 0.1)
    with pytest.raises(ValueError, match="starts with Resize"):
        JointTransform(image_transform(32, is_train=False), 0.1)


# ---- tables and shards


def samples_of(table, **options) -> CsvSamples:
    return CsvSamples(
        table,
        JointTransform(image_transform(32, is_train=True), 0.0),
        open_clip.get_tokenizer("tiny"),
        **options,
    )


def test_seeded_randomness_repeats_and_leaves_every_generator_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of GPUs too: reseeded with every sample, dropout would follow the expert stream."""
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
    assert first == again and len({*first, *other}) == 6
    assert draw() == expected


def test_table_reads_blank_cells_quotes_and_relative_paths(tmp_path: Path) -> None:
    write_table(tmp_path, 3, annotated=[1])
    (tmp_path / "own.csv").write_text(
        'path,report,gaze\nimages/0.png,"no, ""nodule""",\nimages/1.png,NA,images/1.npy\n'
    )
    columns = CsvColumns("path", "report", "gaze")
    table = read_csv_table(tmp_path / "own.csv", columns)
    assert (
        table.captions == ['no, "nodule"', "NA"] and table.annotated == [1] and table.rows == [1, 2]
    )
    assert table.images[0] == tmp_path / "images" / "0.png"
    items = collate([samples_of(table)[0], samples_of(table)[1]])
    assert (
        items.annotated.tolist() == [1]
        and items.sample_id.tolist() == [1, 2]
        and items.text.shape == (2, 16)
    )
    assert items.heatmap.shape == (1, 1, 32, 32) and items.image.shape == (2, 3, 32, 32)
    assert not check_table(table).faults


def test_a_pinned_loader_pins_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch calls `pin_memory` of what it does not know; a tensor that is pinned here is a copy."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    image, words = torch.rand(3, 4, 4), torch.zeros(2, dtype=torch.int64)
    batch = collate([Sample(image, words, 7, torch.rand(1, 4, 4), skipped=["x.csv, row 3"])])
    pinned = pin_memory((batch, None))[0]
    assert type(pinned) is type(batch) and pinned.skipped == ["x.csv, row 3"] and len(pinned) == 1
    for field in dataclasses.fields(batch):
        before, after = getattr(batch, field.name), getattr(pinned, field.name)
        if field.name != "skipped":
            assert after is not before and torch.equal(after, before), field.name


def test_a_path_that_could_be_two_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name where the command starts must not replace the pictures beside the
    table.
    """
    for name in ("here", "there"):
        write_table(tmp_path / name, 2)
    table = tmp_path / "there" / "own.csv"
    table.write_text("filepath,title\nimages/0.png,nodule\n")
    monkeypatch.chdir(tmp_path / "there")
    assert (
        read_csv_table("own.csv", CsvColumns())
        .images[0]
        .samefile(tmp_path / "there" / "images" / "0.png")
    )
    assert read_csv_table(table, CsvColumns()).images == [Path("images/0.png")]
    monkeypatch.chdir(tmp_path / "here")
    for read in (lambda: read_csv_table(table, CsvColumns()), lambda: read_eval_set(table)):
        with pytest.raises(DataError, match="here/images/0.png or .*there/images/0.png"):
            read()


def test_table_errors_name_what_is_missing(tmp_path: Path) -> None:
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
    """Rows 2-6 have one fault each, rows 1 and 7 none."""
    path = write_table(folder, 7, annotated=[1, 2, 6])
    np.save(folder / "images" / "1.npy", np.full((40, 40), np.nan))
    np.save(folder / "images" / "2.npy", np.eye(40, 80))
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace("3.png", "gone.png")
    lines[5] = lines[5].rsplit(",", 2)[0] + ", ,"
    lines[6] = lines[6] + "images/none.npy"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_check_names_every_fault_by_row_and_key(tmp_path: Path) -> None:
    report = check_table(read_csv_table(broken_table(tmp_path), CsvColumns()))
    assert report.good == [0, 6] and report.samples == 7 and report.annotated == 4
    found = [(fault.where.split(", ")[1], fault.key) for fault in report.faults]
    assert found == [
        ("row 2", "heatmap"),
        ("row 3", "heatmap"),
        ("row 4", "filepath"),
        ("row 5", "title"),
        ("row 6", "heatmap"),
    ]
    with pytest.raises(DataError, match="5 faults in 7 samples"):
        raise_faults(report, "train.csv")


def test_check_command_reports_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = broken_table(tmp_path)
    (tmp_path / "images" / "0.png").write_bytes((tmp_path / "images" / "0.png").read_bytes()[:200])
    assert (
        check_main([str(path), str(tmp_path / "no.csv"), "--sheet", str(tmp_path / "sheet.png")])
        == 1
    )
    out, err = capsys.readouterr()
    assert (
        "7 samples, 4 annotated (57.1%), 6 faults" in out
        and "row 1, filepath: image: unreadable" in out
    )
    assert "40x40" in out and "no such file" in err
    assert Image.open(tmp_path / "sheet.png").width > 200


def test_unreadable_image_stops_or_is_replaced_and_named(tmp_path: Path) -> None:
    table = read_csv_table(write_table(tmp_path, 3), CsvColumns())
    (tmp_path / "images" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(
        DataError, match=r"train.csv, row 2, column 'filepath': .*1.png: unreadable"
    ):
        samples_of(table)[1]
    sample = samples_of(table, skip_bad=True)[1]
    assert sample.sample_id == 3 and len(sample.skipped) == 1 and "row 2" in sample.skipped[0]


def test_shards_are_indexed_checked_and_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture, good = encode(np.zeros((40, 40, 3), np.uint8), ".png"), encode(np.eye(20), ".npz")
    shard = write_shard(
        tmp_path / "a.tar",
        {
            "p/1.png": picture,
            "p/1.txt": b"one",
            "p/1.heatmap.npz": good,
            "2.png": picture,
            "2.txt": b"two",
            "3.png": picture,
            "4.png": picture,
            "4.txt": b"four",
            "4.heatmap.png": encode(np.zeros((40, 40), np.uint8), ".png"),
        },
    )
    entries = index_shard(shard)
    assert [entry.annotated for entry in entries] == [True, False, False, True]
    report = check_entries(entries)
    assert report.good == [0, 1] and [fault.key for fault in report.faults] == [
        "members",
        "heatmap.png",
    ]
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
    assert "a.tar: 4 samples, 2 annotated (50.0%), 2 faults" in out and "b.tar: " in err
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DataError, match="a.tar"):
        index_shard(shard)


# ---- the plan of a batch


def plan(rows: list[int], probability: float, **options) -> tuple:
    samples = [
        Sample(
            torch.full((3, 4, 4), float(i)),
            torch.zeros(5, dtype=torch.int64),
            10 + i,
            torch.ones(1, 4, 4) * i if i in rows else None,
        )
        for i in range(4)
    ]
    loader = type("Loader", (list,), {"num_batches": 2, "num_samples": 8})(
        [collate(samples), collate(samples)]
    )
    config = EClipConfig(curriculum=CurriculumConfig(cold=0.5, warm=0, cool=0, end=probability))
    planned = PlannedLoader(loader, config, Curriculum(2, config.curriculum), seed=0, **options)
    return [batch for batch, _ in planned], planned


def test_plan_primes_in_cold_start_and_mixes_afterwards() -> None:
    (cold, rest), planned = plan([1, 3], 1.0)
    assert cold.is_priming and len(cold.lam) == 0 and not rest.is_priming
    assert (
        rest.mix_index.tolist() == [1, 3]
        and rest.mixed_id.tolist() == [11, 13]
        and (rest.lam < 1).all()
    )
    assert rest.heatmap[1].mean() == 3 and planned.views == {11: 1, 13: 1}
    (cold, rest), _ = plan([], 1.0, annotated=False)
    assert not cold.is_priming and len(rest.lam) == 0


class Counting(torch.utils.data.Dataset):
    read: list[int] = []

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        heatmap = None if index == 0 else torch.ones(1, 4, 4)  # sample 0: the crop lost the region
        return Sample(torch.rand(3, 4, 4), torch.zeros(5, dtype=torch.int64), 100 + index, heatmap)


def test_refused_expert_samples_are_never_decoded() -> None:
    def batches(probability: float) -> tuple[list, int]:
        Counting.read = []
        curriculum = Curriculum(40, CurriculumConfig(cold=0.5, warm=0, cool=0, end=probability))
        slots = ExpertSlots(10, 5, 40, curriculum, EClipConfig().alpha, seed=0)
        loaded = list(expert_loader(Counting(), slots, workers=0))
        return loaded, len(Counting.read)

    closed, decoded = batches(0.0)
    assert (
        len(closed) == 40 and decoded == 0 and all(len(fields.sample_id) == 0 for fields in closed)
    )
    half, decoded = batches(0.5)
    used = sum(len(fields.sample_id) for fields in half)
    assert 30 < decoded < 70 and used == decoded - Counting.read.count(0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, _ = batches(0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.lam, b.lam) for a, b in zip(half, again)
    )


def test_expert_stream_is_the_same_however_it_is_spread() -> None:
    curriculum = Curriculum(6, CurriculumConfig(cold=0, warm=0, cool=0, end=0.7))
    whole = list(ExpertSlots(7, 4, 6, curriculum, EClipConfig().alpha, seed=2))
    ranks = [
        list(ExpertSlots(7, 2, 6, curriculum, EClipConfig().alpha, seed=2, rank=rank, world_size=2))
        for rank in (0, 1)
    ]
    assert [a + b for a, b in zip(*ranks)] == whole
    accumulated = list(ExpertSlots(7, 2, 12, curriculum, EClipConfig().alpha, seed=2, accum_freq=2))
    assert [a + b for a, b in zip(accumulated[::2], accumulated[1::2])] == whole
    second = ExpertSlots(7, 4, 3, curriculum, EClipConfig().alpha, seed=2)
    second.epoch = 1
    assert list(second) == whole[3:]


def test_expert_batch_joins_the_carrier() -> None:
    curriculum = Curriculum(2, CurriculumConfig(cold=0.5, warm=0, cool=0, end=1.0))
    slots = ExpertSlots(10, 3, 2, curriculum, EClipConfig().alpha, seed=0)
    (_, rest), planned = plan([2], 1.0, expert=expert_loader(Counting(), slots, workers=0))
    extra = len(rest.expert_image)
    assert (
        extra in (2, 3)
        and rest.expert_text.shape == (extra, 5)
        and len(rest.lam) == len(rest.heatmap) == 1 + extra
    )
    assert rest.mixed_id.tolist()[0] == 12 and min(rest.mixed_id.tolist()[1:]) >= 100


def test_what_is_shown_once_more_comes_equally_often_in_an_order_of_each_epoch() -> None:
    """Five of ten for each of two batches; nothing of it becomes a pair."""
    Counting.read = []
    (cold, rest), planned = plan(
        [2],
        1.0,
        replay=expert_loader(
            Counting(),
            ExpertSlots(10, 5, 2, Curriculum(1, ALWAYS), EClipConfig().alpha, seed=0),
            workers=0,
        ),
    )
    planned.epoch = 1
    again = [batch for batch, _ in planned]
    assert (
        sorted(Counting.read[:10]) == sorted(Counting.read[10:]) == list(range(10))
        and Counting.read[:10] != Counting.read[10:]
    )
    # the crop of sample 0 lost the region
    assert (
        sum(len(batch.replay_image) for batch in (cold, rest))
        == sum(len(batch.replay_image) for batch in again)
        == 9
    )
    assert (
        rest.replay_text.shape[1:] == (5,)
        and rest.replay_heatmap.shape[1:] == (1, 4, 4)
        and rest.mixed_id.tolist() == [12]
        and len(rest.expert_image) == 0
    )
    assert (
        rest.to(dtype=torch.bfloat16).replay_image.dtype
        == rest.to(dtype=torch.bfloat16).replay_heatmap.dtype
        == torch.bfloat16
    )
