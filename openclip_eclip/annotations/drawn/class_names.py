"""Names of classes from the small files that annotation tools write beside their exports.

classes.txt, labels.txt, obj.names: one name a line, by number. labelmap.txt: CVAT's, with colours.
data.yaml or another YAML file: its key `names`. classes.json: an object of numbers by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...config import UserError
from ...json_text import decode_text, read_json, show

LISTS = ("classes.txt", "labels.txt", "obj.names", "predefined_classes.txt")
COLOURS = "labelmap.txt"
JSON = "classes.json"
LARGEST = 1 << 20  # bytes
NUMBERED = re.compile(r"(\d{1,9})\s*[:=,\t ]\s*(.+)")
COLOURED = re.compile(r"([^:#][^:]*):(\d{1,3}),(\d{1,3}),(\d{1,3}):")
BACKGROUND = ("background", "bg", "_background_", "__background__", "unlabelled", "unlabeled")


@dataclass(frozen=True)
class ClassNames:
    """`names`: by number; `colours`: by 0xRRGGBB, if the file has them; `plain`: a bare list."""

    path: Path
    names: dict[int, str]
    colours: dict[int, str]
    plain: bool = False


def is_class_file(path: Path) -> bool:
    return path.name.lower() in (*LISTS, COLOURS, JSON)


def find_class_names(folder: Path, root: Path) -> ClassNames | None:
    """The names in `folder`, or else in the nearest folder above it up to `root`.

    Raises:
        UserError: such a file that cannot be read, or a class in it twice.
    """
    above = folder.parents if root in folder.parents else ()
    for place in (folder, *above):
        for name in (*LISTS, COLOURS, JSON):
            if (place / name).is_file():
                return _read(place / name)
        for path in sorted((*place.glob("*.yaml"), *place.glob("*.yml"))):
            found = _yaml(path)
            if found is not None:
                return found
        if place == root:
            return None
    return None


def _read(path: Path) -> ClassNames:
    if path.name == JSON:
        return _numbered(path, {name: value for name, value in read_json(path).items()})
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if path.name == COLOURS:
        return _coloured(path, [line for line in lines if not line.startswith("#")])
    matches = [NUMBERED.fullmatch(line) for line in lines]
    if lines and all(matches):
        return _numbered(path, {match[2]: int(match[1]) for match in matches if match})
    _refuse_twice(path, lines)
    return ClassNames(path, dict(enumerate(lines)), {}, plain=True)


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes; expected names of classes, at most {LARGEST}."
        )
    return decode_text(path.read_bytes(), str(path)).removeprefix("\ufeff")


def _numbered(path: Path, numbers: dict[str, Any]) -> ClassNames:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(
                f"{path}, {show(name)}: {show(value)}; expected the number of the class."
            )
    if len(set(numbers.values())) < len(numbers):
        raise UserError(f"{path}: two classes of the same number; expected one name for each.")
    return ClassNames(path, {value: name for name, value in numbers.items()}, {})


def _coloured(path: Path, lines: list[str]) -> ClassNames:
    """Lines `name:red,green,blue:parts:actions`; their order is that of the palette."""
    names, colours = {}, {}
    for i, line in enumerate(lines):
        match = COLOURED.match(line)
        if match is None or any(int(match[part]) > 255 for part in (2, 3, 4)):
            raise UserError(f"{path}: {show(line)}; expected name:red,green,blue:: with 0 to 255.")
        names[i] = match[1].strip()
        colours[int(match[2]) << 16 | int(match[3]) << 8 | int(match[4])] = names[i]
    _refuse_twice(path, list(names.values()))
    return ClassNames(path, names, colours)


def _refuse_twice(path: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"{path}: the class {name!r} twice; expected each name once.")


def _yaml(path: Path) -> ClassNames | None:
    """The `names` of a YAML file; None if it has no such key."""
    content = read_yaml(path)
    names = content.get("names")
    if names is None:
        return None
    numbers = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbers, dict) or not all(
        isinstance(number, int) and isinstance(name, str | int) for number, name in numbers.items()
    ):
        raise UserError(f"{path}, names: expected a list of names, or numbers with a name each.")
    return ClassNames(path, {number: str(name) for number, name in numbers.items()}, {})


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, {} for anything else. UserError: broken YAML."""
    try:
        content = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # a date such as 2001-99-99
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}
