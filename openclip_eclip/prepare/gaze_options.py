"""How gaze is drawn: the options of egd-cxr and reflacx."""

from __future__ import annotations

import argparse

from ..config import UserError
from ..gaze import RenderConfig


def add_gaze_arguments(parser: argparse.ArgumentParser, sigma: str, border: str) -> None:
    """`sigma`: the data set's default in words; `gaze_config` has it as a number."""
    parser.add_argument(
        "--sigma",
        type=float,
        help=f"of the Gaussian around a fixation, in --unit (default: {sigma})",
    )
    parser.add_argument(
        "--unit",
        choices=("pixels", "width", "degrees"),
        help=(
            "of --sigma: pixels of the original, shares of its width, degrees of visual angle"
            " (REFLACX)"
        ),
    )
    parser.add_argument(
        "--weight",
        choices=("duration", "count"),
        default="duration",
        help="of a fixation (default: %(default)s)",
    )
    parser.add_argument(
        "--border",
        choices=("reflect", "none"),
        default=border,
        help="what a Gaussian has beyond the image is folded back, or lost (default: %(default)s)",
    )


def gaze_config(args: argparse.Namespace, sigma: float | None, unit: str) -> RenderConfig:
    """The options, with the data set's sigma and unit where neither is given; UserError if only a
    unit is.
    """
    if args.sigma is None and args.unit is not None:
        raise UserError(
            f"--unit {args.unit} without --sigma; expected both, such as --sigma 0.06 --unit width."
        )
    if args.sigma is not None:
        sigma, unit = args.sigma, args.unit or "pixels"
    return RenderConfig(sigma=sigma, unit=unit, weight=args.weight, border=args.border)
