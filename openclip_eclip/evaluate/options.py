"""Flags of all evaluation tasks: the model, the encoding of data, the output folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..config import UserError
from ..data.images.options import add_read_arguments
from .inputs.encoder import PRECISIONS, RANDOM, Encoder, load_encoder
from .inputs.features import EncodeOptions


def add_model_arguments(parser: argparse.ArgumentParser, encoding: bool = True) -> None:
    """Flags of the model and of encoding; `encoding` False: the task encodes no data set."""
    parser.add_argument(
        "--model",
        required=True,
        help=(
            "model to evaluate: a model name of open_clip (with or without the prefix eclip-),"
            " local-dir:FOLDER, the folder of a training run, which stands for its newest"
            " checkpoint, or a checkpoint file in it"
        ),
    )
    parser.add_argument(
        "--pretrained",
        metavar="TAG_OR_FILE",
        help=f"weights, a tag or file as in open_clip; '{RANDOM}' takes an untrained model",
    )
    add_compute_arguments(parser)
    if not encoding:
        return
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="number of images or texts encoded at once (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="number of processes that decode images (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        default=None,
        metavar="FOLDER",
        help=(
            "folder that caches features; they are reused for the same weights, transform and data."
            " 'none' switches the cache off (default: ~/.cache/openclip_eclip)"
        ),
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help=(
            "what a missing or unreadable image does: 'stop' is an error, 'skip' leaves the image"
            " out and names it in the result (default: %(default)s)"
        ),
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of precision and device, and of reading images."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="floating-point precision of the model (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        help="device that computes: cpu, cuda, cuda:1 ... (default: a GPU if there is one)",
    )
    add_read_arguments(parser)


def add_heatmap_arguments(parser: argparse.ArgumentParser) -> None:
    """Columns of reports and heatmaps, and the table of heatmaps beside --data."""
    parser.add_argument(
        "--text-column", default="title", help="column of the reports (default: %(default)s)"
    )
    parser.add_argument(
        "--heatmap-column",
        default="heatmap",
        help="column of the heatmap files (default: %(default)s)",
    )
    parser.add_argument(
        "--heatmaps",
        type=Path,
        metavar="TABLE",
        help="table with filepath and the heatmap column, if --data has no such column",
    )


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=(
            "output folder for result.json, result.md, report.html, figures and predictions.npz;"
            " it must be new, empty, or hold a result of the same task"
        ),
    )


def read_encoder(args: argparse.Namespace, with_processor: bool = False) -> Encoder:
    """The model that the flags name. Under torchrun each process has its own GPU.

    `with_processor`: see `load_encoder`. UserError: as there.
    """
    device = args.device
    if device is None and "LOCAL_RANK" in os.environ:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    return load_encoder(args.model, args.pretrained, args.precision, device, with_processor)


def read_encode_numbers(args: argparse.Namespace) -> None:
    """UserError for a --batch-size or --workers out of range."""
    for name, minimum in (("batch_size", 1), ("workers", 0)):
        value = getattr(args, name)
        if value < minimum:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {minimum}.")


def read_encode_options(args: argparse.Namespace) -> EncodeOptions:
    """How to encode. UserError: a number out of range, or a --cache that is a file."""
    read_encode_numbers(args)
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openclip_eclip"
    cache = home if args.cache is None else None if args.cache == "none" else Path(args.cache)
    if cache is not None and cache.exists() and not cache.is_dir():
        raise UserError(f"--cache {cache}: is a file; expected a folder, or 'none'.")
    return EncodeOptions(args.batch_size, args.workers, cache, args.on_bad_sample == "skip")
