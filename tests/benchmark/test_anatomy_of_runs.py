"""A benchmark's images have one anatomy: its own folders, named in the records, never mixed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from openclip_eclip.benchmark.align import build
from openclip_eclip.benchmark.align_cells import ALIGN_SETTINGS, in_anatomy
from openclip_eclip.benchmark.align_page import page
from openclip_eclip.benchmark.anatomy import anatomy_of
from openclip_eclip.benchmark.paper_page import markdown
from openclip_eclip.benchmark.paper_tables import parse
from openclip_eclip.benchmark.rows import Method
from openclip_eclip.benchmark.runner import Bench, make_all
from openclip_eclip.config import UserError
from openclip_eclip.prepare.__main__ import main as prepare

SMALL = "--train 4 --test 2 --size 32".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anatomies")
    assert prepare(["phantom", str(folder / "chest"), *SMALL]) == 0
    assert prepare(["phantom", str(folder / "head"), *SMALL, "--anatomy", "head"]) == 0
    (folder / "own").mkdir()
    return folder


def test_the_anatomy_is_that_of_the_recipe(data: Path) -> None:
    names = [anatomy_of(data / name / "train.csv") for name in ("chest", "head", "own")]
    assert names == ["chest", "head", None]


@pytest.mark.parametrize("recorded", ["chest", None, "absent", "head"])
def test_runs_of_another_anatomy_are_an_error_before_training(
    data: Path, tmp_path: Path, recorded: str | None
) -> None:
    args = argparse.Namespace(
        data=data / "head", train_data=None, out=tmp_path, settings="phantoms", table="table1"
    )
    bench, method = Bench(args, [], None, {}, {}), Method("CLIP")
    facts = bench.facts_file(method, 30)
    facts.parent.mkdir(parents=True)
    facts.write_text(json.dumps({} if recorded == "absent" else {"anatomy": recorded}))
    if recorded == "head":  # nothing is left to train: there are no tests
        bench.workers = argparse.Namespace(borrow=lambda: open(facts))
        make_all([(bench, method, 30)], 1, "table1")
        return
    with pytest.raises(UserError, match="anatomy 'chest'.*has 'head'; .* give another --out"):
        make_all([(bench, method, 30)], 1, "table1")


def test_align_has_folders_and_test_images_of_the_anatomy(tmp_path: Path) -> None:
    args = argparse.Namespace(
        **{name: tmp_path / name for name in ("data", "out")},
        **{"steps": 4, "tune_steps": 4, "measured": True},
    )
    (plain,) = (s for s in ALIGN_SETTINGS if s.name == "600 images, 15 %")
    (shortcut,) = (s for s in ALIGN_SETTINGS if s.name.endswith("devices as a shortcut"))
    places = {}
    for anatomy in ("chest", "head"):
        settings = [in_anatomy(setting, anatomy) for setting in (plain, shortcut)]
        benches = build(args, [], None, [30], settings)
        for setting in settings:
            bench = benches[setting.name, 30, True]
            tested = Path(bench.tests["test"]).parent.name
            places[anatomy, setting.name] = bench.args.out.name, bench.home.args.out.name, tested
    assert places["chest", plain.name] == ("600-0.15", "600", "test-7")
    assert places["chest", shortcut.name] == ("600-shortcut-0.8-0.15", "600-shortcut-0.8", "test-7")
    assert places["head", plain.name] == (
        "600-anatomy-head-0.15",
        "600-anatomy-head",
        "test-7-anatomy-head",
    )
    assert places["head", shortcut.name][2] == "test-7-anatomy-head"


def test_pages_name_the_anatomy_and_the_limits_of_the_chest_alone() -> None:
    facts = {"seeds": [30], "machine": "", "note": "", "settings": {}}
    chest, head = page(facts), page(facts | {"anatomy": "head"})
    assert "synthetic chest X-rays" in chest and "**Right map**" in chest
    assert "synthetic head CT slices" in head and "**Right map**" not in head
    record = {"scores": {}, "facts": {}, "seeds": [30], "note": "phantoms"}
    assert "head CT" not in markdown("table1", record | {"anatomy": None})
    assert "Phantoms: head CT slices." in markdown("table1", record | {"anatomy": "head"})


def test_a_table_takes_the_anatomy_of_its_data(capsys: pytest.CaptureFixture) -> None:
    words = "--data d --out o --steps 2 --tune-steps 2".split()
    with pytest.raises(SystemExit):
        parse(["table1", *words, "--anatomy", "head"])
    assert "--anatomy with table1: expected only with align" in capsys.readouterr().err
    assert parse(["align", *words, "--anatomy", "head"])[0].anatomy == "head"
    assert parse(["align", *words])[0].anatomy == "chest"
