"""Write a trained eCLIP as a plain open_clip folder.

`openclip-eclip export RUN_OR_CKPT OUT_DIR`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .checkpoint import CARD, export_plain
from .config import UserError
from .model_folder import TEXT_CONFIG


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="openclip-eclip export", description=__doc__)
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_CKPT",
        help="run folder, whose newest checkpoint is taken, or a checkpoint file",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT_DIR",
        help="new folder, which open_clip loads as local-dir:OUT_DIR",
    )
    parser.add_argument("--model", help="model name, for a checkpoint without a run folder")
    args = parser.parse_args(argv)
    try:
        checkpoint = export_plain(args.source, args.out, args.model)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    moved = f"; before you move it, see {CARD} in it" * (args.out / TEXT_CONFIG).is_file()
    sys.stdout.write(
        f"{checkpoint} -> {args.out}; load it with open_clip.create_model('local-dir:{args.out}')"
        f"{moved}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
