"""Measures the house: rooms, lengths, comments, import circles, findings, tests by name, copies.

    python scripts/house.py CHECKOUT [CHECKOUT ...] [--names before,after]

prints a Markdown table with one column a checkout. Only the standard library is needed. ruff and
mypy are run where they are found (.venv/bin of this checkout, then PATH), over every checkout with
the settings of this one, so that old and new are held to the same rules.
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
COPY = 8  # lines of normalised code that make a copy
NOT_MEASURED = "not measured"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Checkout:
    """The Python files below `root`, parsed once: {path from the root: source}, and their trees."""

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
    """{room: (files, lines)}. A room is a top folder's direct subfolder, or the top folder itself
    for the files that lie in no subfolder.
    """
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, source in house.sources.items():
        room = "/".join(path.parts[: min(2, len(path.parts) - 1)])
        files[room] += 1
        lines[room] += len(source.splitlines())
    return {room: (files[room], lines[room]) for room in sorted(files)}


def function_lengths(house: Checkout) -> tuple[int, int, int]:
    """(median, 90th percentile, longest) in lines, of the packages' functions and methods, from
    `def` to the last line; decorators do not count, nested functions do.
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
    """Share of all lines that are longer than WIDTH."""
    lines = [line for path in house.among(*tops) for line in house.sources[path].splitlines()]
    return sum(len(line) > WIDTH for line in lines) / max(1, len(lines))


def comment_lines(house: Checkout, *tops: str) -> float:
    """Share of all non-blank lines that hold a comment, alone or after code; docstrings and
    `#!` are none.
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
    """Modules of the packages that a module imports: at any depth, those for type checks too."""
    path = house.modules[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(house.trees[path]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names} & house.modules.keys()
            # `from folder import module` needs the module; anything else the folder's __init__
            found |= names if len(names) == len(node.names) else names | {module}
    return (found & house.modules.keys()) - {name}


def circles(house: Checkout) -> int:
    """How many imports must go until no circle is left: one of each circle found is taken away."""
    graph = {name: imports(house, name) for name in sorted(house.modules)}
    count = 0
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return count
        except CycleError as error:
            # the circle is listed so that each is imported by the next, the first again at the end
            imported, importer = error.args[1][:2]
            graph[importer].discard(imported)
            count += 1


def tested_by_path(house: Checkout) -> int:
    """Modules with tests/ROOM/test_NAME.py, at the same path below tests as in openclip_eclip."""
    return sum(_mirror(path) in house.sources for path in _testable(house))


def tested_by_name(house: Checkout) -> int:
    """Modules whose name is contained, as whole words, in the name of a test file anywhere."""
    stems = [f"_{path.stem}_" for path in house.among("tests") if path.name.startswith("test_")]
    return sum(any(f"_{path.stem}_" in stem for stem in stems) for path in _testable(house))


def _testable(house: Checkout) -> list[Path]:
    return [path for path in house.among(*PACKAGES) if not path.name.startswith("__")]


def _mirror(path: Path) -> Path:
    below = path.parts[1:] if path.parts[0] == PACKAGES[0] else path.parts
    return Path("tests", *below[:-1], f"test_{below[-1]}")


# ---- copies


def copies(house: Checkout, *tops: str) -> int:
    """Places that repeat COPY or more lines of statements that stand elsewhere already.

    Statements are compared as `ast.unparse` writes them, without docstrings, comments and imports:
    how they are wrapped makes no difference, another name does. Copied neighbours count as one
    place, and what is inside a copy is not counted again.
    """
    count = 0
    seen: dict[str, tuple[int, int]] = {}  # text: (number of its body, index after its end)
    # outer bodies first, inner ones are appended on the way
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
    """Index after the fewest statements from `start` on that have COPY lines together."""
    lines = 0
    for end in range(start, len(texts)):
        lines += texts[end].count("\n") + 1
        if lines >= COPY:
            return end + 1
    return None


def _inner_bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Lists of statements directly inside a compound one, those of `except` and `case` included."""
    for _, value in ast.iter_fields(statement):
        for part in value if isinstance(value, list) else ():
            if isinstance(part, ast.excepthandler | ast.match_case):
                yield part.body
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value


def _bare(source: str) -> ast.Module:
    """A tree without docstrings and imports; a body may be empty then."""
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
    """Whether a statement is a string by itself."""
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
    """Errors in the packages, their dependencies read from the environment of this checkout."""
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
    # 0: clean, 1: findings; anything else is a fault of the call
    found = re.search(r"^Found (\d+) errors? in ", done.stdout, re.MULTILINE)
    if done.returncode == 1 and found:
        return int(found[1])
    return 0 if done.returncode == 0 else None


def tool(name: str) -> str | None:
    """Path of a linter, in .venv/bin of this checkout or on PATH."""
    own = ROOT / ".venv" / "bin" / name
    return str(own) if own.exists() else shutil.which(name)


def _present(house: Checkout, tops: Iterable[str]) -> list[str]:
    return [top for top in tops if house.among(top)]


def figures(house: Checkout, linters: bool = True) -> dict[str, str]:
    """{what: figure}, in the order of the table. Without `linters` ruff and mypy are not run."""
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
    """Markdown: a line a figure, a column a checkout; a dash where a checkout has no such room."""
    lines = ["| " + " | ".join(["", *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    # rooms of any column, then the rest
    names = sorted({name for found in columns.values() for name in found if name[0] == "`"})
    names += [name for name in next(iter(columns.values())) if name[0] != "`"]
    for name in names:
        cells = [found.get(name, "–") for found in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 2 and one sentence where a folder holds no package of ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="+", type=Path, help="root folders, oldest first")
    parser.add_argument("--names", help="headings of the columns, separated by commas")
    parser.add_argument("--no-linters", action="store_true", help="runs neither ruff nor mypy")
    args = parser.parse_args(argv)
    names = args.names.split(",") if args.names else [path.name for path in args.checkouts]
    if len(set(names)) != len(args.checkouts):
        parser.error(f"{len(args.checkouts)} checkouts need as many --names, each another")
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
