"""Choosing evaluation images: exclusive classes, fixed numbers of each, seeded, over candidates in
a fixed order.
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
    """`count` items of each class, `label` set; with `group` (a column such as "patient") at most
    one an id over all classes.

    Candidates are sorted by key first, so that the choice depends on the seed and the set alone.
    Classes with the fewest candidates choose first. UserError: a class has too few.
    """
    rng, taken, chosen = np.random.default_rng(seed), set(), {}
    for name in sorted(candidates, key=lambda name: (len(candidates[name]), name)):
        found = sorted(candidates[name], key=lambda item: item.key)
        picked: list[Item] = []
        for i in rng.permutation(len(found)):
            identity = found[i].columns[group] if group else found[i].key
            if identity not in taken and len(picked) < count:
                picked.append(found[i])
                taken.add(identity)
        if len(picked) < count:
            raise UserError(
                f"class {name}: {len(picked)} images fit the rule, {count} are needed. A smaller"
                " copy of the data set? Leave the evaluation set out with --evaluation none."
            )
        chosen[name] = sorted(picked, key=lambda item: item.key)
    return [with_columns(item, label=name) for name in candidates for item in chosen[name]]


def with_columns(item: Item, **columns: str | int | float) -> Item:
    """The item with further columns."""
    return dataclasses.replace(item, columns={**item.columns, **columns})
