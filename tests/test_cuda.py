"""What the other tests check on the CPU, once on a GPU.

Losses of every method, waits of the host, low precision, compiling, resuming, evaluation.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from test_no_waiting import RUNS, plan, set_up, step

from openclip_eclip.data.map_tensors import to_unit
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.features import EncodeOptions, encode_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
METHODS = (
    "clip",
    "eclip",
    "naive",
    "dacl",
    "align",
    "eclip+align",
    "gloria+eclip",
    "gloria+align",
    "eclip+dacl+m3-mix",
)


class GpuLauncher(Launcher):
    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Each method on both devices and in low precision, from the weights of "first".

    Some are then resumed or compiled.
    """
    launcher = GpuLauncher(tmp_path_factory.mktemp("gpu"))
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 3))
    data = (
        *BASIC,
        *("--train-data", table),
        *"--eclip-curriculum 0.2 0 0 0 0 1 --batch-size 8 --epochs 1".split(),
    )
    common, gpu = (*data, "--pretrained", "logs/first/checkpoints/epoch_1.pt"), ("--device", "cuda")
    both = [
        (*common, "--name", f"{method}-{device}", "--method", method, "--device", device)
        for method in METHODS
        for device in ("cpu", "cuda")
    ]
    low = [
        (
            *common,
            *gpu,
            *("--name", f"{method}-{precision}"),
            *("--method", method),
            *("--precision", precision),
        )
        for method in METHODS
        for precision in ("amp", "amp_bf16", "bf16")
    ]
    whole = (*common, *gpu, "--method", "eclip+align", "--precision", "amp_bf16", "--epochs", 2)
    launcher.train(
        (*data, "--name", "first", "--method", "clip"),
        *both,
        *low,
        (*whole, "--name", "whole"),
        (*whole, "--name", "resumed", "--resume", "logs/whole/checkpoints/epoch_1.pt"),
        (*whole, "--name", "accumulated", "--accum-freq", 3, "--grad-checkpointing"),
        (*whole, "--name", "compiled", "--torchcompile"),
    )
    return launcher


@pytest.mark.parametrize("method", METHODS)
def test_losses_match_the_cpu(runs: Launcher, method: str) -> None:
    """fp32 up to the error of TF32, low precision up to that of bfloat16.

    With float16 only the first step is compared: GradScaler skips steps until its scale fits.
    """
    expected = runs.losses(f"{method}-cpu")
    assert len(expected) == 3
    assert runs.losses(f"{method}-cuda") == pytest.approx(expected, rel=2e-3)
    for precision, steps in (("amp", 1), ("amp_bf16", 3), ("bf16", 3)):
        assert runs.losses(f"{method}-{precision}")[:steps] == pytest.approx(
            expected[:steps], rel=3e-2
        ), precision


def test_heatmaps_of_8_bits_are_the_same_numbers_as_on_the_cpu() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(levels.cuda()).cpu(), to_unit(levels))


@pytest.mark.parametrize("name", RUNS)
def test_our_part_of_a_step_never_waits(name: str) -> None:
    """From the moved batch to the end of backward, after a first step that fills caches."""
    method, *flags = RUNS[name]
    flags, device = ("--method", method, *flags), torch.device("cuda")
    model, loss, built, loader = set_up(*flags, siglip=name == "siglip")
    model.to(device)
    batches = plan(built, loader)
    for batch in batches:
        step(model, loss, *batch, device)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in batches:
            step(model, loss, *batch, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_resumes_where_it_stopped(runs: Launcher) -> None:
    assert runs.losses("resumed") == pytest.approx(runs.losses("whole")[3:], rel=1e-3)
    assert len(runs.losses("accumulated")) == 2
    assert all(loss == loss for loss in runs.losses("accumulated"))
    assert runs.losses("compiled") == pytest.approx(runs.losses("whole"), rel=1e-2)


def test_evaluated_features_match_the_cpu(runs: Launcher) -> None:
    data, options = read_eval_set(runs.folder / "train.csv"), EncodeOptions(batch_size=8, workers=0)
    result = {
        device: (
            encode_images(
                load_encoder(
                    "tiny", str(runs.folder / "logs/first/checkpoints/epoch_1.pt"), device=device
                ),
                data,
                options,
            )[0].unit
        )
        for device in ("cpu", "cuda")
    }
    assert (
        np.abs(result["cuda"] - result["cpu"]).max()
        < 2e-3
        < np.abs(result["cpu"][0] - result["cpu"][1]).max()
    )
