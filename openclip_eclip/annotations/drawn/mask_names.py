"""Which image and class a mask picture stands for, by its name and folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ...config import UserError

# of folders and name endings that tell no class
GENERAL = frozenset(
    "mask masks seg segs segmentation segmentations segmentationclass segm label labels lbl gt"
    " groundtruth annotation annotations train training val valid validation test testing data"
    " png pngs bin binary manual roi rois".split()
)
ENDING = re.compile(r"(.+)[_-]([^_-]*[^\W\d_][^_-]*)")  # a last word with a letter
FIELD = re.compile(r"\\{(image|label|annotator)\\}")


class MaskName(NamedTuple):
    image: str
    label: str = ""
    annotator: str = ""


def strip_general(stem: str) -> str:
    """`stem` without endings such as _mask, -seg or .label."""
    while True:
        match = re.fullmatch(r"(.+)[_.-]([A-Za-z]+)", stem)
        if match is None or match[2].lower() not in GENERAL:
            return stem
        stem = match[1]


def is_general(name: str) -> bool:
    return re.sub(r"[\W_]+", "", name.lower()) in GENERAL


def name_masks(
    files: Sequence[Path],
    root: Path,
    names: Collection[str],
    pattern: str | None,
    others: Collection[str] = (),
) -> list[MaskName]:
    """The names of all files, which are told apart together.

    A folder is a class if a mask of the same name is in another such folder, or if there is only
    one: folders of patients hold other images each. Those in `others` are no classes.

    `names`: known classes; `pattern`: of --mask-names, or None to guess; `others`: the folders of
    the images.

    Raises:
        UserError: a pattern without {image}, or a file that does not have its form.
    """
    relative = [
        path.relative_to(root) if path.is_relative_to(root) else Path(path.name) for path in files
    ]
    if pattern is not None:
        return [_by_pattern(path, pattern, file) for path, file in zip(relative, files)]
    folders = [_class_folder(path, others) for path in relative]
    stems = [strip_general(path.stem) for path in relative]
    if len(set(folders) - {""}) == 1 or _come_again(stems, folders):
        return [MaskName(stem, folder) for stem, folder in zip(stems, folders)]
    known = [_known_ending(stem, names) for stem in stems]
    if any(label for _, label in known):
        return [MaskName(*pair) for pair in known]
    endings = [ENDING.fullmatch(stem) for stem in stems]
    if _are_classes(endings):
        return [MaskName(match[1], match[2]) for match in endings if match]
    return [MaskName(stem) for stem in stems]


def _class_folder(path: PurePath, others: Collection[str]) -> str:
    """The innermost folder that is no general one and none of the images."""
    folders = reversed(path.parts[:-1])
    return next((name for name in folders if not is_general(name) and name not in others), "")


def _come_again(stems: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether masks in two of the folders have the same name."""
    pairs = {(stem, folder) for stem, folder in zip(stems, folders) if folder}
    return len({stem for stem, _ in pairs}) < len(pairs)


def _known_ending(stem: str, names: Collection[str]) -> tuple[str, str]:
    """(image, class) if `stem` ends in a known class, the longest that fits; (stem, "") if not."""
    simple = stem.lower().replace(" ", "_")
    for name in sorted(names, key=len, reverse=True):
        for mark in "_-":
            ending = mark + name.lower().replace(" ", "_")
            if simple.endswith(ending) and len(simple) > len(ending):
                return stem[: -len(ending)], name
    return stem, ""


def _are_classes(endings: Sequence[re.Match[str] | None]) -> bool:
    """Whether all names have an ending, and an image has several, or each ending comes again."""
    found = [match for match in endings if match]
    if not found or len(found) < len(endings):
        return False
    images = Counter(match[1] for match in found)
    return max(images.values()) > 1 or min(Counter(match[2] for match in found).values()) > 1


def _by_pattern(path: PurePath, pattern: str, file: Path) -> MaskName:
    escaped = FIELD.sub(r"(?P<\1>[^/]+)", re.escape(pattern))
    try:
        form = re.compile(rf"(?:.*/)?{escaped}")
    except re.error as error:
        raise UserError(f"--mask-names {pattern}: {error}; expected each field once.") from error
    if "image" not in form.groupindex:
        raise UserError(
            f"--mask-names {pattern}: expected {{image}}, and where there are {{label}} and"
            " {annotator}, such as {label}/{image}."
        )
    match = form.fullmatch(path.with_suffix("").as_posix())
    if match is None:
        raise UserError(f"{file}: its name does not have the form --mask-names {pattern}.")
    found = match.groupdict()
    return MaskName(found["image"], found.get("label", ""), found.get("annotator", ""))
