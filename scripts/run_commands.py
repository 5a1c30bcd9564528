"""Runs the commands that come in on stdin, a JSON line each: [module, flags, log]; answers each with a line, its exit code.

What one command imported is there for the next. An error that the command does not handle ends the process, its traceback in the log.
"""
from __future__ import annotations

import json
import os
import runpy
import sys


def main() -> None:
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
