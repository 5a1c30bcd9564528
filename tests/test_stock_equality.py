"""Invariant 1: without heatmaps, training is bit-for-bit open_clip's.

The same holds with a closed gate and no priming. The reference is `open_clip_train.main` in a
process that never imports our package.
"""

from __future__ import annotations

import pytest
import torch
from conftest import BASIC, Launcher, write_table

pytestmark = pytest.mark.slow

VARIANTS = {
    "plain": (),
    "accum": ("--accum-freq", 2),
    "workers": ("--workers", 1, "--grad-clip-norm", 0.5),
    "bf16": ("--precision", "amp_bf16"),
    "siglip": ("--siglip",),
    "augment": (
        "--aug-cfg",
        "scale=(0.3,1.0)",
        "color_jitter=(0.3,0.3,0.2,0.05)",
        "color_jitter_prob=0.8",
        "gray_scale_prob=0.3",
    ),
    "synthetic": ("--dataset-type", "synthetic", "--train-num-samples", 24),
    "timm": ("--aug-cfg", "use_timm=True", "scale=(0.3,1.0)", "re_prob=0.5", "color_jitter=0.3"),
}
CLOSED = ("--eclip-priming-weight", 0, "--eclip-curriculum", 0, 0, 0, 0, 0, 0)
OPEN = ("--eclip-priming-weight", 0, "--eclip-curriculum", 0, 0, 0, 1, 1, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Every variant, with our training and open_clip's, on 24 samples for two epochs."""
    launcher = Launcher(tmp_path_factory.mktemp("stock"))
    plain = write_table(launcher.folder / "plain", 24, column=False)
    common = (*BASIC, "--train-data", plain, "--batch-size", 4, "--epochs", 2)
    gated = (
        *BASIC,
        *("--train-data", write_table(launcher.folder / "gated", 24, annotated=range(0, 24, 2))),
        *"--batch-size 4 --epochs 2".split(),
    )
    comma = ("--csv-separator", ",")
    launcher.stock(
        *[(*common, *flags, *comma, "--name", f"stock-{name}") for name, flags in VARIANTS.items()],
        (*gated, *comma, "--name", "stock-closed"),
    )
    launcher.train(
        *[(*common, *flags, "--name", f"ours-{name}") for name, flags in VARIANTS.items()],
        (*gated, *CLOSED, "--name", "ours-closed"),
        (*gated, *OPEN, "--name", "ours-open"),
    )
    return launcher


def assert_same_run(launcher: Launcher, ours: str, stock: str, epochs: int = 2) -> None:
    expected, result = launcher.weights(stock, epochs), launcher.weights(ours, epochs)
    assert len(expected) > 10
    for key, value in expected.items():
        assert torch.equal(result[key], value), key
    assert {key for key in result if key not in expected} == {
        key for key in result if key.startswith("heatmap_processor.")
    }
    assert len(launcher.losses(stock)) >= 2 * epochs
    assert launcher.losses(ours) == launcher.losses(stock)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_without_heatmap_column_is_bit_for_bit_open_clip(
    runs: Launcher, variant: str
) -> None:
    assert_same_run(runs, f"ours-{variant}", f"stock-{variant}")


def test_closed_gate_without_priming_is_bit_for_bit_open_clip(runs: Launcher) -> None:
    assert_same_run(runs, "ours-closed", "stock-closed")


def test_open_gate_changes_training(runs: Launcher) -> None:
    """Shows that the comparison can fail."""
    with pytest.raises(AssertionError):
        assert_same_run(runs, "ours-open", "stock-closed")


def test_two_processes_without_heatmaps_are_bit_for_bit_plain_clip(launcher: Launcher) -> None:
    """open_clip itself cannot run two CPU processes, so plain CLIP with our patches replaces it."""
    table = write_table(launcher.folder, 24, column=False)
    common = (*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 2)
    launcher.train(
        (*common, "--name", "clip", "--method", "clip"), (*common, "--name", "ours"), processes=2
    )
    assert_same_run(launcher, "ours", "clip")
