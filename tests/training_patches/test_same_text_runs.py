"""Whole runs with --same-text: stock where no text repeats, the log, groups, and ways to run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import BASIC, Launcher, write_shard, write_table

pytestmark = pytest.mark.slow
VARIANTS = {
    "plain": (),
    "accum": ("--accum-freq", 2),
    "siglip": ("--siglip",),
    "bf16": ("--precision", "amp_bf16"),
}
USES = ("positive", "ignore")


def repeated(table: Path) -> Path:
    """A table in which three of four samples have one text; a column says the same, one says no."""
    header, *lines = table.read_text().splitlines()
    rows = [f"{header},study,row"]
    for i, line in enumerate(lines):
        file, _ = line.split(",")
        text = f"mass number {i}" if i % 4 == 3 else "no finding"
        rows.append(f"{file},{text},{i if i % 4 == 3 else ''},{i}")
    path = table.with_name("repeated.csv")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    launcher = Launcher(tmp_path_factory.mktemp("same"))
    plain = write_table(launcher.folder / "plain", 24, column=False)
    table = repeated(plain)
    common = (*BASIC, *"--batch-size 4 --epochs 2".split())
    whole = ("--aug-cfg", "scale=(1,1)", "ratio=(1,1)")
    clip = (*common, "--method", "clip", "--train-data", table)
    launcher.stock(
        *[
            (
                *common,
                *flags,
                "--train-data",
                plain,
                *"--csv-separator , --name".split(),
                f"stock-{name}",
            )
            for name, flags in VARIANTS.items()
        ],
        (*common, *"--csv-separator , --name stock-repeated --train-data".split(), table),
    )
    frozen = ("--freeze-text", "all")
    launcher.train(
        *[
            (*common, *flags, "--method", "clip", "--same-text", use)
            + ("--train-data", plain, "--name", f"{use}-{name}")
            for name, flags in VARIANTS.items()
            for use in USES
        ],
        (*clip, "--name", "repeated"),
        (*clip, "--name", "negative", "--same-text", "negative"),
        *[(*clip, "--name", f"repeated-{use}", "--same-text", use) for use in USES],
        (*clip, *"--name study --same-text ignore --same-text-by study".split()),
        (*clip, *"--name row --same-text ignore --same-text-by row".split()),
        (*clip, *"--name siglip --same-text positive --siglip".split()),
        (*clip, *frozen, *"--name keys --same-text ignore".split()),
        (
            *clip,
            *frozen,
            *"--name similar --same-text ignore --same-text-similarity .99999".split(),
        ),
        (*clip, *frozen, *"--name alike --same-text ignore --same-text-similarity .01".split()),
        (*clip, *whole, "--epochs", 1, *"--name large --same-text positive --batch-size 8".split()),
        (*clip, *whole, "--epochs", 1, *"--name small --same-text positive --accum-freq 2".split()),
        timeout=500,
    )
    return launcher


def assert_same_run(runs: Launcher, name: str, expected: str, epochs: int = 2) -> None:
    weights = runs.weights(expected, epochs)
    result = runs.weights(name, epochs)
    assert result.keys() == weights.keys() and len(weights) > 10
    for key, value in weights.items():
        assert torch.equal(result[key], value), key
    assert runs.losses(name) == runs.losses(expected)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_repeated_texts_a_run_is_bit_for_bit_open_clips(
    runs: Launcher, variant: str, use: str
) -> None:
    assert_same_run(runs, f"{use}-{variant}", f"stock-{variant}")


def test_repeated_texts_are_negatives_unless_asked(runs: Launcher) -> None:
    assert_same_run(runs, "repeated", "stock-repeated")
    assert_same_run(runs, "negative", "stock-repeated")
    for use in USES:
        with pytest.raises(AssertionError):
            assert_same_run(runs, f"repeated-{use}", "stock-repeated")
        # fewer or no negatives
        assert runs.losses(f"repeated-{use}")[0] < runs.losses("repeated")[0]


def test_a_column_decides_and_a_blank_cell_leaves_it_to_the_text(runs: Launcher) -> None:
    assert_same_run(runs, "study", "repeated-ignore")
    assert_same_run(runs, "row", "stock-repeated")


def test_similarity_of_frozen_features_finds_equal_texts(runs: Launcher) -> None:
    assert_same_run(runs, "similar", "keys")
    with pytest.raises(AssertionError):
        assert_same_run(runs, "alike", "keys")


def test_accumulation_matches_the_large_batch(runs: Launcher) -> None:
    assert len(runs.losses("large")) == 3
    assert runs.losses("small") == pytest.approx(runs.losses("large"), rel=1e-4)


def test_the_log_says_once_an_epoch_how_many_repeat(runs: Launcher) -> None:
    """18 of 24 have one text. Without the flag, a line before training says so."""
    line = (
        r"eclip: --same-text (\w+): in the mean batch of (\d+) images, ([\d.]+) %.*; ([\d.]+) pairs"
    )
    found = re.findall(line, runs.log("repeated-ignore"))
    assert [(use, size) for use, size, *_ in found] == [("ignore", "4")] * 2
    assert all(60 < float(share) <= 75 and 2 < float(pairs) < 5 for *_, share, pairs in found)
    assert [size for _, size, *_ in re.findall(line, runs.log("small"))] == ["8"]
    assert re.findall(line, runs.log("ignore-plain"))[0][2:] == ("0", "0")
    for name in ("repeated", "negative", "repeated-ignore", "ignore-plain"):
        advice = "18 of 24 rows have a text that another row has too; a batch of 4"
        assert (advice in runs.log(name)) == (name == "repeated")


def test_shards_know_groups_too(launcher: Launcher) -> None:
    table = repeated(write_table(launcher.folder, 24, column=False))
    members: dict[str, bytes] = {}
    for i, line in enumerate(table.read_text().splitlines()[1:]):
        file, text, study, _ = line.split(",")
        members |= {f"{i}.png": Path(file).read_bytes(), f"{i}.txt": text.encode()}
        members[f"{i}.json"] = json.dumps({"study": study or "same", "row": i}).encode()
    shard = write_shard(launcher.folder / "s.tar", members)
    common = (*BASIC, *"--batch-size 4 --epochs 1 --method clip".split(), "--train-data", shard)
    launcher.train(
        (*common, *"--name tokens --same-text ignore".split()),
        (*common, *"--name groups --same-text ignore --same-text-by study".split()),
        (*common, *"--name rows --same-text ignore --same-text-by row".split()),
        (*common, "--name", "stock"),
        (*common, *"--name workers --same-text ignore --same-text-by study --workers 1".split()),
    )
    assert_same_run(launcher, "groups", "tokens", 1)
    assert_same_run(launcher, "rows", "stock", 1)
    assert ", 0 % have" not in launcher.log("workers")


def test_other_ways_to_run(launcher: Launcher) -> None:
    """Two processes, all methods, a compiled model, kept results, checkpointing."""
    folder, flags = launcher.folder, "--batch-size 4 --epochs 1 --same-text positive".split()
    plain = write_table(folder, 24, column=False)
    common = (*BASIC, *flags, "--train-data", repeated(plain))
    heatmaps = write_table(folder, 24, annotated=range(0, 24, 2), name="heatmaps.csv")
    text = re.sub(r",\w+ number \d+", ",no finding", heatmaps.read_text())
    heatmaps.write_text(text)
    annotated = (*BASIC, *flags, "--train-data", heatmaps)
    opened = "--eclip-curriculum 0 0 0 1 1 1 --eclip-own-pairs mask".split()
    cached = f"--cache-tokens {folder / 'tokens'} --freeze-image all --freeze-text all".split()
    launcher.train(
        (*common, *"--name clip --method clip --local-loss --gather-with-grad".split()),
        (*common, *"--name siglip --method clip --siglip --loss-dist-impl shift".split()),
        (*annotated, *opened, "--name", "eclip"),
        processes=2,
    )
    launcher.train(
        (*common, *cached, *"--name cached --method clip".split()),
        (*cached, *annotated, *"--name similar --method align --same-text-similarity .9".split()),
        (*common, *"--name compiled --method clip --torchcompile".split()),
        (*annotated, *opened, *"--name naive --method naive --grad-checkpointing".split()),
        (*annotated, *opened, *"--name dacl --method eclip+dacl --dacl-form release".split()),
        (*annotated, *opened, "--expert-data", heatmaps, "--name", "stream"),
        (*common, *"--name pure --method clip --precision pure_bf16".split()),
        timeout=500,
    )
    for name in "clip siglip eclip cached similar compiled naive dacl stream pure".split():
        losses = launcher.losses(name)
        assert losses and all(loss == loss for loss in losses), name
        # with one text for all, everything is positive and CLIP's loss is 0
        assert re.search(
            r"--same-text positive: in the mean batch of \d+ images, [1-9]", launcher.log(name)
        )
