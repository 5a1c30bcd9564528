"""What the command of every raw data set does with its plan."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..config import UserError
from ..data.overlap import shared_patients
from ..data.tables.missing_text import is_missing
from .options import add_shared_arguments, read_options
from .plan import Plan
from .writer import write_plan


def shared_names() -> set[str]:
    parser = argparse.ArgumentParser()
    add_shared_arguments(parser)
    return {action.dest for action in parser._actions} | {"name"}


def run_plan(args: argparse.Namespace, make_plan: Callable[[argparse.Namespace], Plan]) -> str:
    """Plan, then print it (--dry-run) or write it; the summary."""
    options = read_options(args)
    plan = make_plan(args)
    leave_out_missing_texts(plan)
    refuse_leaks(plan)
    if args.dry_run:
        return plan.summary()
    own = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in shared_names()
    }
    return write_plan(plan, options, own)


def leave_out_missing_texts(plan: Plan) -> None:
    """Without the items of splits whose text is blank or a word for nothing ("nan"): training would
    refuse them. Counted by name.
    """
    for split, items in plan.splits.items():
        kept = [item for item in items if not is_missing(item.text)]
        if len(kept) < len(items):
            for item in items:
                if is_missing(item.text):
                    plan.leave_out("no text, or a word that stands for none", item.key)
            plan.splits[split] = kept


def refuse_leaks(plan: Plan) -> None:
    """UserError if a patient of a training split (`train`, or `X-train`) is in another split or an
    evaluation set.

    `X-train` is compared with the other splits named X: it is no training set for the evaluation
    sets beside it.
    """
    others = {**plan.splits, **{name: found.items for name, found in plan.evaluation.items()}}
    for split, items in plan.splits.items():
        prefix = split.removesuffix("train")
        if split == prefix:
            continue
        for name in others if not prefix else plan.splits:
            if name != split and name.startswith(prefix):
                shared = shared_patients(
                    (item.columns for item in items), (item.columns for item in others[name])
                )
                if shared:
                    raise UserError(
                        f"{plan.name}: {len(shared)} patients are both in {split} and in {name},"
                        f" such as {', '.join(shared[:3])}; expected none. Nothing was written."
                    )
