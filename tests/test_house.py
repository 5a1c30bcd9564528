"""The house: who may import whom, what an import does, sizes of files and functions."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "openclip_eclip"
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of everything a file imports, at any depth."""
    package = ("openclip_eclip", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) - node.level + 1]) if node.level else ""
            found.add(".".join(part for part in (base, node.module) if part))
    return found


def importers(prefix: str) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in FILES
            if any(name == prefix or name.startswith(prefix + ".") for name in imports(path))}


def test_few_files_import_open_clip() -> None:
    patches = {name for name in importers("open_clip") if name.startswith("training_patches")}
    assert importers("open_clip") - patches == {"model.py", "loss.py", "register.py", "checkpoint.py", "positions.py",
                                                      "evaluate/inputs/encoder.py", "towers/local_features.py", "towers/pool_attention.py"}


def test_only_patches_and_train_import_open_clip_train() -> None:
    assert {name for name in importers("open_clip_train") if not name.startswith("training_patches")} == {"train.py"}
    assert {name for name in importers("training_patches") if not name.startswith("training_patches")} == {"train.py"}


def test_data_and_core_know_no_models() -> None:
    allowed = {"config", "curriculum"}
    for path in FILES:
        inner = {name.removeprefix("openclip_eclip.").split(".")[0] for name in imports(path) if name.startswith("openclip_eclip.")}
        if path.parent.name == "data":
            assert inner - {"data"} <= allowed, path
        if path.stem in ("config", "curriculum", "mixup", "priming", "processor") and path.parent == PACKAGE:
            assert inner <= {"config"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_documented(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert len(source.splitlines()) <= 400 and ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno <= 80, node.name
        if isinstance(node, ast.ExceptHandler):
            names = [name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)] if node.type else ["everything"]
            assert not {"Exception", "BaseException", "everything"} & set(names), f"line {node.lineno}"


def test_core_runs_with_torch_alone() -> None:
    """Processor, curriculum, mixup, priming and config load without open_clip when taken by themselves."""
    program = ("import sys, types\n"
               f"package = types.ModuleType('openclip_eclip'); package.__path__ = [{str(PACKAGE)!r}]\n"
               "sys.modules['openclip_eclip'] = package\n"
               "from openclip_eclip import config, curriculum, mixup, priming, processor\n"
               "bad = {'open_clip', 'pandas', 'torchvision', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
               "assert not bad, bad\n")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=400)


def test_wheel_holds_configs_types_and_patches(tmp_path: Path) -> None:
    import zipfile
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(PACKAGE.parent)]
    subprocess.run(command, check=True, timeout=600, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(PACKAGE.parent).as_posix() for path in FILES}
    assert expected <= names and {"openclip_eclip/py.typed", "openclip_eclip/model_configs/eclip-swin-tiny.json",
                                  "openclip_eclip/training_patches/README.md", "openclip_eclip/generate/prompts/report.json"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"openclip_eclip"}
