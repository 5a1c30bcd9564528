"""Bad flags and bad data stop before the first step with one sentence; recipes."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, ROOT, Launcher, write_table

from openclip_eclip import train
from openclip_eclip.config import UserError
from openclip_eclip.flag_checks import current_spelling
from openclip_eclip.params import eclip_parser
from openclip_eclip.recipes import RECIPES, fill_batch_size, fill_schedule, with_recipe
from training_patches import active, release

WEIGHTLESS = ROOT / "openclip_eclip" / "benchmark" / "phantom_model"


GONE = ("--horovod", "--trace", "--torchscript")


def run(folder: Path, *flags: object, table: Path | None = None) -> None:
    """Start a run in this process; rejected runs never reach a step."""
    data = ("--train-data", table) if table else ()
    common = [
        *BASIC,
        *("--logs", folder / "logs"),
        *"--name run --batch-size 2 --epochs 1".split(),
        *data,
        *flags,
    ]
    train.main([str(flag) for flag in common])


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--horovod"], "use torchrun"),
        (["--distill-model", "x", "--distill-pretrained", "y"], "--distill-model"),
        (["--trace"], "export"),
        (["--torchscript"], "--torchcompile"),
        (["--ddp-static-graph"], "step to step"),
        (["--use-bnb-linear", "x"], "bnb"),
        (["--model", "coca_ViT-B-32"], "CoCa"),
        (["--expert-batch-size", "3"], "without --expert-data"),
        (["--recipe", "eclip-p"], "begins with random weights, .*needs trained .* --pretrained"),
        (["--recipe", "small-data"], "begins with random weights, .* --pretrained"),
        (["--recipe", "small-data", "--model", "tinny"], "known to open_clip; did you mean tiny"),
        (["--model", "local-dir:nowhere"], "local-dir:nowhere: no such folder; "),
        (["--model", str(WEIGHTLESS)], f"is a folder: give --model local-dir:{WEIGHTLESS}.$"),
        (["--model", str(WEIGHTLESS.parent)], "without open_clip_config.json"),
        (["--model", __file__], "is a file; expected the name"),
        (["--logs", __file__], f"--runs-dir, run {__file__}/run: {__file__} is a file; give"),
        (
            ["--model", f"local-dir:{WEIGHTLESS}", "--recipe", "eclip-p"],
            "holds none: expected open_clip_model.safetensors .* beside open_clip_config",
        ),
        (["--recipe", "clip", "--expert-data", "x.csv"], "uses no annotation"),
        (["--eclip-alpha", "0"], "alpha=0.0; expected a positive"),
        (["--eclip-priming-weight", "1"], "priming_weight"),
        (["--eclip-curriculum", "0.5", "0.5", "0.5", "0", "0", "0"], "at most 1"),
    ],
)
def test_unsupported_combinations_of_flags_are_errors(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    if flags[0] in GONE and not hasattr(host.parse_args([]), flags[0].strip("-")):
        pytest.skip(f"{flags[0]} went with open_clip's release 4")
    with pytest.raises(UserError, match=message):
        run(tmp_path, *flags, table=tmp_path / "never-read.csv")
    assert not (tmp_path / "logs").exists()


def test_bad_samples_stop_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path, 6, annotated=[1])
    np.save(tmp_path / "images" / "1.npy", np.zeros((40, 40)))
    monkeypatch.setattr(host, "train_one_epoch", lambda *_, **__: pytest.fail("training started"))
    with pytest.raises(UserError, match=r"row 2, heatmap: .*all zero"):
        with pytest.MonkeyPatch.context() as patch:
            tested = release().Patches.SIGNATURES | {"train_one_epoch": "(*_, **__)"}
            patch.setattr(release().Patches, "SIGNATURES", tested)
            run(tmp_path, table=table)


@pytest.mark.parametrize(
    "prepare,flags,message",
    [
        ("none", [], "no such file"),
        ("unannotated", ["--expert-data", "{table}"], "no annotated sample among 6"),
        ("small", ["--batch-size", "64"], "do not fill one batch"),
        ("column", ["--csv-img-key", "picture"], "no column 'picture'"),
        ("shard", [], "no such shard"),
        ("near", ["--method", "align"], "no column 'heatmap'. Did you mean 'heat_map'. Name the"),
    ],
)
def test_errors_name_the_bad_data(
    prepare: str, flags: list[str], message: str, tmp_path: Path
) -> None:
    table = tmp_path / "gone.csv" if prepare == "none" else write_table(tmp_path, 6)
    if prepare == "near":
        write_table(tmp_path, 6, annotated=[1])
        table.write_text(table.read_text().replace("heatmap", "heat_map", 1))
    if prepare == "shard":
        table = tmp_path / "gone-000.tar"
        flags = ["--train-num-samples", "8"]
    with pytest.raises(UserError, match=message):
        run(tmp_path, *[flag.format(table=table) for flag in flags], table=table)


def test_patched_names_are_restored_and_a_changed_signature_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (
        {name: getattr(host, name) for name in vars(host)},
        torch.save,
        torch.nn.parallel.DistributedDataParallel,
    )
    with pytest.raises(KeyError):
        with active():
            assert host.get_data is not before[0]["get_data"] and torch.save is not before[1]
            raise KeyError
    assert (
        {name: getattr(host, name) for name in vars(host)},
        torch.save,
        torch.nn.parallel.DistributedDataParallel,
    ) == before
    monkeypatch.setattr(host, "get_data", lambda task: None)
    with pytest.raises(RuntimeError, match=r"open_clip_train.main.get_data\(task\) is not"):
        with active():
            pass


def test_existing_experiment_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "logs" / "run").mkdir(parents=True)
    (tmp_path / "logs" / "run" / "out.log").touch()
    with pytest.raises(UserError, match="already exists: give another --name"):
        run(tmp_path, table=tmp_path / "x.csv")


def test_other_ranks_accept_the_log_of_the_first_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank may begin its log before another rank parses its flags."""
    (tmp_path / "logs" / "run").mkdir(parents=True)
    (tmp_path / "logs" / "run" / "out.log").touch()
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    flags = [
        *"--model tiny --train-data train.csv".split(),
        *("--logs", str(tmp_path / "logs")),
        "--name",
        "run",
    ]
    monkeypatch.setenv("RANK", "1")
    assert patches.parse_args(flags).name == "run"
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="already exists"):
        patches.parse_args(flags)


@pytest.mark.slow
def test_exit_codes_and_skipping(launcher: Launcher) -> None:
    """Bad data exits non-zero with one line; with --on-bad-sample skip it is named and skipped."""
    table = write_table(launcher.folder, 14, annotated=range(0, 14, 2))
    (launcher.folder / "images" / "3.png").write_bytes(b"no picture at all")
    np.save(launcher.folder / "images" / "4.npy", np.full((40, 40), -1.0))
    flags = [*BASIC, "--train-data", table, "--batch-size", 2, "--epochs", 2]
    stopped = launcher.train([*flags, "--name", "stop"], check=False)
    assert stopped.returncode == 2
    assert "error: " in stopped.stderr
    assert "row 5, heatmap: " in stopped.stderr
    assert "Traceback" not in stopped.stderr
    np.save(launcher.folder / "images" / "4.npy", np.eye(40))
    broken = launcher.train([*flags, "--name", "unreadable", "--workers", 1], check=False)
    assert broken.returncode == 2
    assert "row 4, column 'filepath'" in broken.stderr.split("error: ")[-1]
    assert "Traceback" not in broken.stderr
    np.save(launcher.folder / "images" / "4.npy", np.full((40, 40), -1.0))
    launcher.train([*flags, "--name", "skip", "--on-bad-sample", "skip", "--workers", 1])
    log = launcher.log("skip")
    assert "row 5, heatmap" in log
    assert "skipped 1 of 14 samples" in log
    assert "row 4, column 'filepath'" in log
    assert len(launcher.losses("skip")) == 2 * 6


@pytest.mark.slow
def test_validation_table_is_read_like_the_training_table(launcher: Launcher) -> None:
    """Paths are relative to the table, separators are detected, and values match open_clip's.

    A bad row stops the run before training.
    """
    folder = launcher.folder / "held_out"
    absolute, relative = (
        write_table(folder, 9, name="absolute.csv", seed=1),
        folder / "relative.tsv",
    )
    relative.write_text(absolute.read_text().replace(f"{folder}/", "").replace(",", "\t"))
    flags = [
        *BASIC,
        *("--train-data", write_table(launcher.folder / "train", 8)),
        *"--batch-size 4 --epochs 1".split(),
    ]
    launcher.stock([*flags, "--csv-separator", ",", "--val-data", absolute, "--name", "stock"])
    launcher.train([*flags, "--val-data", relative, "--name", "ours"])
    stock, ours = (
        launcher.folder / "logs" / name / "checkpoints" / "results.jsonl"
        for name in ("stock", "ours")
    )
    assert json.loads(ours.read_text()) == json.loads(stock.read_text())
    (folder / "images" / "3.png").unlink()
    stopped = launcher.train([*flags, "--val-data", relative, "--name", "gone"], check=False)
    assert stopped.returncode == 2
    assert f"{relative}, row 4" in stopped.stderr
    assert not launcher.losses("gone")


@pytest.mark.slow
def test_flags_of_open_clip_work_with_heatmaps(launcher: Launcher) -> None:
    """One process; test_distributed.py has the same for two."""
    table = write_table(launcher.folder, 12, annotated=range(12))
    common = [
        *BASIC,
        *("--train-data", table),
        *"--batch-size 4 --epochs 2 --eclip-curriculum 0.2 0 0 0 0 1".split(),
    ]
    runs = {
        "bf16": ["--precision", "bf16"],
        "amp_bf16": ["--precision", "amp_bf16"],
        "amp": ["--precision", "amp"],
        "checkpointing": ["--grad-checkpointing", "--accum-freq", 3],
        "mask": ["--eclip-processor", "mask", "--eclip-priming-weight", 0],
        "cnn": ["--eclip-processor", "cnn", "--eclip-own-pairs", "multi"],
        "size": [
            *"--force-image-size 40 --force-custom-text".split(),
            *("--val-data", table),
            "--csv-separator",
            ",",
        ],
    }
    launcher.train(*[[*common, "--name", name, *flags] for name, flags in runs.items()])
    for name in runs:
        losses = launcher.losses(name)
        # "size" logs two validation losses as well
        steps = {"checkpointing": 2, "size": 6 + 2}.get(name, 6)
        assert len(losses) == steps and all(loss == loss for loss in losses), name
        assert "mixed pairs 4" in launcher.log(name) or "mixed pairs 12" in launcher.log(name)


@pytest.mark.slow
def test_compiled_model_trains(launcher: Launcher) -> None:
    table = write_table(launcher.folder, 12, annotated=range(0, 12, 2))
    flags = [
        *BASIC,
        *("--train-data", table),
        *"--batch-size 4 --epochs 1 --method eclip+align".split(),
        *"--eclip-curriculum 0 0 0 0 0 1".split(),
    ]
    launcher.train(
        [*flags, "--name", "compiled", "--torchcompile"], [*flags, "--name", "plain"], timeout=800
    )
    assert "Align_loss" in launcher.log("compiled")
    assert launcher.losses("compiled") == pytest.approx(launcher.losses("plain"), rel=1e-3)
    assert not [key for key in launcher.weights("compiled", 1) if "_orig_mod" in key]


# ---- recipes


def parse(argv: list[str]) -> argparse.Namespace:
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    return patches.parse_args(["--train-data", "train.csv", *argv])


@pytest.mark.parametrize(
    "recipe,lr,steps",
    [
        ("clip", 1e-4, 10_000),
        ("eclip", 2e-4, 10_000),
        ("eclip-p", 1e-5, 1_000),
        ("m3-mix", 1e-5, 1_000),
    ],
)
def test_recipes_have_the_papers_settings(
    recipe: str, lr: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    args = parse(
        ["--recipe", recipe, "--model", "tiny", "--pretrained", "x.pt", "--accum-freq", "2"]
    )
    assert (args.lr, args.wd, args.batch_size, args.force_context_length) == (lr, 1e-3, 64, 256)
    filled = fill_schedule(args, batches_per_epoch=700)
    assert args.epochs == -(-steps // 350) and args.warmup == round(0.1 * 350 * args.epochs)
    assert filled == {"epochs": args.epochs, "warmup": args.warmup}


def test_user_flags_override_the_recipe() -> None:
    args = parse(
        [
            *"--lr=3e-3 --recipe eclip --model tiny --epochs 7 --warmup 9".split(),
            *"--batch-size=8 --wd 0.5 --force-context-length 16".split(),
        ]
    )
    assert (args.lr, args.wd, args.batch_size, args.force_context_length) == (3e-3, 0.5, 8, 16)
    assert fill_schedule(args, 100) == {} and (args.epochs, args.warmup) == (7, 9)


def test_without_recipe_open_clips_defaults_apply() -> None:
    args, stock = (
        parse(["--model", "tiny"]),
        host.parse_args(["--model", "tiny", "--train-data", "train.csv"]),
    )
    assert {key: value for key, value in vars(args).items() if hasattr(stock, key)} == {
        **vars(stock),
        "csv_separator": None,
        # of release 4, which would compile our losses too
        **({"torchcompile_strategy": "model"} if hasattr(stock, "torchcompile_strategy") else {}),
    }
    assert fill_schedule(args, 100) == {}
    assert parse(["--model", "tiny", "--csv-separator", ";"]).csv_separator == ";"


WANDB = """\
import json
def log(values, step=None):
    with open('wandb.jsonl', 'a') as file:
        file.write(json.dumps({'step': step, 'keys': sorted(values)}) + '\\n')
init = watch = save = finish = lambda *args, **kwargs: None
"""


@pytest.mark.slow
def test_recipe_run_computes_its_schedule(launcher: Launcher) -> None:
    """eclip-p from a plain checkpoint: computed numbers, params.txt, tensorboard, wandb, figures.

    wandb is a stub.
    """
    (launcher.folder / "wandb.py").write_text(WANDB)
    table = write_table(launcher.folder, 8, annotated=range(8))
    launcher.train(
        [
            *BASIC,
            *("--train-data", table),
            *"--batch-size 4 --epochs 1 --name clip --recipe clip".split(),
            *("--force-context-length", "16"),
        ],
        [
            *BASIC,
            *("--train-data", table),
            *"--batch-size 4 --epochs 3 --name p --recipe eclip-p".split(),
            *("--force-context-length", "16"),
            *("--pretrained", "logs/clip/checkpoints/epoch_1.pt"),
            *"--report-to tensorboard,wandb --warmup -1 --lock-text".split(),
            *("--lock-text-freeze-layer-norm", "--lock-image"),
        ],
    )
    log = launcher.log("p")
    assert log.count("fresh heatmap processor (eCLIP^P)") == 1 and "recipe eclip-p: warmup 1" in log
    params = (launcher.folder / "logs" / "p" / "params.txt").read_text()
    assert "\nwarmup: 1\n" in params and "\nrecipe: eclip-p\n" in params
    figures = {path.name for path in (launcher.folder / "logs" / "p" / "figures").iterdir()}
    assert figures == {"processor_start.png", "processor_primed.png", "processor_end.png"}
    assert list((launcher.folder / "logs" / "p" / "tensorboard").iterdir())
    clip = launcher.weights("clip", 1)
    assert not [key for key in clip if key.startswith("heatmap_processor")]
    tuned = launcher.weights("p", 3)
    assert torch.equal(clip["visual.proj"], tuned["visual.proj"])  # locked
    assert (tuned["heatmap_processor.unpatchify.weight"] != 0).any()  # and the processor was not
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(launcher.folder / "logs" / "p" / "tensorboard")).Reload()
    assert {
        "train/expert_probability",
        "train/mixed_pairs",
        "train/priming_loss",
        "train/views_median",
    } <= set(events.Tags()["scalars"])
    assert "eclip/processor" in events.Tags()["images"]
    records = [
        json.loads(line) for line in (launcher.folder / "wandb.jsonl").read_text().splitlines()
    ]
    ours = [record["step"] for record in records if "train/mixed_pairs" in record["keys"]]
    assert ours == list(range(6)) and "train/expert_probability" in records[1]["keys"]
    # wandb drops what comes late
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)


@pytest.mark.parametrize(
    "old,new,value",
    [
        ("--align-least", "--align-min-share", "0.1"),
        ("--align-replay", "--align-oversample", "0.1"),
        ("--eclip-heatmap-control", "--eclip-placebo", "ones"),
    ],
)
def test_old_names_of_flags(old: str, new: str, value: str) -> None:
    """Both forms are read; the same value twice is no conflict; other flags are unchanged."""
    notice = f"{old} is now {new}; the old spelling goes in the next release."
    assert current_spelling([old, value, "--lr", "1"]) == ([new, value, "--lr", "1"], [notice])
    assert current_spelling([f"{old}={value}"]) == ([f"{new}={value}"], [notice])
    assert current_spelling([f"{old}={value}", new, value])[1] == [notice]
    assert current_spelling([new, value, f"{old}er", "1"]) == ([new, value, f"{old}er", "1"], [])
    assert old not in eclip_parser().format_help() and new in eclip_parser().format_help()
    message = f"{old} {value} with {new} 7: two names of one setting; drop {old}."
    with pytest.raises(UserError, match=re.escape(message)):
        current_spelling([old, value, f"{new}=7"])


def test_equal_numbers_in_two_spellings_are_no_conflict() -> None:
    words, _ = current_spelling(["--align-least", "0.1", "--align-min-share", "0.10"])
    assert words == ["--align-min-share", "0.1", "--align-min-share", "0.10"]


def test_every_own_flag_has_help_and_recipes_are_named() -> None:
    actions = [action for action in eclip_parser()._actions]
    assert all(action.help for action in actions)
    assert set(RECIPES) == {
        "clip",
        "eclip",
        "eclip-p",
        "m3-mix",
        "eclip-plus",
        "small-data",
    }
    assert with_recipe(None, ["--lr", "1"]) == ["--lr", "1"]
    args = argparse.Namespace(batch_size=5, recipe="clip", accum_freq=1)
    fill_batch_size(args, 8)
    assert args.batch_size == 5
