"""Measure the code base: folders, lengths, comments, import cycles, findings, tests, copies.

    python scripts/house.py CHECKOUT [CHECKOUT ...] [--names before,after]

It prints a Markdown table with a column for each checkout. Only the standard library is needed.
ruff and mypy are run if they are installed (in .venv/bin of this checkout, or on PATH), over every
checkout with the settings of this one, so that all are measured by the same rules.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("openclip_eclip", "training_patches")
TOPS = (*PACKAGES, "scripts", "tests")
WIDTH = 100  # columns
COPY = 8  # lines of normalised code from which a repetition counts as a copy
NOT_MEASURED = "not measured"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Checkout:
    """The Python files below `root`, parsed once.

    `sources`: {path from the root: source}; `trees`: their syntax trees; `modules`: {name: path} of
    the packages.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = {
            path.relative_to(root): path.read_text(encoding="utf-8")
            for top in TOPS
            for path in sorted((root / top).rglob("*.py"))
        }
        self.trees = {path: ast.parse(source) for path, source in self.sources.items()}
        self.modules = {
            ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
            for path in self.sources
            if path.parts[0] in PACKAGES
        }

    def among(self, *tops: str) -> list[Path]:
        """Paths of the files in the top folders `tops`."""
        return [path for path in self.sources if path.parts[0] in tops]


# ---- figures, each of one checkout


def rooms(house: Checkout) -> dict[str, tuple[int, int]]:
    """{folder: (files, lines)}.

    A folder is a direct subfolder of a top folder, or the top folder for files outside subfolders.
    """
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, source in house.sources.items():
        room = "/".join(path.parts[: min(2, len(path.parts) - 1)])
        files[room] += 1
        lines[room] += len(source.splitlines())
    return {room: (files[room], lines[room]) for room in sorted(files)}


def function_lengths(house: Checkout) -> tuple[int, int, int]:
    """(median, 90th percentile, maximum) of the lengths of the packages' functions, in lines.

    A length is from `def` to the last line, without decorators. Methods and nested functions count.
    """
    lengths = sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in house.among(*PACKAGES)
        for node in ast.walk(house.trees[path])
        if isinstance(node, Function)
    )
    if not lengths:
        return 0, 0, 0
    return (
        statistics.median_low(lengths),
        lengths[min(len(lengths) - 1, round(0.9 * (len(lengths) - 1)))],
        lengths[-1],
    )


def wide_lines(house: Checkout, *tops: str) -> float:
    """Share of lines that are longer than WIDTH."""
    lines = [line for path in house.among(*tops) for line in house.sources[path].splitlines()]
    return sum(len(line) > WIDTH for line in lines) / max(1, len(lines))


def comment_lines(house: Checkout, *tops: str) -> float:
    """Share of non-blank lines with a comment, alone or after code.

    Docstrings and `#!` are not comments.
    """
    comments = lines = 0
    for path in house.among(*tops):
        source = house.sources[path]
        lines += sum(bool(line.strip()) for line in source.splitlines())
        comments += sum(
            token.type == tokenize.COMMENT and not token.string.startswith("#!")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
        )
    return comments / max(1, lines)


def imports(house: Checkout, name: str) -> set[str]:
    """Modules of the packages that a module imports, inside functions and for types, too."""
    path = house.modules[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    modules: set[str] = set()
    for node in ast.walk(house.trees[path]):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names} & house.modules.keys()
            # `from folder import module` needs the module; other names need the folder's __init__
            modules |= names if len(names) == len(node.names) else names | {module}
    return (modules & house.modules.keys()) - {name}


def circles(house: Checkout) -> int:
    """Number of imports to remove until no cycle is left: one of each cycle is removed."""
    graph = {name: imports(house, name) for name in sorted(house.modules)}
    count = 0
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return count
        except CycleError as error:
            # in the list each module is imported by the next; the first is also the last
            imported, importer = error.args[1][:2]
            graph[importer].discard(imported)
            count += 1


def tested_by_path(house: Checkout) -> int:
    """Number of modules with a test file tests/FOLDER/test_NAME.py at the mirrored path."""
    return sum(_mirror(path) in house.sources for path in _testable(house))


def tested_by_name(house: Checkout) -> int:
    """Number of modules whose name is contained, as whole words, in the name of any test file."""
    stems = [f"_{path.stem}_" for path in house.among("tests") if path.name.startswith("test_")]
    return sum(any(f"_{path.stem}_" in stem for stem in stems) for path in _testable(house))


def _testable(house: Checkout) -> list[Path]:
    return [path for path in house.among(*PACKAGES) if not path.name.startswith("__")]


def _mirror(path: Path) -> Path:
    below = path.parts[1:] if path.parts[0] == PACKAGES[0] else path.parts
    return Path("tests", *below[:-1], f"test_{below[-1]}")


# ---- copies


def copies(house: Checkout, *tops: str) -> int:
    """Number of blocks that repeat COPY or more lines of statements from an earlier block.

    Statements are compared as `ast.unparse` writes them, without docstrings, comments and imports.
    So line breaks make no difference, but another name does. Adjacent copies count as one block,
    and copies inside a copy are not counted again.
    """
    count = 0
    seen: dict[str, tuple[int, int]] = {}  # text: (number of its body, index after its end)
    # outer bodies first; inner bodies are appended during the loop
    bodies = [_bare(house.sources[path]).body for path in house.among(*tops)]
    for number, body in enumerate(bodies):
        texts = [ast.unparse(statement) for statement in body]

        def stands_elsewhere(start: int, end: int, texts=texts, number=number) -> bool:
            body_of_it, end_of_it = seen.get("\n".join(texts[start:end]), (number, end))
            return body_of_it != number or end_of_it <= start

        i = 0
        while i < len(body):
            end = _end_of_window(texts, i)
            if end is not None and stands_elsewhere(i, end):
                count += 1
                while i < end:
                    further = _end_of_window(texts, i)
                    if further is not None and stands_elsewhere(i, further):
                        end = max(end, further)
                    i += 1
                continue
            if end is not None:
                seen.setdefault("\n".join(texts[i:end]), (number, end))
            bodies += _inner_bodies(body[i])
            i += 1
    return count


def _end_of_window(texts: Sequence[str], start: int) -> int | None:
    """Index after the shortest run of statements from `start` that has COPY lines."""
    lines = 0
    for end in range(start, len(texts)):
        lines += texts[end].count("\n") + 1
        if lines >= COPY:
            return end + 1
    return None


def _inner_bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Lists of statements directly inside a compound one, with those of `except` and `case`."""
    for _, value in ast.iter_fields(statement):
        for part in value if isinstance(value, list) else ():
            if isinstance(part, ast.excepthandler | ast.match_case):
                yield part.body
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value


def _bare(source: str) -> ast.Module:
    """A tree without docstrings and imports; a body may be empty."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                part for part in body if not isinstance(part, _Unseen) and not _words(part)
            ]
    return tree


_Unseen = ast.Import | ast.ImportFrom


def _words(statement: ast.AST) -> bool:
    """Whether a statement is only a string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


# ---- linters, the table


def findings_of_ruff(house: Checkout) -> int | None:
    ruff = tool("ruff")
    if ruff is None:
        return None
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", "--exit-zero"]
    done = subprocess.run(
        [ruff, "check", *settings, "--output-format", "json", *_present(house, TOPS)],
        cwd=house.root,
        capture_output=True,
        text=True,
    )
    return len(json.loads(done.stdout)) if done.returncode == 0 else None


def findings_of_mypy(house: Checkout) -> int | None:
    """Number of errors in the packages, with the dependencies of this checkout's environment."""
    mypy = tool("mypy")
    if mypy is None:
        return None
    python = ROOT / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [
                *(mypy, "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", cache),
                *("--python-executable", str(python) if python.exists() else sys.executable),
                *_present(house, PACKAGES),
            ],
            cwd=house.root,
            capture_output=True,
            text=True,
        )
    # exit code 0: clean, 1: findings, other codes: the call failed
    total = re.search(r"^Found (\d+) errors? in ", done.stdout, re.MULTILINE)
    if done.returncode == 1 and total:
        return int(total[1])
    return 0 if done.returncode == 0 else None


def tool(name: str) -> str | None:
    """Path of a linter, in .venv/bin of this checkout or on PATH."""
    local = ROOT / ".venv" / "bin" / name
    return str(local) if local.exists() else shutil.which(name)


def _present(house: Checkout, tops: Iterable[str]) -> list[str]:
    return [top for top in tops if house.among(top)]


def figures(house: Checkout, linters: bool = True) -> dict[str, str]:
    """{measure: figure}, in the order of the table. Without `linters` ruff and mypy are not run."""
    code, median, most, longest = PACKAGES, *function_lengths(house)
    other = ("scripts", "tests")
    testable = len(_testable(house))
    findings = (findings_of_ruff(house), findings_of_mypy(house)) if linters else (None, None)
    ruff, mypy = (NOT_MEASURED if count is None else str(count) for count in findings)
    return {
        **{
            f"`{room}/`: files, lines": f"{n}, {lines}" for room, (n, lines) in rooms(house).items()
        },
        "functions of the packages, lines: median / p90 / longest": (
            f"{median} / {most} / {longest}"
        ),
        f"lines over {WIDTH} columns, packages": f"{wide_lines(house, *code):.1%}",
        f"lines over {WIDTH} columns, scripts and tests": f"{wide_lines(house, *other):.1%}",
        "comment lines, packages": f"{comment_lines(house, *code):.1%}",
        "comment lines, scripts and tests": f"{comment_lines(house, *other):.1%}",
        "import circles, imports for types included": str(circles(house)),
        "findings of ruff, everywhere": ruff,
        "findings of mypy, packages": mypy,
        "modules with a test at the mirrored path": f"{tested_by_path(house)} of {testable}",
        "modules whose name is in a test file's name": f"{tested_by_name(house)} of {testable}",
        f"copies of {COPY} lines and more, packages and scripts": str(
            copies(house, *code, other[0])
        ),
        f"copies of {COPY} lines and more, tests": str(copies(house, other[1])),
    }


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown table: a row for each measure, a column for each checkout; a dash for none."""
    lines = ["| " + " | ".join(["", *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    # folders of any column first, then the other measures
    names = sorted(
        {name for figures_of in columns.values() for name in figures_of if name[0] == "`"}
    )
    names += [name for name in next(iter(columns.values())) if name[0] != "`"]
    for name in names:
        cells = [figures_of.get(name, "–") for figures_of in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit code 2 and one sentence: a folder is not a checkout of the project."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "checkouts", nargs="+", type=Path, help="root folders of checkouts, the oldest first"
    )
    parser.add_argument("--names", help="headings of the columns, separated by commas")
    parser.add_argument("--no-linters", action="store_true", help="skips ruff and mypy")
    args = parser.parse_args(argv)
    names = (
        args.names.split(",") if args.names else [path.resolve().name for path in args.checkouts]
    )
    if len(set(names)) != len(args.checkouts):
        parser.error(
            f"--names {','.join(names)}: expected {len(args.checkouts)} different names, one for"
            " each checkout"
        )
    columns = {}
    for name, path in zip(names, args.checkouts):
        house = Checkout(path.resolve())
        if not house.modules:
            parser.error(f"{path}: expected the root folder of a checkout, with {PACKAGES[0]}/")
        columns[name] = figures(house, not args.no_linters)
    sys.stdout.write(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
