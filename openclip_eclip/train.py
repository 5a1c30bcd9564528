"""open_clip's training with expert heatmaps: `python -m openclip_eclip.train`, or under torchrun.

    torchrun --nproc_per_node 4 -m -- openclip_eclip.train --model ViT-B-16 --train-data train.csv --logs runs

The `--` before the module keeps torchrun from taking --logs for its own. All flags of open_clip_train work;
`--help` lists ours first.
"""
from __future__ import annotations

import logging
import sys
from typing import Sequence

from .config import UserError
from .params import eclip_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `open_clip_train.main.main` under our seams; UserError for bad flags or data."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(eclip_parser().format_help() + "\nopen_clip's own:\n")
    from open_clip_train.main import main as host_main

    from .training_patches import active

    handlers = list(logging.root.handlers)
    try:
        with active():
            if host_main(argv) == -1:  # open_clip prints its reason and returns
                raise UserError("open_clip stopped; its reason is printed above.")
    finally:  # open_clip adds handlers to the root logger for good: a second run would also write into the first one's log
        for handler in [handler for handler in logging.root.handlers if handler not in handlers]:
            logging.root.removeHandler(handler)
            handler.close()


def run() -> int:
    """`main` with errors of the user's as one line; the exit code."""
    try:
        main()
    except UserError as error:
        # a data worker's error arrives with its traceback as text; the sentence is at its end
        sys.stderr.write(f"error: {str(error).split('DataError: ')[-1].strip()}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
