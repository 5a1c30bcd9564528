"""setup.cfg against the files that pin versions, and the extra `all`."""

from __future__ import annotations

import configparser
import re

from conftest import ROOT
from packaging.requirements import Requirement

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
    assert line.extras == set(EXTRAS) - {"all", "lint", "test"}
