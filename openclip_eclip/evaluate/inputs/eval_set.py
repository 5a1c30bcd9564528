"""Evaluation sets: a table of image files, or webdataset shards, with labels and texts.

A recipe or classes.json beside the data names its classes.
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
    """Samples in file order.

    `images`: an image file or an entry of a shard, for each sample; `table`: a row for each
    sample, all columns as text.
    """

    path: Path
    images: Sequence[Path | TarEntry]
    table: pd.DataFrame
    # content of X.recipe.json or classes.json beside the table X
    recipe: dict[str, Any] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)  # {id of the sample: reason}
    reading: ReadOptions = ReadOptions()  # how its images are read
    # line numbers of all rows of the file, as in `tables.text.TableText`
    lines: np.ndarray | None = None
    _hash: str = field(default="", init=False, repr=False, compare=False)
    _contents: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ids(self) -> list[str]:
        """A name for each sample: its path in the table, or its shard and key.

        It does not depend on the folder of the data.
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
        """File, row, line and id of a sample, for messages."""
        number = self.table.index[row] + 1
        return f"{self.path}, row {number}{line_of(self.lines, number)} ({self.ids[row]})"

    def read(self, row: int) -> bytes:
        """The bytes of the image file. DataError: it is missing."""
        image = self.images[row]
        try:
            if isinstance(image, Path):
                return image.read_bytes()
            return next(iter(image.read(_image_key(image)).values()))
        except OSError as error:
            raise DataError(f"{self.name(row)}: no such image ({error}).") from error

    def identities(self) -> list[bytes]:
        """The SHA-256 of each image's content: equal hashes are the same image under any name."""
        if not self._contents:
            self._contents = [hashlib.sha256(self.read(row)).digest() for row in range(len(self))]
        return self._contents

    def size(self, row: int) -> int:
        """The size of the image file in bytes, without reading it."""
        image = self.images[row]
        if isinstance(image, Path):
            return image.stat().st_size
        return image.members[_image_key(image)][1]

    def column(self, name: str) -> list[str]:
        """A column as text. UserError: no such column; it names the columns there are."""
        if name not in self.table:
            raise UserError(
                f"{self.path}: no column {name!r}; found"
                f" {list(self.table.columns)}.{did_you_mean(name, self.table.columns)}"
            )
        return self.table[name].tolist()

    def keep(self, mask: np.ndarray, reason: str) -> EvalSet:
        """The rows where `mask` (N,) is True; `excluded` names the others, with `reason`."""
        dropped = {self.ids[i]: reason for i in np.flatnonzero(~mask)}
        return replace(
            self,
            images=[image for image, wanted in zip(self.images, mask, strict=True) if wanted],
            table=self.table[mask],
            excluded={**self.excluded, **dropped},
        )

    def class_labels(self, classes: list[str], column: str = "label") -> np.ndarray:
        """Class indices (N,) int64 of a set with one label for each image.

        The column holds class names or their numbers. UserError: an unknown class or a row without
        label, with file and row.
        """
        numbers = {
            **{str(i): i for i in range(len(classes))},
            **{name: i for i, name in enumerate(classes)},
        }
        cells = self.column(column)
        for row, cell in enumerate(cells):
            if cell not in numbers:
                problem = "no label" if is_missing(cell) else f"unknown class {cell!r}"
                raise UserError(
                    f"{self.name(row)}, column {column!r}: {problem}; expected one of {classes} or"
                    " its number."
                )
        return np.array([numbers[cell] for cell in cells], dtype=np.int64)

    def multi_labels(self, classes: list[str]) -> np.ndarray:
        """Labels (N, K) float64 of 1, 0 and NaN (blank), from one column for each class.

        UserError: another value, with file and row.
        """
        known = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "": np.nan}
        values = np.empty((len(self), len(classes)))
        for k, name in enumerate(classes):
            for row, cell in enumerate(self.column(name)):
                if cell not in known:
                    raise UserError(
                        f"{self.name(row)}, column {name!r}: {cell!r}; expected 1, 0 or blank."
                        " Decide first what an uncertain label means."
                    )
                values[row, k] = known[cell]
        return values

    def with_one_hot_label(self, classes: list[str]) -> EvalSet:
        """The same set with a column `label`, from one 0/1 column for each class.

        UserError: a row that is not of exactly one class.
        """
        values = self.multi_labels(classes)
        wrong = np.flatnonzero(np.isnan(values).any(axis=1) | (np.nansum(values, axis=1) != 1))
        if len(wrong):
            positive = [
                name for name, value in zip(classes, values[wrong[0]], strict=True) if value == 1
            ]
            raise UserError(
                f"{self.name(int(wrong[0]))}: of the classes {positive or 'none'}, so its label is"
                f" not one-hot ({len(wrong)} such rows); expected 1 in exactly one of {classes}"
                " and 0 in the others, or a column 'label'."
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
        """The image as JPEG with at most 384 pixels a side, for examples."""
        image = read_image(self.read(row), self.name(row), "RGB", self.reading)
        image.thumbnail((384, 384))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def read_eval_set(
    path: str | Path, skip_bad: bool = False, reading: ReadOptions = ReadOptions()
) -> EvalSet:
    """Read a .csv or .tsv table with a column filepath, or .tar shards (braces allowed).

    `skip_bad`: missing images and unreadable samples of shards go to `excluded`; else they are a
    DataError. `reading`: how images are read. DataError also: no such file, or no samples.
    """
    path = Path(path)
    data = replace(
        _read_shards(path, skip_bad) if path.suffix == ".tar" else _read_table(path),
        reading=reading,
    )
    if not len(data):
        raise DataError(f"{path}: no samples.")
    missing = np.array([isinstance(image, Path) and not image.is_file() for image in data.images])
    if missing.any():
        if not skip_bad:
            raise DataError(
                f"{data.name(int(np.flatnonzero(missing)[0]))}: no such image; {missing.sum()} of"
                f" {len(data)} are missing. Expected paths that exist as written or relative to the"
                " table; --on-bad-sample skip leaves them out and counts them."
            )
        data = data.keep(~missing, "no such image")
    return data


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
    """The txt, json and cls members of a sample as a row. DataError names shard, key and member."""
    if entry.image_key is None:
        raise DataError(f"{entry.where}: members {sorted(entry.members)}; expected an image.")
    content = entry.read(*(name for name in ("txt", "json", "cls") if name in entry.members))
    fields = parse_json(content.get("json", b"{}"), f"{entry.where}.json")
    row = {str(key): "" if value is None else str(value) for key, value in fields.items()}
    if "cls" in content:
        row["label"] = decode_text(content["cls"], f"{entry.where}.cls").strip()
    if "txt" in content:
        row["title"] = decode_text(content["txt"], f"{entry.where}.txt")
    return row


def _image_key(entry: TarEntry) -> str:
    """The name of the member that is the image."""
    key = entry.image_key
    assert key is not None  # `_read_row` raised an error for entries without an image
    return key


def _recipe(folder: Path, stem: str) -> dict[str, Any]:
    for name in (f"{stem}.recipe.json", "classes.json"):
        if (folder / name).is_file():
            return _checked_recipe(folder / name)
    return {}


def _checked_recipe(path: Path) -> dict[str, Any]:
    """The recipe. DataError: classes that are not a list of distinct names, or unusable prompts."""
    recipe = read_json(path)
    classes = recipe.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise DataError(f"{path}: classes is {str(classes)[:80]}; expected a list of names.")
    repeated = [name for name in classes if classes.count(name) > 1]
    if repeated:
        raise DataError(f"{path}: class {repeated[0]!r} occurs twice; expected each class once.")
    for name, kind in (("set", str), ("prompts", dict)):
        if name in recipe and not isinstance(recipe[name], kind):
            raise DataError(
                f"{path}: {name} is {str(recipe[name])[:80]}; expected"
                f" {'a text' if kind is str else '{class: prompts}'}."
            )
    return recipe


def with_reports(data: EvalSet, column: str) -> EvalSet:
    """The rows that have a report; `excluded` names the others. UserError: no row has one."""
    has = np.array([not is_missing(text) for text in data.column(column)])
    if not has.any():
        raise UserError(
            f"{data.path}: column {column!r} holds no report; name the column of the reports with"
            " --text-column."
        )
    return data.keep(has, "no report") if not has.all() else data
