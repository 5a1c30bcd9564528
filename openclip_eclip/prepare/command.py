"""Checks the plan of a raw data set, then prints or writes it: the end of every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..config import UserError
from ..data.overlap import shared_patients
from ..data.tables.missing_text import is_missing
from ..json_text import counted
from .options import add_shared_arguments, read_options
from .plan import Plan
from .writer import write_plan


def shared_names() -> set[str]:
    """Names of the arguments that all raw data sets have."""
    parser = argparse.ArgumentParser()
    add_shared_arguments(parser)
    return {action.dest for action in parser._actions} | {"name"}


def run_plan(args: argparse.Namespace, make_plan: Callable[[argparse.Namespace], Plan]) -> str:
    """Makes the plan, then prints it (--dry-run) or writes it; returns the summary."""
    options = read_options(args)
    plan = make_plan(args)
    leave_out_missing_texts(plan)
    refuse_leaks(plan)
    if args.dry_run:
        return plan.summary()
    # the settings of this data set alone
    parameters = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in shared_names()
    }
    return write_plan(plan, options, parameters)


def leave_out_missing_texts(plan: Plan) -> None:
    """Removes the items of all splits whose text is blank or means "no text", such as "nan".

    Training rejects such texts. The plan counts the items and names some of them.
    """
    for split, items in plan.splits.items():
        for item in items:
            if is_missing(item.text):
                plan.leave_out("no text, or a word that stands for none", item.key)
        plan.splits[split] = [item for item in items if not is_missing(item.text)]


def refuse_leaks(plan: Plan) -> None:
    """Checks that no patient of a training split is in another split or in an evaluation set.

    Training splits are `train` and `X-train`. `X-train` is only compared with the other splits
    named X, because it does not train models for the evaluation sets beside it.

    Raises:
        UserError: a patient is on both sides.
    """
    evaluation = {name: chosen.items for name, chosen in plan.evaluation.items()}
    others = {**plan.splits, **evaluation}
    for split, items in plan.splits.items():
        prefix = split.removesuffix("train")
        if split == prefix:
            continue  # not a training split
        for name in others if not prefix else plan.splits:
            if name != split and name.startswith(prefix):
                shared = shared_patients(
                    (item.columns for item in items), (item.columns for item in others[name])
                )
                if shared:
                    raise UserError(
                        f"{plan.name}: {counted(len(shared), 'patient is', 'patients are')} both in"
                        f" {split} and in {name}, such as {', '.join(shared[:3])}; expected none."
                        " Nothing was written."
                    )
