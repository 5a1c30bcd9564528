"""The README's commands of the raw data sets, run as they stand on miniature trees in folders of
just these names.
"""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from pathlib import Path

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
    """Another name for one small picture: thousands of films cost neither time nor space."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.hardlink_to(source)


def write_mimic_trees(root: Path) -> None:
    """Films and reports in two trees as they are published, 201 patients a class of mimic-5x200,
    gaze on other patients.
    """
    films, reports = write_mimic(root / "mimic-cxr-jpg"), root / "mimic-cxr"
    mimic.add_exclusive(films, each=201)
    picture = root / "picture.jpg"
    Image.new("L", (mimic_trees.WIDTH, mimic_trees.HEIGHT), 90).save(picture)
    for row in mimic.table(films / mimic.METADATA).itertuples():
        if row.subject_id.startswith("17"):
            link(picture, mimic_files.image_path(films, row.subject_id, row.study_id, row.dicom_id))
    for path in [*films.rglob("*.txt")]:
        target = reports / path.relative_to(films)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    write_egd(root / "egd-cxr" / "1.0.0")
    write_reflacx(root / "reflacx" / "1.0.0")


def write_chexpert(root: Path) -> None:
    """201 more patients a class with one finding and nothing else."""
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
    """102 more patients a class with one finding; the official lists name all."""
    folder = nih.write_tree(root / "nih")
    # two films a patient
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
    """Everything the block names, films and tables where its flags say."""
    write_mimic_trees(root)
    write_chexpert(root)
    rsna.write_tree(root / "rsna-pneumonia-detection-challenge", images=24)
    write_nih(root)
    open_i.write_archive(root / "NLMCXR")
    open_i.write_films(root / "NLMCXR" / "NLMCXR_png", kaggle=False)
    open_i.write_views(root)
    shards = root / "eclip-shards"
    for i, split in enumerate(("train", "val")):
        eclip_shards.write(shards / split, "a.tar", eclip_shards.pair(f"k{i}", i))
    heatmaps = {eclip_shards.NPZ: eclip_shards.csr(eclip_shards.spot(0, 0))}
    eclip_shards.write(shards / "expert", "a.tar", eclip_shards.expert("e1", heatmaps))


def written(out: Path) -> tuple[set[str], bool]:
    """Splits with samples, shards or tables, and whether one has a heatmap."""
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


def test_every_raw_data_set_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Nothing in the block is replaced: folders, flags and defaults are those of a reader with the
    real data. In this process: ten starts of Python would cost a minute and a half.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"<!-- run on miniatures -->\n```bash\n(.*?)```", readme, re.DOTALL)
    monkeypatch.setattr(
        mimic_trees, "HEIGHT", 910
    )  # on smaller images EGD-CXR's default sigma, 150 pixels, draws flat maps
    monkeypatch.setattr(mimic_trees, "WIDTH", 610)
    write_trees(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        assert (
            words[:3] == ["python", "-m", "openclip_eclip.prepare"] and prepare(words[3:]) == 0
        ), line
    said = capsys.readouterr().out
    # --dry-run, --part 0/2
    assert "split train: 17 samples" in said and "1 of 2 chunks wait" in said
    assert {path.name for path in (tmp_path / "data").iterdir()} == set(PROMISES)
    for name, (splits, annotated, evaluation) in PROMISES.items():
        out = tmp_path / "data" / name
        assert written(out) == (splits, annotated) and (out / "manifest.json").is_file(), name
        assert {path.name for path in out.glob("*.recipe.json")} == {
            f"{found}.recipe.json" for found in evaluation
        }, name
        for found, size in evaluation.items():
            recipe, rows = (
                json.loads((out / f"{found}.recipe.json").read_text()),
                mimic.table(out / f"{found}.csv"),
            )
            assert [Path(path).stem for path in rows["filepath"]] == recipe["images"] and size in (
                None,
                len(rows),
            ), found
            assert len(rows) and all((out / path).is_file() for path in rows["filepath"]), found
    evaluated = set(mimic.table(tmp_path / "data" / "mimic" / "mimic-5x200.csv")["patient"])
    gaze = egd_cxr.read_subjects(Plan("egd-cxr"), tmp_path / "egd-cxr" / "1.0.0")
    gaze |= reflacx_files.read_subjects(Plan("reflacx"), tmp_path / "reflacx" / "1.0.0")
    assert len(evaluated) == 1000 and gaze and not evaluated & gaze
