"""open_clip's training with expert heatmaps: `python -m openclip_eclip.train`, or under torchrun.

    torchrun --nproc_per_node 4 -m openclip_eclip.train --model ViT-B-16 --train-data train.csv
    --runs-dir runs
    torchrun --nproc_per_node 4 -m -- openclip_eclip.train --model ViT-B-16 --train-data train.csv
    --logs runs

Both commands are the same. `--runs-dir` is open_clip's `--logs`. Without the `--` before the module
torchrun stops at `--logs` ("ambiguous option: --logs could match --logs-specs"). All flags of
open_clip_train work; `--help` lists ours first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .config import Stopped, UserError
from .params import eclip_parser
from .version import __version__

GRACE = 5  # seconds that other ranks wait, so that the first one reports an error of all ranks


def main(argv: Sequence[str] | None = None) -> None:
    """Run `open_clip_train.main.main` with our patches. UserError for bad flags or data."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(eclip_parser().format_help() + "\nFlags of open_clip:\n")
    from open_clip_train.main import main as host_main

    check_patches()
    from training_patches import active
    from training_patches.run_folder import has_logged, is_consequence, log_stop

    handlers, patches = list(logging.root.handlers), None
    try:
        with active() as patches:
            if host_main(argv) == -1:  # open_clip prints its reason and returns
                raise UserError("open_clip stopped; its reason is printed above.")
    except (UserError, RuntimeError) as failure:
        if is_consequence(_args(patches), failure):
            raise SystemExit(getattr(failure, "exit_code", 1)) from failure
        is_users = isinstance(failure, UserError) and not isinstance(failure, Stopped)
        if is_users and os.environ.get("RANK", "0") != "0":
            time.sleep(GRACE)  # torchrun ends this process once the first rank has ended
            # an error in the flags is the same on every rank of a machine: only one reports it
            of_flags = _args(patches) is None and os.environ.get("LOCAL_RANK", "0") != "0"
            if of_flags or has_logged(_args(patches), sentence(failure)):
                raise SystemExit(2) from failure
        raise
    # open_clip never removes its handlers from the root logger: a second run would also write into
    # the log of the first
    finally:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, SystemExit):
            log_stop(_args(patches), sentence(error))
        for handler in [handler for handler in logging.root.handlers if handler not in handlers]:
            logging.root.removeHandler(handler)
            handler.close()


def check_patches() -> None:
    """UserError where `training_patches` is another package of that name, or of another version."""
    patches = import_module("training_patches")
    version = getattr(patches, "OPENCLIP_ECLIP", None)
    if version != __version__:
        whose = f"of openclip_eclip {version}" if version else "another package of that name"
        path = getattr(patches, "__file__", None) or ", ".join(patches.__path__)
        raise UserError(
            f"training_patches was found at {path}, which is {whose}; expected the one beside"
            f" openclip_eclip {__version__},"
            f" {Path(__file__).resolve().parents[1] / 'training_patches'}. Remove the other one, or"
            " start from another folder."
        )


def _args(patches: Any) -> argparse.Namespace | None:
    return getattr(getattr(patches, "session", None), "args", None)


def sentence(error: BaseException) -> str:
    """The message of an error on one line.

    A data worker's error arrives with its traceback as text; the message is at its end.
    """
    if isinstance(error, UserError):
        return " ".join(re.split(r"(?:Data|User)Error: ", str(error))[-1].split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def run() -> int:
    """Run `main` and return the exit code; a user's error is printed as one line."""
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {sentence(error)}\n")
        # torchrun shows the content of this file at the end of its message
        if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            facts = {"py_callstack": sentence(error), "timestamp": str(int(time.time()))}
            Path(file).write_text(
                json.dumps({"message": {"message": sentence(error), "extraInfo": facts}})
            )
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
