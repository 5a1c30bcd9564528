"""Placebo heatmaps: only the map of a sample changes, not which views are annotated or when.

The placebo depends on the seed and the sample alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import BASIC, Launcher, write_shard, write_table
from open_clip.transform import image_transform
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode

from openclip_eclip.batching.curriculum import draw_gate
from openclip_eclip.config import PLACEBOS, DataError
from openclip_eclip.data.joint_transform import Crop, JointTransform
from openclip_eclip.data.placebo import choose_donors, scramble_phases, table_placebo
from openclip_eclip.data.sample import Sample, collate, seeded_randomness
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table

SIDE = 32


def labelled_table(folder: Path, count: int = 14, annotated: range = range(2, 14, 2)) -> Path:
    """A table as of `write_table`, with a class column and without constant maps.

    There are three classes with two annotated samples each.
    """
    path = write_table(folder, count, annotated)
    header, *lines = path.read_text().splitlines()
    labelled = [f"{line},c{i // 2 % 3}" for i, line in enumerate(lines)]
    path.write_text("\n".join([header + ",finding", *labelled]) + "\n")
    return path


def samples_of(
    path: Path, kind: str | None, seed: int = 0, threshold: float = 0.1, scale: tuple = (0.2, 1.0)
) -> CsvSamples:
    table = read_csv_table(path, CsvColumns(label="finding"))
    transform = JointTransform(
        image_transform(SIDE, is_train=True, aug_cfg={"scale": scale}), threshold
    )
    placebo = table_placebo(kind, seed, (SIDE, SIDE), table) if kind else None
    return CsvSamples(table, transform, open_clip.get_tokenizer("tiny"), placebo=placebo)


def draw(samples: CsvSamples, rounds: int = 1) -> list[Sample]:
    """All samples, `rounds` times, each with its own seed."""
    drawn = []
    for i in range(rounds * len(samples)):
        with seeded_randomness([i]):
            drawn.append(samples[i % len(samples)])
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACEBOS)
def test_only_the_map_changes(kind: str, tmp_path: Path) -> None:
    """With small crops and maps of little mass, many views are not annotated: the same views."""
    path = labelled_table(tmp_path)
    for file in (tmp_path / "images").glob("*.npy"):  # two bright pixels
        values = np.zeros((40, 40), np.float32)
        values[int(file.stem) + 3, 5] = values[30, 2 * int(file.stem) + 10] = 1
        np.save(file, values)
    true, placebo = draw(samples_of(path, None), 6), draw(samples_of(path, kind), 6)
    annotated = [sample.heatmap is not None for sample in true]
    assert 0 < sum(annotated) < 36
    assert annotated == [sample.heatmap is not None for sample in placebo]
    changed = 0
    for before, after in zip(true, placebo):
        assert torch.equal(before.image, after.image)
        assert torch.equal(before.text, after.text)
        assert before.sample_id == after.sample_id
        if before.heatmap is not None:
            assert after.heatmap.shape == before.heatmap.shape
            assert after.heatmap.dtype == torch.float32
            assert after.heatmap.min() >= 0 and after.heatmap.max() == 1
            changed += not torch.equal(before.heatmap, after.heatmap)
    assert changed == sum(annotated)
    # the gate draws the same lambdas for both
    lambdas = []
    for samples in (true, placebo):
        keys = [sample.sample_id for sample in samples if sample.heatmap is not None]
        lambdas.append(draw_gate(0, 5, keys, 0.5, 0.3).lam.tolist())
    assert lambdas[0] == lambdas[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACEBOS)
def test_a_placebo_is_a_function_of_seed_and_sample(kind: str, tmp_path: Path) -> None:
    """The map is the same for any number of workers, any order and any epoch.

    With another seed it differs, if the kind is random.
    """
    path = labelled_table(tmp_path)

    def maps(seed: int = 0, workers: int = 0, reverse: bool = False) -> dict[int, torch.Tensor]:
        samples = samples_of(path, kind, seed, threshold=0, scale=(1.0, 1.0))
        order = list(range(len(samples)))[:: -1 if reverse else 1]
        by_id = {}
        for batch in DataLoader(
            samples, batch_size=3, sampler=order, num_workers=workers, collate_fn=collate
        ):
            by_id.update(zip(batch.sample_id[batch.annotated].tolist(), batch.heatmap))
        return by_id

    expected = maps()
    assert len(expected) == 6
    others = [maps(), maps(reverse=True)]
    if kind in ("random", "shuffled"):
        others.append(maps(workers=2))
    for other in others:
        assert other.keys() == expected.keys()
        assert all(torch.equal(other[key], expected[key]) for key in expected)
    placebo = samples_of(path, kind).placebo(5, np.load(tmp_path / "images" / "4.npy"))
    assert placebo.dtype == np.float32 and placebo.min() >= 0 and placebo.max() == 1
    if kind in ("random", "phase-scrambled"):
        other = maps(seed=1)
        assert not any(torch.equal(other[key], expected[key]) for key in expected)
        assert len({value.numpy().tobytes() for value in expected.values()}) == 6
    if kind == "shuffled":
        others = (maps(seed) for seed in (1, 2))
        assert any(
            not torch.equal(other[key], expected[key]) for other in others for key in expected
        )


def test_a_placebo_is_cropped_with_the_image(tmp_path: Path) -> None:
    """If the crop holds nothing of the placebo, the whole placebo is used."""
    image = Image.new("RGB", (64, 64))
    true = np.ones((64, 64), np.float32)
    corner = np.zeros((16, 16), np.float32)  # the map of another image, at another resolution
    corner[:8, :8] = 1
    transform = JointTransform(image_transform(32, is_train=True), 0.1)

    def crop(left: int) -> torch.Tensor:
        transform.crop.draw = lambda canvas: Crop(
            0, left, 32, 32, InterpolationMode.BICUBIC, canvas
        )
        return transform(image, true, corner)[1][0]

    assert crop(0)[:28, :28].min() == 1
    half = crop(16)
    assert half[:28, :12].min() == 1 and half[:, 20:].max() == 0
    whole = crop(32)
    assert whole[:12, :12].min() == 1 and whole[20:].max() == 0 and whole[:, 20:].max() == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_shuffled_map_is_never_of_the_same_image(seed: int) -> None:
    """The shuffle is a permutation within each class; images may have several readers."""
    rng = np.random.default_rng(seed)
    images = [f"i{i // 3}" for i in range(12)] + [f"j{i}" for i in range(17)]
    classes = (
        [f"c{int(rng.integers(2))}" for _ in range(4) for _ in range(3)] + ["c0", "c1"] * 8 + ["c0"]
    )
    for labels in (None, ["c" for _ in images]):
        donors = choose_donors(seed, images, labels, images)
        assert sorted(donors) == list(range(29))
        assert all(images[i] != images[donor] for i, donor in enumerate(donors))
    singles = list(range(29))
    donors = choose_donors(seed, singles, classes, images)
    assert sorted(donors) == singles
    for i, donor in enumerate(donors):
        assert classes[i] == classes[donor] and i != donor
    without_classes = choose_donors(seed, singles, None, images)
    assert any(classes[i] != classes[donor] for i, donor in enumerate(without_classes))


@pytest.mark.parametrize(
    "images,classes,message",
    [
        (["a"], None, "1 annotated samples of 1 images"),
        (["a", "a", "b"], None, "3 annotated samples of 2 images"),
        (["a", "b", "c"], ["x", "x", "y"], "1 annotated samples of class 'y'"),
    ],
)
def test_a_shuffle_without_donors_is_an_error(
    images: list, classes: list | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        choose_donors(0, images, classes, images)


@pytest.mark.parametrize("shape", [(31, 40), (40, 32)])
def test_scrambled_phases_keep_the_amplitudes(shape: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    heatmap = np.exp(-((rows - 9) ** 2 + (columns - 25) ** 2) / 18).astype(np.float32)
    scrambled = scramble_phases(heatmap, np.random.default_rng(0))
    # amplitudes of all frequencies but the mean
    before, after = (
        np.abs(np.fft.rfft2(values.astype(float))).ravel()[1:] for values in (heatmap, scrambled)
    )
    scale = (before @ after) / (before @ before)
    assert np.abs(after - scale * before).max() < 1e-4 * after.max()
    assert scrambled.min() >= 0 and scrambled.max() == 1
    assert np.abs(np.corrcoef(scrambled.ravel(), heatmap.ravel())[0, 1]) < 0.3


def write_labelled_shard(path: Path, field: str = "finding") -> Path:
    table = labelled_table(path.parent)
    members = {}
    for i, line in enumerate(table.read_text().splitlines()[1:]):
        image, title, heatmap, finding = line.split(",")
        members |= {
            f"{i}.png": Path(image).read_bytes(),
            f"{i}.txt": title.encode(),
            f"{i}.json": json.dumps({field: finding}).encode(),
        }
        if heatmap:
            members[f"{i}.heatmap.npy"] = (path.parent / heatmap).read_bytes()
    return write_shard(path, members)


@pytest.mark.slow
def test_training_with_placebos(launcher: Launcher) -> None:
    """Tables, shards and --expert-data: the same views of every sample, but other losses.

    A resumed run ends with the weights of an uninterrupted one.
    """
    table = labelled_table(launcher.folder)
    shard = write_labelled_shard(launcher.folder / "train-000000.tar")
    plain = write_table(launcher.folder, 14, name="plain.csv")  # without annotations
    always = ["--eclip-curriculum", 0, 0, 0, 0, 0, 1]
    both = [
        *(*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 2),
        *("--eclip-curriculum", 0, 0, 0, 0, 0, 0.6),
        *("--expert-data", shard, "--expert-batch-size", 2),
    ]
    shards = [
        *(*BASIC, "--train-data", shard, "--train-num-samples", 12),
        *("--batch-size", 4, "--epochs", 1, *always),
    ]
    stream = [
        *(*BASIC, "--train-data", plain, "--batch-size", 4, "--epochs", 1),
        *("--expert-batch-size", 2, *always),
    ]
    same = ["--eclip-placebo", "same-class-shuffled", "--csv-label-key", "finding"]
    sources = {
        f"stream-{path.suffix[1:]}": [*stream, "--expert-data", path] for path in (table, shard)
    } | {"rows": both, "shards": shards}
    launcher.train(
        *[
            [*run, *placebo, "--name", name + end]
            for name, run in sources.items()
            for placebo, end in (([], ""), (same, "-same"))
        ]
    )
    for name in sources:
        views = [
            (launcher.folder / "logs" / run / "annotated_views.csv").read_text()
            for run in (name, f"{name}-same")
        ]
        assert views[0] == views[1], name
        assert launcher.losses(name) != launcher.losses(f"{name}-same"), name
    assert "placebo" in launcher.log("rows-same")
    end = launcher.weights("rows-same", 2)
    (launcher.folder / "logs" / "rows-same" / "checkpoints" / "epoch_2.pt").unlink()
    launcher.train([*both, *same, "--name", "rows-same", "--resume", "latest"])
    for key, value in launcher.weights("rows-same", 2).items():
        assert torch.equal(value, end[key])


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags,message",
    [
        (["--recipe", "clip", "--eclip-placebo", "ones"], "it uses no heatmap"),
        (["--eclip-placebo", "same-class-shuffled"], "--csv-label-key names the classes"),
        (["--csv-label-key", "finding"], "--csv-label-key names the classes"),
        (
            ["--eclip-placebo", "same-class-shuffled", "--csv-label-key", "class"],
            "no column 'class'",
        ),
        (
            [
                *("--eclip-placebo", "same-class-shuffled", "--csv-label-key", "class"),
                *("--train-data", "{shard}", "--train-num-samples", "12"),
            ],
            "no field 'class'",
        ),
        (
            [
                *("--eclip-placebo", "shuffled"),
                *("--train-data", "pipe:cat x.tar", "--train-num-samples", "12"),
            ],
            "not on this machine",
        ),
    ],
)
def test_placebos_that_cannot_work_are_an_error(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    from test_flag_checks import run

    table, shard = labelled_table(tmp_path), write_labelled_shard(tmp_path / "x.tar")
    with pytest.raises(ValueError, match=message):
        run(
            tmp_path,
            *(flag.format(shard=shard) for flag in flags),
            table=None if "--train-data" in flags else table,
        )
