"""The page From annotation tools and eye trackers: a COCO export of 300 images to a training."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import page_blocks
import pytest
from conftest import ROOT

from openclip_eclip.prepare.__main__ import main as prepare

PAGE = ROOT / "docs" / "data" / "import.md"


def write_export(folder: Path) -> None:
    """300 phantoms in images/, reports.csv, and annotations.json with 72 boxes on 60 of them."""
    prepare(["phantom", str(folder), "--train", "300", "--test", "1", "--annotated", "0.1"])
    with open(folder / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "reports.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "report"])
        table.writerows((Path(row["filepath"]).name, row["title"]) for row in rows)
    (folder / "images" / "test_000000.png").unlink()
    for name in ("heatmaps", "test_gaze"):
        shutil.rmtree(folder / name)
    draws = np.random.default_rng(0)
    annotated = [*range(60), *range(12)]
    content = {
        "images": [
            {"id": i, "file_name": Path(row["filepath"]).name, "width": 64, "height": 64}
            for i, row in enumerate(rows)
        ],
        "categories": [{"id": 1, "name": "nodule"}, {"id": 2, "name": "mass"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": 1 + i % 2,
                "bbox": [*draws.integers(0, 40, 2).tolist(), *draws.integers(4, 24, 2).tolist()],
                "iscrowd": 0,
            }
            for i, image in enumerate(annotated)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_three_commands_lead_from_a_coco_export_to_a_training(tmp_path: Path) -> None:
    write_export(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    (block,) = [b for b in page_blocks.blocks(PAGE) if b.mark == "run import"]
    printed = page_blocks.run(block, tmp_path)
    shown = text.split("```text\n")[1].split("```")[0]
    assert printed.startswith(shown), printed
    assert (tmp_path / "runs" / "plus" / "checkpoints" / "epoch_1.pt").is_file()
    page = (tmp_path / "cxr" / "overlays.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 30 and "http" not in page
    assert "a nodule" in page and "a mass" in page
    with open(tmp_path / "cxr" / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["windows"] != "" for row in rows) == 60
