"""--recipe small-data: what it sets, what the user's flags change, and a run with it."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

import open_clip
import open_clip_train.main as host
import pytest
import torch
from conftest import Launcher, write_table

from openclip_eclip.params import eclip_parser, method_names
from openclip_eclip.recipes import KEPT_FOLDER, PATIENCE, fill_recipe
from training_patches.announced import Announced

FILLED = ("freeze_image", "freeze_text", "cache_tokens", "cache_crops", "keep_best", "patience")


def filled(*flags: str) -> dict[str, object]:
    """What the recipe leaves in FILLED and in the settings of alignment."""
    ours, rest = eclip_parser().parse_known_args(["--recipe", "small-data", *flags])
    args = host.parse_args(["--logs", "runs", *rest])
    vars(args).update(vars(ours))
    fill_recipe(args, method_names(args))
    return {name: getattr(args, name) for name in (*FILLED, "align_weight", "align_min_share")}


ALL = {
    "freeze_image": "all",
    "freeze_text": "all",
    "cache_tokens": str(Path("runs", KEPT_FOLDER)),
    "cache_crops": 2,
    "keep_best": None,
    "patience": None,
    "align_weight": 0.2,
    "align_min_share": 0.05,
}
NOT_KEPT = {"cache_tokens": None, "cache_crops": None}
BEST = {"keep_best": "mean-rank", "patience": PATIENCE}
VALIDATED = ["--val-data", "x.csv"]


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ([], {}),
        (VALIDATED, BEST),
        ([*VALIDATED, "--keep-best", "recall@5"], BEST | {"keep_best": "recall@5"}),
        ([*VALIDATED, "--patience", "3"], BEST | {"patience": 3}),
        (["--align-weight", "1", "--cache-crops", "4"], {"align_weight": 1.0, "cache_crops": 4}),
        (["--method", "clip"], {"align_weight": None, "align_min_share": None}),
        (["--freeze-image", "blocks:3"], {"freeze_image": "blocks:3"}),
        (["--lora-image", "8"], {"freeze_image": None} | NOT_KEPT),
        (["--lora-text", "8"], {"freeze_text": None}),
        (["--lock-image"], {"freeze_image": None} | NOT_KEPT),
        (["--torchcompile"], NOT_KEPT),
        (["--method", "eclip"], NOT_KEPT | {"align_weight": None, "align_min_share": None}),
    ],
)
def test_the_flags_of_the_user_win(flags: list[str], changed: dict[str, object]) -> None:
    assert filled(*flags) == ALL | changed


@pytest.mark.slow
@pytest.mark.parametrize("loss", [[], ["--siglip"]])
def test_a_run_with_the_recipe(launcher: Launcher, loss: list[str]) -> None:
    """64 images are a batch an epoch, so 120 epochs; the towers stay, the rest learns."""
    bias = {"init_logit_bias": -10.0} if loss else {}
    start = open_clip.create_model("tiny", pretrained_text=False, **bias).state_dict()
    torch.save(start, launcher.folder / "start.pt")
    table = write_table(launcher.folder, 64, annotated=range(0, 64, 8))
    flags = ("--recipe", "small-data", "--train-data", table, "--val-data", table)
    flags += ("--val-frequency", 40)
    model = ("--model", "tiny", "--pretrained", "start.pt", "--device", "cpu")
    launcher.train((*model, *flags, *loss, "--name", "run"), timeout=300)
    log = launcher.log("run")
    assert "recipe small-data: epochs 120, warmup 12" in log
    computed = sum(map(int, re.findall(r"image: (\d+) computed", log)))
    assert 64 < computed <= 3 * 64  # two crops of an image at most, and the one of validation
    checkpoints = launcher.folder / "logs" / "run" / "checkpoints"
    # of 120 epochs, the best and the last
    assert {path.name for path in checkpoints.glob("*.pt")} == {"epoch_best.pt", "epoch_120.pt"}
    assert "mean-rank" in (checkpoints / "epoch_best.json").read_text()
    trained = torch.load(checkpoints / "epoch_best.pt", weights_only=True)["state_dict"]
    changed = {key for key, value in trained.items() if not torch.equal(value, start[key])}
    norm = {"visual.ln_post.weight", "visual.ln_post.bias"}  # behind the frozen blocks
    assert changed == {"visual.proj", "logit_scale", *norm, *["logit_bias"] * len(loss)}


@pytest.mark.parametrize(("total", "told"), [(187, "59 others of 187"), (None, "")])
def test_samples_that_fill_no_batch_are_counted(
    total: int | None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    announced = Announced(dict.fromkeys(range(52), "row"), total, "train.csv")
    announced.seen, announced.shown = set(range(38)), 128
    with caplog.at_level(logging.INFO):
        announced.end_pass(argparse.Namespace(world_size=1))
    (record,) = caplog.records
    assert "had 38 of 52 annotated samples" in record.getMessage()
    assert ("with a smaller --batch-size" in record.getMessage()) == bool(told)
    assert told in record.getMessage()
