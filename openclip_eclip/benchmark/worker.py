"""Runs the commands that come in on stdin, a JSON line each: [module, flags, log]; answers each
with a line, its exit code.

What one command imported is there for the next; with --cache so are the words and pictures that it
read (for small data sets). An error that the command does not handle ends the process, its
traceback in the log. --register FILE runs a file of Python first, which registers models.
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
from . import phantom_tower  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--register", metavar="FILE")
    args = parser.parse_args()
    if args.register:
        runpy.run_path(args.register)
    if args.cache:
        csv_source.read_picture = lru_cache(maxsize=None)(csv_source.read_picture)
        open_clip.tokenizer.SimpleTokenizer.encode = lru_cache(maxsize=None)(
            open_clip.tokenizer.SimpleTokenizer.encode
        )
    replies = os.fdopen(os.dup(1), "w")  # the commands' own output goes into their logs
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
