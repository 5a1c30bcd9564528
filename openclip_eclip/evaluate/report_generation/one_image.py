"""A report for an image: `openclip-eclip report IMAGE ... --index FOLDER --model ...`.

Research output, not a diagnosis. `openclip_eclip.evaluate reports --save-index FOLDER` writes the
index; its worked examples go into the prompt.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import openclip_eclip  # noqa: F401

from ...config import UserError
from ...data.images.options import read_options
from ...data.sample import read_image
from ...files import write_whole
from ...generate import add_writer_arguments, open_writer, read_template
from ...subcommands import exit_code
from ..inputs.report_index import ReportIndex, load_index
from ..options import add_model_arguments, read_encoder
from .snippets import PICKS, pick_snippets
from .tables import WARNING
from .task import make_queries, record


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openclip-eclip report",
        description=(
            "Write a report for an image from the nearest reports of an index. Research output, not"
            " a diagnosis."
        ),
    )
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="images to write reports for: PNG, JPEG, TIFF, WebP, DICOM ...",
    )
    parser.add_argument(
        "--index",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of an index that `evaluate reports --save-index FOLDER` wrote",
    )
    add_model_arguments(parser, encoding=False)
    add_writer_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=(
            "output file of JSON lines with image, retrieved reports, exact prompt and answer; it"
            " must not exist"
        ),
    )
    return parser


def run(args: argparse.Namespace) -> str:
    """The text to print: image, report and retrieved reports, for each image.

    Model, index and writer are loaded once. UserError: an index that does not fit, or a used --out.
    """
    import torch

    if args.out is not None and args.out.exists():
        raise UserError(f"--out {args.out}: exists; expected a new file.")
    template = read_template(args.prompt_template)
    encoder = read_encoder(args)
    index = _checked(load_index(args.index, encoder.facts["weights_hash"]), args.index)
    pixels = [
        encoder.transform(read_image(path, str(path), "RGB", read_options(args)))
        for path in args.images
    ]
    writer = open_writer(args, index.texts, index.facts["seed"])
    unit, _ = encoder.encode_images(torch.stack(pixels))
    retrieved = pick_snippets(
        index, unit.numpy(), index.facts["snippets"], index.facts["pick"], index.facts["seed"]
    )
    queries = make_queries([str(path) for path in args.images], retrieved, template, index)
    written = writer.write(queries)
    parts = [WARNING]
    for query, snippets, generation in zip(queries, retrieved, written, strict=True):
        listing = "\n".join(
            f"  {rank}. ({score:.3f}) {text}"
            for rank, (score, text) in enumerate(
                zip(snippets.scores, snippets.texts, strict=True), 1
            )
        )
        cut = " (cut at --max-new-tokens)" if generation.finish == "length" else ""
        parts.append(
            f"{query.key}\n{generation.text or '(nothing was written)'}{cut}\nRetrieved:\n{listing}"
        )
    if args.out is not None:
        lines = [
            json.dumps(
                {
                    "warning": WARNING,
                    **record(query, snippets, generation),
                    "writer": writer.facts,
                    "template": template.facts,
                    "index": str(args.index),
                }
            )
            for query, snippets, generation in zip(queries, retrieved, written, strict=True)
        ]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.out, ("\n".join(lines) + "\n").encode())
    return "\n\n".join(parts)


def _checked(index: ReportIndex, folder: Path) -> ReportIndex:
    if "examples" in index.facts:
        _check_facts(index.facts, folder / "index.json")
    else:
        raise UserError(
            f"--index {folder}: has no worked examples, so `retrieval` wrote it; expected an index"
            " of `openclip-eclip evaluate reports --save-index`."
        )
    return index


def _check_facts(facts: dict[str, Any], path: Path) -> None:
    """UserError: entries of index.json that `evaluate reports` would not write."""
    examples = facts["examples"]
    examples_valid = isinstance(examples, list) and all(
        isinstance(example, dict)
        and isinstance(example.get("report"), str)
        and isinstance(example.get("snippets"), list)
        and all(isinstance(text, str) for text in example["snippets"])
        for example in examples
    )
    numbers_valid = all(
        type(facts.get(name)) is int and facts[name] >= minimum
        for name, minimum in (("snippets", 1), ("seed", 0))
    )
    if not examples_valid or not numbers_valid or facts.get("pick") not in PICKS:
        entries = {
            name: str(facts.get(name))[:60] for name in ("examples", "snippets", "seed", "pick")
        }
        raise UserError(
            f"{path}: {entries}; expected worked examples, a number of snippets, a seed and one of"
            f" {PICKS}. Write the index again."
        )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after one line `error: ...` on stderr."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
