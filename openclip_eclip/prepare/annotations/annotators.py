"""Tells annotators apart by their files, where the files themselves do not.

Two files that draw the same class on the same image come from two annotators. Files of other
images (train and val) or of other classes (one file a class) are parts of one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...config import UserError
from ..plan import Plan
from .found import OfImage
from .kept import Group, KeptDrawings

SHOWN = 6  # names in the summary


def name_annotators(plan: Plan, found: Iterable[OfImage], kept: KeptDrawings) -> None:
    """Give the drawings of unnamed annotators a name: of what tells their files apart.

    A number, as of Label Studio's users, is no name either: it counts within its file.

    Raises:
        UserError: neither folders nor file names tell the files apart.
    """
    rivals = _rivals(found, kept.groups)
    if not rivals:
        return
    # in their order, each once
    files = dict.fromkeys(
        group.file for group in kept.groups if group.file is not None and _is_unnamed(group)
    )
    kind, names = _best_names(list(files), rivals)
    kept.groups = [
        group._replace(annotator=f"{names[group.file]} {group.annotator}".strip())
        if group.file in names and _is_unnamed(group)
        else group
        for group in kept.groups
    ]
    plan.facts[f"annotators, by {kind}"] = listed(set(names.values()))


def listed(names: Iterable[str]) -> str:
    """The first names, and how many there are where these are not all."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:SHOWN])
    return shown if len(ordered) <= SHOWN else f"{len(ordered)}, such as {shown}"


def _is_unnamed(group: Group) -> bool:
    return not group.annotator or group.annotator.isdigit()


def _rivals(found: Iterable[OfImage], groups: Sequence[Group]) -> list[tuple[str, str, list[Path]]]:
    """(image, class, files) where several files draw one class and name the same or nobody."""
    result = []
    for one in found:
        files: dict[tuple[str, str], set[Path]] = defaultdict(set)
        for group in (groups[number] for number in set(one.groups)):
            if group.file is not None and _is_unnamed(group):
                files[group.label, group.annotator].add(group.file)
        result += [
            (one.name, label, sorted(paths))
            for (label, _), paths in files.items()
            if len(paths) > 1
        ]
    return result


def _best_names(
    files: Sequence[Path], rivals: Sequence[tuple[str, str, list[Path]]]
) -> tuple[str, dict[Path, str]]:
    """(what the names are, the names): of those that tell all rivals apart, the fewest."""
    able = [
        (kind, names)
        for kind, names in _possible_names(files)
        if all(len({names[path] for path in paths}) == len(paths) for *_, paths in rivals)
    ]
    if able:
        return min(able, key=lambda pair: len(set(pair[1].values())))
    image, label, paths = rivals[0]
    what = f"the class {label!r}" if label else "shapes"
    raise UserError(
        f"{image}: {' and '.join(map(str, paths[:3]))} draw {what} on it and name no annotator;"
        " expected files that their folder or their name tells apart."
        " Put those of each annotator into a folder of their own; give only one of two copies."
    )


def _possible_names(files: Sequence[Path]) -> Iterator[tuple[str, dict[Path, str]]]:
    """File names; the folders on one level below what is common; the folders on all levels."""
    top = Path(os.path.commonpath([path.parent for path in files]))
    folders = {path: path.parent.relative_to(top).parts for path in files}
    yield "file name", {path: path.stem for path in files}
    for level in range(max(map(len, folders.values()))):
        yield "folder", {path: (*parts[level:], top.name)[0] for path, parts in folders.items()}
    yield "folder", {path: "/".join(parts) or top.name for path, parts in folders.items()}
