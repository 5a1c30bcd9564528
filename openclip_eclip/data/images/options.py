"""How files are read: the grey range of deep images, and the size a file may unpack to."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ...config import UserError

MAX_PIXELS = 100_000_000  # of one image or heatmap
MAX_BYTES = 1 << 30  # of one unpacked array


@dataclass(frozen=True)
class ReadOptions:
    """Settings of every reader of images, heatmaps and sentence windows.

    `grey_range`: the values (low, high) of a deep image (more than 8 bits) that become black and
    white; None: each image's own range, as decision 0039 says. `max_pixels` and `max_bytes`: what
    one file may unpack to; larger is a DataError before anything is unpacked.
    """

    grey_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        low, high = self.grey_range or (0.0, 1.0)
        if not (low < high and abs(low) < float("inf") and abs(high) < float("inf")):
            raise UserError(
                f"--image-range {low:g} {high:g}: expected two finite values, the lower one first."
            )
        for flag, value in (("--max-pixels", self.max_pixels), ("--max-bytes", self.max_bytes)):
            if value < 1:
                raise UserError(f"{flag} {value}: expected at least 1.")


def add_read_arguments(parser: argparse._ActionsContainer) -> None:
    """The flags behind `ReadOptions`, for every command that reads images."""
    parser.add_argument(
        "--image-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=(
            "values of images of more than 8 bits that become black and white, the same for all "
            "of them "
            "(default: each image's own range)"
        ),
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="largest image or heatmap, in pixels; a larger one is a fault (default: %(default)s)",
    )
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=MAX_BYTES,
        metavar="N",
        help="largest array that a file may unpack to, in bytes (default: %(default)s)",
    )


def read_options(args: argparse.Namespace) -> ReadOptions:
    """UserError for a range that is empty or a limit below 1."""
    return ReadOptions(
        tuple(args.image_range) if args.image_range else None, args.max_pixels, args.max_bytes
    )
