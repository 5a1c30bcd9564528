"""setup.cfg against the files that pin versions; wheel and sdist run; the changelog."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, environment, make_python
from packaging.requirements import Requirement

import openclip_eclip

SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = SETTINGS["options.extras_require"]


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """{package: version} in a file of constraints."""
    lines = requirements((ROOT / "scripts" / name).read_text(encoding="utf-8"))
    return {line.name: str(line.specifier).removeprefix("==") for line in lines}


def wanted() -> list[Requirement]:
    extras = [text for name, text in EXTRAS.items() if name != "all"]
    return requirements("\n".join([SETTINGS["options"]["install_requires"], *extras]))


def test_lowest_versions_are_the_tested_ones() -> None:
    lowest = {}
    for line in wanted():
        for part in line.specifier:
            if part.operator == ">=":
                lowest.setdefault(line.name, set()).add(part.version)
    assert all(len(versions) == 1 for versions in lowest.values()), lowest
    tried = pins("constraints-lowest.txt")
    assert lowest.keys() == tried.keys()
    for name, (version,) in lowest.items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", tried[name]), name


def test_core_requirements_have_a_lowest_version() -> None:
    for line in requirements(SETTINGS["options"]["install_requires"]):
        assert any(part.operator == ">=" for part in line.specifier), line.name


def test_pinned_versions_are_allowed() -> None:
    pinned = pins("constraints.txt")
    for line in wanted():
        assert line.name not in pinned or pinned[line.name] in line.specifier, line.name


def test_extra_all_has_every_extra_except_those_of_developers() -> None:
    (line,) = requirements(EXTRAS["all"])
    assert line.extras == set(EXTRAS) - {"all", "docs", "lint", "test"}


def test_changelog_keeps_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert releases[1].startswith(f"[{openclip_eclip.__version__}] - ")
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in releases[1:])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_citation_has_the_version() -> None:
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert facts["version"] == openclip_eclip.__version__


def build(folder: Path, kind: str) -> Path:
    """The wheel or the sdist of a copy of the tracked files."""
    source = folder / "source"
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    program = f"from setuptools.build_meta import *; print(build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(source)  # nothing can be read from it
    return folder / done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_package_is_installed_and_run_in_an_empty_environment(kind: str, tmp_path: Path) -> None:
    """The environment has the dependencies alone; the installation needs no network."""
    python = make_python(tmp_path / "environment")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-build-isolation", str(build(tmp_path, kind))],
        check=True,
        timeout=600,
    )
    command = python.parent / "openclip-eclip"
    settings = {name: text for name, text in environment().items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [command, *words],
            cwd=tmp_path,
            env=settings,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert run("--version") == f"openclip-eclip {openclip_eclip.__version__}\n"
    run("prepare", "phantom", "data", "--train", "16", "--test", "1", "--annotated", "0.5")
    assert "8 annotated" in run("check", "data/train.csv")
    model = "openclip_eclip.benchmark.rows"
    where = f"import {model} as rows; print(rows.PHANTOM_MODEL)"  # a config of the package
    done = subprocess.run(
        [python, "-c", where], cwd=tmp_path, env=settings, capture_output=True, text=True
    )
    assert str(tmp_path / "environment") in done.stdout
    flags = "--train-data data/train.csv --recipe eclip-plus --batch-size 8 --epochs 1 --warmup 1"
    flags += " --force-context-length 64 --precision fp32 --workers 0 --runs-dir runs --name run"
    run("train", "--model", done.stdout.strip(), *flags.split())
    run("export", "runs/run", "plain")
    assert (tmp_path / "plain" / "open_clip_config.json").is_file()
