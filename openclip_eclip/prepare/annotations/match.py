"""Finds the image that an annotation or a text names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...config import UserError
from ...data.tables.csv_source import read_columns
from ...data.tables.near_names import near_names

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm", ".dcm", ".dicom")
)


class Images:
    """The images of the user by name: the path below their folder, with /."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = dict(files)
        self._folders = {folder for name in files for folder in name.split("/")[:-1]}
        self._by_file: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in files:
            file = name.rpartition("/")[2]
            self._by_file[file].append(name)
            self._by_stem[stem(file)].append(name)

    def find(self, wanted: str, file: Path | None = None) -> str | None:
        """The name of the one image that `wanted` may mean, or None.

        `wanted` is a path of any system, a file name, or a name without a suffix. A whole path
        counts first, then the file name, then the name without suffixes. Where `wanted` and an
        image have folders, the last folder must be the same. Where several images have the name,
        the one that shares the most folders at the end counts.

        `file`: the file that says so. `wanted` counts from its folder: a name without folders is
        that of an image in a folder of the same name, if the images have such a folder; and of
        several images the one counts that shares the most folders with `file`.

        Raises:
            UserError: several images fit equally well.
        """
        if wanted in self.files and not self._folders:  # most names, without looking closer
            return wanted
        folder = Path(os.path.abspath(file)).parent if file and self._folders else Path()
        path = PureWindowsPath(wanted) if "\\" in wanted else PurePosixPath(wanted)
        parts = [part for part in path.as_posix().split("/") if part not in ("", ".", "..")]
        here = len(parts) == 1 and folder.name in self._folders
        if wanted in self.files and not here:
            return wanted
        if not parts:
            return None
        names = self._by_file.get(parts[-1]) or self._by_stem.get(stem(parts[-1])) or []
        if here:
            names = [name for name in names if folder.name in PurePosixPath(name).parts[:-1]]
        elif parts[1:]:  # view1.png of another patient's folder is another image
            names = [name for name in names if "/" not in name or _shared_folders(name, parts)]
        if not names:
            return None
        whole = os.path.normpath(folder / path.as_posix()).split(os.sep)
        shared = {
            name: (_shared_folders(name, whole), len({*whole} & {*name.split("/")}))
            for name in names
        }
        best = max(shared.values())
        nearest = [name for name, count in shared.items() if count == best]
        if len(nearest) > 1:
            raise UserError(
                f"{wanted!r} may be {nearest[0]} or {nearest[1]}; expected one image. Annotations"
                " and texts need the folders in the name where file names repeat."
            )
        return nearest[0]


def stem(file_name: str) -> str:
    """The name without the suffix of an image; other dots stay."""
    suffix = os.path.splitext(file_name)[1].lower()
    return file_name[: -len(suffix)] if suffix in SUFFIXES else file_name


def _shared_folders(name: str, parts: list[str]) -> int:
    """How many folders from the last on are the same."""
    count = 0
    for mine, other in zip(reversed(PurePosixPath(name).parts[:-1]), reversed(parts[:-1])):
        if mine != other:
            break
        count += 1
    return count


def read_images(source: Path) -> Images:
    """The images of a folder and its folders, or of a table's column of image files.

    Raises:
        UserError: no image there, or a table without such a column.
    """
    if source.is_dir():
        files = image_files(source)
    elif source.is_file():
        frame = read_columns(source)
        column = find_column(source, frame.columns, "filepath", "--image-column")
        files = {name: source.parent / name for name in frame[column] if name}
    else:
        raise UserError(f"--images {source}: no such folder or table.")
    if not files:
        raise UserError(f"--images {source}: no image; expected files such as .png, .jpg or .dcm.")
    return Images(files)


def image_files(folder: Path) -> dict[str, Path]:
    """{path below the folder, with /: file} of the images of a folder and its folders, in order."""
    below = len(os.path.join(folder, ""))
    files = {}
    for parent, _, names in os.walk(folder):  # rglob asks for every file whether it is one
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                path = Path(parent) / name
                files[os.path.join(parent, name)[below:].replace(os.sep, "/")] = path
    return dict(sorted(files.items()))


def find_column(path: Path, header: Iterable[str], role: str, flag: str) -> str:
    """The column of a table that is `role`, or has a name that is usual for it.

    `flag`: named in the message as the remedy. UserError: none, or several.
    """
    header = list(header)
    if role in header:
        return role
    names = near_names(role, header)
    if len(names) == 1:
        return names[0]
    found = f"columns {', '.join(names)} may be it" if names else f"the header has {header}"
    raise UserError(f"{path}: no column {role!r}; {found}. Name it with {flag}.")
