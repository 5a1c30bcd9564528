"""Runs with frozen towers whose results are kept equal those that compute them again."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from PIL import Image

from openclip_eclip import train
from openclip_eclip.config import UserError
from openclip_eclip.data import sample as samples
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.tables.csv_source import CsvColumns, CsvSamples, read_csv_table

FROZEN = (*"--freeze-image all --freeze-text all --method align".split(), "--align-weight", 1)
CACHED = "--freeze-image all --method align --cache-tokens x".split()
# a crop of the whole image: the only view that a run without kept views shows again
WHOLE = ("--aug-cfg", "scale=(1,1)", "ratio=(1,1)")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    launcher = Launcher(tmp_path_factory.mktemp("cached"))
    table = write_table(launcher.folder, 12, annotated=range(0, 12, 3))
    data = (*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 2, *FROZEN)
    once = (*data, "--epochs", 1)  # the order of a later epoch depends on what views draw
    exact = ("--cache-tokens", "exact", "--cache-tokens-dtype", "fp32", "--cache-crops", 1)
    rounded = ("--cache-tokens", "rounded", "--cache-crops", 2)
    launcher.train(
        (*once, *WHOLE, "--name", "computed"),
        (*once, *WHOLE, "--name", "kept", *exact),
        (*once, *WHOLE, "--name", "again", *exact),
        (*data, "--name", "views", *rounded),
        (*data, "--name", "views again", *rounded, "--workers", 1),
        timeout=300,
    )
    blocks = (*once, *WHOLE, "--freeze-image", "blocks:1", "--method", "align")
    launcher.train(
        (*blocks, "--name", "blocks computed"),
        (*blocks, "--name", "blocks kept", *exact),
        (*blocks, "--name", "blocks again", *exact, "--accum-freq", 2, "--grad-checkpointing"),
        timeout=300,
    )
    two = (*once, *WHOLE, "--batch-size", 2)
    launcher.train(
        (*two, "--name", "two computed"),
        (*two, *exact, "--cache-tokens", "shared", "--name", "two kept"),
        processes=2,
        timeout=300,
    )
    return launcher


def counts(launcher: Launcher, name: str) -> list[tuple[str, int, int]]:
    found = re.findall(r"--cache-tokens, (\w+): (\d+) computed, (\d+) found", launcher.log(name))
    return [(kind, int(computed), int(known)) for kind, computed, known in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("computed", "kept"),
    [
        ("computed", ("kept", "again")),
        ("two computed", ("two kept",)),
        ("blocks computed", ("blocks kept",)),
    ],
)
def test_training_from_kept_results_equals_training_without_them(
    runs: Launcher, computed: str, kept: tuple[str, ...]
) -> None:
    expected = runs.weights(computed, 1)
    for name in kept:
        for key, value in runs.weights(name, 1).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_result_is_computed_once_for_all_epochs_and_runs(runs: Launcher) -> None:
    first = {kind: (computed, known) for kind, computed, known in counts(runs, "kept")}
    assert first["image"] == (12, 0)
    assert counts(runs, "again")[0] == ("image", 0, 12)


@pytest.mark.slow
def test_tokens_before_a_block_are_kept_apart_from_those_behind_the_last(runs: Launcher) -> None:
    first = {kind: (computed, known) for kind, computed, known in counts(runs, "blocks kept")}
    assert first["image_blocks1"] == (12, 0)
    # each batch is encoded twice for accumulated gradients
    kind, computed, known = counts(runs, "blocks again")[0]
    assert (kind, computed) == ("image_blocks1", 0) and known > 12


@pytest.mark.slow
def test_the_rest_of_a_partly_frozen_tower_learns(runs: Launcher) -> None:
    before, after = (runs.weights(name, 1) for name in ("computed", "blocks computed"))
    block = "visual.transformer.resblocks.{}.mlp.c_fc.weight".format
    assert torch.equal(before[block(0)], after[block(0)])
    assert not torch.equal(before[block(1)], after[block(1)])


@pytest.mark.slow
def test_views_are_few_and_the_same_with_and_without_workers(runs: Launcher) -> None:
    files = list((runs.folder / "rounded").glob("image-fp16-*/*.safetensors"))
    assert files
    computed = Counter(
        {
            name: sum(c for kind, c, _ in counts(runs, name) if kind == "image")
            for name in ("views",)
        }
    )
    assert 12 < computed["views"] <= 24
    again = sum(c for kind, c, _ in counts(runs, "views again") if kind == "image")
    assert computed["views"] + again <= 24  # a worker draws the same two views of each image


@pytest.mark.slow
def test_ranks_share_a_folder(runs: Launcher) -> None:
    (name,) = {path.parent.name for path in runs.folder.glob("shared/image-*/*.safetensors")}
    assert name.startswith("image-fp32-")


def test_views_belong_to_the_image_and_kept_ones_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    _, preprocess, _ = open_clip.create_model_and_transforms("tiny", aug_cfg={"scale": (0.3, 0.6)})
    path = write_table(tmp_path, 2, annotated=[0, 1])
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in {row.split(",")[0] for row in path.read_text().splitlines()[1:]}:
        Image.fromarray(pixels).save(path.parent / name)  # the same image under two names
    table = read_csv_table(str(path), CsvColumns())
    tokenize = open_clip.get_tokenizer("tiny")
    data = CsvSamples(table, JointTransform(preprocess, 0.0, crops=3), tokenize)
    drawn = [data[i % 2] for i in range(60)]
    views = {(s.image.numpy().tobytes(), s.heatmap.numpy().tobytes()) for s in drawn}
    assert len({image for image, _ in views}) == 3
    read = Counter()
    original = samples.JointTransform.with_windows
    monkeypatch.setattr(
        JointTransform, "with_windows", lambda *args: (read.update(["x"]), original(*args))[1]
    )
    for i in range(20):
        assert data[i % 2].image.numpy().tobytes() in {image for image, _ in views}
    assert not read


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (CACHED[2:], "--cache-tokens without --freeze-image"),
        (["--freeze-image", "all", "--cache-crops", "2"], "--cache-crops without --cache-tokens"),
        (
            [*CACHED, "--cache-crops", "0"],
            "--cache-crops 0: expected",
        ),
        (["--freeze-image", "all", "--lock-image"], "two ways to freeze one tower"),
        (
            ["--freeze-image", "blocks:1", "--force-patch-dropout", "0.5"],
            "--force-patch-dropout with --freeze-image blocks:1: frozen parts compute as in",
        ),
        (
            [*CACHED, "--torchcompile"],
            "--cache-tokens with --torchcompile",
        ),
        ([*CACHED, "--method", "eclip"], "--cache-tokens with --method eclip: it shows other"),
        ([*CACHED, "--method", "align+dacl"], "--cache-tokens with --method dacl"),
    ],
)
def test_bad_combinations_are_errors(flags: list[str], message: str, tmp_path: Path) -> None:
    words = (*BASIC, "--train-data", tmp_path / "never.csv", "--name", "never", *flags)
    with pytest.raises(UserError, match=re.escape(message)):
        train.main([str(word) for word in words])
