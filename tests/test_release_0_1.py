"""What release 0.1 left on disk is read: checkpoints, settings of runs, results of evaluations.

tests/fixtures/release_0_1 was made by that release, see make.py there.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TESTS, Launcher

FIXTURE = TESTS / "fixtures" / "release_0_1"
# as release 0.1 trained, in this release's spelling
METHODS = {
    "align": "--method align --align-min-share 0.5 --align-oversample 0.25",
    "placebo": "--method eclip --eclip-placebo shuffled",
}


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """A copy of the fixture with its checkpoints unpacked; `tiny` is the fixture's model."""
    launcher = Launcher(tmp_path_factory.mktemp("release"))
    shutil.copytree(FIXTURE, launcher.folder, dirs_exist_ok=True)
    for packed in launcher.folder.rglob("*.pt.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return launcher


def checkpoint(name: str, epoch: int = 1) -> Path:
    return Path("runs", name, "checkpoints", f"epoch_{epoch}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_release_0_1_resumes_to_the_same_end(launcher: Launcher, name: str) -> None:
    flags = (
        "--model tiny --precision fp32 --device cpu --workers 0 --seed 1 --lr 1e-3 --warmup 2"
        " --logs runs --log-every-n-steps 1 --save-frequency 1 --batch-size 4 --epochs 2"
        " --train-data train.csv --csv-separator , --csv-heatmap-key heatmap --name resumed-"
        f"{name} --resume {checkpoint(name)} {METHODS[name]}"
    )
    launcher.train(flags.split())
    log = (launcher.folder / "runs" / f"resumed-{name}" / "out.log").read_text()
    assert "this run has" not in log and "differ" not in log.replace("different", "")
    path = launcher.folder / checkpoint(f"resumed-{name}", 2)
    found = torch.load(path, weights_only=True)["state_dict"]["visual.proj"].numpy()
    expected = np.load(launcher.folder / "runs" / name / "visual_proj_2.npy")
    # another kind of processor rounds in another way
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_checkpoints_and_results_of_release_0_1_are_evaluated_compared_and_exported(
    launcher: Launcher,
) -> None:
    data = f"--model tiny --pretrained {checkpoint('align')} --data train.csv --device cpu"
    launcher.run("openclip_eclip.evaluate", f"retrieval {data} --out again".split())
    old, new = (
        json.loads((launcher.folder / folder / "result.json").read_text())
        for folder in ("evaluated", "again")
    )
    assert old["settings"]["weights_hash"] == new["settings"]["weights_hash"]
    assert old["values"].keys() == new["values"].keys()
    # another kind of processor may break a tie of rounding
    rank = [
        values["image_to_text"]["expected"]["mean rank"]["value"]
        for values in (old["values"], new["values"])
    ]
    assert rank[0] == pytest.approx(rank[1], abs=0.2)
    launcher.run("openclip_eclip.evaluate", "compare old=evaluated new=again --out both".split())
    assert "| new | R@10 | 0.000 |" in (launcher.folder / "both" / "result.md").read_text()
    for name in METHODS:
        launcher.run(
            "openclip_eclip.export", f"{checkpoint(name)} exported-{name} --model tiny".split()
        )
        assert (launcher.folder / f"exported-{name}" / "open_clip_config.json").exists()
