"""The reports nearest to an image, from an index that `retrieval --save-index` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...config import UserError
from ...data.images.options import ReadOptions, read_options
from ...data.sample import read_image
from ..inputs.encoder import Encoder
from ..inputs.report_index import ReportIndex, load_index
from ..options import add_model_arguments, read_encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", type=Path, metavar="IMAGE", help="an image: PNG, JPEG, TIFF, WebP, DICOM ..."
    )
    parser.add_argument(
        "--index",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="what `retrieval --save-index FOLDER` wrote",
    )
    parser.add_argument(
        "--top", type=int, default=5, help="how many reports (default: %(default)s)"
    )
    add_model_arguments(parser, encoding=False)


def run(args: argparse.Namespace) -> str:
    """A line a report: its place, its cosine to the image, its text."""
    if args.top < 1:
        raise UserError(f"--top {args.top}: expected at least 1.")
    if not args.image.is_file():
        raise UserError(f"{args.image}: no such image.")
    encoder = read_encoder(args)
    index = load_index(args.index, encoder.facts["weights_hash"])
    found = nearest(encoder, index, args.image, args.top, read_options(args))
    return "\n".join(
        f"{place:3d}  {score:6.3f}  {text}" for place, (score, text) in enumerate(found, 1)
    )


def nearest(
    encoder: Encoder,
    index: ReportIndex,
    image: Path,
    top: int = 5,
    options: ReadOptions = ReadOptions(),
) -> list[tuple[float, str]]:
    """(cosine, report), the nearest first; DataError for an unreadable image."""
    pixels = encoder.transform(read_image(image, str(image), "RGB", options))
    unit, _ = encoder.encode_images(pixels[None])
    scores, places = index.search(unit.numpy(), top)
    return [
        (float(score), index.texts[place])
        for score, place in zip(scores[0], places[0], strict=True)
        if place >= 0
    ]
