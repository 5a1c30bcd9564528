"""--fsdp on two ranks is DDP: losses, weights, resume, export; what cannot work is one sentence.

A rank that leaves out a collective makes the others wait for ever: the time limit shows it.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
import open_clip_train.main as host
import pytest
import torch
from conftest import BASIC, Launcher, write_table

from openclip_eclip import train
from openclip_eclip.config import UserError
from openclip_eclip.data.sentence_windows import encode_windows
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.export import main as export_main

pytestmark = pytest.mark.skipif(
    not hasattr(host, "create_task"), reason="the installed open_clip has no FSDP"
)

LIMIT = 300  # seconds
# mixed pairs on one rank, on both and on none, from the third step on
MIXED = "--method eclip --eclip-curriculum 0.3 0.1 0.1 0.5 0.8 0.8".split()
METHODS: dict[str, list[str]] = {
    "clip": ["--method", "clip"],
    "align": "--method align --align-weight 0.2 --align-min-share 0.05".split(),
    "windows": "--method align --align-windows --grad-checkpointing".split(),
    "eclip": MIXED,
    "naive": ["--method", "naive"],
    # mixed images alone have a gradient before the trained block
    "frozen": [*MIXED, *"--freeze-image blocks:1 --freeze-text all".split()],
    "accumulated": [*MIXED, *"--accum-freq 3 --grad-clip-norm 1 --siglip".split()],
    "decayed": "--method align --image-layer-decay 0.5 --lora-text 2".split(),
}
# saved before the optimiser has seen the processor
RESUMED = [*MIXED, "--eclip-priming-weight", "0", "--save-every-steps", "2", "--keep-last", "9"]

# rank 1 spoils its share of a weight
SPOIL = """\
import os, torch
if os.environ["RANK"] == "1":
    step = torch.optim.AdamW.step
    def spoil(self, *args):
        step(self, *args)
        with torch.no_grad():
            self.param_groups[0]["params"][0].to_local().fill_(float("nan"))
    torch.optim.AdamW.step = spoil
"""


def write_data(folder: Path) -> Path:
    """24 samples, 6 with a heatmap and 2 with windows: on many batches of a rank there is none."""
    table = write_table(folder, 24, annotated=[0, 5, 6, 9, 12, 17])
    windows = dict.fromkeys(range(24), "")
    for i in (1, 6):
        window = torch.zeros(40, 40).numpy()
        window[5:20, 5:30] = 1
        for suffix, content in zip(("json", "npz"), encode_windows([("left", 0, 1)], [window])):
            (folder / f"{i}.windows.{suffix}").write_bytes(content)
        windows[i] = f"{i}.windows.json"
    header, *rows = table.read_text().splitlines()
    lines = [f"{header},windows", *(f"{row},{windows[i]}" for i, row in enumerate(rows))]
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Each method with DDP and with --fsdp, the latter resumed too, and open_clip's own."""
    launcher = Launcher(tmp_path_factory.mktemp("fsdp"))
    table = write_data(launcher.folder)
    common = (*BASIC, "--train-data", table, "--batch-size", 4, "--epochs", 2, "--name")
    val = ("--val-data", write_table(launcher.folder, 8, name="val.csv", seed=3))
    two = {"processes": 2, "timeout": LIMIT}
    launcher.stock((*common, "stock", "--fsdp", "--csv-separator", ","), **two)
    launcher.train(
        *[
            (*common, f"{name}{suffix}", *flags, *sharded)
            for name, flags in METHODS.items()
            for suffix, sharded in (("-ddp", ()), ("-fsdp", ("--fsdp",)))
        ],
        (*common, "best-ddp", *RESUMED, *val, "--keep-best", "mean-rank"),
        (*common, "best-fsdp", *RESUMED, *val, "--keep-best", "mean-rank", "--fsdp"),
        (*common, "compiled", *RESUMED, "--fsdp", "--torchcompile"),
        **two,
    )
    saved = {
        (name, batch): launcher.folder / "logs" / run / "checkpoints" / batch
        for name, run in (("best", "best-fsdp"), ("compiled", "compiled"))
        for batch in ("epoch_0_batch_00000002.pt", "epoch_1.pt")
    }
    launcher.train(
        *[
            (*common, f"{name}-{path.stem}", *RESUMED, "--fsdp", "--resume", path)
            + (("--torchcompile",) if name == "compiled" else (*val, "--keep-best", "mean-rank"))
            for (name, _), path in saved.items()
        ],
        **two,
    )
    return launcher


def assert_same_weights(runs: Launcher, name: str, other: str) -> None:
    weights, expected = runs.weights(name, 2), runs.weights(other, 2)
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in expected.items()
    }
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "best"])
def test_losses_and_weights_are_those_of_ddp(name: str, runs: Launcher) -> None:
    losses = runs.losses(f"{name}-fsdp")
    assert len(losses) == {"accumulated": 2, "best": 8}.get(name, 6)
    assert losses == pytest.approx(runs.losses(f"{name}-ddp"), rel=1e-4)
    assert_same_weights(runs, f"{name}-fsdp", f"{name}-ddp")


@pytest.mark.slow
def test_the_methods_differ(runs: Launcher) -> None:
    """Shows that the comparison can fail."""
    last = [round(runs.losses(f"{name}-fsdp")[-1], 2) for name in METHODS]
    assert len(set(last)) == len(METHODS)


@pytest.mark.slow
def test_plain_clip_is_open_clips_own_run(runs: Launcher) -> None:
    assert runs.losses("clip-fsdp") == runs.losses("stock")
    assert_same_weights(runs, "clip-fsdp", "stock")


@pytest.mark.slow
def test_processor_figures_are_those_of_ddp(runs: Launcher) -> None:
    first, second = (
        sorted((runs.folder / "logs" / f"eclip-{kind}" / "figures").glob("*.png"))
        for kind in ("ddp", "fsdp")
    )
    assert [path.name for path in first] == [path.name for path in second] and len(first) == 3
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best", "compiled"])
@pytest.mark.parametrize("start", ["epoch_0_batch_00000002", "epoch_1"])
def test_resumed_runs_equal_the_uninterrupted_one(name: str, start: str, runs: Launcher) -> None:
    whole = f"{name}-fsdp" if name == "best" else name
    losses = runs.losses(f"{name}-{start}")
    assert losses == runs.losses(whole)[-len(losses) :]
    assert_same_weights(runs, f"{name}-{start}", whole)


@pytest.mark.slow
def test_best_epoch_is_that_of_ddp(runs: Launcher) -> None:
    folders = [runs.folder / "logs" / f"best-{kind}" / "checkpoints" for kind in ("ddp", "fsdp")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] and "epoch_best.pt" in names[0]
    records = [(folder / "epoch_best.json").read_text() for folder in folders]
    assert records[0] == records[1]


@pytest.mark.slow
def test_export_and_evaluation_read_the_checkpoint(runs: Launcher, tmp_path: Path) -> None:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    features = []
    for kind in ("ddp", "fsdp"):
        path = runs.folder / "logs" / f"eclip-{kind}" / "checkpoints" / "epoch_2.pt"
        assert export_main([str(path), str(tmp_path / kind)]) == 0
        plain = open_clip.create_model(f"local-dir:{tmp_path / kind}").eval()
        with torch.no_grad():
            features.append(plain.encode_image(image))
            evaluated = load_encoder(str(path), device="cpu").model.encode_image(image)
        torch.testing.assert_close(evaluated, features[-1])
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_of_ddp_is_an_error(runs: Launcher) -> None:
    path = runs.folder / "logs" / "clip-ddp" / "checkpoints" / "epoch_1.pt"
    flags = ("--train-data", runs.folder / "train.csv", "--batch-size", 4, "--epochs", 2)
    done = runs.train(
        (*BASIC, *flags, "--method", "clip", "--fsdp", "--name", "other", "--resume", path),
        processes=2,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode
    assert "was trained with --fsdp False, this run has True: its optimizer state" in done.stderr


@pytest.mark.slow
def test_weights_of_one_rank_that_are_not_finite_end_all_ranks(launcher: Launcher) -> None:
    """The only step of the run has a finite loss."""
    script = launcher.folder / "launch.py"
    script.write_text(SPOIL + script.read_text())
    table = write_table(launcher.folder, 8)
    flags = ("--train-data", table, "--batch-size", 4, "--epochs", 1, "--method", "clip")
    done = launcher.train(
        (*BASIC, *flags, "--fsdp", "--name", "bad"), processes=2, timeout=LIMIT, check=False
    )
    assert done.returncode
    assert "1 of 50 tensors of the model are not finite, first positional" in done.stderr
    assert not list((launcher.folder / "logs" / "bad" / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--fsdp-no-reshard-after-forward"], "without --fsdp has no effect"),
        (["--fsdp", "--cache-tokens", "cache", "--freeze-image", "all"], "others, which wait"),
        (["--fsdp", "--keep-best", "grounding", "--val-data", "val.csv"], "another measure"),
        (["--fsdp", "--precision", "bf16"], "one type; give amp_bf16 or pure_bf16"),
        (["--fsdp-offload-cpu"], "--fsdp-offload-cpu does not work"),
        (["--fsdp-checkpoint", "sharded"], "whole files"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    common = (*BASIC, "--method", "clip", "--train-data", "train.csv", "--name", "run")
    with pytest.raises(UserError, match=message):
        train.main([str(flag) for flag in (*common, "--logs", tmp_path / "logs", *flags)])
    assert not (tmp_path / "logs").exists()


def test_one_process_has_nothing_to_share(tmp_path: Path) -> None:
    flags = (*BASIC, "--train-data", "train.csv", "--logs", tmp_path / "logs", "--fsdp")
    with pytest.raises(UserError, match="--fsdp with one process: .* torchrun"):
        train.main([str(flag) for flag in flags])
