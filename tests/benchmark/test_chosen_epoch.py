"""The epoch of a benchmark's run: --keep-best takes the one that the best of all saved ones was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import BASIC, write_table
from safetensors.torch import load_file

from openclip_eclip import export, train
from openclip_eclip.benchmark.does_it_help.data import Data
from openclip_eclip.benchmark.does_it_help.methods import CHOICES
from openclip_eclip.benchmark.does_it_help.runs import Runs, Settings
from openclip_eclip.benchmark.rows import Method
from openclip_eclip.benchmark.runner import VALIDATION, Bench

MODEL = BASIC[: BASIC.index("--seed")]  # and its precision and device
COMMANDS = {"openclip_eclip.train": train.main, "openclip_eclip.export": export.main}


class Here:
    """A worker that runs commands in this process.

    `saved`: {epoch: weights}, of all epochs that open_clip itself saved; `files`: the names of all
    checkpoints; both as they are before the export.
    """

    device = ""

    def run(self, module: str, flags: Sequence[object], log: Path) -> float:
        if module == "openclip_eclip.export":
            folder = Path(str(flags[0])).parent
            self.files = sorted(path.name for path in folder.glob("*.pt"))
            paths = [folder / name for name in self.files if name[6:-3].isdigit()]
            states = [torch.load(path, weights_only=True) for path in paths]
            self.saved = {state["epoch"]: state["state_dict"] for state in states}
        COMMANDS[module]([str(flag) for flag in flags])
        return 1.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """16 images, so 2 steps an epoch and 8 epochs, and 8 images of validation."""
    table, valid = write_table(tmp_path, 16), write_table(tmp_path / "valid", 8, seed=1)
    args = argparse.Namespace(
        **{"out": tmp_path / "out", "data": tmp_path, "train_data": str(table), "model": None},
        **{"expert_data": None, "settings": "own data", "steps": 16, "tune_steps": None},
    )
    flags = [*MODEL, "--lr", 1e-2, "--warmup", 2, "--batch-size", 8]
    workers = argparse.Namespace(machine="this one")
    return Bench(args, [], workers, {}, {}, valid, settings=(flags, flags, []))


CLIP = Method("CLIP", ["--method", "clip"])


@pytest.mark.slow
def test_the_epoch_is_the_best_of_all_saved_ones(bench: Bench) -> None:
    """As when every epoch was saved, and the first with the lowest rank was then exported."""
    bench.train_flags, worker = ["--save-frequency", "1"], Here()
    bench.train(CLIP, 3, worker)
    folder = bench.facts_file(CLIP, 3).parent
    lines = [json.loads(line) for line in (folder / VALIDATION).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(worker.saved) == list(range(1, 9))
    ranks = [line["image_to_text_mean_rank"] + line["text_to_image_mean_rank"] for line in lines]
    best = 1 + ranks.index(min(ranks))
    assert bench.facts(CLIP, 3)["epoch"] == best
    exported = load_file(bench.model(CLIP, 3) / "open_clip_model.safetensors")
    assert exported.keys() == worker.saved[best].keys()
    assert all(torch.equal(exported[name], value) for name, value in worker.saved[best].items())
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_a_run_keeps_no_more_than_it_needs(bench: Bench) -> None:
    bench.args.steps, worker = 6, Here()
    bench.train(CLIP, 3, worker)
    assert worker.files == ["epoch_3.pt", "epoch_best.pt"]
    bench.validation = None
    bench.train(CLIP, 4, worker)
    assert worker.saved == {} and bench.facts(CLIP, 4)["epoch"] is None
    kept = bench.facts_file(CLIP, 4).parent / "checkpoints"
    assert [path.name for path in kept.iterdir()] == ["epoch_3.pt"]


def test_finished_runs_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """Their facts and lines of validation are those of now, and nothing is trained again."""
    data = Data("train.csv", Path("v.csv"), Path("t.csv"), 320, 60, {}, None, {})
    settings = Settings(MODEL, [1e-3], 40, 32, 0, "fp32", 0.1, None, [])
    runs = Runs(tmp_path, data, settings, argparse.Namespace(jobs=1))
    job = CHOICES["CLIP"], 1e-3, 0
    folder = runs.folder(*job)
    folder.mkdir(parents=True)
    runs.model(*job).mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps({"seconds": 7.0, "epoch": 4}))
    ranks = {2: (9.0, 9.0), 4: (4.0, 9.0), 6: (9.5, 8.5)}
    (folder / VALIDATION).write_text(
        "".join(
            json.dumps({"epoch": epoch, "image_to_text_mean_rank": a, "text_to_image_mean_rank": b})
            + "\n"
            for epoch, (a, b) in ranks.items()
        )
    )
    assert runs.is_trained(*job) and runs.seconds(*job) == 7.0
    assert runs.curve(*job) == {2: 9.0, 4: 6.5, 6: 9.0}
    assert runs.validation_rank(*job) == 6.5
    runs.bench.train(runs.method(*job[:2]), 0, None)  # without a worker
