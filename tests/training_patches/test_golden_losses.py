"""The same losses with every release of open_clip: those of 3.3 are kept in a file.

Upstream's own losses are among them: only where those are equal can ours be. Without weight decay,
since releases do not agree on which weights decay.

    PYTHONPATH=.:tests python tests/training_patches/test_golden_losses.py

writes the file anew, with the installed release.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import BASIC, TESTS, Launcher, write_table

pytestmark = pytest.mark.slow

GOLDEN = TESTS / "fixtures" / "golden_losses_3_3.json"
MIXED = "--eclip-curriculum 0.3 0.1 0.1 0.5 0.8 0.8".split()
RUNS: dict[str, list[str]] = {
    "stock": ["--csv-separator", ","],
    "stock-siglip": ["--csv-separator", ",", "--siglip"],
    "clip": ["--method", "clip"],
    "eclip": ["--method", "eclip", *MIXED],
    "eclip-accumulated": ["--method", "eclip", *MIXED, "--accum-freq", "2"],
    "eclip-siglip": ["--method", "eclip", *MIXED, "--siglip"],
    "align": ["--method", "align"],
    "eclip-align-positive": ["--method", "eclip+align", *MIXED, "--same-text", "positive"],
}


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """The logged losses of every run, and the sum of magnitudes of its last weights."""
    launcher = Launcher(folder)
    table = write_table(folder, 24, annotated=range(0, 24, 2))
    common = (*BASIC, "--train-data", table, *"--batch-size 4 --epochs 2 --wd 0".split())
    runs = {name: (*common, "--name", name, *flags) for name, flags in RUNS.items()}
    launcher.stock(*[run for name, run in runs.items() if name.startswith("stock")])
    launcher.train(*[run for name, run in runs.items() if not name.startswith("stock")])
    return {
        name: {
            "losses": launcher.losses(name),
            "weights": sum(float(x.abs().sum()) for x in launcher.weights(name, 2).values()),
        }
        for name in runs
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return measure(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", RUNS)
def test_losses_and_weights_are_those_of_release_3_3(
    name: str, measured: dict[str, dict[str, Any]]
) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert len(measured[name]["losses"]) == (6 if "accumulated" in name else 12)
    assert measured[name]["losses"] == pytest.approx(golden["losses"], rel=1e-4)
    assert measured[name]["weights"] == pytest.approx(golden["weights"], rel=1e-6)


def test_the_methods_differ(measured: dict[str, dict[str, Any]]) -> None:
    """Shows that the comparison can fail; plain CLIP is stock open_clip."""
    assert measured["clip"] == measured["stock"]
    weights = [measured[name]["weights"] for name in RUNS if name != "stock"]
    assert all(a != pytest.approx(b, rel=1e-5) for a, b in zip(weights, weights[1:]))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(measure(Path(folder)), indent=1) + "\n", encoding="utf-8")
