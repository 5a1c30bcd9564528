"""Tables of the study of frozen towers: parts do not share a group, shares are what they say."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from conftest import ROOT

STUDIES = ROOT / "scripts" / "studies"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name in ("grounding", "real"):
        monkeypatch.syspath_prepend(str(STUDIES / name))
    # other studies have modules of the same names, before and after this one
    for name in _of_studies():
        monkeypatch.delitem(sys.modules, name)
    import real_study

    yield real_study
    for name in _of_studies():
        del sys.modules[name]


def _of_studies() -> list[str]:
    folder = str(STUDIES)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return [name for name, file in files.items() if str(file).startswith(folder)]


def write_folds(data: Path) -> None:
    """train_K, shuffled_K and test_K of 20 images with two texts each, in 10 groups and 5 folds."""
    data.mkdir()
    rows = [
        {
            "filepath": f"images/{i}.jpg",
            "group": f"g{i // 2}",
            "fold": str(i // 2 % 5),
            "title": f"text {i} {j}",
            "heatmap": f"maps/{i}.png" if i % 4 else "",
            "windows": "",
        }
        for i in range(20)
        for j in range(2)
    ]
    for name in ("train", "shuffled", "test"):
        for fold in range(5):
            kept = [row for row in rows if (row["fold"] == str(fold)) == (name == "test")]
            with (data / f"{name}_{fold}.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(kept)


@pytest.mark.parametrize("fold", [0, 4])
def test_no_group_is_in_two_parts(study: ModuleType, tmp_path: Path, fold: int) -> None:
    write_folds(tmp_path / "set")
    paths = study.write_tables(tmp_path / "set", fold)
    parts = {name: pd.read_csv(path) for name, path in paths.items()}
    groups = [set(parts[name]["group"]) for name in ("own", "validation", "test")]
    assert [len(one) for one in groups] == [6, 2, 2] and len(set().union(*groups)) == 10
    assert set(parts["own"]["group"]) == set(parts["shuffled"]["group"])
    assert set(parts["test"]["group"]) == set(parts["regions"]["group"])
    assert len(parts["own"]) == 24  # all texts; the other parts have each image once
    assert len(parts["validation"]) == len(parts["test"]) == 4
    assert parts["test"]["filepath"].str.startswith("../images/").all()


def test_share_of_annotated_images(study: ModuleType, tmp_path: Path) -> None:
    write_folds(tmp_path / "set")
    table = study.write_tables(tmp_path / "set", 0)["own"]
    assert study.with_share(table, 0.9, 0) is None  # it has 9 of 12
    path = study.with_share(table, 0.25, 0)
    rows = pd.read_csv(path, keep_default_na=False)
    annotated = rows[rows["heatmap"] != ""]
    assert annotated["filepath"].nunique() == 3 and len(annotated) == 6
    assert len(rows) == 24
    first = path.read_text()
    assert study.with_share(table, 0.25, 1).read_text() != first  # other images


def test_compared_methods_are_trained_alike(study: ModuleType) -> None:
    import real_page

    for name, base in real_page.BASES.items():
        first, second = study.METHODS[name], study.METHODS[base]
        assert (first.rates, first.steps, first.towers) == (
            second.rates,
            second.steps,
            second.towers,
        )
