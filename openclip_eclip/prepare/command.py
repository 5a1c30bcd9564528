"""What the command of every raw data set does with its plan."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

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
    if args.dry_run:
        return plan.summary()
    own = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
           if name not in shared_names()}
    return write_plan(plan, options, own)
