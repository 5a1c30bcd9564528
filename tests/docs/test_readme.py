"""README.md: its commands run, its links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import page_blocks
import pytest
from conftest import ROOT, fast_python

from openclip_eclip.benchmark.rows import PHANTOM_MODEL
from openclip_eclip.evaluate.__main__ import TASKS
from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.evaluate.report_generation.one_image import main as write_report

README = ROOT / "README.md"


def blocks(language: str, mark: str = "run") -> list[str]:
    return page_blocks.marked(README, language, mark)


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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "training_patches/README.md"])
def test_links_point_to_files(page: str) -> None:
    for target in re.findall(
        r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")
    ):
        assert (ROOT / page).parent.joinpath(target).exists(), target
