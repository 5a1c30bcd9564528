"""The commands of docs/data/datasets.md run unchanged, on small copies of the data sets."""

from __future__ import annotations

import json
import shlex
import tarfile
from pathlib import Path

import page_blocks
import pandas as pd
import pytest
import test_chexpert as chexpert
import test_eclip_shards as eclip_shards
import test_mimic_cxr as mimic
import test_nih_cxr14 as nih
import test_open_i as open_i
import test_rsna as rsna
from bad_inputs import mimic_trees
from bad_inputs.mimic_trees import write_egd, write_mimic, write_reflacx
from conftest import ROOT
from PIL import Image

from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.prepare.datasets import egd_cxr, mimic_files, reflacx_files
from openclip_eclip.prepare.datasets.chexpert import COMPETITION
from openclip_eclip.prepare.datasets.nih_cxr14 import FINDINGS, NO_FINDING
from openclip_eclip.prepare.plan import Plan

pytestmark = pytest.mark.slow

# OUT: (splits that hold samples, is one annotated, evaluation sets with their sizes; None: whatever
# the miniature gives)
PROMISES: dict[str, tuple[set[str], bool, dict[str, int | None]]] = {
    "mimic": ({"train", "test"}, False, {"mimic-5x200": 1000}),
    "egd": ({"train"}, True, {}),
    "reflacx": ({"train", "test"}, True, {}),
    "chexpert": ({"train"}, False, {"chexpert-5x200": 1000}),
    "rsna": ({"train", "valid", "test"}, True, {"rsna-gloria": None, "rsna-balanced": None}),
    "nih": (
        {"train", "test"},
        True,
        {"cxr-14x100-no-finding": 1400, "cxr-14x100-hernia": 1400, "cxr8": None},
    ),
    "openi": ({"report-train"}, False, {"openi-5": None, "openi-retrieval": None}),
    "eclip": ({"train", "val", "expert"}, True, {}),
}


def link(source: Path, target: Path) -> None:
    """Links one small image to another name, so that thousands of images take no time or space."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.hardlink_to(source)


def write_mimic_trees(root: Path) -> None:
    """Writes images and reports in two trees, as they are published.

    Each class of mimic-5x200 has 201 patients; the patients with gaze are others.
    """
    images, reports = write_mimic(root / "mimic-cxr-jpg"), root / "mimic-cxr"
    mimic.add_exclusive(images, each=201)
    picture = root / "picture.jpg"
    Image.new("L", (mimic_trees.WIDTH, mimic_trees.HEIGHT), 90).save(picture)
    for row in mimic.table(images / mimic.METADATA).itertuples():
        if row.subject_id.startswith("17"):
            image = mimic_files.image_path(images, row.subject_id, row.study_id, row.dicom_id)
            link(picture, image)
    for path in [*images.rglob("*.txt")]:
        target = reports / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    write_egd(root / "egd-cxr" / "1.0.0")
    write_reflacx(root / "reflacx" / "1.0.0")


def write_chexpert(root: Path) -> None:
    """Writes CheXpert with 201 more patients for each class, who have one finding only."""
    folder = chexpert.write_tree(root / "CheXpert-v1.0-small")
    rows = [
        {
            "Path": f"CheXpert-v1.0-small/train/patient{1000 + i}/study1/view1_frontal.jpg",
            COMPETITION[i % 5]: "1.0",
            "Frontal/Lateral": "Frontal",
        }
        for i in range(5 * 201)
    ]
    for row in rows:
        link(root / "picture.jpg", root / row["Path"])
    pd.concat([pd.read_csv(folder / "train.csv", dtype=str), pd.DataFrame(rows)]).to_csv(
        folder / "train.csv", index=False
    )


def write_nih(root: Path) -> None:
    """Writes NIH ChestX-ray14 with 102 more patients for each class; the lists name all images."""
    folder = nih.write_tree(root / "nih")
    # two images of each patient
    cells = [
        cell
        for label in (NO_FINDING, *FINDINGS)
        for _ in range(102)
        for cell in (label, "Mass|Nodule")
    ]
    nih.write_tables(folder, nih.LABELS + cells)
    added = nih.names(len(nih.LABELS) + len(cells))[len(nih.LABELS) :]
    Image.new("L", (32, 32), 90).save(root / "picture.png")
    for name in added:
        link(root / "picture.png", folder / "images" / name)
    with open(folder / "train_val_list.txt", "a", encoding="utf-8") as file:
        file.write("\n".join(added) + "\n")


def write_trees(root: Path) -> None:
    """Writes everything that the block of commands names, at the paths of its flags."""
    write_mimic_trees(root)
    write_chexpert(root)
    rsna.write_tree(root / "rsna-pneumonia-detection-challenge", images=24)
    write_nih(root)
    open_i.write_archive(root / "NLMCXR")
    open_i.write_images(root / "NLMCXR" / "NLMCXR_png", kaggle=False)
    open_i.write_views(root)
    shards = root / "eclip-shards"
    for i, split in enumerate(("train", "val")):
        eclip_shards.write(shards / split, "a.tar", eclip_shards.pair(f"k{i}", i))
    heatmaps = {eclip_shards.NPZ: eclip_shards.csr(eclip_shards.spot(0, 0))}
    eclip_shards.write(shards / "expert", "a.tar", eclip_shards.expert("e1", heatmaps))


def written(out: Path) -> tuple[set[str], bool]:
    """The splits with samples (shards or tables), and whether any sample has a heatmap."""
    splits, annotated = set(), False
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as archive:
            names = archive.getnames()
        assert any(name.endswith(".jpg") for name in names) and any(
            name.endswith(".txt") for name in names
        ), shard
        splits.add(shard.stem.rpartition("-")[0])
        annotated |= any(name.endswith("heatmap.png") for name in names)
    for path in out.glob("*.csv"):
        if not path.with_suffix(".recipe.json").exists():
            assert len(mimic.table(path)), path
            splits.add(path.stem)
    return splits, annotated


def test_every_raw_data_set_is_prepared_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The commands run unchanged: folders, flags and defaults are those for the real data.

    They run in this process, because ten starts of Python would take a minute and a half.
    """
    page = ROOT / "docs" / "data" / "datasets.md"
    (script,) = page_blocks.marked(page, "bash", "run on miniatures")
    monkeypatch.setattr(
        mimic_trees, "HEIGHT", 910
    )  # on smaller images EGD-CXR's default sigma, 150 pixels, draws flat maps
    monkeypatch.setattr(mimic_trees, "WIDTH", 610)
    write_trees(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[:2] == ["openclip-eclip", "prepare"] and prepare(words[2:]) == 0, line
    output = capsys.readouterr().out
    # --dry-run, --part 0/2
    assert "split train: 17 samples" in output and "1 of 2 chunks are left" in output
    assert {path.name for path in (tmp_path / "data").iterdir()} == set(PROMISES)
    for name, (splits, annotated, evaluation) in PROMISES.items():
        out = tmp_path / "data" / name
        assert written(out) == (splits, annotated) and (out / "manifest.json").is_file(), name
        assert {path.name for path in out.glob("*.recipe.json")} == {
            f"{evaluation_set}.recipe.json" for evaluation_set in evaluation
        }, name
        for evaluation_set, size in evaluation.items():
            recipe, rows = (
                json.loads((out / f"{evaluation_set}.recipe.json").read_text()),
                mimic.table(out / f"{evaluation_set}.csv"),
            )
            assert [Path(path).stem for path in rows["filepath"]] == recipe["images"] and size in (
                None,
                len(rows),
            ), evaluation_set
            assert len(rows) and all((out / path).is_file() for path in rows["filepath"]), (
                evaluation_set
            )
    evaluated = set(mimic.table(tmp_path / "data" / "mimic" / "mimic-5x200.csv")["patient"])
    gaze = egd_cxr.read_subjects(Plan("egd-cxr"), tmp_path / "egd-cxr" / "1.0.0")
    gaze |= reflacx_files.read_subjects(Plan("reflacx"), tmp_path / "reflacx" / "1.0.0")
    assert len(evaluated) == 1000 and gaze and not evaluated & gaze
