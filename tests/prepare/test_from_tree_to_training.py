"""A small copy of every raw data set is prepared and trained on, without unexpected warnings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import test_chexpert as chexpert
import test_nih_cxr14 as nih
import test_open_i as open_i
import test_rsna as rsna
from bad_inputs.mimic_trees import write_egd, write_mimic, write_reflacx
from conftest import BASIC, Launcher

from openclip_eclip.prepare.__main__ import main

pytestmark = pytest.mark.slow

EXPLAINED = (
    "No pretrained weights loaded",
    "no heatmap in the data: no pair is added",
    "captions (",  # the tiny model reads 16 tokens
    "heatmap serves",  # RSNA's miniature has one box
)


def trees(root: Path) -> dict[str, tuple[list[object], bool]]:
    """{command: (its arguments after NAME SRC OUT, whether it has annotations)}.

    Writes the raw data of each command to `root`/command.
    """
    mimic = write_mimic(root / "mimic-cxr")
    write_egd(root / "egd-cxr")
    write_reflacx(root / "reflacx")
    chexpert.write_tree(root / "chexpert")
    rsna.write_tree(root / "rsna")
    nih.write_tree(root / "nih-cxr14")
    open_i.write_archive(root / "open-i")
    open_i.write_views(root / "open-i")
    open_i.write_images(root / "open-i" / "NLMCXR_png", kaggle=False)
    return {
        "mimic-cxr": ([], False),
        "egd-cxr": (
            ["--images", mimic, "--windows", "sentence", "--sigma", 10],
            True,
        ),  # of small images
        "reflacx": (["--images", mimic, "--readers", "noisy-or"], True),
        "chexpert": (["--evaluation", "none"], False),
        "rsna": (["--evaluation", "none"], True),
        "nih-cxr14": (["--evaluation", "none", "--split", "none"], True),
        "open-i": (["--purpose", "training", "--views", "all"], False),
    }


@pytest.mark.parametrize("format", ["csv", "webdataset"])
def test_raw_trees_become_training_data(launcher: Launcher, format: str) -> None:
    root, runs, annotated = launcher.folder / "raw", [], {}
    for name, (flags, has_heatmaps) in trees(root).items():
        out = launcher.folder / name
        command = [name, root / name, out, "--size", 48, "--workers", 1, "--format", format, *flags]
        assert main([str(part) for part in command]) == 0, name
        split = next(
            path
            for path in sorted(out.iterdir())
            if path.suffix in (".csv", ".tar") and "train" in path.name
        )
        more = (
            []
            if format == "csv"
            else ["--train-num-samples", json.loads((out / "sizes.json").read_text())[split.name]]
        )
        runs.append(
            [
                *BASIC,
                *("--train-data", split),
                *("--batch-size", 2),
                *("--epochs", 1),
                *("--warmup", 0),
                *("--name", name),
                *more,
            ]
        )
        annotated[name] = has_heatmaps
    launcher.train(*runs)
    for name, has_heatmaps in annotated.items():
        log = launcher.log(name)
        assert launcher.losses(name), name
        assert bool(re.search(r"eclip: [1-9]\d* annotated samples", log)) == has_heatmaps, name
        warnings = [
            line
            for line in log.splitlines()
            if "WARNING" in line and not any(known in line for known in EXPLAINED)
        ]
        assert not warnings, (name, warnings)
