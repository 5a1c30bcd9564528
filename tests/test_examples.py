"""Every example runs, in a cheap form; nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import forked_python
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, fast_python
from PIL import Image

EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, **forked_python.SETTINGS, "QUICK": "1"}


def run(folder: Path, *command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**ENVIRONMENT, "PYTHON": fast_python()},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_01_one_step_of_algorithm_1(tmp_path: Path) -> None:
    out = run(tmp_path, fast_python(), EXAMPLES / "01_any_open_clip_model.py")
    assert "the processor learns: True" in out
    assert "priming_loss" in out
    assert "plain image features (4, 32)" in out


@pytest.mark.slow
def test_02_and_03_from_phantoms_to_eclip_p(tmp_path: Path) -> None:
    run(tmp_path, "bash", EXAMPLES / "02_train_on_phantoms.sh", "out")
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    run(tmp_path, "bash", EXAMPLES / "03_finetune_eclip_p.sh", "out")
    log = (tmp_path / "out" / "logs" / "eclip-p" / "out.log").read_text()
    assert "starting with a fresh heatmap processor (eCLIP^P)" in log and "lr: 1e-05" in log


@pytest.mark.slow
def test_04_own_images_reports_and_boxes_are_trained_on(tmp_path: Path) -> None:
    out = run(tmp_path, fast_python(), EXAMPLES / "04_your_own_table.py", "out")
    table = pd.read_csv(tmp_path / "out" / "train.csv")
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert list(table) == ["image", "report", "heatmap"] and len(table) == 64
    assert table["heatmap"].notna().sum() == boxes["image"].nunique() > 5
    # the heatmap is the box
    box = boxes.iloc[0]
    heatmap = np.asarray(Image.open(tmp_path / "out" / "heatmaps" / box["image"]))
    inside = np.zeros_like(heatmap)
    inside[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]] = 255
    assert np.array_equal(heatmap, inside)
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert (tmp_path / "out" / "runs" / "plus" / "checkpoints" / "epoch_2.pt").is_file()
    assert "64 images" in out


@pytest.mark.slow
def test_05_annotations_become_maps_that_training_reads(tmp_path: Path) -> None:
    from openclip_eclip.data.heatmap import decode_heatmap

    out = run(tmp_path, fast_python(), EXAMPLES / "05_gaze_to_heatmap.py", "out")
    assert "fixations: 16 drawn, dropped {'off image': 1}" in out
    for name in ("fixations", "boxes", "ellipses", "polygons"):
        assert decode_heatmap(
            (tmp_path / "out" / f"{name}.png").read_bytes(), f"{name}.png"
        ).shape == (224, 224)
    assert (tmp_path / "out" / "gaze.png").stat().st_size > 50_000
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_every_example_is_on_the_page_and_tested() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in EXAMPLES.glob("[0-9]*"))
    assert [name[:2] for name in names] == ["01", "02", "03", "04", "05"]
    for name in names:
        assert f"[{name}]({name})" in page
        assert name in Path(__file__).read_text(encoding="utf-8")
