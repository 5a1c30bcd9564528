"""`python -m PACKAGE COMMAND ...`: a table of commands; only the given command's module loads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .files import in_the_way


def parse_command(
    parser: argparse.ArgumentParser,
    dest: str,
    commands: Mapping[str, tuple[str, str]],
    argv: list[str] | None,
) -> tuple[ModuleType, argparse.Namespace]:
    """(module of the command, its arguments).

    `commands`: {command: (module with add_arguments, one line of help)}; `dest`: the attribute of
    the command's name.
    """
    argv = sys.argv[1:] if argv is None else argv
    wanted = next((word for word in argv if not word.startswith("-")), None)
    choices = parser.add_subparsers(dest=dest, metavar=dest.upper(), required=True)
    module = None
    for name, (module_name, summary) in commands.items():
        command = choices.add_parser(name, help=summary, description=summary)
        if name == wanted:
            module = import_module(module_name)
            module.add_arguments(command)
    args = parser.parse_args(argv)
    assert module is not None  # argparse has ended the program at a missing or unknown command
    return module, args


def seed(text: str) -> int:
    """A random seed from the command line, at least 0, as numpy requires."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 0")
    return int(text)


def exit_code(work: Callable[[], str]) -> int:
    """Print the result of `work` and return 0; for an error one line on stderr and 2.

    Errors are bad input, a full disk, or a folder that cannot be read.
    """
    try:
        result = work()
    except (ValueError, OSError) as error:
        sentence = str(error)
        if isinstance(error, (NotADirectoryError, FileExistsError)) and error.filename:
            file = in_the_way(Path(error.filename))
            sentence = f"{file} is a file; expected a folder, old or new." if file else sentence
        sys.stderr.write(f"error: {sentence}\n")
        return 2
    sys.stdout.write(f"{result}\n")
    return 0
