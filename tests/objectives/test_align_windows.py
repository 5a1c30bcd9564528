"""`--align-windows`: alignment of each sentence with its own map.

Loss, gradient, reading and cropping, draws, errors, training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import BASIC, Launcher, write_shard, write_table
from open_clip.transform import image_transform
from PIL import Image
from reference import align as reference
from test_align import aligned, assert_gradient, set_up, tiny
from test_flag_checks import run
from test_pool_attention import POOLS, build
from workers.ddp_align import add_sentences

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.batching.sentence_draw import MOST, draw_sentences
from openclip_eclip.config import DataError, EClipConfig, UserError
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.sample import Sample, SampleBatch, collate, seeded_randomness
from openclip_eclip.data.sentence_windows import encode_windows
from openclip_eclip.data.shards.tar_source import TarSamples, index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table
from openclip_eclip.objectives import Align
from openclip_eclip.objectives.align import AlignConfig, log_text_attention
from openclip_eclip.towers.positions import encode_positions, encode_tokens

# of three images
SETTINGS = AlignConfig(weight=0.5, temperature=0.2, power=2, windows=True, min_share=0.9)


@pytest.mark.parametrize(
    "processor", [None, {"width": 32, "heads": 4, "zero_init": False}], ids=["alone", "eclip"]
)
@pytest.mark.parametrize(
    "rows,expert,counts",
    [
        ([2, 0], 0, {}),
        ([2, 0], 0, {0: 3}),
        ([], 0, {1: 1, 2: 4}),
        ([1], 2, {0: 2, 4: 3}),
        ([0, 1], 1, {0: 1, 1: 5, 3: 2}),
    ],
)
def test_loss_matches_numpy(processor: dict | None, rows: list, expert: int, counts: dict) -> None:
    """The mean over a sample's sentences, then over samples.

    Sentences replace the heatmap of the whole report. Rows after the batch are those of the
    separate stream.
    """
    model = tiny(processor)
    loss, batch, text = set_up(model, (Align(SETTINGS),), rows, expert)
    add_sentences(batch, counts, 0)
    losses = loss(**model(batch, text), output_dict=True)
    with torch.no_grad():
        images, texts = (
            torch.cat([batch.image, batch.expert_image]),
            torch.cat([text, batch.expert_text]),
        )
        reports, said = (
            model.encode_text(tokens, normalize=True).numpy()
            for tokens in (texts, torch.cat([batch.sentence_text, text]))
        )
        positions = encode_positions(model.visual, images).numpy()
    heatmaps = dict(
        zip(
            [*rows, *range(3, 3 + expert)],
            [one[0].numpy() for one in (*batch.annotated_heatmap, *batch.heatmap)],
        )
    )
    samples = []
    for i in sorted(heatmaps.keys() | counts):
        own = [k for k, row in enumerate(batch.sentence_row.tolist()) if row == i]
        pairs = [(batch.sentence_heatmap[k, 0].numpy(), said[k]) for k in own] or [
            (heatmaps[i], reports[i])
        ]
        samples.append(
            (
                [heatmap for heatmap, _ in pairs],
                [reference.attention(positions[i], t, 0.2) for _, t in pairs],
            )
        )
    assert float(losses["align_loss"].detach()) == pytest.approx(
        0.5 * reference.sentence_loss(samples, power=2, minimum=2.7), rel=1e-9
    )
    batch.sentence_row = batch.sentence_row[:0]
    assert counts == {} or float(
        loss(**model(batch, text), output_dict=True)["align_loss"].detach()
    ) != float(losses["align_loss"].detach())


@pytest.mark.slow
def test_gradient_matches_finite_differences_and_is_none_in_the_text_tower() -> None:
    model = tiny()
    loss, batch, text = set_up(model, (Align(AlignConfig(windows=True)),), [0], 1)
    add_sentences(batch, {0: 2, 2: 3, 3: 1}, 0)

    assert_gradient(model, lambda: loss(**model(batch, text), output_dict=True)["align_loss"])


def test_all_sentences_are_encoded_in_one_call() -> None:
    model = tiny()
    loss, batch, text = set_up(model, (Align(AlignConfig(windows=True)),), [0], 0)
    add_sentences(batch, {0: 2, 2: 3}, 0)
    seen = []
    encode = model.encode_text
    model.encode_text = lambda tokens, normalize=False: (
        seen.append((len(tokens), torch.is_grad_enabled())) or encode(tokens, normalize=normalize)
    )
    model(batch, text)
    assert seen == [(3, True), (5, False)]


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_towers_with_an_attention_pool_use_the_similarity(name: str) -> None:
    vision, grid, *_ = POOLS[name]
    visual, pixels = build(vision)
    _, tokens = encode_tokens(visual, pixels)
    positions = encode_positions(visual, pixels)[[1, 0, 1]]
    text = torch.nn.functional.normalize(torch.randn(3, positions.shape[-1]), dim=-1)
    log = log_text_attention(visual, tokens, text, torch.tensor([1, 0, 1]), 0.1)
    expected = torch.stack(
        [
            torch.from_numpy(
                reference.attention(p.detach().double().numpy(), t.double().numpy(), 0.1)
            )
            for p, t in zip(positions, text)
        ]
    )
    assert log.shape == (3, *grid) and torch.allclose(log.exp().double(), expected, atol=1e-4)
    log.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in visual.parameters())


# ---- data


def test_windows_are_cropped_with_the_image_and_draw_nothing() -> None:
    """A map is cropped like an image with the same content; a map outside the crop is dropped.

    The image is the same as without windows.
    """
    transform = JointTransform(
        image_transform(
            32, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3, aug_cfg={"scale": (0.3, 0.5)}
        ),
        0.1,
    )
    y, x = np.mgrid[:80, :64]
    maps = [
        np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 50) for cy, cx in ((20, 16), (60, 48), (40, 32))
    ]
    lost = 0
    for seed in range(12):
        film = Image.fromarray(np.rint(255 * np.stack(maps, axis=-1)).astype(np.uint8))
        with seeded_randomness([seed]):
            pixels, heatmap, cropped = transform.with_windows(
                film, None, None, [np.rint(255 * one).astype(np.uint8) for one in maps]
            )
        with seeded_randomness([seed]):
            assert torch.equal(pixels, transform(film)[0]) and heatmap is None
        for channel, one in zip(pixels, cropped):
            lost += one is None
            if one is not None and channel.max() > 0.3:
                assert torch.allclose(channel / channel.max(), one[0], atol=0.06)
    assert 0 < lost < 36


def samples(counts: Sequence[int]) -> SampleBatch:
    made = [
        Sample(torch.rand(3, 4, 4), torch.zeros(2, dtype=torch.int64), 10 * i, torch.rand(1, 4, 4))
        for i in range(len(counts))
    ]
    for sample, count in zip(made, counts):
        if count:
            sample.sentence_text = sample.sample_id + torch.arange(count)[:, None].expand(-1, 2)
            sample.sentence_heatmap = torch.rand(count, 1, 4, 4)
    return collate(made)


def test_sentences_are_limited_and_drawn_by_step_and_sample() -> None:
    many = MOST + 6
    fields, alone = samples([0, 3, many]), samples([0, 0, many])
    result = [draw_sentences(fields, 0, step) for step in range(8)]
    for step, one in enumerate(result):
        assert one.row.tolist() == [1] * 3 + [2] * MOST and one.text[:3, 0].tolist() == [10, 11, 12]
        assert one.text[3:, 0].diff().min() > 0 and len(one.heatmap) == 3 + MOST
        assert torch.equal(one.text[3:], draw_sentences(alone, 0, step).text)
    drawn = {tuple(one.text[3:, 0].tolist()) for one in result}
    assert len(drawn) > 4 and set().union(*drawn) == set(range(20, 20 + many))
    config = EClipConfig.from_dict({})
    loader = PlannedLoader(
        SimpleNamespace(num_batches=1, num_samples=3),
        config,
        Curriculum(1, config.curriculum),
        seed=0,
        objectives=(Align(SETTINGS),),
    )
    stream = samples([2])
    batch = loader.plan(fields, 0, stream).to(dtype=torch.bfloat16)
    assert batch.sentence_row.tolist() == [1] * 3 + [2] * MOST + [3, 3]
    assert batch.sentence_heatmap.dtype == torch.bfloat16
    assert loader.plan(samples([0]), 0, stream).sentence_row.tolist() == [1, 1]
    assert not len(loader.plan(samples([0, 0]), 0, None).sentence_text)


def windowed(
    folder: Path,
    count: int,
    described: Sequence[int],
    annotated: Sequence[int] = (),
    name: str = "train.csv",
) -> Path:
    """`write_table`'s table, with 1 to 3 sentences for the samples in `described`."""
    path = write_table(folder, count, annotated=annotated, name=name)
    frame = pd.read_csv(path, keep_default_na=False)
    frame["windows"] = ""
    for i in described:
        maps = [np.zeros((40, 40)) for _ in range(1 + i % 3)]
        for k, one in enumerate(maps):
            one[10 * k : 10 * k + 14, 5:30] = 1
        for suffix, content in zip(
            ("json", "npz"),
            encode_windows([(f"sentence {k} of {i}", k, k + 1) for k in range(len(maps))], maps),
        ):
            (folder / f"{i}.windows.{suffix}").write_bytes(content)
        frame.loc[i, "windows"] = f"{i}.windows.json"
    frame.to_csv(path, index=False)
    return path


def shard(folder: Path, table: Path) -> Path:
    """The same samples as members of a shard."""
    members = {}
    for i, row in pd.read_csv(table, keep_default_na=False).iterrows():
        members |= {
            f"{i}.png": Path(row["filepath"]).read_bytes(),
            f"{i}.txt": row["title"].encode(),
        }
        members |= (
            {f"{i}.heatmap.npy": (folder / row["heatmap"]).read_bytes()} if row["heatmap"] else {}
        )
        members |= {
            f"{i}.windows.{suffix}": (
                (folder / row["windows"]).with_suffix(f".{suffix}").read_bytes()
            )
            for suffix in ("json", "npz")
            if row["windows"]
        }
    return write_shard(folder / "train.tar", members)


@pytest.mark.slow
def test_windows_of_tables_and_shards_are_equal_and_read_only_on_request(tmp_path: Path) -> None:
    table = windowed(tmp_path, 4, [1, 2], annotated=[2, 3])
    transform, tokenizer = (
        JointTransform(image_transform(32, is_train=True), 0.1),
        open_clip.get_tokenizer("tiny"),
    )
    entries = index_shard(shard(tmp_path, table))
    for windows in (False, True):
        sources = (
            CsvSamples(read_csv_table(table, CsvColumns()), transform, tokenizer, windows=windows),
            TarSamples(entries, transform, tokenizer, range(4), windows=windows),
        )
        result = []
        for source in sources:
            with seeded_randomness([0]):
                result.append(collate([source[i] for i in range(4)]))
        assert result[0].sentence_row.tolist() == ([1] * 2 + [2] * 3 if windows else [])
        assert result[0].annotated.tolist() == [2, 3]
        assert all(
            torch.equal(getattr(result[0], name), getattr(result[1], name))
            for name in ("image", "heatmap", "sentence_text", "sentence_heatmap")
        )
    assert torch.equal(
        result[0].sentence_text[:2], tokenizer(["sentence 0 of 1", "sentence 1 of 1"])
    )
    (tmp_path / "1.windows.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match="row 2, column 'windows': .*not a readable npz"):
        sources[0][1]


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--align-windows"], "--align-windows with --method eclip: give --method align"),
        (
            ["--method", "align", "--align-windows", "--eclip-placebo", "ones"],
            "would keep their true ones",
        ),
        (
            ["--method", "align", "--align-windows"],
            "carries sentence windows; expected a column 'windows'",
        ),
    ],
)
def test_bad_flags_are_errors_before_training(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        run(tmp_path, *flags, table=write_table(tmp_path, 6, annotated=[1]))


def test_bad_windows_are_errors_before_training(tmp_path: Path) -> None:
    table = windowed(tmp_path, 6, [0, 3])
    (tmp_path / "3.windows.npz").unlink()
    with pytest.raises(DataError, match="row 4, windows: .*no such file"):
        run(tmp_path, "--method", "align", "--align-windows", table=table)


# ---- training


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """4 of 24 samples have a heatmap, 5 have windows and 2 both; some batches have neither."""
    launcher = Launcher(tmp_path_factory.mktemp("windows"))
    table = windowed(launcher.folder, 24, [1, 6, 7, 12, 20], annotated=range(0, 24, 6))
    only = windowed(launcher.folder, 24, [1, 6, 7, 12, 20], name="only.csv")
    data = (*BASIC, "--eclip-curriculum", 0.2, 0, 0, 0, 0, 1, "--train-data")
    common, align = (
        (*data, table, "--batch-size", 4, "--epochs", 1),
        ("--method", "align", "--align-windows"),
    )
    still, both = (
        (*data, table, "--epochs", 1, "--lr", 0),
        ("--method", "eclip+align", "--align-windows"),
    )
    launcher.train(
        (*common, "--name", "clip", "--method", "clip"),
        (*common, "--name", "zero", *align, "--align-weight", 0),
        (*common, "--name", "reports", "--method", "align"),
        (*common, "--name", "align", *align),
        (
            *data,
            only,
            *"--batch-size 4 --epochs 1 --name only".split(),
            *align,
            "--align-min-share",
            0.25,
        ),
        (
            *data,
            shard(launcher.folder, table),
            *"--train-num-samples 24 --dataset-type webdataset --batch-size 4".split(),
            *"--epochs 1 --name shard".split(),
            *align,
            *"--align-min-share 0.25 --align-oversample 0.5".split(),
        ),
        (
            *data,
            launcher.folder / "train.tar",
            *"--train-num-samples 8 --dataset-type webdataset --dataset-resampled".split(),
            *"--batch-size 4 --epochs 1 --name resampled".split(),
            *align,
            "--align-min-share",
            0.25,
        ),
        (
            *data,
            f"pipe:cat {launcher.folder / 'train.tar'}",
            *"--train-num-samples 24 --dataset-type webdataset --batch-size 4".split(),
            *"--epochs 1 --name remote".split(),
            *align,
            "--align-oversample",
            0.5,
        ),
        (
            *common,
            *"--name all --method eclip+align+gloria+dacl --align-windows".split(),
            *("--expert-data", table),
        ),
        (
            *common,
            *"--name plain --method naive+align --naive-form plain".split(),
            *("--expert-data", table),
            "--align-windows",
        ),
        (*common, "--name", "bf16", *align, "--precision", "bf16"),
        (*common, "--name", "amp", *align, "--precision", "amp_bf16", "--grad-checkpointing"),
        (*still, "--name", "one", "--batch-size", 12, *both),
        (*still, "--name", "three", "--batch-size", 4, "--accum-freq", 3, *both),
        *(
            (
                *still,
                *("--name", f"again {size}"),
                *("--batch-size", size),
                *("--accum-freq", 12 // size),
                *both,
                *("--align-oversample", 5 / 12),
            )
            for size in (12, 4)
        ),
        (*common, "--name", "whole", *both, "--epochs", 2),
        (
            *common,
            "--name",
            "resumed",
            *both,
            *"--epochs 2 --resume logs/whole/checkpoints/epoch_1.pt".split(),
        ),
    )
    return launcher


@pytest.mark.slow
def test_weight_0_is_bit_for_bit_clip(runs: Launcher) -> None:
    expected, result = runs.weights("clip", 1), runs.weights("zero", 1)
    assert set(result) == set(expected)
    assert all(torch.equal(result[key], value) for key, value in expected.items())
    assert runs.losses("zero") == runs.losses("clip") and not any(aligned(runs, "zero"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["align", "only", "shard", "remote", "all", "plain", "bf16", "amp"]
)
def test_alignment_trains_from_every_source(runs: Launcher, name: str) -> None:
    losses, values = runs.losses(name), aligned(runs, name)
    assert len(losses) == len(values) == 6
    assert np.isfinite(losses).all()
    assert sum(value > 0 for value in values) >= 2
    # the stream's annotated samples with windows count beside those of the training data
    assert (
        "eclip:"
        f" {'an unknown number of' if name == 'remote' else 7 if name in ('all', 'plain') else 5}"
        " samples with sentence windows" in runs.log(name)
    )
    assert ("its annotated images cannot be oversampled" in runs.log(name)) == (name == "remote")
    assert ("gets 1 of these images once more" in runs.log(name)) == (name == "shard")
    assert "20.8 % of the data is annotated" in runs.log("resampled")  # not of an epoch's eight
    assert (
        "20.8 % of the data is annotated: alignment is a mean over at least 25 % of each batch"
        in runs.log(name)
    ) == (name in ("only", "shard"))
    assert "nothing is aligned" not in runs.log(name)
    assert set(runs.weights("align", 1)) == set(runs.weights("clip", 1))


@pytest.mark.slow
def test_sentences_change_the_loss_and_low_precision_is_close(runs: Launcher) -> None:
    assert aligned(runs, "align") != aligned(runs, "reports")
    assert "sentence windows" not in runs.log("reports")
    first = next(i for i, value in enumerate(aligned(runs, "align")) if value)
    for name in ("bf16", "amp"):
        assert aligned(runs, name)[first] == pytest.approx(aligned(runs, "align")[first], rel=0.02)
    assert any(
        not torch.equal(value, runs.weights("clip", 1)[key])
        for key, value in runs.weights("amp", 1).items()
        if key.startswith("transformer.")
    )


@pytest.mark.slow
@pytest.mark.parametrize("whole,parts", [("one", "three"), ("again 12", "again 4")])
def test_accumulation_matches_the_large_batch(runs: Launcher, whole: str, parts: str) -> None:
    """Also for oversampled images: samples with a heatmap, two of them with sentences."""
    assert len(runs.losses(whole)) == 2
    assert all(aligned(runs, whole))
    assert ("once more" in runs.log(whole)) == (whole == "again 12")
    assert aligned(runs, parts) == pytest.approx(aligned(runs, whole), rel=1e-4)
    assert runs.losses(parts) == pytest.approx(runs.losses(whole), rel=2e-5)


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_run(runs: Launcher) -> None:
    result = runs.weights("resumed", 2)
    assert "resuming checkpoint" in runs.log("resumed")
    assert aligned(runs, "resumed") == aligned(runs, "whole")[6:]
    assert all(torch.equal(result[key], value) for key, value in runs.weights("whole", 2).items())
