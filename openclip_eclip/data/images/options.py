"""Settings of all readers: the grey range of deep images, and limits on unpacked sizes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ...config import UserError

MAX_PIXELS = 100_000_000  # of one image or heatmap
MAX_BYTES = 1 << 30  # of one unpacked array


@dataclass(frozen=True)
class ReadOptions:
    """Settings of every reader of images, heatmaps and sentence windows.

    A deep image has more than 8 bits. A file that would unpack to more than `max_pixels` or
    `max_bytes` is a DataError before anything is unpacked.

    Attributes:
        grey_range: the values (low, high) of a deep image that become black and white; None: the
            image's own range (decision 0039).
        max_pixels: limit for one image or heatmap.
        max_bytes: limit for one unpacked array.

    Raises:
        UserError: an empty or infinite range, or a limit below 1.
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
    """Add the flags behind `ReadOptions`, for every command that reads images."""
    parser.add_argument(
        "--image-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=(
            "grey values that become black and white in images of more than 8 bits, the same for "
            "all images (default: each image's own range)"
        ),
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="largest image or heatmap in pixels; a larger file is an error (default: %(default)s)",
    )
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=MAX_BYTES,
        metavar="N",
        help="largest array in bytes that a file may unpack to (default: %(default)s)",
    )


def read_options(args: argparse.Namespace) -> ReadOptions:
    """The `ReadOptions` of parsed flags. Raises UserError as these do."""
    return ReadOptions(
        tuple(args.image_range) if args.image_range else None, args.max_pixels, args.max_bytes
    )
