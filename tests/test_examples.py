"""Every example runs, in a cheap form: nothing is downloaded, and the stamps are drawn here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import forked_python
import numpy as np
import pytest
from conftest import ROOT, fast_python
from PIL import Image, ImageDraw

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


def fake_stamps(folder: Path, count: int = 12) -> Path:
    """Discs and boxes cut out on nothing, two of each caption's kind, and what must be
    passed over.
    """
    for i in range(count):
        picture = Image.new("RGBA", (40 + i, 30))
        shape = ImageDraw.Draw(picture)
        (shape.ellipse if i % 2 else shape.rectangle)(
            (4, 4, 26, 24), fill=(20 * i, 255 - 20 * i, 90, 255)
        )
        path = folder / ("animals" if i % 2 else "food") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        path.with_suffix(".txt").write_text(
            f"A thing of kind {i // 2}.\nde.utf8=Ein Ding\n", encoding="utf-8"
        )
    (folder / "symbols").mkdir()
    Image.new("RGBA", (9, 9), "red").save(folder / "symbols" / "x.png")
    (folder / "symbols" / "x.txt").write_text("A symbol.")
    Image.new("RGBA", (9, 9), "red").save(folder / "food" / "no_caption.png")
    Image.new("RGB", (20, 20), "blue").save(folder / "food" / "no_mask.png")
    (folder / "food" / "no_mask.txt").write_text("A blue square.")
    return folder


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
def test_04_stamps_on_drawn_ones(tmp_path: Path) -> None:
    stamps = fake_stamps(tmp_path / "stamps")
    out = run(
        tmp_path,
        fast_python(),
        EXAMPLES.parent / "scripts" / "studies" / "stamps" / "first_try.py",
        "--quick",
        *("--stamps", stamps),
        *("--out", "out"),
        *("--report", "report"),
    )
    assert "eCLIP − CLIP, paired" in out
    assert "object masks, not gaze" in (tmp_path / "report" / "stamps.md").read_text(
        encoding="utf-8"
    )
    assert (tmp_path / "report" / "stamps.png").stat().st_size > 5000
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["stamps"]["captions_held_out"] == 3
    assert record["stamps"]["train"] + record["stamps"]["held_out"] == 13
    for scores in record["results"]["0"].values():
        # three captions to choose from
        assert 0 <= scores["R@1"] <= scores["R@5"] == scores["R@10"] == 100
    heatmaps = (tmp_path / "out" / "test.csv").read_text().splitlines()
    assert all(line.endswith(",") for line in heatmaps[1:])  # held-out pictures carry none


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


@pytest.fixture
def stamps_data():
    import stamps_data

    return stamps_data


def test_split_keeps_captions_apart_and_masks_lie_on_the_object(
    stamps_data, tmp_path: Path
) -> None:
    stamps = stamps_data.read_stamps(fake_stamps(tmp_path / "stamps"))
    assert len(stamps) == 13 and all("symbols" not in stamp.path.parts for stamp in stamps)
    split = stamps_data.split_by_caption(stamps, 3, seed=1)
    assert not {s.caption for s in split.train} & {s.caption for s in split.held_out}
    assert set(split.held_out) == set(
        stamps_data.split_by_caption(stamps[::-1], 3, seed=1).held_out
    )

    disc = stamps_data.read_cutout(next(stamp for stamp in stamps if stamp.path.stem == "1"))
    assert disc.has_mask
    assert not stamps_data.read_cutout(next(s for s in stamps if s.path.stem == "no_mask")).has_mask
    rng = np.random.default_rng(0)
    photos = [Image.new("RGB", (200, 100), "white")]
    for _ in range(20):
        picture, mask = stamps_data.render(disc, rng, 64, photos)
        inside = np.asarray(mask) > 250
        assert 0.13 < inside.mean() < 0.42
        # the object's own colour
        assert np.abs(np.asarray(picture, dtype=int)[inside] - (20, 235, 90)).mean() < 6


def test_without_stamps_the_example_says_what_to_do(
    stamps_data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="--stamps FOLDER"):
        stamps_data.fetch_stamps(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no X.png with a caption"):
        stamps_data.read_stamps(tmp_path / "empty")
