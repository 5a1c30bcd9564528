"""Chooses evaluation images: a fixed number of each class, by a seed.

Candidates are taken in a fixed order, so the choice depends only on the seed and the data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ..config import UserError
from .plan import Item


def choose_per_class(
    candidates: Mapping[str, Sequence[Item]], count: int, seed: int, *, group: str | None = None
) -> list[Item]:
    """`count` items of each class, with their class in the column `label`.

    With `group` (a column such as "patient"), each id is chosen at most once over all classes.
    Candidates are sorted by key first, so the choice depends only on the seed and the data set.
    Classes with the fewest candidates choose first.

    Raises:
        UserError: a class has fewer than `count` candidates.
    """
    rng, taken, chosen = np.random.default_rng(seed), set(), {}
    for name in sorted(candidates, key=lambda name: (len(candidates[name]), name)):
        items = sorted(candidates[name], key=lambda item: item.key)
        picked: list[Item] = []
        for i in rng.permutation(len(items)):
            identity = items[i].columns[group] if group else items[i].key
            if identity not in taken and len(picked) < count:
                picked.append(items[i])
                taken.add(identity)
        if len(picked) < count:
            raise UserError(
                f"class {name}: {len(picked)} images fit the rule, {count} are needed. If this is a"
                " smaller copy of the data set, skip the evaluation set with --evaluation none."
            )
        chosen[name] = sorted(picked, key=lambda item: item.key)
    return [with_columns(item, label=name) for name in candidates for item in chosen[name]]


def with_columns(item: Item, **columns: str | int | float) -> Item:
    """A copy of the item with these columns added or replaced."""
    return dataclasses.replace(item, columns={**item.columns, **columns})
