"""Structure of the code: imports between modules, sizes of files and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("openclip_eclip", "training_patches")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
CLI = "openclip_eclip_cli"  # beside the package, so that --help does not load torch
FILES[CLI] = ROOT / f"{CLI}.py"
# from the ground up: a room imports from itself and from those before it; a module outside the
# rooms is one by itself
STOREYS = (
    "open_clip_names",
    "version config content json_text xml_text files machine subcommands mixup priming streams",
    "rank_counts",
    "data metrics",
    "gaze",
    "annotations",
    "batching generate towers",
    "attention objectives processor",
    "same_text model loss model_folder model_errors checkpoint_files",
    "register checkpoint flag_checks",
    "recipes run_flags token_cache export openclip_eclip",
    "params phantom prepare evaluate",
    "pseudo_heatmaps export_annotations attend_samples attend_command flag_conflicts",
    "training_patches",
    "train benchmark",
)
OPEN_CLIP = {
    "model",
    "loss",
    "register",
    "checkpoint",
    "open_clip_names",
    "evaluate.inputs.encoder",
    "benchmark.worker",
}


@cache
def imports(name: str) -> set[str]:
    """Absolute names of all imports of a module, at any depth; for our own code, modules."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    result = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            result |= names & FILES.keys()
            if not names <= FILES.keys():
                result.add(module)
    return result - {name}


def room(name: str) -> str:
    """The folder of openclip_eclip that contains a module, or its own name."""
    parts = name.split(".")
    return parts[1] if parts[0] == "openclip_eclip" and len(parts) > 1 else parts[0]


def importers(package: str) -> set[str]:
    return {
        name for name in FILES if any(result.split(".")[0] == package for result in imports(name))
    }


def test_imports_have_no_cycle() -> None:
    """Imports inside functions and for types count too; graphlib raises CycleError."""
    graph = {name: imports(name) & FILES.keys() for name in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)


def test_imports_follow_the_layers() -> None:
    storey = {name: i for i, names in enumerate(STOREYS) for name in names.split()}
    for name in FILES:
        if room(name) == "openclip_eclip" or name.endswith("__main__"):
            continue
        for result in imports(name) & FILES.keys():
            same = room(result) == room(name)
            assert same or storey[room(result)] <= storey[room(name)], f"{name} imports {result}"


def test_few_modules_import_open_clip() -> None:
    inside = {f"openclip_eclip.{name}" for name in OPEN_CLIP}
    result = {name for name in importers("open_clip") if room(name) not in ("towers", "attention")}
    assert {name for name in result if not name.startswith("training_patches")} == inside


def test_only_patches_and_train_import_open_clip_train() -> None:
    outside = {name for name in importers("open_clip_train") if room(name) != "training_patches"}
    assert outside == {"openclip_eclip.train"}
    outside = {name for name in importers("training_patches") if room(name) != "training_patches"}
    assert outside == {"openclip_eclip.train"}


def test_package_imports_no_scripts_or_tests() -> None:
    for name, path in FILES.items():
        tops = {result.split(".")[0] for result in imports(name)}
        assert not tops & {"scripts", "examples", "tests", "conftest"}, name
        assert "sys.path" not in path.read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short_and_documented(name: str) -> None:
    source = FILES[name].read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert len(source.splitlines()) <= 400 and ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 80, node.name
        if isinstance(node, ast.ExceptHandler):
            caught = ast.walk(node.type) if node.type else ()
            names = [one.id for one in caught if isinstance(one, ast.Name)] or ["everything"]
            assert not {"Exception", "BaseException", "everything"} & set(names), node.lineno


@pytest.mark.slow
def test_core_runs_with_torch_alone() -> None:
    """Processor, curriculum, mixup, priming and config load without open_clip."""
    package = ROOT / "openclip_eclip"
    program = (
        "import sys, types\n"
        f"package = types.ModuleType('openclip_eclip'); package.__path__ = [{str(package)!r}]\n"
        "sys.modules['openclip_eclip'] = package\n"
        "from openclip_eclip import config, mixup, priming, processor\n"
        "from openclip_eclip.batching import curriculum\n"
        "bad = {'open_clip', 'pandas', 'torchvision', 'transformers', 'sklearn', 'matplotlib'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=400)


@pytest.mark.slow
def test_wheel_holds_configs_types_and_patches(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run(
        [*command, str(tmp_path), str(ROOT)], check=True, timeout=600, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in FILES.values()}
    assert expected <= names
    assert {
        "openclip_eclip/py.typed",
        "openclip_eclip/model_configs/eclip-swin-tiny.json",
        "openclip_eclip/attention/gallery.html.jinja",
        "openclip_eclip/benchmark/phantom_model/open_clip_config.json",
        "training_patches/README.md",
        "openclip_eclip/generate/prompts/report.json",
    } <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {*PACKAGES, f"{CLI}.py"}


def test_names_of_test_files_are_unique() -> None:
    """pytest imports them by their name alone, and stops at the second of a name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
