"""`--method`: what may stand together, how it goes with recipes, and every method under two processes, accumulation, bf16, resume."""
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from openclip_eclip import train
from openclip_eclip.config import UserError
from openclip_eclip.objectives import Dacl, M3Mix
from openclip_eclip.params import build_method, eclip_config
from openclip_eclip.training_patches.release_3_3 import Seams
from test_resume import EPOCHS, kill_in_epoch

COMMON = ("--batch-size", 4, "--epochs", 2, "--eclip-curriculum", 0.2, 0, 0, 0, 0, 1)


def parse(*argv: object) -> argparse.Namespace:
    seams = Seams()
    seams.originals = {"parse_args": host.parse_args}
    return seams.parse_args(["--model", "tiny", *map(str, argv)])


@pytest.mark.parametrize("flags,method,lr", [
    ((), "eclip", 5e-4), (("--method", "clip"), "clip", 5e-4), (("--recipe", "clip"), "clip", 1e-4),
    (("--recipe", "clip", "--method", "dacl"), "dacl", 1e-4), (("--recipe", "eclip", "--method", "naive"), "naive", 2e-4),
    (("--recipe", "m3-mix", "--pretrained", "x"), "m3-mix", 1e-5),
    (("--recipe", "eclip-p", "--pretrained", "x", "--method", "eclip+dacl"), "eclip+dacl", 1e-5)])
def test_recipe_brings_a_method_and_the_users_wins(flags: tuple, method: str, lr: float) -> None:
    args = parse(*flags)
    assert (args.method, args.lr) == (method, lr)


def test_method_has_its_parts() -> None:
    args = parse("--method", "dacl+naive+m3-mix", "--pretrained", "x", "--dacl-form", "plus", "--dacl-weight", 0.5,
                 "--m3-mix-cfg", "weight_v=0.2", "decay=false", "vl_target=diagonal")
    method = build_method(args)
    assert method.experts == "naive" and method.heatmaps and not method.is_plain
    dacl, m3_mix = method.objectives
    assert isinstance(dacl, Dacl) and (dacl.config.form, dacl.config.weight, dacl.config.alpha) == ("plus", 0.5, 0.9)
    assert isinstance(m3_mix, M3Mix) and (m3_mix.config.weight_v, m3_mix.config.decay, m3_mix.config.vl_target) == (0.2, False, "diagonal")
    assert eclip_config(args, {}).lam == 0
    assert build_method(parse("--method", "clip")).is_plain and eclip_config(parse("--method", "dacl"), {}).processor is None
    assert not build_method(parse("--method", "dacl")).heatmaps and not build_method(parse("--method", "dacl")).is_plain
    plain = parse("--method", "naive", "--naive-form", "plain", "--expert-data", "x.csv", "--train-data", "y.csv")
    assert not build_method(plain).heatmaps and build_method(plain).experts == "naive"


@pytest.mark.parametrize("flags,message", [
    (["--method", "dalc"], "'dalc' is none of clip, eclip, naive, dacl, m3-mix"), (["--method", "dacl+dacl"], "twice"),
    (["--method", "clip+dacl"], "leave 'clip' out"), (["--method", "eclip+naive"], "keep one"),
    (["--method", "m3-mix"], "give --pretrained"), (["--recipe", "m3-mix"], "give --pretrained"),
    (["--recipe", "clip", "--method", "eclip+m3-mix"], "--method m3-mix fine-tunes"),
    (["--method", "dacl", "--expert-data", "x.csv"], "uses no annotation"), (["--naive-form", "plain"], "give --method naive"),
    (["--method", "naive", "--eclip-alpha", "0.2"], "does not mix"), (["--method", "naive", "--naive-form", "plain"], "CLIP pairs already"),
    (["--method", "naive", "--naive-form", "multiply", "--eclip-processor", "cnn"], "has no processor"),
    (["--dacl-form", "plus"], "give --method dacl"), (["--m3-mix-cfg", "beta=1"], "give --method m3-mix"),
    (["--method", "dacl", "--dacl-form", "release", "--dacl-weight", "2"], "no term of its own"),
    (["--method", "dacl", "--dacl-weight", "-1"], "weight=-1.0; expected 0 or more"), (["--method", "dacl", "--batch-size", "1"], "at least 2"),
    (["--method", "m3-mix", "--pretrained", "x", "--m3-mix-cfg", "gamma=1"], "expected KEY=VALUE with one of weight_v"),
    (["--method", "m3-mix", "--pretrained", "x", "--m3-mix-cfg", "decay=maybe"], "expected KEY=VALUE"),
])
def test_bad_combinations_are_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    common = [*BASIC, "--logs", tmp_path / "logs", "--name", "run", "--batch-size", 2, "--epochs", 1, "--train-data", tmp_path / "never-read.csv"]
    with pytest.raises(UserError, match=re.escape(message)):
        train.main([str(flag) for flag in (*common, *flags)])
    assert not (tmp_path / "logs").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Short runs of every method in one process; "start" is the CLIP that the others fine-tune where they must."""
    launcher = Launcher(tmp_path_factory.mktemp("methods"))
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 3))
    common = (*BASIC, "--train-data", table, *COMMON)
    start = ("--pretrained", "logs/clip/checkpoints/epoch_2.pt")
    accum = (*BASIC, "--train-data", table, "--epochs", 2, "--lr", 0, "--eclip-curriculum", 0.2, 0, 0, 0, 0, 1, *start)
    launcher.train(
        (*common, "--name", "clip", "--method", "clip"),
        (*common, "--name", "dacl", "--method", "dacl"), (*common, "--name", "release", "--method", "dacl", "--dacl-form", "release"),
        (*common, "--name", "plus", "--method", "dacl", "--dacl-form", "plus"),
        (*common, "--name", "zero", "--method", "dacl", "--dacl-weight", 0),
        (*common, "--name", "m3", "--method", "m3-mix", *start),
        (*common, "--name", "m3-zero", "--method", "m3-mix", *start, "--m3-mix-cfg", *[f"weight_{name}=0" for name in ("v", "l", "vl", "m2")]),
        (*common, "--name", "longer", "--method", "clip", *start),
        (*common, "--name", "naive", "--method", "naive"),
        (*common, "--name", "multiply", "--method", "naive", "--naive-form", "multiply"),
        (*common, "--name", "plain", "--method", "naive", "--naive-form", "plain", "--expert-data", table),
        (*common, "--name", "bf16", "--method", "eclip+dacl+m3-mix", "--dacl-form", "plus", "--precision", "bf16", *start),
        (*common, "--name", "amp", "--method", "eclip+dacl+m3-mix", "--precision", "amp_bf16", *start),
        (*common, "--name", "siglip", "--method", "naive+dacl+m3-mix", "--siglip", *start),
        *[(*accum, "--name", f"{method}-{k}", "--method", method, "--batch-size", 12 // k, "--accum-freq", k)
          for method in ("m3-mix", "naive+m3-mix") for k in (1, 3)],
        (*accum, "--name", "dacl-3", "--method", "eclip+dacl+m3-mix", "--batch-size", 4, "--accum-freq", 3),
        (*accum, "--name", "release-3", "--method", "eclip+dacl", "--dacl-form", "release", "--batch-size", 4, "--accum-freq", 3))
    return launcher


def terms(launcher: Launcher, name: str) -> set[str]:
    return set(re.findall(r" (\w+_loss): ", launcher.log(name)))


@pytest.mark.parametrize("name,expected", [
    ("dacl", {"Contrastive_loss", "Dacl_loss"}), ("release", {"Contrastive_loss"}), ("plus", {"Contrastive_loss", "Dacl_loss"}),
    ("m3", {"Contrastive_loss", "M3_v_loss", "M3_l_loss", "M3_vl_loss", "M3_m2_loss"}),
    ("naive", {"Contrastive_loss", "Priming_loss"}),
    *[(name, {"Contrastive_loss", "Priming_loss", "Dacl_loss", "M3_v_loss", "M3_l_loss", "M3_vl_loss", "M3_m2_loss"})
      for name in ("bf16", "amp", "siglip", "dacl-3")]])
def test_methods_train_with_their_terms(runs: Launcher, name: str, expected: set[str]) -> None:
    losses = runs.losses(name)
    assert len(losses) == (4 if name.endswith("-3") else 12) and all(loss == loss for loss in losses)
    assert terms(runs, name) == expected
    changed = {key for key, value in runs.weights(name, 2).items() if not torch.equal(value, runs.weights(name, 1)[key])}
    assert ("visual.proj" in changed) == (not name.endswith("-3"))  # its learning rate is 0


def test_only_experts_bring_a_processor(runs: Launcher) -> None:
    """dacl and m3-mix leave a plain CLIP checkpoint; their run says nothing of experts."""
    keys = set(runs.weights("clip", 2))
    for name in ("dacl", "release", "plus", "m3"):
        assert set(runs.weights(name, 2)) == keys and "eclip: expert probability" not in runs.log(name)
        assert "heatmap" not in runs.log(name).split("Start epoch 0")[-1].replace("csv_heatmap_key", "")
    assert [key for key in runs.weights("naive", 2) if key not in keys]
    assert set(runs.weights("multiply", 2)) == keys  # the mask has no weights


@pytest.mark.parametrize("ours,clip", [("zero", "clip"), ("m3-zero", "longer")])
def test_weight_zero_is_bitwise_clip(runs: Launcher, ours: str, clip: str) -> None:
    expected, found = runs.weights(clip, 2), runs.weights(ours, 2)
    assert set(found) == set(expected) and all(torch.equal(found[key], value) for key, value in expected.items())
    assert runs.losses(ours) == runs.losses(clip)
    assert runs.losses("m3") != runs.losses(clip)


def test_naive_adds_every_annotated_sample_in_every_step(runs: Launcher) -> None:
    for name in ("naive", "multiply"):
        log = runs.log(name)
        mixed = [int(n) for n in re.findall(r"mixed pairs (\d+)", log)]
        assert len(mixed) == 12 and sum(mixed[:6]) == sum(mixed[6:]) == 8 and set(re.findall(r"expert probability ([\d.]+)", log)) == {"1.000"}
        assert set(re.findall(r"mean lambda ([\d.]+)", log)) == {"0.000"}
    priming = [float(x) for x in re.findall(r"Priming_loss: ([\d.e+-]+)", runs.log("naive"))]
    assert priming[2:] == [0] * 10  # the cold start has two steps; the processor starts as the identity under ones
    log = runs.log("plain")
    assert set(re.findall(r"mixed pairs (\d+)", log)) == {"2"} and set(re.findall(r"mean lambda ([\d.]+)", log)) == {"1.000"}


@pytest.mark.parametrize("method", ["m3-mix", "naive+m3-mix"])
def test_accumulation_is_the_large_batch(runs: Launcher, method: str) -> None:
    assert len(runs.losses(f"{method}-1")) == 4
    assert runs.losses(f"{method}-3") == pytest.approx(runs.losses(f"{method}-1"), rel=2e-5)


# ---- two processes

@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    launcher = Launcher(tmp_path_factory.mktemp("ddp"))
    out = launcher.folder / "results.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(Path(__file__).with_name("ddp_objectives_worker.py")), str(launcher.folder / "tiny.json"), str(out)]
    done = subprocess.run(command, env=launcher.environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


def test_two_processes_are_one(results: list[dict]) -> None:
    """Loss and gradients, with and without mixed pairs on a rank; open_clip's gradient is not the full one for --local-loss alone."""
    assert len(results) == 5 * 5 * 3
    wrong = [case for case in results if abs(case["loss"] - case["expected"]) > 1e-9 * case["expected"]]
    assert not wrong, wrong[:2]
    exact = [case for case in results if case["grad"] or not case["local"]]
    wrong = [case for case in exact if case["gradient_error"] > 1e-8 or case["names"]]
    assert len(exact) == 5 * 4 * 3 and not wrong, wrong[:2]


def test_methods_train_on_two_ranks(launcher: Launcher) -> None:
    """Three of 24 samples annotated, so a rank mostly has none."""
    table = write_table(launcher.folder, 24, annotated=[0, 5, 6])
    common = (*BASIC, "--train-data", table, *COMMON)
    start = ("--pretrained", "logs/dacl/checkpoints/epoch_2.pt")
    launcher.train((*common, "--name", "dacl", "--method", "dacl"), (*common, "--name", "naive", "--method", "naive"),
                   (*common, "--name", "m3", "--method", "m3-mix", *start, "--local-loss", "--gather-with-grad"),
                   (*common, "--name", "all", "--method", "eclip+dacl+m3-mix", *start, "--accum-freq", 3, "--dacl-form", "plus"),
                   (*common, "--name", "release", "--method", "eclip+dacl", "--dacl-form", "release"), processes=2)
    for name in ("dacl", "naive", "m3", "all", "release"):
        losses = launcher.losses(name)
        assert len(losses) == (2 if name == "all" else 6) and all(loss == loss for loss in losses), name


def test_killed_and_resumed_is_uninterrupted(launcher: Launcher) -> None:
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 3))
    launcher.train([*BASIC, "--train-data", table, *COMMON, "--name", "clip", "--method", "clip"])
    run = [*BASIC, "--train-data", table, *COMMON, "--epochs", EPOCHS, "--method", "eclip+dacl+m3-mix", "--dacl-form", "plus",
           "--pretrained", "logs/clip/checkpoints/epoch_2.pt"]
    kill_in_epoch(launcher, [*run, "--name", "killed"], "killed", 1, " 8/24")
    launcher.train([*run, "--name", "whole"], [*run, "--name", "killed", "--resume", "latest"])
    assert "resuming checkpoint" in launcher.log("killed")
    found, expected = launcher.weights("killed", EPOCHS), launcher.weights("whole", EPOCHS)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
