"""CONTRIBUTING.md: the files and names it cites exist; its commands are those of the Makefile."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOUR = re.findall(r"^\| ([^|]+) \| `([^`|]+)` \| (`[^|]+`) \|$", PAGE, re.MULTILINE)


def defined(path: Path) -> set[str]:
    """The names of functions, classes, methods ("Class.method") and constants of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return names


@pytest.mark.parametrize(("question", "file", "names"), TOUR, ids=[file for _, file, _ in TOUR])
def test_the_tour_leads_to_names_that_exist(question: str, file: str, names: str) -> None:
    missing = set(re.findall(r"`([^`]+)`", names)) - defined(ROOT / file)
    assert not missing, f"{question}: {file} has no {missing}"


def test_the_tour_answers_its_questions_one_folder_and_one_file_away() -> None:
    asked = {"fixation", "λ", "ranks", "patched", "tie", "data set", "objective", "evaluation task"}
    assert all(any(word in question for question, *_ in TOUR) for word in asked)
    # the package itself, a room, and the file
    assert all(len(Path(file).parts) <= 3 for _, file, _ in TOUR)


def test_every_file_and_name_in_the_lists_exists() -> None:
    for path in re.findall(
        r"[`(]((?:openclip_eclip|training_patches|tests|scripts|docs)/[^`) ]*)", PAGE
    ):
        assert (ROOT / path).exists(), path
    for name, path in re.findall(r"`(\w+)`s? \(`([^`]+\.py)`\)", PAGE):
        assert name in defined(ROOT / path), f"{path} has no {name}"
    assert len(PAGE.encode()) <= 6_000


def test_its_commands_are_those_of_the_makefile() -> None:
    targets = set(
        re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"^make (\S+)", PAGE, re.MULTILINE)) == targets - {".PHONY"}
