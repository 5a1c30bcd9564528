"""Run commands from stdin, a JSON line [module, flags, log] each; answer each with its exit code.

Modules that one command imported stay loaded for the next. An error that a command does not handle
ends the process; its traceback is in the log.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from functools import lru_cache

import open_clip.tokenizer

from ..data.tables import csv_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache",
        action="store_true",
        help="keeps tokens and images in memory for the next command (for small data sets)",
    )
    parser.add_argument(
        "--register", metavar="FILE", help="Python file that is run first, to register models"
    )
    args = parser.parse_args()
    if args.register:
        runpy.run_path(args.register)
    if args.cache:
        csv_source.read_picture = lru_cache(maxsize=None)(csv_source.read_picture)
        open_clip.tokenizer.SimpleTokenizer.encode = lru_cache(maxsize=None)(
            open_clip.tokenizer.SimpleTokenizer.encode
        )
    replies = os.fdopen(os.dup(1), "w")  # stdout itself is redirected to the log of a command
    for line in sys.stdin:
        module, flags, log = json.loads(line)
        with open(log, "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [module, *flags]
        code: object = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code or 0
        sys.stdout.flush()
        replies.write(f"{code}\n".splitlines()[0] + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
