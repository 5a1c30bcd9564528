"""Tells annotators apart by their files, where the files themselves do not.

Two files that draw the same class on the same image come from two annotators. Files of other
images (train and val) or of other classes (one file a class) are parts of one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...annotations.record import Drawing
from ...config import UserError
from ..plan import Plan
from .found import OfImage

SHOWN = 6  # names in the summary


def name_annotators(plan: Plan, found: Iterable[OfImage]) -> None:
    """Give the drawings of unnamed annotators a name: of what tells their files apart.

    A number, as of Label Studio's users, is no name either: it counts within its file.

    Raises:
        UserError: neither folders nor file names tell the files apart.
    """
    images = list(found)
    rivals = _rivals(images)
    if not rivals:
        return
    files = {
        drawing.file: None  # in their order
        for one in images
        for drawing in one.drawings
        if drawing.file is not None and _is_unnamed(drawing)
    }
    kind, names = _best_names(list(files), rivals)
    for one in images:
        one.drawings = [
            replace(drawing, annotator=f"{names[drawing.file]} {drawing.annotator}".strip())
            if drawing.file in names and _is_unnamed(drawing)
            else drawing
            for drawing in one.drawings
        ]
    plan.facts[f"annotators, by {kind}"] = listed(set(names.values()))


def listed(names: Iterable[str]) -> str:
    """The first names, and how many there are where these are not all."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:SHOWN])
    return shown if len(ordered) <= SHOWN else f"{len(ordered)}, such as {shown}"


def _is_unnamed(drawing: Drawing) -> bool:
    return not drawing.annotator or drawing.annotator.isdigit()


def _rivals(images: Sequence[OfImage]) -> list[tuple[str, str, list[Path]]]:
    """(image, class, files) where several files draw one class and name the same or nobody."""
    result = []
    for one in images:
        files: dict[tuple[str, str], set[Path]] = defaultdict(set)
        for drawing in one.drawings:
            if drawing.file is not None and _is_unnamed(drawing):
                files[drawing.label, drawing.annotator].add(drawing.file)
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
