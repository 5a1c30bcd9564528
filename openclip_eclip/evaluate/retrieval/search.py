"""Task search: the reports nearest to an image, from an index of `retrieval --save-index`."""

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
        "image",
        type=Path,
        metavar="IMAGE",
        help="image to search for: PNG, JPEG, TIFF, WebP, DICOM ...",
    )
    parser.add_argument(
        "--index",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of an index that `retrieval --save-index FOLDER` wrote",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        help="number of reports to print (default: %(default)s)",
    )
    add_model_arguments(parser, encoding=False)


def run(args: argparse.Namespace) -> str:
    """One line for each report: its rank, its cosine to the image, its text."""
    if args.top < 1:
        raise UserError(f"--top {args.top}: expected at least 1.")
    if not args.image.is_file():
        raise UserError(f"{args.image}: no such image.")
    encoder = read_encoder(args)
    index = load_index(args.index, encoder.facts["weights_hash"])
    hits = nearest(encoder, index, args.image, args.top, read_options(args))
    return "\n".join(
        f"{rank:3d}  {score:6.3f}  {text}" for rank, (score, text) in enumerate(hits, 1)
    )


def nearest(
    encoder: Encoder,
    index: ReportIndex,
    image: Path,
    top: int = 5,
    options: ReadOptions = ReadOptions(),
) -> list[tuple[float, str]]:
    """(cosine, report) of the nearest reports, the nearest first. DataError: unreadable image."""
    pixels = encoder.transform(read_image(image, str(image), "RGB", options))
    unit, _ = encoder.encode_images(pixels[None])
    scores, indices = index.search(unit.numpy(), top)
    return [
        (float(score), index.texts[i])
        for score, i in zip(scores[0], indices[0], strict=True)
        if i >= 0
    ]
