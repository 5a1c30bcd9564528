"""README.md: its table of flags is that of the parser, its commands run, its links exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import stamps_page
from conftest import ROOT, fast_python

from openclip_eclip.benchmark import align_page, paper_tables
from openclip_eclip.benchmark.align_cells import PICTURED
from openclip_eclip.benchmark.align_page import glance, glance_again, glance_hard, glance_taught
from openclip_eclip.benchmark.page import change, spread
from openclip_eclip.benchmark.rows import PHANTOM_MODEL
from openclip_eclip.evaluate.__main__ import TASKS
from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.evaluate.output.glossary import GLOSSARY
from openclip_eclip.evaluate.report_generation.one_image import main as write_report
from openclip_eclip.params import eclip_parser

README = ROOT / "README.md"
ECLIP_PLUS = ROOT / "docs" / "eclip-plus.md"
ALIGN_ROWS = {
    "CLIP": "CLIP",
    "CLIP, twice the steps": "CLIP, twice the steps",
    "m3-mix": "m3-mix",
    "oversample": "annotated images twice",
    "naive": "naive",
    "mask": "mask view",
    "eCLIP": "eCLIP",
    "eCLIP^P": "eCLIP^P",
    "align": "align, weight 1",
    "eclip-plus": "eclip-plus",
    "eclip-plus self-trained": "eclip-plus, self-trained",
    "CLIP self-trained": "CLIP, self-trained",
    "eclip-plus, random": "eclip-plus, random maps",
    "eclip-plus, shuffled": "eclip-plus, maps of other images",
    "eclip-plus, same-class-shuffled": "eclip-plus, maps of other images of the class",
    "eclip-plus, centre": "eclip-plus, the centre",
    "eclip-plus, ones": "eclip-plus, maps of ones",
}


def flag_table() -> str:
    rows = ["| flag | what it does |", "|---|---|"]
    for action in eclip_parser()._actions:
        if action.choices:
            value = " {" + ",".join(action.choices) + "}"
        elif isinstance(action.metavar, tuple):
            value = " " + " ".join(action.metavar)
        else:
            value = f" {action.metavar}" if action.metavar else ""
        rows.append(f"| `{action.option_strings[0]}{value}` | {action.help % vars(action)} |")
    return "\n".join(rows) + "\n"


def glossary_table() -> str:
    rows = "".join(f"| {term} | {meaning} |\n" for term, meaning in GLOSSARY.items())
    return f"\n| metric | meaning |\n|---|---|\n{rows}\n"


def align_cells(folder: str = ".") -> dict[str, dict]:
    return json.loads(
        (ROOT / "docs" / "results" / folder / "align.json").read_text(encoding="utf-8")
    )["cells"]


def align_table() -> str:
    """Scores of the methods in three settings, one of each size.

    A score is blank if the method was not run, or ran on another machine than CLIP.
    """
    cells, scores = align_cells(), ("macro-F1", "R@5", "pointing")
    lines = [
        "| | " + " | ".join(f"{cell}: macro-F1 | R@5 | pointing" for cell in PICTURED) + " |",
        "|---" * (1 + 3 * len(PICTURED)) + "|",
    ]
    for row, name in ALIGN_ROWS.items():
        of_cells = [cells[cell].get(row, {}) for cell in PICTURED]
        scores_of_row = [
            own.get(score) if own.get("machine") == cells[cell]["CLIP"]["machine"] else None
            for own, cell in zip(of_cells, PICTURED)
            for score in scores
        ]
        if any(scores_of_row):
            lines.append(
                f"| {name} | "
                + " | ".join(spread(score) if score else "" for score in scores_of_row)
                + " |"
            )
    return "\n" + "\n".join(lines) + "\n\n"


def cells_table(table: Callable[[dict], list[str]], folder: str = ".") -> str:
    """A table over the settings of the alignment benchmark."""
    return "\n" + "\n".join(table(align_cells(folder))) + "\n\n"


def tables() -> str:
    """Tables 1 and 4."""
    parts = []
    for table, base in (("table1", "base"), ("table4", "CLIP")):
        rows = json.loads(
            (ROOT / "docs" / "results" / f"{table}.json").read_text(encoding="utf-8")
        )["scores"]["test"]
        lines = [f"| {table.replace('table', 'Table ')} | macro-F1 | − {base} |", "|---|---|---|"]
        parts.append(
            "\n".join(
                [
                    *lines,
                    *(
                        f"| {name} | {spread(row)} |"
                        f" {change(row['difference']).replace('-', '−')} |"
                        for name, row in rows.items()
                    ),
                ]
            )
        )
    return "\n" + "\n\n".join(parts) + "\n\n"


def stamps_table() -> str:
    """Recall and pointing game of the stamps study, one part for each image tower."""
    summary = json.loads(
        (ROOT / "docs" / "results" / "stamps_align.json").read_text(encoding="utf-8")
    )["summary"]
    lines = ["| | R@5 | − CLIP | pointing | − CLIP |", "|---|---|---|---|---|"]
    for tower, rows in summary.items():
        lines.append(f"| **{tower}** | | | | |")
        for method, row in rows.items():
            cells = [
                cell
                for name in ("R@5", "pointing")
                for cell in (
                    stamps_page.with_sd(row["scores"][name]),
                    stamps_page.change(row["differences"].get(name)),
                )
            ]
            lines.append(f"| {method} | {' | '.join(cells).replace('-', '−')} |")
    return "\n" + "\n".join(lines) + "\n\n"


GENERATED = {
    README: {
        "flags": flag_table,
        "glossary": glossary_table,
        "align": align_table,
        "stamps": stamps_table,
        "tables": tables,
    },
    ECLIP_PLUS: {
        "cells": partial(cells_table, glance),
        "replay": partial(cells_table, glance_again),
        "hard": partial(cells_table, glance_hard, "align_scarce"),
        "taught": partial(cells_table, glance_taught),
    },
}


def generated(page: Path) -> str:
    """The page with its generated parts replaced."""
    text = page.read_text(encoding="utf-8")
    for name, make in GENERATED[page].items():
        start = f"<!-- {name}: generated by tests/docs/test_readme.py -->\n"
        end = f"<!-- /{name} -->"
        text = text[: text.index(start) + len(start)] + make() + text[text.index(end) :]
    return text


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_generated_parts_are_those_of_code_and_results(page: Path) -> None:
    """To update the generated parts: make docs."""
    assert page.read_text(encoding="utf-8") == generated(page)


@pytest.mark.parametrize("folder", [".", "align_scarce"])
def test_pages_of_the_alignment_benchmark_are_those_of_their_results(folder: str) -> None:
    """A part without any result is not on the page."""
    results = ROOT / "docs" / "results" / folder
    text = (results / "align.md").read_text(encoding="utf-8")
    assert text == align_page.page(json.loads((results / "align.json").read_text(encoding="utf-8")))
    titles = {
        "At a glance",
        "Few annotated images, shown once more",
        "One to three annotated images, longer and harder",
        "Self-training",
    }
    shown = {title for title in titles if f"## {title}\n" in text}
    assert shown == (
        {"One to three annotated images, longer and harder"}
        if folder == "align_scarce"
        else titles - {"One to three annotated images, longer and harder"}
    )


@pytest.mark.parametrize("table", ["table1", "table4"])
def test_pages_of_the_tables_are_those_of_their_results(table: str) -> None:
    results = ROOT / "docs" / "results"
    assert (results / f"{table}.md").read_text(encoding="utf-8") == paper_tables.markdown(
        table, json.loads((results / f"{table}.json").read_text(encoding="utf-8"))
    )


def test_page_of_the_stamps_is_that_of_its_runs() -> None:
    """The page and its summary are computed from the records of all runs."""
    results = ROOT / "docs" / "results"
    study = json.loads((results / "stamps_align.json").read_text(encoding="utf-8"))
    summary = stamps_page.summarise(study["runs"])
    assert study["summary"] == summary
    assert (results / "stamps_align.md").read_text(encoding="utf-8") == stamps_page.page(
        study["runs"], study["facts"], summary
    )


def blocks(language: str, mark: str = "run") -> list[str]:
    return re.findall(
        rf"<!-- {mark} -->\n```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )


@pytest.mark.slow
def test_commands_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A small model replaces ViT-B-16; nothing else of the commands is changed.

    Evaluation runs in this process, which has already loaded torch.
    """
    assert len(blocks("bash")) == 2
    script = "\n".join(blocks("bash")).replace("ViT-B-16", PHANTOM_MODEL)
    script = re.sub(r"(--recipe eclip-p(lus)?) ", r"\1 --force-context-length 64 ", script)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(Path(fast_python()).parent), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "sheet.png").is_file()
    assert (tmp_path / "plain" / "open_clip_config.json").is_file()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "first",
        "two",
        "tuned",
        "stream",
        "plus",
        "taught",
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = blocks("bash", "run evaluate")[0].splitlines()
    for line in lines:
        python, module, name, *words = shlex.split(line, comments=True)
        assert (python, module) == ("python", "-m")
        if name == "openclip_eclip":
            assert words[0] == "report"
        main = {"openclip_eclip.evaluate": evaluate, "openclip_eclip": write_report}[name]
        assert main(words if main is evaluate else words[1:]) == 0, line
        output = capsys.readouterr().out
        if "--out" in words:
            assert "http" not in (Path(words[words.index("--out") + 1]) / "report.html").read_text(
                encoding="utf-8"
            )
        else:
            assert len(re.findall(r"^ *\d", output, re.MULTILINE)) == (
                3 if "search" in words else 5
            ), output
    assert {words.split()[3] for words in lines if ".evaluate " in words} == set(TASKS) - {"curve"}


@pytest.mark.slow
def test_python_block_runs() -> None:
    (code,) = blocks("python")
    done = subprocess.run([fast_python(), "-c", code], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_demo_draws_its_picture(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            fast_python(),
            str(ROOT / "scripts" / "demo.py"),
            *("--out", str(tmp_path / "demo")),
            *("--train", "128"),
            *("--epochs", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
    assert len(re.findall(r"macro_f1 0\.\d+  recall@1 0\.\d+", done.stdout)) == 2


@pytest.mark.parametrize("page", ["README.md", "training_patches/README.md"])
def test_links_point_to_files(page: str) -> None:
    for target in re.findall(
        r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")
    ):
        assert (ROOT / page).parent.joinpath(target).exists(), target


if __name__ == "__main__":
    for page in GENERATED:
        page.write_text(generated(page), encoding="utf-8")
