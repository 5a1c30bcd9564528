"""The result of a task: values, tables, figures, notes, and predictions for `compare`."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None


@dataclass
class Table:
    """A table; floats are printed with three decimals, None as a dash. `note` is printed below."""

    title: str
    columns: list[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass
class Example:
    """An image (encoded bytes) with lines of text; a pair is a label and its text."""

    image: bytes
    lines: Sequence[str | tuple[str, str]]


@dataclass
class Result:
    """The result of a task.

    `values`: all numbers, nested, for result.json. `predictions`: arrays with an entry for each
    sample, for `compare` (predictions.npz). They hold `id` (N,) str, and by `kind` (0-d str):
      "classes": `label` (N,) int64, `score` (N, K) float64, `classes` (K,) str
      "binary": `label` (N, K) 0, 1 or NaN, `score` (N, K) float64, `classes` (K,) str
      "ranks": `rank` (N,) float64 from 1 (with ties the expected rank)
      "means": `score` (N, K) float64, `classes` (K,) str: metrics that are means over the samples
    `patient` or `image` (N,) str: groups of samples that `compare` draws as one.
    """

    task: str
    settings: dict[str, Any]
    values: dict[str, Any]
    tables: list[Table]
    figures: dict[str, Figure] = field(default_factory=dict)  # {file stem: picture}
    captions: dict[str, str] = field(default_factory=dict)  # {file stem: what it shows}
    examples: list[Example] = field(default_factory=list)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # names of metrics that the report explains (glossary.py)
    terms: list[str] = field(default_factory=list)
    warning: str = ""  # printed at the top
    title: str = ""  # of the pages, instead of the task
    # the answer to the reader's question at the top of the pages: a few words, then sentences
    answer: Sequence[str] = ()


def plain(value: Any) -> Any:
    """`value` as JSON types: numpy and paths are converted, NaN becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def show(cell: Cell) -> str:
    """A cell of a table as text."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.3f}" if isinstance(cell, (float, np.floating)) else str(cell)


def with_interval(value: float, low: float, high: float) -> str | None:
    """A number and its interval as a cell; None for NaN."""
    return None if math.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table, without a line break at the end."""
    body = [[show(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(result: Result) -> str:
    """A result as Markdown: all tables and notes."""
    parts = [f"# {result.title or result.task}\n"]
    parts += [f"**{result.warning}**\n"] if result.warning else []
    if result.answer:
        parts += [f"**{result.answer[0]}**\n", *(f"{line}\n" for line in result.answer[1:])]
    for table in result.tables:
        parts.append(f"## {table.title}\n\n{markdown_table(table.columns, table.rows)}\n")
        if table.note:
            parts.append(f"{table.note}\n")
    parts += [f"- {note}" for note in result.notes]
    return "\n".join(parts) + ("\n" if result.notes else "")


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz in a result folder. UserError: no such file, or damaged."""
    path = folder / "predictions.npz"
    if not path.is_file():
        raise UserError(
            f"{folder}: no predictions.npz; expected the --out folder of zero-shot, linear-probe,"
            " retrieval, sensitivity, grounding or reports."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (
        ValueError,
        OSError,
        EOFError,
        TypeError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path}: not a readable npz of plain arrays ({error}).") from error
    _check_predictions(path, arrays)
    return arrays


def _check_predictions(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """UserError: the arrays are not those of a `Result`."""
    kind = str(arrays.get("kind"))
    names = {
        "ranks": ("id", "rank"),
        "means": ("id", "score", "classes"),
        "classes": ("id", "label", "score", "classes"),
        "binary": ("id", "label", "score", "classes"),
    }.get(kind)
    if names is None or not set(names) <= set(arrays):
        raise UserError(
            f"{path}: arrays {sorted(arrays)} of kind {kind!r}; expected those that zero-shot,"
            " linear-probe, retrieval, sensitivity, grounding or reports write."
        )
    count, value = len(np.atleast_1d(arrays["id"])), arrays["rank" if kind == "ranks" else "score"]
    shape = (count,) if kind == "ranks" else (count, len(np.atleast_1d(arrays["classes"])))
    if value.shape != shape or value.dtype.kind not in "iuf" or arrays["id"].dtype.kind != "U":
        raise UserError(
            f"{path}: {'ranks' if kind == 'ranks' else 'scores'} of {value.dtype} {value.shape} for"
            f" {count} ids of {arrays['id'].dtype}; expected numbers {shape}, and ids as text."
        )
    if "label" in names and (
        len(np.atleast_1d(arrays["label"])) != count or arrays["label"].dtype.kind not in "iuf"
    ):
        raise UserError(
            f"{path}: labels of {arrays['label'].dtype} {arrays['label'].shape} for {count} ids;"
            " expected a number for each id."
        )
