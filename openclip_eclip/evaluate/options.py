"""What every measuring task understands: a model, data, how to encode, where to write."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..config import UserError
from ..data.images.options import add_read_arguments
from .inputs.encoder import PRECISIONS, RANDOM, Encoder, load_encoder
from .inputs.features import EncodeOptions


def add_model_arguments(parser: argparse.ArgumentParser, encoding: bool = True) -> None:
    """The model and how it encodes; `encoding` False for a task that encodes no set."""
    parser.add_argument(
        "--model",
        required=True,
        help="model name of open_clip, plain or eclip-, local-dir:FOLDER, or the folder of a run",
    )
    parser.add_argument(
        "--pretrained",
        metavar="TAG_OR_FILE",
        help=f"weights as in open_clip; '{RANDOM}' for an untrained model",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)"
    )
    add_read_arguments(parser)
    if not encoding:
        return
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode images (default: %(default)s)"
    )
    parser.add_argument(
        "--cache",
        default=None,
        metavar="FOLDER",
        help=(
            "features are kept here and used again for the same weights, transform and data; 'none'"
            " for no cache (default: ~/.cache/openclip_eclip)"
        ),
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help=(
            "a missing or unreadable image stops the run, or is counted and named (default:"
            " %(default)s)"
        ),
    )


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=(
            "gets result.json, result.md, report.html, pictures and predictions.npz; must be new,"
            " empty, or of the same task"
        ),
    )


def read_encoder(args: argparse.Namespace, with_processor: bool = False) -> Encoder:
    """The model of the arguments; on its own GPU under torchrun. `with_processor`: see
    `load_encoder`.
    """
    device = args.device
    if device is None and "LOCAL_RANK" in os.environ:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    return load_encoder(args.model, args.pretrained, args.precision, device, with_processor)


def read_encode_numbers(args: argparse.Namespace) -> None:
    """UserError for a --batch-size or --workers out of range."""
    for flag, least in (("batch_size", 1), ("workers", 0)):
        if getattr(args, flag) < least:
            raise UserError(
                f"--{flag.replace('_', '-')} {getattr(args, flag)}: expected at least {least}."
            )


def read_encode_options(args: argparse.Namespace) -> EncodeOptions:
    """UserError for a number out of range, or a --cache that is a file."""
    read_encode_numbers(args)
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openclip_eclip"
    cache = home if args.cache is None else None if args.cache == "none" else Path(args.cache)
    if cache is not None and cache.exists() and not cache.is_dir():
        raise UserError(f"--cache {cache}: is a file; expected a folder, or 'none'.")
    return EncodeOptions(args.batch_size, args.workers, cache, args.on_bad_sample == "skip")
