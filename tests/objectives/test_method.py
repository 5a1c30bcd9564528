"""`--method`: combinations, recipes, and every method in training.

Two processes, accumulation, bf16 and resume.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import open_clip.transform
import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, Launcher, write_table

from openclip_eclip import train
from openclip_eclip.config import UserError
from openclip_eclip.objectives import Dacl, M3Mix
from openclip_eclip.objectives.align import AlignConfig
from openclip_eclip.params import build_method, eclip_config
from training_patches import release

M3 = {"M3_v_loss", "M3_l_loss", "M3_vl_loss", "M3_m2_loss"}


def parse(*argv: object) -> argparse.Namespace:
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    return patches.parse_args(["--model", "tiny", "--train-data", "train.csv", *map(str, argv)])


@pytest.mark.parametrize(
    "flags,method,lr",
    [
        ((), "eclip", 5e-4),
        (("--method", "clip"), "clip", 5e-4),
        (("--recipe", "clip"), "clip", 1e-4),
        (("--recipe", "clip", "--method", "dacl"), "dacl", 1e-4),
        (("--recipe", "eclip", "--method", "naive"), "naive", 2e-4),
        (("--recipe", "m3-mix", "--pretrained", "x"), "m3-mix", 1e-5),
        (
            ("--recipe", "eclip-p", "--pretrained", "x", "--method", "eclip+dacl"),
            "eclip+dacl",
            1e-5,
        ),
    ],
)
def test_recipe_sets_the_method_unless_the_user_does(flags: tuple, method: str, lr: float) -> None:
    args = parse(*flags)
    assert (args.method, args.lr) == (method, lr)


@pytest.mark.parametrize(
    "flags,weight,least",
    [
        ((), 0.2, 0.05),
        (("--align-weight", 1), 1.0, 0.05),
        (("--align-min-share", 0), 0.2, 0.0),
        (("--method", "eclip+align"), 0.2, 0.05),
        (("--method", "eclip"), None, None),
        (("--method", "clip"), None, None),
    ],
)
def test_eclip_plus_is_align_with_the_recipes_settings(
    flags: tuple, weight: float | None, least: float | None
) -> None:
    """Another --method, or the user's settings, override the recipe."""
    args = parse("--recipe", "eclip-plus", *flags)
    assert (args.align_weight, args.align_min_share) == (weight, least) and args.lr == 1e-4
    if not flags:
        method = build_method(args)
        assert args.method == "align"
        assert method.experts is None
        assert [(one.config.weight, one.config.min_share) for one in method.objectives] == [
            (0.2, 0.05)
        ]
    plain = parse("--method", "align")
    assert plain.align_weight is None
    assert plain.align_min_share is None
    assert build_method(plain).objectives[0].config == AlignConfig()


def test_method_has_its_parts() -> None:
    args = parse(
        "--method",
        "dacl+naive+m3-mix",
        "--pretrained",
        "x",
        "--dacl-form",
        "plus",
        "--dacl-weight",
        0.5,
        "--m3-mix-cfg",
        "weight_v=0.2",
        "decay=false",
        "vl_target=diagonal",
    )
    method = build_method(args)
    assert method.experts == "naive" and method.heatmaps and not method.is_plain
    dacl, m3_mix = method.objectives
    assert isinstance(dacl, Dacl)
    assert (dacl.config.form, dacl.config.weight, dacl.config.alpha) == (
        "plus",
        0.5,
        0.9,
    )
    assert isinstance(m3_mix, M3Mix)
    assert (
        m3_mix.config.weight_v,
        m3_mix.config.decay,
        m3_mix.config.vl_target,
    ) == (0.2, False, "diagonal")
    assert eclip_config(args, {}).lam == 0
    assert build_method(parse("--method", "clip")).is_plain
    assert eclip_config(parse("--method", "dacl"), {}).processor is None
    assert not build_method(parse("--method", "dacl")).heatmaps
    assert not build_method(parse("--method", "dacl")).is_plain
    plain = parse(
        "--method",
        "naive",
        "--naive-form",
        "plain",
        "--expert-data",
        "x.csv",
        "--train-data",
        "y.csv",
    )
    assert not build_method(plain).heatmaps and build_method(plain).experts == "naive"


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--method", "dalc"], "'dalc' is none of clip, eclip, naive, dacl, m3-mix"),
        (["--method", "dacl+dacl"], "twice"),
        (["--method", "clip+dacl"], "leave 'clip' out"),
        (["--method", "eclip+naive"], "keep one"),
        (["--method", "m3-mix"], "give --pretrained"),
        (["--recipe", "m3-mix"], "give --pretrained"),
        (["--recipe", "clip", "--method", "eclip+m3-mix"], "--method m3-mix needs trained"),
        (["--method", "dacl", "--expert-data", "x.csv"], "uses no annotation"),
        (["--naive-form", "plain"], "give --method naive"),
        (["--method", "naive", "--eclip-alpha", "0.2"], "does not mix"),
        (["--method", "naive", "--naive-form", "plain"], "CLIP pairs already"),
        (
            ["--method", "naive", "--naive-form", "multiply", "--eclip-processor", "cnn"],
            "has no processor",
        ),
        (["--dacl-form", "plus"], "give --method dacl"),
        (["--m3-mix-cfg", "beta=1"], "give --method m3-mix"),
        (
            ["--method", "dacl", "--dacl-form", "release", "--dacl-weight", "2"],
            "adds no term to weigh",
        ),
        (["--method", "dacl", "--dacl-weight", "-1"], "weight=-1.0; expected 0 or more"),
        (["--method", "dacl", "--batch-size", "1"], "at least 2"),
        (
            ["--method", "m3-mix", "--pretrained", "x", "--m3-mix-cfg", "gamma=1"],
            "expected KEY=VALUE with one of weight_v",
        ),
        (
            ["--method", "m3-mix", "--pretrained", "x", "--m3-mix-cfg", "decay=maybe"],
            "expected KEY=VALUE",
        ),
    ],
)
def test_bad_combinations_of_flags_are_errors(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    common = [
        *BASIC,
        *("--logs", tmp_path / "logs"),
        *"--name run --batch-size 2 --epochs 1".split(),
        *("--train-data", tmp_path / "never-read.csv"),
    ]
    with pytest.raises(UserError, match=re.escape(message)):
        train.main([str(flag) for flag in (*common, *flags)])
    assert not (tmp_path / "logs").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Short runs of every method in one process; "clip" comes first, since others fine-tune it."""
    launcher = Launcher(tmp_path_factory.mktemp("methods"))
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 3))
    data = (*BASIC, "--train-data", table, "--eclip-curriculum", 0.2, 0, 0, 0, 0, 1)
    common, start = (
        (*data, "--batch-size", 4, "--epochs", 1),
        ("--pretrained", "logs/clip/checkpoints/epoch_1.pt"),
    )
    joined = (*common, *start, "--method", "eclip+dacl+m3-mix")
    launcher.train(
        (*common, "--name", "clip", "--method", "clip"),
        (*common, "--name", "dacl", "--method", "dacl"),
        (*common, "--name", "release", "--method", "dacl", "--dacl-form", "release"),
        (*common, "--name", "zero", "--method", "dacl", "--dacl-weight", 0),
        (*common, "--name", "m3", "--method", "m3-mix", *start),
        (*common, "--name", "longer", "--method", "clip", *start),
        (
            *common,
            *"--name m3-zero --method m3-mix".split(),
            *start,
            "--m3-mix-cfg",
            *[f"weight_{name}=0" for name in ("v", "l", "vl", "m2")],
        ),
        (*common, "--name", "naive", "--method", "naive"),
        (*common, "--name", "multiply", "--method", "naive", "--naive-form", "multiply"),
        (
            *common,
            *"--name plain --method naive --naive-form plain".split(),
            *("--expert-data", table),
        ),
        (*joined, "--name", "bf16", "--precision", "bf16", "--dacl-form", "plus"),
        (*joined, "--name", "amp", "--precision", "amp_bf16"),
        (*joined, "--name", "siglip", "--siglip"),
        *[
            (
                *data,
                *start,
                *"--epochs 1 --lr 0".split(),
                *("--name", f"accum-{k}"),
                "--method",
                "naive+m3-mix",
                *("--batch-size", 12 // k),
                *("--accum-freq", k),
            )
            for k in (1, 3)
        ],
        (*joined, "--name", "dacl-3", "--accum-freq", 3),
        (*joined, "--name", "release-3", "--accum-freq", 3, "--dacl-form", "release"),
        (*joined, "--name", "whole", "--dacl-form", "plus", "--epochs", 2),
        (
            *joined,
            *"--name resumed --dacl-form plus --epochs 2".split(),
            *("--resume", "logs/whole/checkpoints/epoch_1.pt"),
        ),
    )
    return launcher


def terms(launcher: Launcher, name: str) -> set[str]:
    return set(re.findall(r" ([A-Z]\w*_loss): ", launcher.log(name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,expected",
    [
        ("dacl", {"Contrastive_loss", "Dacl_loss"}),
        ("release", {"Contrastive_loss"}),
        ("release-3", {"Contrastive_loss", "Priming_loss"} | M3),
        ("m3", {"Contrastive_loss"} | M3),
        ("naive", {"Contrastive_loss", "Priming_loss"}),
        *[
            (name, {"Contrastive_loss", "Priming_loss", "Dacl_loss"} | M3)
            for name in ("bf16", "amp", "siglip", "dacl-3")
        ],
    ],
)
def test_methods_train_with_their_terms(runs: Launcher, name: str, expected: set[str]) -> None:
    losses = runs.losses(name)
    assert len(losses) == (2 if name.endswith("-3") else 6) and all(loss == loss for loss in losses)
    assert terms(runs, name) == expected


@pytest.mark.slow
def test_only_methods_with_mixed_pairs_have_a_processor(runs: Launcher) -> None:
    """dacl and m3-mix write a plain CLIP checkpoint, and their log does not mention experts."""
    keys = set(runs.weights("clip", 1))
    for name in ("dacl", "release", "m3"):
        assert set(runs.weights(name, 1)) == keys
        assert "eclip: expert probability" not in runs.log(name)
        assert "heatmap" not in runs.log(name).split("Start epoch 0")[-1].replace(
            "csv_heatmap_key", ""
        )
    assert [key for key in runs.weights("naive", 1) if key not in keys]
    assert set(runs.weights("multiply", 1)) == keys  # the mask has no weights


@pytest.mark.slow
@pytest.mark.parametrize("ours,clip", [("zero", "clip"), ("m3-zero", "longer")])
def test_weight_0_is_bit_for_bit_clip(runs: Launcher, ours: str, clip: str) -> None:
    expected, result = runs.weights(clip, 1), runs.weights(ours, 1)
    assert set(result) == set(expected)
    assert all(torch.equal(result[key], value) for key, value in expected.items())
    assert runs.losses(ours) == runs.losses(clip)
    assert runs.losses("m3") != runs.losses(clip)


@pytest.mark.slow
def test_naive_adds_every_annotated_sample_in_every_step(runs: Launcher) -> None:
    for name in ("naive", "multiply"):
        log = runs.log(name)
        mixed = [int(n) for n in re.findall(r"mixed pairs (\d+)", log)]
        assert len(mixed) == 6
        assert sum(mixed) == 8
        assert set(re.findall(r"expert probability ([\d.]+)", log)) == {"1.000"}
        assert set(re.findall(r"mean lambda ([\d.]+)", log)) == {"0.000"}
    priming = runs.losses("naive", "Priming_loss")
    assert len(priming) == 6 and "before step 1, warm-up" in runs.log("naive")
    log = runs.log("plain")
    assert set(re.findall(r"mixed pairs (\d+)", log)) == {"2"}
    assert set(re.findall(r"mean lambda ([\d.]+)", log)) == {"1.000"}


@pytest.mark.slow
def test_accumulation_matches_the_large_batch(runs: Launcher) -> None:
    assert len(runs.losses("accum-1")) == 2
    assert runs.losses("accum-3") == pytest.approx(runs.losses("accum-1"), rel=2e-5)


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_run(runs: Launcher) -> None:
    result, expected = runs.weights("resumed", 2), runs.weights("whole", 2)
    assert "resuming checkpoint" in runs.log("resumed")
    assert all(torch.equal(result[key], value) for key, value in expected.items())


# ---- two processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Comparisons in results.json, and runs on two ranks.

    Three of 24 samples are annotated, so most batches of a rank have none.
    """
    launcher = Launcher(tmp_path_factory.mktemp("ddp"))
    table = write_table(launcher.folder, 24, annotated=[0, 5, 6])
    common = (
        *BASIC,
        *("--train-data", table),
        *"--batch-size 4 --epochs 1 --eclip-curriculum 0.2 0 0 0 0 1".split(),
    )
    start = ("--pretrained", "logs/dacl/checkpoints/epoch_1.pt")
    runs = [
        (*common, "--name", "dacl", "--method", "dacl"),
        (*common, "--name", "naive", "--method", "naive"),
        (
            *common,
            *"--name m3 --method m3-mix".split(),
            *start,
            "--local-loss",
            "--gather-with-grad",
        ),
        (
            *common,
            *"--name all --method eclip+dacl+m3-mix".split(),
            *start,
            *"--accum-freq 3 --dacl-form plus".split(),
        ),
        (*common, "--name", "release", "--method", "eclip+dacl", "--dacl-form", "release"),
    ]
    launcher.worker("ddp_objectives", json.dumps([[str(flag) for flag in run] for run in runs]))
    return launcher


@pytest.mark.slow
def test_two_processes_match_a_single_process(pair: Launcher) -> None:
    """Loss and gradients, with and without mixed pairs."""
    results = json.loads((pair.folder / "results.json").read_text())
    assert len(results) == 4 * 5 * 2
    wrong = [
        case for case in results if abs(case["loss"] - case["expected"]) > 1e-9 * case["expected"]
    ]
    wrong += [case for case in results if case["gradient_error"] > 1e-8 or case["names"]]
    assert not wrong, wrong[:2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,steps", [("dacl", 3), ("naive", 3), ("m3", 3), ("all", 1), ("release", 3)]
)
def test_methods_train_on_two_ranks(pair: Launcher, name: str, steps: int) -> None:
    losses = pair.losses(name)
    assert len(losses) == steps and all(loss == loss for loss in losses)


@pytest.mark.parametrize("recipe", ["clip", "eclip", "eclip-plus"])
def test_recipes_crop_like_the_authors_unless_the_user_sets_it(recipe: str) -> None:
    """Cropping is the paper's only augmentation; open_clip's default scale is (0.9, 1).

    A user's --aug-cfg replaces all of it.
    """
    assert parse("--recipe", recipe).aug_cfg == {"scale": (0.5, 1.0)}
    assert parse("--method", "clip").aug_cfg == {}
    given = parse("--recipe", recipe, "--aug-cfg", "scale=(0.8, 1.0)", "color_jitter_prob=0.5")
    assert given.aug_cfg == {"scale": (0.8, 1.0), "color_jitter_prob": 0.5}
    assert parse("--recipe", recipe, "--aug-cfg", "use_timm=True").aug_cfg == {"use_timm": True}
    transform = open_clip.transform.image_transform(
        32, is_train=True, aug_cfg=parse("--recipe", recipe).aug_cfg
    )
    assert transform.transforms[0].scale == (0.5, 1.0)
