"""Evaluation sets: a table of files, or webdataset shards, with labels, texts and a recipe beside
them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...config import DataError, UserError
from ...data.images.options import ReadOptions
from ...data.sample import read_image
from ...data.shards.stream import expand_paths
from ...data.shards.tar_source import TarEntry, index_shard
from ...data.tables.csv_source import locate
from ...data.tables.missing_text import is_missing
from ...data.tables.near_names import did_you_mean
from ...data.tables.text import line_of, read_table_text
from ...json_text import decode_text, parse_json, read_json


@dataclass
class EvalSet:
    """Samples in file order. `table`: a row each, all columns as text; `images`: a file, or an
    entry of a shard, each.
    """

    path: Path
    images: Sequence[Path | TarEntry]
    table: pd.DataFrame
    # X.recipe.json, or classes.json, beside the table
    recipe: dict[str, Any] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)  # {sample: reason}
    reading: ReadOptions = ReadOptions()  # how its images are read
    lines: np.ndarray | None = None  # of all rows of the file, as `table_text.TableText`
    _hash: str = field(default="", init=False, repr=False, compare=False)
    _contents: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ids(self) -> list[str]:
        """A name for each sample that does not depend on where the data lies: path in the table, or
        key in its shard.
        """
        if "filepath" in self.table:
            return self.table["filepath"].tolist()
        # a table has that column, so all of these are entries of shards
        return [
            f"{entry.shard.name}/{entry.key}"
            for entry in self.images
            if isinstance(entry, TarEntry)
        ]

    def name(self, row: int) -> str:
        number = self.table.index[row] + 1
        return f"{self.path}, row {number}{line_of(self.lines, number)} ({self.ids[row]})"

    def read(self, row: int) -> bytes:
        """The image's bytes; DataError if it is missing."""
        image = self.images[row]
        try:
            if isinstance(image, Path):
                return image.read_bytes()
            return next(iter(image.read(_image_key(image)).values()))
        except OSError as error:
            raise DataError(f"{self.name(row)}: no such image ({error}).") from error

    def identities(self) -> list[bytes]:
        """For each sample the SHA-256 of its image's content: equal ones are one image, whatever
        the rows call it.
        """
        if not self._contents:
            self._contents = [hashlib.sha256(self.read(row)).digest() for row in range(len(self))]
        return self._contents

    def size(self, row: int) -> int:
        """Of the image in bytes, without reading it."""
        image = self.images[row]
        if isinstance(image, Path):
            return image.stat().st_size
        return image.members[_image_key(image)][1]

    def column(self, name: str) -> list[str]:
        """A column as text; UserError names what there is."""
        if name not in self.table:
            raise UserError(
                f"{self.path}: no column {name!r}; found"
                f" {list(self.table.columns)}.{did_you_mean(name, self.table.columns)}"
            )
        return self.table[name].tolist()

    def keep(self, mask: np.ndarray, reason: str) -> EvalSet:
        """The rows of `mask` (N,) bool; the others are named with `reason`."""
        dropped = {self.ids[i]: reason for i in np.flatnonzero(~mask)}
        return replace(
            self,
            images=[image for image, kept in zip(self.images, mask, strict=True) if kept],
            table=self.table[mask],
            excluded={**self.excluded, **dropped},
        )

    def class_labels(self, classes: list[str], column: str = "label") -> np.ndarray:
        """(N,) int64 of a single-label set: the column holds class names or their numbers.

        UserError: an unknown class (with file and row), a row without label, or classes without any
        row.
        """
        numbers = {
            **{str(i): i for i in range(len(classes))},
            **{name: i for i, name in enumerate(classes)},
        }
        cells = self.column(column)
        for row, cell in enumerate(cells):
            if cell not in numbers:
                found = "no label" if is_missing(cell) else f"unknown class {cell!r}"
                raise UserError(
                    f"{self.name(row)}, column {column!r}: {found}; expected one of {classes} or"
                    " its number."
                )
        return np.array([numbers[cell] for cell in cells], dtype=np.int64)

    def multi_labels(self, classes: list[str]) -> np.ndarray:
        """(N, K) float64 of 1, 0 and NaN (blank) from one column a class; UserError for another
        value, with file and row.
        """
        known = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "": np.nan}
        values = np.empty((len(self), len(classes)))
        for k, name in enumerate(classes):
            for row, cell in enumerate(self.column(name)):
                if cell not in known:
                    raise UserError(
                        f"{self.name(row)}, column {name!r}: {cell!r}; expected 1, 0 or blank."
                        " Decide first what an uncertain label is to mean."
                    )
                values[row, k] = known[cell]
        return values

    def with_one_hot_label(self, classes: list[str]) -> EvalSet:
        """The same with a column `label` made of one 0/1 column a class. UserError: a row that is
        not of exactly one class.
        """
        values = self.multi_labels(classes)
        wrong = np.flatnonzero(np.isnan(values).any(axis=1) | (np.nansum(values, axis=1) != 1))
        if len(wrong):
            held = [
                name for name, value in zip(classes, values[wrong[0]], strict=True) if value == 1
            ]
            raise UserError(
                f"{self.name(int(wrong[0]))}: of the classes {held or 'none'}, so its label is not"
                f" one-hot, as are {len(wrong)} rows; expected 1 in exactly one of {classes} and 0"
                " in the others, or a column 'label'."
            )
        return replace(
            self, table=self.table.assign(label=[classes[i] for i in values.argmax(axis=1)])
        )

    def content_hash(self) -> str:
        """SHA-256 over ids and image contents in order; read once."""
        if not self._hash:
            digest = hashlib.sha256()
            for name, content in zip(self.ids, self.identities(), strict=True):
                digest.update(content + name.encode())
            self._hash = digest.hexdigest()
        return self._hash

    def thumbnail(self, row: int) -> bytes:
        """A JPEG of at most 384 pixels a side, for examples."""
        image = read_image(self.read(row), self.name(row), "RGB", self.reading)
        image.thumbnail((384, 384))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def read_eval_set(
    path: str | Path, skip_bad: bool = False, reading: ReadOptions = ReadOptions()
) -> EvalSet:
    """Read a .csv or .tsv table (column filepath), or .tar shards (braces allowed); DataError for
    missing files.

    `skip_bad`: missing images, and samples of shards that cannot be read, are counted and named in
    `excluded`. `reading`: how its images are read.
    """
    path = Path(path)
    found = replace(
        _read_shards(path, skip_bad) if path.suffix == ".tar" else _read_table(path),
        reading=reading,
    )
    if not len(found):
        raise DataError(f"{path}: no samples.")
    missing = np.array([isinstance(image, Path) and not image.is_file() for image in found.images])
    if missing.any():
        if not skip_bad:
            raise DataError(
                f"{found.name(int(np.flatnonzero(missing)[0]))}: no such image; {missing.sum()} of"
                f" {len(found)} are missing. Expected paths as written or relative to the table;"
                " --on-bad-sample skip leaves them out, counted."
            )
        found = found.keep(~missing, "no such image")
    return found


def _read_table(path: Path) -> EvalSet:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected a .csv or .tsv table with a column 'filepath', or .tar"
            " shards."
        )
    table, _, lines = read_table_text(path)
    if "filepath" not in table:
        raise DataError(
            f"{path}: no column 'filepath'; found"
            f" {list(table.columns)}.{did_you_mean('filepath', table.columns)}"
        )
    folder = path.parent
    return EvalSet(
        path,
        [locate(cell, folder) for cell in table["filepath"]],
        table,
        _recipe(folder, path.stem),
        lines=lines,
    )


def _read_shards(path: Path, skip_bad: bool) -> EvalSet:
    entries, rows, excluded = [], [], {}
    for entry in (entry for shard in expand_paths(str(path)) for entry in index_shard(shard)):
        try:
            rows.append(_read_row(entry))
        except DataError as error:
            if not skip_bad:
                raise
            excluded[f"{entry.shard.name}/{entry.key}"] = str(error)
            continue
        entries.append(entry)
    table = pd.DataFrame(rows).fillna("") if rows else pd.DataFrame()
    return EvalSet(path, entries, table, _recipe(path.parent, path.stem), excluded)


def _read_row(entry: TarEntry) -> dict[str, str]:
    """What the txt, json and cls members of a sample say; DataError names shard, key and member."""
    if entry.image_key is None:
        raise DataError(f"{entry.where}: members {sorted(entry.members)}; expected an image.")
    content = entry.read(*(name for name in ("txt", "json", "cls") if name in entry.members))
    found = parse_json(content.get("json", b"{}"), f"{entry.where}.json")
    row = {str(key): "" if value is None else str(value) for key, value in found.items()}
    if "cls" in content:
        row["label"] = decode_text(content["cls"], f"{entry.where}.cls").strip()
    if "txt" in content:
        row["title"] = decode_text(content["txt"], f"{entry.where}.txt")
    return row


def _image_key(entry: TarEntry) -> str:
    """The member that is the image."""
    key = entry.image_key
    assert key is not None  # `_read_row` has refused or left out entries without one
    return key


def _recipe(folder: Path, stem: str) -> dict[str, Any]:
    for name in (f"{stem}.recipe.json", "classes.json"):
        if (folder / name).is_file():
            return _checked_recipe(folder / name)
    return {}


def _checked_recipe(path: Path) -> dict[str, Any]:
    """DataError: classes that are no list of names, or one of them twice, and other entries that
    zero-shot cannot use.
    """
    recipe = read_json(path)
    classes = recipe.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise DataError(f"{path}: classes is {str(classes)[:80]}; expected a list of names.")
    repeated = [name for name in classes if classes.count(name) > 1]
    if repeated:
        raise DataError(f"{path}: class {repeated[0]!r} stands there twice; expected each once.")
    for name, kind in (("set", str), ("prompts", dict)):
        if name in recipe and not isinstance(recipe[name], kind):
            raise DataError(
                f"{path}: {name} is {str(recipe[name])[:80]}; expected"
                f" {'a text' if kind is str else '{class: prompts}'}."
            )
    return recipe


def with_reports(data: EvalSet, column: str) -> EvalSet:
    """The rows that have a report; the others are named as excluded. UserError if none has."""
    has = np.array([not is_missing(text) for text in data.column(column)])
    if not has.any():
        raise UserError(
            f"{data.path}: column {column!r} holds no report at all; name the column of the reports"
            " with --text-column."
        )
    return data.keep(has, "no report") if not has.all() else data
