"""The documentation site: generated parts, navigation, links, commands and the strict build."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import build_docs
import page_blocks
import pytest
import site_errors
import stamps_page
import yaml
from conftest import ROOT

from openclip_eclip.benchmark import align_page, paper_page

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
FIRST = DOCS / "start" / "first-run.md"
RUN = [
    page
    for page in PAGES
    if page != FIRST and any(b.mark == "run" for b in page_blocks.blocks(page))
]
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
BUDGET = 6_000  # bytes of eclip-plus.md


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def settings() -> dict:
    """mkdocs.yml."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def in_navigation(entry: object) -> set[str]:
    """All pages below an entry of `nav`."""
    if isinstance(entry, str):
        return {entry}
    parts = entry.values() if isinstance(entry, dict) else entry
    return set().union(*map(in_navigation, parts))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


def test_generated_pages_and_blocks_are_fresh() -> None:
    """To update them: make docs."""
    assert build_docs.main(["--check"]) == 0


def test_check_names_what_is_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(build_docs.BLOCKS, "glossary", lambda: "\n| other |\n\n")
    assert build_docs.main(["--check"]) == 1
    assert "docs/evaluate/metrics.md is stale" in capsys.readouterr().err


def test_a_message_that_is_gone_from_the_source_is_an_error() -> None:
    with pytest.raises(ValueError, match="in no message"):
        site_errors.message("words that no message " + "has")
    assert len(site_errors.COMMON) == 20


def test_every_page_is_in_the_navigation() -> None:
    listed = in_navigation(settings()["nav"])
    assert {name(page) for page in PAGES} == listed


def test_nothing_is_loaded_from_other_hosts() -> None:
    theme = settings()["theme"]
    assert theme["font"] is False and {scheme["scheme"] for scheme in theme["palette"]} == {
        "default",
        "slate",
    }
    assert "extra_javascript" not in settings()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_their_anchors_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in LINK.findall(text):
        file = page.parent / target if target else page
        assert file.resolve().is_relative_to(DOCS) and file.is_file(), f"{name(page)}: {target}"
        assert not anchor or anchor[1:] in anchors(file), f"{name(page)}: {target}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_run_or_marked(page: Path) -> None:
    """Pages that are copies, and the first block of an installation, are marked, too."""
    for block in page_blocks.blocks(page):
        if block.language not in ("bash", "python") or name(page) in build_docs.COPIED:
            continue
        installs = block.code.startswith("pip install .")
        assert installs or re.match(r"run|needs data", block.mark), f"{name(page)}: {block.code}"


def test_eclip_plus_is_short() -> None:
    assert len((DOCS / "train" / "eclip-plus.md").read_bytes()) <= BUDGET


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page First run has been followed; the other pages go on from there."""
    folder = tmp_path_factory.mktemp("site")
    for block in page_blocks.blocks(FIRST):
        if block.mark == "run":
            page_blocks.run(block, folder)
    assert (folder / "sheet.png").is_file() and (folder / "plain").is_dir()
    return folder


# the runs and models of this page are used by others
YOUR_DATA = DOCS / "start" / "your-data.md"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(RUN, key=lambda page: page != YOUR_DATA), ids=name)
def test_commands_of_a_page_run(page: Path, first_run: Path) -> None:
    """Each block ends well; a text block after a python block is what it prints."""
    found = page_blocks.blocks(page)
    for block, after in zip(found, [*found[1:], None]):
        if block.mark == "run":
            printed = page_blocks.run(block, first_run)
            if block.language == "python" and after is not None and after.language == "text":
                assert printed.split() == after.code.split()


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text("utf-8")
        )
        assert not loaded, f"{page}: {loaded}"


@pytest.mark.parametrize("folder", [".", "align_scarce", "align_one_percent"])
def test_pages_of_the_alignment_benchmark_are_those_of_their_results(folder: str) -> None:
    """A part without any result is not on the page."""
    results = DOCS / "results" / folder
    text = (results / "align.md").read_text(encoding="utf-8")
    assert text == align_page.page(json.loads((results / "align.json").read_text(encoding="utf-8")))
    titles = {
        "All settings",
        "Few annotated images: oversampling",
        "One to three annotated images: weight 1, twice the steps",
        "Self-training",
    }
    shown = {title for title in titles if f"## {title}\n" in text}
    scarce = {"One to three annotated images: weight 1, twice the steps"}
    assert shown == {".": titles - scarce, "align_scarce": scarce}.get(folder, set())


@pytest.mark.parametrize("table", ["table1", "table4"])
def test_pages_of_the_tables_are_those_of_their_results(table: str) -> None:
    results = DOCS / "results"
    assert (results / f"{table}.md").read_text(encoding="utf-8") == paper_page.markdown(
        table, json.loads((results / f"{table}.json").read_text(encoding="utf-8"))
    )


def test_page_of_the_stamps_is_that_of_its_runs() -> None:
    """The page and its summary are computed from the records of all runs."""
    results = DOCS / "results"
    study = json.loads((results / "stamps_align.json").read_text(encoding="utf-8"))
    summary = stamps_page.summarise(study["runs"])
    assert study["summary"] == summary
    assert (results / "stamps_align.md").read_text(encoding="utf-8") == stamps_page.page(
        study["runs"], study["facts"], summary
    )
