"""Options of egd-cxr and reflacx that say how gaze is drawn."""

from __future__ import annotations

import argparse

from ..config import UserError
from ..gaze import RenderConfig


def add_gaze_arguments(parser: argparse.ArgumentParser, sigma: str, border: str) -> None:
    """Adds the options; `sigma` describes the data set's default, which `gaze_config` applies."""
    parser.add_argument(
        "--sigma",
        type=float,
        help=f"width of the Gaussian around a fixation, in --unit (default: {sigma})",
    )
    parser.add_argument(
        "--unit",
        choices=("pixels", "width", "degrees"),
        help=(
            "unit of --sigma: pixels of the original image, shares of its width, or degrees of"
            " visual angle (REFLACX only)"
        ),
    )
    parser.add_argument(
        "--weight",
        choices=("duration", "count"),
        default="duration",
        help="weight of a fixation: its duration, or 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--border",
        choices=("reflect", "none"),
        default=border,
        help=(
            "treatment of Gaussians at the image border: the part outside is reflected into the"
            " image, or dropped (default: %(default)s)"
        ),
    )


def gaze_config(args: argparse.Namespace, sigma: float | None, unit: str) -> RenderConfig:
    """How gaze is drawn; `sigma` and `unit` are the data set's defaults.

    Raises:
        UserError: --unit is given without --sigma.
    """
    if args.sigma is None and args.unit is not None:
        raise UserError(
            f"--unit {args.unit} without --sigma; expected both, such as --sigma 0.06 --unit width."
        )
    if args.sigma is not None:
        sigma, unit = args.sigma, args.unit or "pixels"
    return RenderConfig(sigma=sigma, unit=unit, weight=args.weight, border=args.border)
