"""Mutation test (invariant 8): delete each statement of some modules; a test must fail every time.

By default it runs for all modules in MODULES: curriculum, mixup, priming, processor, loss, and the
readers of gaze and of sentence windows among them. The tests of a module run on a mutated copy of
the package, in a forked process that has torch, open_clip and pandas loaded. If a mutant of loss.py
survives, the two-process tests run, too. It prints each survivor; the exit code is 1 if there is
one.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import open_clip  # noqa: F401
import pandas  # noqa: F401
import pytest
import torch  # noqa: F401
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CORE = ("tests/test_model.py", "tests/test_processor.py")
HALF = ("tests/test_low_precision.py",)
REFLACX, EGD, MIMIC = (
    ("tests/prepare/datasets/test_reflacx.py",),
    ("tests/prepare/datasets/test_egd_cxr.py",),
    ("tests/prepare/datasets/test_mimic_cxr.py",),
)
REPORTS = ("training_side", "snippets", "journal", "task")
MODULES = {
    **dict.fromkeys(("batching/curriculum", "mixup", "processor"), CORE),
    "priming": CORE + HALF,
    "loss": CORE + HALF + ("tests/test_loss_gradient_factor.py",),
    **dict.fromkeys(
        ("objectives/dacl", "objectives/m3_mix", "objectives/naive"),
        ("tests/objectives/test_objectives.py",) + HALF,
    ),
    "training_patches/known_again": ("tests/training_patches/test_known_again.py",),
    "prepare/sentence_windows": EGD + REFLACX,
    "prepare/gaze_options": EGD + REFLACX,
    "prepare/datasets/egd_cxr": EGD + MIMIC,
    "prepare/datasets/reflacx": REFLACX,
    "prepare/datasets/reflacx_files": REFLACX + MIMIC,
    "data/sentence_windows": ("tests/data/test_sentence_windows.py",),
    **dict.fromkeys(
        [f"evaluate/report_generation/{name}" for name in REPORTS],
        (
            "tests/evaluate/report_generation/test_report_generation.py",
            "-k",
            "not killed and not nothing_is_sent",
        ),
    ),
    "evaluate/compare/read": ("tests/evaluate/compare/test_comparison.py",),
    "metrics/compare": ("tests/metrics/test_compare.py",),
}
SLOW = ("tests/test_distributed.py", "-k", "loss or gradients or every_case")


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yields (line, deleted statement, mutated source) for each statement.

    Imports, docstrings and definitions are left out.
    """
    tree = ast.parse(source)
    kinds = (
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.Return,
        ast.Expr,
        ast.If,
        ast.For,
        ast.Raise,
    )
    count = sum(isinstance(node, kinds) for node in ast.walk(tree))
    for target in range(count):
        copy = ast.parse(source)
        seen = -1
        for parent in ast.walk(copy):
            for field in ("body", "orelse"):
                body = getattr(parent, field, None)
                if not isinstance(body, list):
                    continue
                for i, node in enumerate(body):
                    if not isinstance(node, kinds):
                        continue
                    seen += 1
                    if seen != target or _is_harmless(node, parent):
                        continue
                    body[i] = ast.copy_location(ast.Pass(), node)
                    yield node.lineno, ast.unparse(node).splitlines()[0], ast.unparse(copy)


def _is_harmless(node: ast.stmt, parent: ast.AST) -> bool:
    """Whether a statement is a docstring or the annotation of a field (an error at import)."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or (isinstance(node, ast.AnnAssign) and isinstance(parent, ast.ClassDef))


def is_red(package: Path, tests: tuple[str, ...], in_process: bool) -> bool:
    """Whether `tests` fail on the copy in `package`; `in_process`: in a fork of this process."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{package}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    if not in_process:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            timeout=300,
        )
        return done.returncode == 1
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.path.insert(0, str(package))
        os.environ.update(environment)
        os.chdir(ROOT)
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])) != 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules",
        nargs="*",
        metavar="MODULE",
        help=f"modules to mutate (default: all, which are {' '.join(MODULES)})",
    )
    total = survivors = 0
    modules = parser.parse_args().modules or list(MODULES)
    if unknown := set(modules) - set(MODULES):
        parser.error(
            f"{', '.join(sorted(unknown))}: no such module; expected some of {', '.join(MODULES)}"
        )
    for module in modules:
        file = Path(f"{module}.py")
        if file.parts[0] != "training_patches":
            file = "openclip_eclip" / file
        source = (ROOT / file).read_text(encoding="utf-8")
        for line, statement, mutated in tqdm(list(mutants(source)), desc=module, disable=None):
            total += 1
            with tempfile.TemporaryDirectory() as folder:
                package = Path(folder)
                for name in ("openclip_eclip", "training_patches"):
                    shutil.copytree(
                        ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__")
                    )
                (package / file).write_text(mutated, encoding="utf-8")
                if not is_red(package, MODULES[module], True) and not (
                    module == "loss" and is_red(package, SLOW, False)
                ):
                    survivors += 1
                    tqdm.write(f"{file}:{line}: {statement}")
    sys.stdout.write(f"{total} statements deleted, {survivors} of them not detected by a test\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
