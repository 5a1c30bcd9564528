"""Training in every way that the two packages can be on the path, and with a stranger's first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import BASIC, ROOT, TINY, environment, make_python, write_table

pytestmark = pytest.mark.slow

LAUNCH = """\
import runpy, sys, open_clip
open_clip.add_model_config("tiny.json")
try:
    runpy.run_module("openclip_eclip.train", run_name="__main__", alter_sys=True)
finally:
    import openclip_eclip, training_patches
    print("FROM", openclip_eclip.__file__, training_patches.__file__)
"""


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A checkout, three Pythons (bare, with an editable install, with the wheel), and data."""
    folder = tmp_path_factory.mktemp("ways")
    checkout, elsewhere = folder / "checkout", folder / "elsewhere"
    elsewhere.mkdir()
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("openclip_eclip", "training_patches"):
        shutil.copytree(ROOT / name, checkout / name, ignore=leave)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "openclip_eclip_cli.py"):
        shutil.copy(ROOT / name, checkout)
    pythons = {name: make_python(folder / name) for name in ("bare", "editable", "wheel")}
    pip = [sys.executable, "-m", "pip", "--quiet"]
    for name, flags in (("editable", ["-e", checkout]), ("wheel", [checkout])):
        subprocess.run(
            [*pip, "--python", pythons[name], "install", "--no-deps", *flags],
            check=True,
            timeout=600,
        )
    for cwd in (checkout, elsewhere):
        write_table(cwd, 4, annotated=[1])
        (cwd / "tiny.json").write_text(json.dumps(TINY))
    return SimpleNamespace(checkout=checkout, elsewhere=elsewhere, pythons=pythons)


def train(python: Path, cwd: Path, *paths: Path) -> subprocess.CompletedProcess:
    """One epoch of eCLIP; `paths` are the whole PYTHONPATH."""
    flags = "--method eclip --train-data train.csv --batch-size 4 --epochs 1 --warmup 1 --name run"
    command = [str(python), "-c", LAUNCH, *map(str, BASIC), *flags.split()]
    shutil.rmtree(cwd / "logs", ignore_errors=True)
    settings = {**environment(), "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=400
    )


@pytest.mark.parametrize(
    "python,cwd,on_path,expected",
    [
        ("bare", "checkout", False, "checkout"),
        ("editable", "elsewhere", False, "checkout"),
        ("wheel", "elsewhere", False, "site-packages"),
        ("wheel", "checkout", False, "checkout"),
        ("bare", "elsewhere", True, "checkout"),
    ],
    ids=["checkout", "editable", "wheel-elsewhere", "wheel-inside-checkout", "PYTHONPATH"],
)
def test_training_runs_with_both_packages_from_one_folder(
    ways: SimpleNamespace, python: str, cwd: str, on_path: bool, expected: str
) -> None:
    paths = [ways.checkout] if on_path else []
    done = train(ways.pythons[python], getattr(ways, cwd), *paths)
    assert done.returncode == 0, done.stderr[-3000:]
    _, package, patches = done.stdout.splitlines()[-1].split()
    assert Path(package).parents[1] == Path(patches).parents[1]
    assert Path(package).parents[1].name == expected


def test_another_package_named_training_patches_is_named_and_stops_the_run(
    ways: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "training_patches").mkdir()
    stranger = tmp_path / "training_patches" / "__init__.py"
    stranger.write_text("patches = []\n")
    done = train(ways.pythons["wheel"], ways.elsewhere, tmp_path)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert str(stranger) in done.stderr and "Remove the other one" in done.stderr
