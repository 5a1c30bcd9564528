"""README.md: its commands run, its links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import page_blocks
import pytest
from conftest import ROOT, fast_python

from openclip_eclip.benchmark.rows import PHANTOM_MODEL
from openclip_eclip.prepare.__main__ import main as prepare

README = ROOT / "README.md"


def blocks(language: str, mark: str = "run") -> list[str]:
    return page_blocks.marked(README, language, mark)


@pytest.mark.slow
def test_commands_run_in_order(tmp_path: Path) -> None:
    """A small model replaces ViT-B-16, with its context length; nothing else is changed."""
    (script,) = blocks("bash")
    script = script.replace("ViT-B-16", PHANTOM_MODEL)
    script = script.replace("--runs-dir", "--force-context-length 64 --runs-dir")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(page_blocks.command_folder(tmp_path / "bin")), os.environ["PATH"]]
        ),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
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
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"clip", "plus", "placebo"}
    for name in ("clip", "plus", "placebo", "compared"):
        page = (tmp_path / "results" / name / "report.html").read_text(encoding="utf-8")
        assert "http" not in page  # a page is complete without the internet
    assert "eclip-plus" in (tmp_path / "results" / "compared" / "result.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_benchmark_of_the_readme_answers(tmp_path: Path) -> None:
    """A small model from scratch replaces the downloaded one, and few steps the half hour."""
    (line,) = blocks("bash", "run benchmark")
    start = "--start ViT-B-16 --pretrained openai"
    assert start in line
    program, *words = shlex.split(
        line.replace("\\\n", " ").replace(start, f"--model {PHANTOM_MODEL}")
    )
    small = "--force-context-length 64 --methods CLIP eclip-plus --seeds 1 --lr 1e-3 --batch-size 8"
    assert program == "openclip-eclip"
    prepare(["phantom", str(tmp_path), "--train", "72", "--test", "24", "--annotated", "0.3"])
    head, *rows = (tmp_path / "train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "train.csv").write_text(head + "".join(rows[:48]))
    (tmp_path / "val.csv").write_text(head + "".join(rows[48:]))
    done = subprocess.run(
        [fast_python(), "-m", "openclip_eclip", *words, *small.split(), "--budget", "2 steps"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "retrieval" in (tmp_path / "answer" / "report.html").read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_python_block_prints_what_the_page_shows(tmp_path: Path) -> None:
    readme = README.read_text(encoding="utf-8")
    (block,) = re.findall(
        r"<!-- run -->\n```python\n(.*?)```\n```text\n(.*?)```", readme, re.DOTALL
    )
    code, printed = block
    done = subprocess.run(
        [fast_python(), "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == printed


def test_readme_is_short_and_starts_with_purpose_picture_number_and_install() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 10_000
    first = text[: text.index("- **Few annotations")]
    order = [first.index(part) for part in ("**Train CLIP", "attend.png", "%**", "pip install")]
    assert order == sorted(order)


def test_every_command_of_the_readme_is_executed_or_marked() -> None:
    """Every fence follows a mark, is the demo or the installation, which have their own tests."""
    text = README.read_text(encoding="utf-8")
    fences = re.findall(r"(?:(<!-- run[^\n]*-->)\n)?```(bash|python)\n(.*?)```", text, re.DOTALL)
    unmarked = [code for mark, _, code in fences if not mark]
    assert [code.split()[:2] for code in unmarked] == [
        ["pip", "install"],
        ["bash", "scripts/demo.sh"],
    ]


@pytest.mark.slow
def test_demo_draws_its_picture(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            fast_python(),
            str(ROOT / "scripts" / "demo.py"),
            *("--out", str(tmp_path / "demo")),
            *("--train", "128", "--test", "60", "--epochs", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
    rows = re.findall(r"^(\S+)(?: +\d\.\d{3}){3}$", done.stdout, re.MULTILINE)
    assert rows == ["CLIP", "eCLIP", "eclip-plus"]
    assert "One seed for each method" in done.stdout and "next:" in done.stdout

    # the README shows what the same script printed
    shown = (ROOT / "docs" / "results" / "demo.txt").read_text(encoding="utf-8")
    printed = done.stdout.replace(str(tmp_path / "demo"), "demo_output")
    numbers = re.compile(r"\d+")
    assert [numbers.sub("#", line) for line in shown.split("\n")[4:]] == [
        numbers.sub("#", line) for line in printed.split("\n")[4:]
    ]


@pytest.mark.parametrize(
    "page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "training_patches/README.md"]
)
def test_links_point_to_files(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    for target in targets:
        assert (ROOT / page).parent.joinpath(target).exists(), target
