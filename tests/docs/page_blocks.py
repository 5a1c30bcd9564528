"""The code blocks of Markdown pages, and a runner for those that a test executes.

A block is marked by the comment before it: `<!-- run -->`: a test runs it; `<!-- run on ... -->`,
`<!-- run evaluate -->`: a test of its own runs it; `<!-- needs data -->`, with a reason after a
colon: nobody does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import fast_python

from openclip_eclip.benchmark.rows import PHANTOM_MODEL

BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and the comment before it, or ''."""

    language: str
    code: str
    mark: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m["language"], m["code"], m["mark"] or "") for m in BLOCK.finditer(text)]


def marked(page: Path, language: str, mark: str = "run") -> list[str]:
    """The code of the blocks of one language and mark."""
    return [b.code for b in blocks(page) if (b.language, b.mark) == (language, mark)]


def small(script: str) -> str:
    """The commands with a small model in the place of ViT-B-16; nothing else is changed.

    The recipes' context of 256 tokens is cut to the length of the phantoms' reports.
    """
    script = script.replace("ViT-B-16", PHANTOM_MODEL)
    return re.sub(
        r"(--recipe (?:clip|eclip-p|eclip-plus)) ", r"\1 --force-context-length 64 ", script
    )


def command_folder(folder: Path) -> Path:
    """A folder for PATH with the console script, as pip would install it for `fast_python`."""
    script = folder / "openclip-eclip"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec {fast_python()} -m openclip_eclip "$@"\n')
    script.chmod(0o755)
    return folder


def run(block: Block, folder: Path) -> str:
    """Runs a bash or python block in `folder`; returns what it prints.

    AssertionError with the block and its last messages if it fails.
    """
    python = fast_python()
    words = ["bash", "-e", "-c", small(block.code)]
    if block.language == "python":
        words = [python, "-c", block.code]
    programs = (
        command_folder(folder / "bin"),
        Path(python).parent,
        Path(sys.executable).parent,
    )
    done = subprocess.run(
        words,
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, f"{block.code}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout
