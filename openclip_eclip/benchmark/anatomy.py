"""Runs on phantoms of different anatomies never share a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..config import UserError


def anatomy_of(table: Path | str) -> str | None:
    """The anatomy of the phantoms of `table`, from the recipe.json beside it.

    None: not phantoms, as far as is known.
    """
    path = Path(table).parent / "recipe.json"
    if not path.is_file():
        return None
    recipe = json.loads(path.read_text(encoding="utf-8"))
    if recipe.get("dataset") != "phantom":
        return None
    return recipe["parameters"].get("anatomy", "chest")


def check_same_anatomy(facts_file: Path, table: Path | str) -> None:
    """UserError: a finished run, with its facts in `facts_file`, had another anatomy than `table`.

    Runs that were made before there was a second anatomy have no record of it; theirs is the chest.
    """
    if not facts_file.is_file():
        return
    run: dict[str, Any] = json.loads(facts_file.read_text(encoding="utf-8"))
    trained, wanted = run.get("anatomy") or "chest", anatomy_of(table) or "chest"
    if trained != wanted:
        raise UserError(
            f"{facts_file.parent} was trained on phantoms of anatomy {trained!r}, but {table} has"
            f" {wanted!r}; a table has one anatomy: give another --out."
        )
